"""Where encoded clips are: shards that all runs below one folder share, and a run's index of them.

``RUNS/.encoded/KEY`` holds shards of one content (``encode_key.py``); an encode stage's own folder
holds the index that says which of them are its latents. Imports no torch: the driver looks here.
"""

from orchestrator.data.head import HEAD, missing_shards, read_head, shards_of
from orchestrator.storage.store import Store, join_uri, open_store
from orchestrator.storage.uri import parent_uri

LATENTS = "latents"  # folder of an encode stage's index
ENCODED = ".encoded"  # beside the runs; no run can have this name


def latents_uri(run: str, *, stage: str) -> str:
    """What an encode stage has made, to be opened as a source of clips."""
    return join_uri(run, "stages", stage, LATENTS)


def encoded_uri(run: str, *, key: str) -> str:
    """Where shards of one content lie, whichever of the runs beside this one has encoded them.

    A run that is a whole bucket has them in itself.
    """
    return join_uri(parent_uri(run) or run, ENCODED, key)


def lacks_shards(run: Store, *, stage: str) -> bool:
    """Whether anything of what a finished encode stage has made is gone; lists one folder."""
    own = open_store(latents_uri(run.uri, stage=stage))
    if not own.exists(HEAD):
        return True
    head = read_head(own)
    return bool(missing_shards(head, shards=shards_of(head, store=own)))
