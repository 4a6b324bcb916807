"""Stills, data sets, models and descriptions in MLflow; each call may be repeated."""

import re
from pathlib import Path

import PIL.Image
from mlflow import MlflowClient
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_LOGGED_IMAGES,
    MLFLOW_RUN_NOTE,
)

from orchestrator.storage.uri import FILE_SCHEMES, local_path, scheme_of
from orchestrator.tracking.params import TAG_CHARS, clean_name, cut

NEWEST = "newest"
"""Alias of the version registered last; MLflow keeps ``latest`` for itself."""

_DIGEST_CHARS = 36  # MLflow's MAX_DATASET_DIGEST_SIZE
_INPUT_TAG_CHARS = 500


def log_still(
    client: MlflowClient, path: Path, *, run_id: str, key: str, step: int, time_ms: int
) -> None:
    """A picture under MLflow's step slider; one per key and step."""
    name = re.sub(r"[^\w\-./ ]", "_", key)
    stored = f"images/{name.replace('/', '~')}+step+{step}+"
    for file in client.list_artifacts(run_id, "images"):
        # The small copy is written last: without it the still was cut off.
        if file.path.startswith(stored) and file.path.endswith("+compressed.webp"):
            client.set_tag(run_id, MLFLOW_LOGGED_IMAGES, True, synchronous=True)
            return
    with PIL.Image.open(path) as image:
        client.log_image(
            run_id, image.convert("RGB"), key=name, step=step, timestamp=time_ms, synchronous=True
        )


def log_dataset(
    client: MlflowClient, *, run_id: str, name: str, uri: str, digest: str, context: str
) -> None:
    """A data set as an input of a run; reads no data.

    MLflow's digest has 36 characters: the whole one is in the tag ``rushes.digest``.
    """
    source = resolve_dataset_source(uri)
    dataset = MetaDataset(source, name=name, digest=digest[:_DIGEST_CHARS])
    tags = {MLFLOW_DATASET_CONTEXT: context, "rushes.digest": digest, "rushes.uri": uri}
    client.log_inputs(
        run_id,
        datasets=[
            DatasetInput(
                dataset._to_mlflow_entity(),
                tags=[InputTag(k, cut(v, chars=_INPUT_TAG_CHARS)) for k, v in tags.items()],
            )
        ],
    )


def register_model(
    client: MlflowClient,
    *,
    run_id: str,
    name: str,
    uri: str,
    sha256: str,
    tags: dict[str, str],
    through_server: bool,
) -> None:
    """A model version that points at ``uri``; the same weights are registered once.

    A server refuses a version at a path of its own disk: there the version points at a logged
    model without files, whose tag ``rushes.uri`` names the place.
    """
    model = clean_name(name).replace("/", "_").replace(":", "_")
    version = _version_of(client, model=model, sha256=sha256)
    if version is None:
        tags = tags | {"sha256": sha256, "rushes.uri": uri}
        source, model_id = uri, None
        if scheme_of(uri) in FILE_SCHEMES:
            source = str(local_path(uri))
            if through_server:
                model_id = _logged_model(client, run_id=run_id, name=model, tags=tags)
                source = f"models:/{model_id}"
        created = client.create_model_version(
            model, source=source, run_id=run_id, tags=tags, model_id=model_id
        )
        version = str(created.version)
    client.set_registered_model_alias(model, NEWEST, version)


def _version_of(client: MlflowClient, *, model: str, sha256: str) -> str | None:
    """The version that holds these weights; makes the model where there is none."""
    try:
        client.create_registered_model(model)
        return None
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in client.search_model_versions(f"name = '{model}'"):
        if version.tags.get("sha256") == sha256:
            return str(version.version)
    return None


def _logged_model(client: MlflowClient, *, run_id: str, name: str, tags: dict[str, str]) -> str:
    experiment_id = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(
        experiment_id, name=name, source_run_id=run_id, tags=tags, model_type="video"
    )
    client.finalize_logged_model(model.model_id, "READY")
    return model.model_id


def describe(client: MlflowClient, *, run_id: str, text: str) -> None:
    """Takes the place of a run's description, so no notes beside it."""
    client.set_tag(run_id, MLFLOW_RUN_NOTE, cut(text, chars=TAG_CHARS), synchronous=True)


def add_note(client: MlflowClient, *, run_id: str, text: str) -> None:
    """A line in a run's description; the oldest go where it gets too long."""
    known = client.get_run(run_id).data.tags.get(MLFLOW_RUN_NOTE, "")
    if text in known.splitlines():
        return
    # Two spaces and a line feed: a line break in Markdown.
    lines = [*known.splitlines(), text]
    while len("  \n".join(lines)) > TAG_CHARS and len(lines) > 1:
        del lines[0]
    describe(client, run_id=run_id, text="  \n".join(lines))
