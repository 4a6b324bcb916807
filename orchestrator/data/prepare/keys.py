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


def unit_of(name: str, *, units: int) -> int:
    """The unit of work that a video belongs to, of so many: it does not hang on other videos."""
    return int(_hash(name), 16) % units


def units_for(videos: int, *, per_unit: int) -> int:
    """How many units: a power of two, so that few more videos seldom change it."""
    return 1 << max(0, (-(-videos // per_unit) - 1).bit_length())


def _key(name: str) -> str:
    place = name.partition("://")[2] or name
    folder, _, base = place.rpartition("/")
    stem = base.rpartition(".")[0] or base
    parts = [part for part in folder.split("/") if part not in ("", ".", "..")]
    return "/".join(_OTHER.sub("_", part) for part in (*parts, stem))


def _hash(name: str) -> str:
    return xxhash.xxh64_hexdigest(name.encode(errors="surrogatepass"))
