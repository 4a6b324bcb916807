"""Events as MLflow runs: one parent run per run, one child per stage, found again by tag."""

import getpass
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_USER

from orchestrator.tracking import mlflow_assets as assets
from orchestrator.tracking.fetch import fetched
from orchestrator.tracking.params import TAG_CHARS, clean_name, cut, flatten
from orchestrator.tracking.sink import NotNowError, Point, RejectedError, stage_of
from orchestrator.tracking.spool import Event
from orchestrator.tracking.target import Target
from orchestrator.tracking.verdict import judged

RUN_TAG = "rushes.run"
STAGE_TAG = "rushes.stage"
INPUTS_TAG = "inputs"  # what a stage is made from
ATTEMPTS_TAG = "rushes.attempts"
ATTEMPT_ID_TAG = "rushes.attempt_id"

_RUNNING = "RUNNING"
_ENDINGS = ("FINISHED", "FAILED", "KILLED")


class MlflowSink:
    """One run in an MLflow store; see ``sink.Sink`` for what each call promises."""

    def __init__(self, target: Target, *, experiment: str, run_uri: str) -> None:
        self._target = target
        self._client_uri = target.uri
        self._experiment = experiment
        self._run_uri = run_uri
        self._client: MlflowClient | None = None
        self._experiment_id: str | None = None
        self._runs: dict[str, str] = {}  # stage ("" = the run itself) -> MLflow's run id
        self._if_lost: dict[str, str] = {}  # what is described instead once the driver is gone

    def find_run(self) -> str | None:
        """MLflow's id of the parent run."""
        with self._judged():
            return self._runs.get("") or self._find("")

    def stored_marks(self, stage: str) -> dict[str, int]:
        """Highest step per metric in MLflow's history."""
        with self._judged():
            run_id = self._runs.get(stage) or self._find(stage)
            if run_id is None:
                return {}
            names = self.client.get_run(run_id).data.metrics
            return {name: self._highest_step(run_id, name=name) for name in names}

    def log_points(self, stage: str, points: list[Point]) -> None:
        """Sends metrics with the times that they were measured at."""
        with self._judged():
            self.client.log_batch(
                self._run(stage),
                metrics=[Metric(one.name, one.value, one.time_ms, one.step) for one in points],
                synchronous=True,
            )

    def apply(self, event: Event) -> None:
        """Sends an event of any kind but ``metrics``."""
        with self._judged():
            stage = stage_of(event)
            match event.get("kind"):
                case "run" | "stage":
                    self._begin(stage, event=event)
                case "artifact":
                    with fetched(event["uri"]) as path:
                        folder = event.get("folder") or None
                        self.client.log_artifact(self._run(stage), str(path), folder)
                case "still":
                    with fetched(event["uri"]) as path:
                        assets.log_still(
                            self.client,
                            path,
                            run_id=self._run(stage),
                            key=event["key"],
                            step=event["step"],
                            time_ms=event["time_ms"],
                        )
                case "dataset":
                    assets.log_dataset(
                        self.client,
                        run_id=self._run(stage),
                        name=event["name"],
                        uri=event["uri"],
                        digest=event["digest"],
                        context=event["context"],
                    )
                case "model":
                    assets.register_model(
                        self.client,
                        run_id=self._run(stage),
                        name=event["name"],
                        uri=event["uri"],
                        sha256=event["sha256"],
                        tags={RUN_TAG: self._run_uri, STAGE_TAG: stage},
                        through_server=self._target.is_server,
                    )
                case "note":
                    assets.add_note(self.client, run_id=self._run(stage), text=event["text"])
                case "overview":
                    assets.describe(self.client, run_id=self._run(stage), text=event["text"])
                    self._if_lost[stage] = event.get("if_lost", event["text"])
                case "end":
                    self._end(stage, status=event["status"], time_ms=event["time_ms"])
                case other:
                    raise RejectedError(f"unknown kind {other!r}")

    def abandon(self) -> None:
        """Marks the run and its stages as killed where they are running.

        Their table is replaced by the one that the driver left for this case.
        """
        with self._judged():
            for stage, text in self._if_lost.items():
                assets.describe(self.client, run_id=self._run(stage), text=text)
            parent = self._runs.get("") or self._find("")
            for run_id in (*self._runs.values(), *([parent] if parent else [])):
                if self.client.get_run(run_id).info.status == _RUNNING:
                    self.client.set_terminated(run_id, "KILLED")

    def answers(self) -> bool:
        """True if the store lists experiments."""
        try:
            with self._judged():
                self.client.search_experiments(max_results=1)
        except (NotNowError, RejectedError):
            return False
        return True

    @property
    def client(self) -> MlflowClient:
        """Made at first use: a new database takes seconds to set up."""
        if self._client is None:
            self._client = MlflowClient(self._client_uri, registry_uri=self._client_uri)
        return self._client

    def _begin(self, stage: str, *, event: Event) -> None:
        if stage and INPUTS_TAG in event.get("tags", {}):
            self._retire(stage, inputs=event["tags"][INPUTS_TAG])
        run_id = self._run(stage, name=event.get("name"), time_ms=event["time_ms"])
        run = self.client.get_run(run_id)
        tags = {name: str(value) for name, value in event.get("tags", {}).items()}
        tags |= _attempt_tags(run, attempt=event["attempt"])
        self.client.log_batch(
            run_id,
            tags=[RunTag(clean_name(k), cut(v, chars=TAG_CHARS)) for k, v in tags.items()],
            synchronous=True,
        )
        if run.info.status != _RUNNING:
            self.client.update_run(run_id, status=_RUNNING)
        self._log_params(run_id, params=flatten(event.get("params", {})), stored=run.data.params)

    def _retire(self, stage: str, *, inputs: str) -> None:
        """A stage that was changed gets a run of its own; the one before keeps what it showed."""
        run_id = self._runs.get(stage) or self._find(stage)
        if run_id is None:
            return
        seen = self.client.get_run(run_id).data.tags.get(INPUTS_TAG, inputs)
        if seen != inputs:
            name = f"{stage} ({seen[:8]})"
            self.client.update_run(run_id, name=name)
            self.client.set_tag(run_id, STAGE_TAG, name, synchronous=True)
            self._runs.pop(stage, None)

    def _log_params(
        self, run_id: str, *, params: dict[str, str], stored: Mapping[str, str]
    ) -> None:
        new = [Param(name, value) for name, value in params.items() if name not in stored]
        self.client.log_batch(run_id, params=new, synchronous=True)
        changed = [
            f"{name}={stored[name]} is now {value}"
            for name, value in params.items()
            if stored.get(name, value) != value
        ]
        if changed:
            raise RejectedError(f"MLflow keeps the first value of: {', '.join(changed)}")

    def _end(self, stage: str, *, status: str, time_ms: int) -> None:
        if status not in _ENDINGS:
            raise RejectedError(f"status={status}, wanted one of {', '.join(_ENDINGS)}")
        self.client.set_terminated(self._run(stage), status, end_time=time_ms)
        if stage:
            return
        running = f"{self._filter_children()} and attributes.status = '{_RUNNING}'"
        for child in self.client.search_runs([self._experiment_of()], filter_string=running):
            self.client.set_terminated(child.info.run_id, status, end_time=time_ms)

    def _run(self, stage: str, *, name: str | None = None, time_ms: int | None = None) -> str:
        if stage not in self._runs:
            found = self._find(stage)
            self._runs[stage] = found or self._create(stage, name=name, time_ms=time_ms)
        return self._runs[stage]

    def _find(self, stage: str) -> str | None:
        if stage and self._find_parent() is None:
            return None
        wanted = self._filter_stage(stage) if stage else self._filter_run()
        runs = self.client.search_runs(
            [self._experiment_of()],
            filter_string=wanted,
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )
        return runs[0].info.run_id if runs else None

    def _find_parent(self) -> str | None:
        return self._runs.get("") or self._find("")

    def _create(self, stage: str, *, name: str | None, time_ms: int | None) -> str:
        tags = {RUN_TAG: self._run_uri, MLFLOW_USER: _user(), "mlflow.source.name": "rushes"}
        if stage:
            tags = {
                MLFLOW_PARENT_RUN_ID: self._run(""),
                STAGE_TAG: stage,
                MLFLOW_USER: tags[MLFLOW_USER],
                "mlflow.source.name": "rushes",
            }
        default = stage or self._run_uri.rstrip("/").rpartition("/")[2]
        run = self.client.create_run(
            self._experiment_of(), start_time=time_ms, tags=tags, run_name=name or default
        )
        return run.info.run_id

    def _experiment_of(self) -> str:
        """The experiment's id; made if there is none, restored if it was deleted."""
        if self._experiment_id is None:
            known: Experiment | None = self.client.get_experiment_by_name(self._experiment)
            if known is None:
                self._experiment_id = self._create_experiment()
            else:
                if known.lifecycle_stage != "active":
                    self.client.restore_experiment(known.experiment_id)
                self._experiment_id = known.experiment_id
        return self._experiment_id

    def _create_experiment(self) -> str:
        try:
            return self.client.create_experiment(
                self._experiment, artifact_location=self._target.artifacts
            )
        except MlflowException as error:
            known = self.client.get_experiment_by_name(self._experiment)
            if known is None:
                raise error
            return known.experiment_id  # another command was first

    def _filter_run(self) -> str:
        return f"tags.`{RUN_TAG}` = {_quoted(self._run_uri)}"

    def _filter_children(self) -> str:
        return f"tags.`{MLFLOW_PARENT_RUN_ID}` = {_quoted(self._find_parent() or '')}"

    def _filter_stage(self, stage: str) -> str:
        return f"{self._filter_children()} and tags.`{STAGE_TAG}` = {_quoted(stage)}"

    def _highest_step(self, run_id: str, *, name: str) -> int:
        return max(point.step for point in self.client.get_metric_history(run_id, name))

    def _judged(self) -> AbstractContextManager[None]:
        return judged(through_server=self._target.is_server)


def _attempt_tags(run: Run, *, attempt: str) -> dict[str, str]:
    """Counts the commands that worked on a run; the same command counts once."""
    tags: dict[str, Any] = run.data.tags
    if tags.get(ATTEMPT_ID_TAG) == attempt:
        return {}
    return {ATTEMPT_ID_TAG: attempt, ATTEMPTS_TAG: str(int(tags.get(ATTEMPTS_TAG, "0")) + 1)}


def _quoted(text: str) -> str:
    """A text in MLflow's filter language, which has no escapes."""
    quote = '"' if "'" in text else "'"
    if quote in text:
        raise RejectedError(f"{text}: holds both kinds of quotes, MLflow cannot search for it")
    return f"{quote}{text}{quote}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
