"""Names of places: folders, file://, s3:// and whatever fsspec knows."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.errors import UserError

FILE_SCHEMES = ("", "file")


def scheme_of(uri: str) -> str:
    """``s3`` of ``s3://bucket/key``; empty for a plain path."""
    return urlsplit(uri).scheme if "://" in uri else ""


def resolve(uri: str) -> str:
    """An absolute name: a folder's full path, or a URI without its last slash.

    Raises:
        UserError: if the URI holds a password; it would end in logs and run folders.
    """
    scheme = scheme_of(uri)
    if scheme in FILE_SCHEMES:
        return str(local_path(uri))
    parts = urlsplit(uri)
    if parts.password is not None:
        place = parts.netloc.rpartition("@")[2]
        raise UserError(
            f"{scheme}://{place}{parts.path}: a URI with a password, wanted credentials in the "
            "environment (AWS_ACCESS_KEY_ID, a profile)"
        )
    return f"{scheme}://{uri.partition('://')[2].rstrip('/')}"


def local_path(uri: str) -> Path:
    """The absolute path of a plain or file:// name."""
    path = unquote(urlsplit(uri).path) if scheme_of(uri) == "file" else uri
    return Path(path).expanduser().resolve()


def check_key(key: str, *, uri: str) -> None:
    """Raises UserError unless a key stays below its store."""
    if key.startswith("/") or ".." in key.split("/"):
        raise UserError(f"{key}: a key must stay below {uri}")


def join_uri(uri: str, *parts: str) -> str:
    """``uri`` with path parts below it."""
    base = uri if uri.endswith("://") else uri.rstrip("/") + "/"
    return base + "/".join(part.strip("/") for part in parts)
