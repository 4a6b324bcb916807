"""What `rushes status` says of a run, from its storage alone."""

from pathlib import Path

from orchestrator.cascade.attempt import begin
from orchestrator.cascade.done import write_done
from orchestrator.cascade.versions import claim
from orchestrator.launch.status import read_status
from orchestrator.storage.store import open_store
from tests.tiny import tiny_recipe


def test_a_stage_that_has_saved_nothing_yet_is_started(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    begin(store, tiny_recipe(tmp_path), data={"train": "a" * 64, "eval": "b" * 64})
    claim(store, stage="autoencoder", inputs="c" * 64)
    write_done(store, stage="autoencoder", inputs="c" * 64, output="d" * 64, step=6)
    claim(store, stage="encode", inputs="e" * 64)
    states = {stage["id"]: stage["state"] for stage in read_status(store.uri)["stages"]}
    wanted = {"autoencoder": "done", "encode": "started", "dit": "waiting", "evaluate": "waiting"}
    assert states == wanted
