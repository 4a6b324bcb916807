"""Joining the cluster that this process runs in, or starting a private one on this machine."""

import logging
import os
import secrets
import shutil
import tempfile
import threading
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path

from orchestrator.errors import RushesError, UnavailableError, UserError
from orchestrator.launch.signals import keeping_sigterm
from orchestrator.recipe.recipe import Recipe

START_THREAD = "ray-start"
TOKEN = "token"
WANTED_TOKEN = (
    "wanted RAY_AUTH_MODE=token and the cluster's token in RAY_AUTH_TOKEN, or in a file named by "
    "RAY_AUTH_TOKEN_PATH"
)
_REFUSED = "InvalidAuthToken"  # how Ray's core says that a token is missing or another
_CLOSE_S = 30.0  # a Ray that is lost may take for ever to say goodbye
OBJECT_STORE_BYTES = 200 << 20  # events, job descriptions: clips never pass through it

_ANYWHERE = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # how late an end or a failure is seen
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",  # for a place that was seen to be free
    # cascade/planner.py hears of nodes that are drained, and moves gangs off them.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_COLOR_PREFIX": "0",
    # Ray's client ends this process with 1 where the head is silent for so long: we are sooner.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "300",
}
_PRIVATE = {
    # The name is historical: 0 makes Ray call itself 127.0.0.1, so that nothing listens outside.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_enable_metrics_collection": "0",  # nobody asks for them
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
}


@dataclass(frozen=True)
class Session:
    """A Ray that this process is connected to.

    Attributes:
        private: started by us, gone with us.
    """

    private: bool

    def close(self) -> None:
        """Disconnects; a private Ray ends."""
        import ray

        ray.shutdown()


class Starting:
    """A session that a thread opens, while the caller does other things, and keeps.

    The thread lives as long as the session: Linux ends a private Ray's processes with the thread
    that started them.
    """

    def __init__(self, recipe: Recipe | None) -> None:
        self._recipe = recipe
        # Short: the path of a socket may have 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="rushes-ray-"))
        _write_token(self._folder)
        self._session: Session | None = None
        self._error: BaseException | None = None
        self._settled = threading.Event()
        self._closing = threading.Event()
        # Its process now and then died at once where it was started while Ray starts.
        resource_tracker.ensure_running()
        self._thread = threading.Thread(target=self._keep, name=START_THREAD, daemon=True)
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """True once it is open, or has failed."""
        return self._settled.is_set()

    def result(self) -> Session:
        """Waits for the session; raises what open_session raised."""
        self._settled.wait()
        if self._error is not None:
            raise self._error
        assert self._session is not None
        return self._session

    def close(self) -> None:
        """Ends the session if it is open.

        One that is still starting, or does not end in time, is left alone: it ends with this
        process. The logs of one that did not start are kept.
        """
        if self.is_ready:
            self._closing.set()
            self._thread.join(_CLOSE_S)
        if self._error is not None:
            (self._folder / TOKEN).unlink()
            return
        shutil.rmtree(self._folder, ignore_errors=True)

    def _keep(self) -> None:
        try:
            with keeping_sigterm():
                self._session = open_session(self._recipe, folder=self._folder)
            if self._recipe is not None:
                # Late: it imports torch, which takes seconds that the caller may have a use for.
                from orchestrator.cascade.trainer import warm_up

                warm_up()
        except BaseException as error:  # handed over to the thread that asks for the result
            self._error = error
        self._settled.set()
        if self._session is not None:
            self._closing.wait()
            self._session.close()


def open_session(recipe: Recipe | None, *, folder: Path) -> Session:
    """Joins the cluster of RAY_ADDRESS, or starts a private Ray with room for the recipe.

    Args:
        recipe: what is to be run; None for work that takes what CPUs there are.
        folder: where a private Ray finds its token and keeps sockets and logs.

    Raises:
        UserError: if RAY_ADDRESS is not one, or its cluster does not take our token.
        UnavailableError: if nobody answers there.
        RushesError: if a private Ray does not start.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    for name, value in _ANYWHERE.items():
        os.environ.setdefault(name, value)
    if not address:
        return _start_private(recipe, folder=folder)
    if "://" in address:
        raise UserError(
            f"RAY_ADDRESS={address}: wanted HOST:PORT of the cluster's GCS (a job's address goes "
            "to `rushes submit --address`), or none"
        )
    return _join(address)


def set_auth_mode() -> None:
    """Says how to talk to a cluster unless the user did: Ray's own guess depends on old files."""
    has_token = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    os.environ.setdefault("RAY_AUTH_MODE", "token" if has_token else "disabled")


def _join(address: str) -> Session:
    set_auth_mode()
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:  # pyright: ignore[reportAttributeAccessIssue]
        reason = ": ".join(_reasons(error))
        text = f"RAY_ADDRESS={address}: cannot join: {reason}; {WANTED_TOKEN}"
        if _REFUSED in reason:
            raise UserError(text) from None
        raise UnavailableError(f"{text} if it has one") from None
    return Session(private=False)


def _reasons(error: BaseException) -> list[str]:
    """First lines of an error and of what it says it was caused by."""
    below = [] if error.__cause__ is None else _reasons(error.__cause__)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return [lines[0], *(one for one in below if one != lines[0])]


def _write_token(folder: Path) -> None:
    token = folder / TOKEN
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))


def _start_private(recipe: Recipe | None, *, folder: Path) -> Session:
    os.environ.update(_PRIVATE)
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(folder / TOKEN)
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=_cpus(recipe),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder),
            _node_ip_address="127.0.0.1",
        )
    except Exception as error:  # Ray raises bare Exception when a process of its own does not start
        reason = str(error).strip().splitlines()[0]
        raise RushesError(f"Ray did not start: {reason}; logs: {folder}") from None
    return Session(private=True)


def _cpus(recipe: Recipe | None) -> int:
    """Room for the largest stage always, for all at once where there are cores."""
    if recipe is None:
        return os.cpu_count() or 1
    needs = [stage.compute.ranks * stage.compute.cpus_per_worker for stage in recipe.stages]
    return max(max(needs), min(sum(needs), os.cpu_count() or 1))
