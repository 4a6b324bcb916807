"""Names of places: folders, file://, s3:// and whatever fsspec knows."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

FILE_SCHEMES = ("", "file")


def scheme_of(uri: str) -> str:
    """``s3`` of ``s3://bucket/key``; empty for a plain path."""
    return urlsplit(uri).scheme if "://" in uri else ""


def resolve(uri: str) -> str:
    """An absolute name: a folder's full path, or a URI without its last slash."""
    if scheme_of(uri) in FILE_SCHEMES:
        return str(local_path(uri))
    return uri.rstrip("/")


def local_path(uri: str) -> Path:
    """The absolute path of a plain or file:// name."""
    path = unquote(urlsplit(uri).path) if scheme_of(uri) == "file" else uri
    return Path(path).expanduser().resolve()


def join_uri(uri: str, *parts: str) -> str:
    """``uri`` with path parts below it."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])
