"""Where MLflow keeps runs: the tracking URI made absolute, and how a user opens it."""

import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.errors import UserError
from orchestrator.redact import redact

_SERVERS = ("http", "https")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SQLITE = re.compile(r"sqlite(?:\+\w+)?:///([^?]+)")


@dataclass(frozen=True)
class Target:
    """A tracking store.

    Attributes:
        uri: what MLflow's client is given; absolute.
        artifacts: URI of the folder for artifacts; None lets the server decide.
    """

    uri: str
    artifacts: str | None

    @property
    def is_server(self) -> bool:
        """True where an MLflow server stands in front of the store."""
        return urlsplit(self.uri).scheme in _SERVERS


def is_relative(uri: str) -> bool:
    """True for an sqlite file that is named from the working folder."""
    match = _SQLITE.fullmatch(uri)
    return match is not None and not Path(match[1]).is_absolute()


def resolve_target(uri: str, *, run_uri: str, folder: Path | None = None) -> Target:
    """Checks a tracking URI and makes it absolute.

    Args:
        uri: ``sqlite:///FILE``, another database's URI, or a server's ``http(s)://`` URL.
        run_uri: the run's folder; a database without a folder of its own (postgresql)
            keeps artifacts beside it.
        folder: what a relative sqlite path is relative to; default: the working folder.

    Raises:
        UserError: for anything else.
    """
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme in _SERVERS:
        return Target(uri=uri.rstrip("/"), artifacts=None)
    if scheme not in _DATABASES:
        raise UserError(
            f"tracking.uri={uri}: wanted sqlite:///FILE, a server's http(s) URL, "
            "or a postgresql, mysql or mssql URI"
        )
    if scheme != "sqlite":
        beside = run_uri.rstrip("/").rpartition("/")[0] + "/mlartifacts"
        return Target(uri=uri, artifacts=beside if "://" in beside else Path(beside).as_uri())
    match = _SQLITE.fullmatch(uri)
    if match is None or match[1] == ":memory:":
        raise UserError(f"tracking.uri={uri}: wanted sqlite:///FILE")
    path = ((folder or Path.cwd()) / match[1]).resolve()
    return Target(uri=f"sqlite:///{path}", artifacts=(path.parent / "mlartifacts").as_uri())


def make_folder(target: Target) -> None:
    """Makes the folder of an sqlite file.

    Raises:
        UserError: if that cannot be done.
    """
    if not target.uri.startswith("sqlite:///"):
        return
    folder = Path(target.uri.removeprefix("sqlite:///")).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"tracking.uri folder {folder}: {error.strerror}") from None


def open_command(target: Target) -> str:
    """What a user types to open the UI; for a server, its address."""
    if target.is_server:
        return redact(target.uri)
    uri = target.uri
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///"))
        if path.is_relative_to(Path.cwd()):
            uri = f"sqlite:///{path.relative_to(Path.cwd())}"
    return f"{_mlflow()} ui --backend-store-uri {shlex.quote(redact(uri))}"


def _mlflow() -> str:
    """``mlflow`` if that is ours on the PATH, else its path."""
    ours = Path(sys.executable).parent / "mlflow"
    found = shutil.which("mlflow")
    if found is not None and Path(found) == ours:
        return "mlflow"
    if ours.is_relative_to(Path.cwd()):
        ours = ours.relative_to(Path.cwd())
    return shlex.quote(str(ours))
