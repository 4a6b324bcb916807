"""Names of tar members: what is a sample's key in them, and which may not be there."""

import re

_KEYED = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)", re.DOTALL)


def key_and_ext(name: str) -> tuple[str, str] | None:
    """A sample's key and a member's extension, by WebDataset's rule; None if it has no key.

    The key ends at the first dot of the base name, and a folder stays part of it:
    ``a/b.low.MP4`` is the file ``low.mp4`` of ``a/b``. Names without an extension, and those that
    begin with a dot, belong to no sample.
    """
    found = _KEYED.fullmatch(name)
    return None if found is None else (found[1], found[2].lower())


def unsafe(name: str) -> str | None:
    """Why a name may not be in a tar; None if it may.

    It would leave the folder in which the tar is unpacked, or is no text.
    """
    if name.startswith("/"):
        return "an absolute name"
    if ".." in name.split("/"):
        return "a name with .."
    if "\0" in name or not is_utf8(name):
        return "a name that is not UTF-8"
    return None


def is_utf8(name: str) -> bool:
    """Whether a text can be written; halves of characters cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(name: str) -> str:
    """A name that strangers chose, fit for one line of a terminal."""
    return name if name.isprintable() else ascii(name)
