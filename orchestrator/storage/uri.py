"""Names of places: folders, file://, s3:// and whatever fsspec knows."""

import posixpath
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.errors import UserError
from orchestrator.redact import holds_secret

FILE_SCHEMES = ("", "file")


def scheme_of(uri: str) -> str:
    """``s3`` of ``s3://bucket/key``; empty for a plain path."""
    return urlsplit(uri).scheme if "://" in uri else ""


def resolve(uri: str) -> str:
    """An absolute name: a folder's full path, or a URI without its last slash.

    Raises:
        UserError: if the URI holds a secret; it would end in logs and run folders.
    """
    scheme = scheme_of(uri)
    if scheme in FILE_SCHEMES:
        return str(local_path(uri))
    if holds_secret(uri):
        raise UserError(
            f"{uri}: a URI with a password or token, wanted credentials in the environment "
            "(AWS_ACCESS_KEY_ID, a profile)"
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


def parent_uri(uri: str) -> str | None:
    """The place around an absolute one; None around a whole bucket or the root."""
    scheme, path = _split(uri)
    parent = posixpath.dirname(path)
    if path == parent or (scheme and parent == "/"):
        return None
    return _joined(scheme, parent)


def relative_to(uri: str, *, folder: str) -> str:
    """How a place is found from a folder beside it, both absolute: ``../../x``.

    It stays true when all that is around them moves.

    Raises:
        ValueError: if one is in another kind of store.
    """
    scheme, path = _split(uri)
    other, start = _split(folder)
    if scheme != other:
        raise ValueError(f"{uri} cannot be found from {folder}, wanted the same kind of store")
    return posixpath.relpath(path, start)


def found_from(place: str, *, folder: str) -> str:
    """The absolute name of a place that may be said as ``relative_to`` says it."""
    if "://" in place or place.startswith("/"):
        return place
    scheme, path = _split(folder)
    return _joined(scheme, posixpath.normpath(posixpath.join(path, place)))


def _split(uri: str) -> tuple[str, str]:
    """Scheme (empty for a path) and path of an absolute name; a bucket is the path's first part."""
    scheme, mark, rest = uri.rpartition("://")
    return (scheme, posixpath.normpath(f"/{rest}")) if mark else ("", posixpath.normpath(uri))


def _joined(scheme: str, path: str) -> str:
    return f"{scheme}://{path.removeprefix('/')}" if scheme else path
