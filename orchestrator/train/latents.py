"""Where encoded clips are: shards that all runs below one folder share, and a run's index of them.

``RUNS/.encoded/KEY`` holds shards of one content (``encode_key.py``); an encode stage's own folder
holds the index that says which of them are its latents, of a mix an index for each source.
Imports no torch: the driver looks here.
"""

from collections.abc import Iterable

from orchestrator.data.head import HEAD, missing_shards, read_head, shards_of
from orchestrator.storage.store import Store, join_uri, open_store
from orchestrator.storage.uri import parent_uri

LATENTS = "latents"  # folder of an encode stage's index
ENCODED = ".encoded"  # beside the runs; no run can have this name


def latents_uri(run: str, *, stage: str, part: str = "") -> str:
    """What an encode stage has made of a source, to be opened as a source of clips.

    Args:
        run: URI of the run's folder.
        stage: id of the encode stage.
        part: name of the source in a mix; empty for one that is alone.
    """
    own = join_uri(run, "stages", stage, LATENTS)
    return join_uri(own, part) if part else own


def encoded_uri(run: str, *, key: str) -> str:
    """Where shards of one content lie, whichever of the runs beside this one has encoded them.

    A run that is a whole bucket has them in itself.
    """
    return join_uri(parent_uri(run) or run, ENCODED, key)


def lacks_shards(run: Store, *, stage: str, parts: Iterable[str]) -> bool:
    """Whether anything of what a finished encode stage has made is gone; lists a folder a part.

    Args:
        run: its folder.
        stage: id of the encode stage.
        parts: names of its sources, see ``latents_uri``.
    """
    return any(_lacks_shards(latents_uri(run.uri, stage=stage, part=part)) for part in parts)


def _lacks_shards(uri: str) -> bool:
    own = open_store(uri)
    if not own.exists(HEAD):
        return True
    head = read_head(own)
    return bool(missing_shards(head, shards=shards_of(head, store=own)))
