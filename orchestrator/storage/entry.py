"""What a listing says of an object besides its name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """An object: its size in bytes, and a tag that changes when it is written anew.

    The tag is an ETag where the store has them, else a time; it says nothing across stores.
    """

    key: str
    size: int
    tag: str
