"""Keys of videos and clips, made from names that strangers chose."""

import re
from collections import Counter
from collections.abc import Sequence

import xxhash

_OTHER = re.compile(r"[^\w-]+")  # what a part of a key may not have; no dot is left
_LONGEST = 120  # characters of a part


def keys_of(names: Sequence[str]) -> list[str]:
    """A key for each of these different names, by which it can be told from all the others.

    The folders and the name without its extension; what is no letter, digit, ``_`` or ``-``
    becomes ``_``. Names that would then have one key get a hash of theirs behind it, and so do
    very long ones.
    """
    keys = [_key(name) for name in names]
    taken = Counter(key.casefold() for key in keys)  # some file systems do not know A from a
    return [
        key if taken[key.casefold()] == 1 and len(key) <= _LONGEST else f"{key[:_LONGEST]}-{tail}"
        for key, tail in zip(keys, (_hash(name) for name in names), strict=True)
    ]


def clip_key(video: str, number: int) -> str:
    """Key of a video's clip of that number."""
    return f"{video}-{number:05d}"


def units_of(keys: Sequence[str], *, per_unit: int) -> dict[str, range]:
    """Units of work: places of at most ``per_unit`` keys that follow each other.

    A unit ends behind every key whose hash says so, which is one in ``per_unit``, and is called
    after its first key. So keys that come or go change the units that they are in, and no others
    than those up to the next such end.
    """
    units: dict[str, range] = {}
    start = 0
    for end, key in enumerate(keys, start=1):
        is_an_end = int(_hash(key), 16) % per_unit == 0
        if is_an_end or end - start == per_unit or end == len(keys):
            units[_hash(keys[start])] = range(start, end)
            start = end
    return units


def _key(name: str) -> str:
    place = name.partition("://")[2] or name
    folder, _, base = place.rpartition("/")
    stem = base.rpartition(".")[0] or base
    parts = [part for part in folder.split("/") if part not in ("", ".", "..")]
    return "/".join(_OTHER.sub("_", part) for part in (*parts, stem))


def _hash(name: str) -> str:
    return xxhash.xxh64_hexdigest(name.encode(errors="surrogatepass"))
