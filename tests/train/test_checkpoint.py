"""Checkpoints exist by their COMMIT, are checked byte by byte, and never lose the last good one."""

import errno
import json
import os
import threading
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from safetensors import safe_open

from orchestrator.errors import FencedError, RushesError, UnavailableError, UserError
from orchestrator.recipe.train import KeepBest, Save
from orchestrator.storage.folder import FolderStore
from orchestrator.storage.store import Store, open_store
from orchestrator.train.checkpoint import save, snapshot
from orchestrator.train.checkpoint.format import INDEX, VERSION, Commit, File
from orchestrator.train.checkpoint.load import load_latest
from orchestrator.train.checkpoint.snapshot import HostBuffers
from orchestrator.train.checkpoint.steps import committed, latest, prune
from tests.train.checkpoints import ALONE, PREFIX, Training, advance, bits, build

DATA = "rank-0000-of-0001-*.safetensors"


def file_of(training: Training, *, step: int, pattern: str = DATA) -> Path:
    """The one file of a checkpoint that a pattern fits."""
    (found,) = training.path(step, "").glob(pattern)
    return found


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "run")


def test_nothing_is_loaded_before_the_first_commit(training: Training) -> None:
    assert training.load()[0] is None
    assert latest(training.store, PREFIX) is None


def test_loaded_state_and_extra_are_what_was_saved(training: Training) -> None:
    training.save_at(2, 5)
    extra, engine = training.load()
    assert extra == {"step": 5, "stream": {"position": [5, 0.5, None]}}
    assert bits(engine) == training.bits_at[5]
    assert engine.applied_steps == 5
    assert advance(engine, step=5) == advance(training.engine, step=5)
    assert bits(engine) == bits(training.engine)


def copied(training: Training) -> Store:
    """The same run in a store that has no local files."""
    store = open_store(f"memory://{uuid.uuid4().hex}")
    for path in training.folder.rglob("*"):
        if path.is_file():
            store.put(f"{PREFIX}/{path.relative_to(training.folder)}", path.read_bytes())
    return store


def test_loaded_state_is_what_was_saved_where_files_are_not_local(training: Training) -> None:
    training.save_at(2)
    training.store = copied(training)
    extra, engine = training.load()
    assert extra is not None
    assert extra["step"] == 2
    assert bits(engine) == training.bits_at[2]


def test_scratch_without_room_is_one_line_and_not_taken_for_damage(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    training.save_at(2)
    training.store = copied(training)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"^/.*/rank-0000-of-0001-.*: No space left on device"):
        training.load()
    monkeypatch.undo()
    assert committed(training.store, PREFIX) == [2]
    assert training.load()[0] is not None


def test_folder_holds_tensors_and_json_that_other_tools_read(training: Training) -> None:
    training.save_at(3)
    folder = training.path(3, "")
    data = file_of(training, step=3).name
    assert sorted(path.name for path in folder.iterdir()) == ["COMMIT", "index.json", data]
    commit = json.loads((folder / "COMMIT").read_text())
    assert commit["step"] == 3
    for name, file in commit["files"].items():
        raw = (folder / name).read_bytes()
        assert file == {"size": len(raw), "xxh64": xxhash.xxh64(raw).hexdigest()}
    index = json.loads((folder / "index.json").read_text())
    weight = index["parameters"]["net/0.weight"]
    assert weight == {
        "shape": [6, 4],
        "ranges": [{"file": data, "key": "net/0.weight", "start": 0, "numel": 24}],
    }
    with safe_open(folder / data, framework="np") as tensors:
        assert tensors.get_tensor("net/0.weight/exp_avg").shape == (24,)


def test_folder_without_commit_does_not_exist(training: Training) -> None:
    training.save_at(1, 2)
    training.path(2, "COMMIT").unlink()
    extra, engine = training.load()
    assert extra is not None
    assert extra["step"] == 1
    assert bits(engine) == training.bits_at[1]
    assert latest(training.store, PREFIX) == 1


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))


def remove(path: Path) -> None:
    path.unlink()


DAMAGES = [truncate, empty, flip, remove]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("pattern", [DATA, "index.json"])
def test_damaged_file_sends_back_to_the_newest_good_one(
    training: Training, pattern: str, damage: object
) -> None:
    training.save_at(1, 2, 3)
    name = file_of(training, step=3, pattern=pattern).name
    damage(training.path(3, name))  # pyright: ignore[reportCallIssue]
    notes: list[str] = []
    extra, engine = training.load(note=notes.append)
    assert extra is not None
    assert extra["step"] == 2
    assert bits(engine) == training.bits_at[2]
    assert len(notes) == 1
    assert "step 3" in notes[0]
    assert name in notes[0]


@pytest.mark.parametrize("damage", [truncate, empty, flip])
def test_damaged_commit_sends_back_to_the_newest_good_one(
    training: Training, damage: object
) -> None:
    training.save_at(1, 2)
    damage(training.path(2, "COMMIT"))  # pyright: ignore[reportCallIssue]
    extra, engine = training.load()
    assert extra is not None
    assert extra["step"] == 1
    assert bits(engine) == training.bits_at[1]


def test_no_bit_and_no_byte_of_a_commit_can_be_lost() -> None:
    file = File(size=12, xxh64="0123456789abcdef")
    commit = Commit(version=VERSION, step=7, files={INDEX: file}, metrics={"loss": 0.125})
    raw = commit.to_bytes()
    assert json.loads(raw) == commit.model_dump() | {"xxh64": xxhash.xxh64(raw[:-28]).hexdigest()}
    assert Commit.parse(raw) == commit
    flipped = (
        raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
        for at in range(len(raw))
        for bit in range(8)
    )
    for wrong in (*flipped, *(raw[:end] for end in range(len(raw))), raw + b"\n"):
        with pytest.raises(ValueError, match="hash"):
            Commit.parse(wrong)


def test_damaged_checkpoint_is_put_aside_and_can_be_saved_again(training: Training) -> None:
    training.save_at(1, 2)
    commit = training.path(2, "COMMIT").read_bytes()
    flip(file_of(training, step=2))
    _, training.engine = training.load()
    reason, _, kept = training.path(2, "DAMAGED").read_bytes().partition(b"\n")
    assert b"xxh64" in reason
    assert kept == commit
    training.step = 1
    training.save_at(2)
    extra, engine = training.load()
    assert extra is not None
    assert extra["step"] == 2
    assert bits(engine) == training.bits_at[2]


def test_all_damaged_is_an_error_that_touches_nothing(training: Training) -> None:
    training.save_at(1, 2)
    for step in (1, 2):
        flip(file_of(training, step=step))
    before = sorted(training.folder.rglob("*"))
    with pytest.raises(RushesError, match=r"no checkpoint is whole.*step 2: .*step 1: "):
        training.load()
    assert sorted(training.folder.rglob("*")) == before


def test_other_shapes_are_the_users_error(training: Training) -> None:
    training.save_at(1)
    engine = build(width=7)
    with pytest.raises(UserError, match=r"net/0.bias has shape \[6\], wanted \[7\]"):
        load_latest(training.store, PREFIX, engines={"net": engine}, ranks=ALONE)


def test_other_networks_are_the_users_error(training: Training) -> None:
    training.save_at(1)
    with pytest.raises(UserError, match="has shape none, wanted"):
        load_latest(
            training.store,
            PREFIX,
            engines={"net": build(), "critic": build()},
            ranks=ALONE,
        )


def test_old_checkpoints_go_and_the_newest_stay(training: Training) -> None:
    training.save_at(1, 2, 3, 4, save=Save(keep=2))
    assert sorted(path.name for path in training.folder.iterdir()) == [
        "step-00000003",
        "step-00000004",
    ]


def test_leftovers_of_an_unfinished_save_go_once_a_newer_one_is_committed(
    training: Training,
) -> None:
    training.save_at(1, 2)
    training.path(2, "COMMIT").unlink()
    training.save_at(3, save=Save(keep=5))
    assert not training.path(2, "").exists()
    assert training.path(1, "COMMIT").exists()


def test_unfinished_save_that_is_newer_than_every_commit_is_left_alone(
    training: Training,
) -> None:
    training.save_at(1, 2)
    training.path(2, "COMMIT").unlink()
    prune(training.store, PREFIX, save=Save(keep=1))
    assert training.path(1, "COMMIT").exists()
    assert file_of(training, step=2).exists()


def test_every_so_many_steps_one_stays(training: Training) -> None:
    training.save_at(2, 3, 4, 5, 6, 7, save=Save(keep=1, keep_every_steps=3))
    assert committed(training.store, PREFIX) == [7, 6, 3]


@pytest.mark.parametrize(("largest", "best"), [(False, [2, 4]), (True, [1, 3])])
def test_the_best_by_a_metric_stay(largest: bool, best: list[int], training: Training) -> None:
    rule = KeepBest(metric="loss", count=2, largest=largest)
    losses = [0.9, 0.1, 0.5, 0.2, 0.4]
    training.save_at(1, 2, 3, 4, 5, losses=losses, save=Save(keep=1, keep_best=rule))
    assert sorted(committed(training.store, PREFIX)) == [*best, 5]


def test_commits_are_read_once_for_their_metrics(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = KeepBest(metric="loss", count=2)
    training.save_at(1, 2, losses=[0.3, 0.1])
    saver = training.saver(save=Save(keep=1, keep_best=rule))
    read: list[str] = []
    get = FolderStore.get

    def counted(self: FolderStore, key: str) -> bytes:
        read.extend([key] if key.endswith("COMMIT") else [])
        return get(self, key)

    monkeypatch.setattr(FolderStore, "get", counted)
    for step, loss in ((3, 0.2), (4, 0.4), (5, 0.5)):
        saver.begin(step=step, extra={}, metrics={"loss": loss})
        saver.finish()
    assert len(read) == 2  # of the saver before
    assert sorted(committed(training.store, PREFIX)) == [2, 3, 5]


def test_without_the_metric_the_newest_stay(training: Training) -> None:
    rule = KeepBest(metric="accuracy")
    training.save_at(1, 2, 3, losses=[0.1, 0.2, 0.3], save=Save(keep=2, keep_best=rule))
    assert committed(training.store, PREFIX) == [3, 2]


def test_step_committed_by_another_attempt_is_not_overwritten(training: Training) -> None:
    training.save_at(1)
    first = bits(training.engine)
    commit = training.path(1, "COMMIT").read_bytes()
    advance(training.engine, step=99)
    with pytest.raises(UnavailableError, match="another attempt has committed"):
        training.save_at(1)
    assert training.path(1, "COMMIT").read_bytes() == commit
    _, engine = training.load()
    assert bits(engine) == first


def test_commit_after_another_gang_took_over_is_refused(training: Training) -> None:
    training.save_at(1)
    left_behind = training.saver()
    left_behind.begin(step=2, extra={})
    training.saver()  # the gang that was started in its place
    with pytest.raises(FencedError, match=r"step-00000002 was not written.*taken over by process"):
        left_behind.finish()
    assert latest(training.store, PREFIX) == 1


def test_late_writes_of_a_gang_that_was_taken_over_change_nothing(training: Training) -> None:
    taken_over = threading.Event()

    class Suspended:
        """Wakes when another gang has committed the step."""

        uri = training.store.uri

        def put(self, key: str, data: bytes | memoryview) -> None:
            taken_over.wait()
            training.store.put(key, data)

        def __getattr__(self, name: str) -> Any:
            return getattr(training.store, name)

    store: Any = Suspended()
    advance(training.engine, step=99)
    left_behind = training.saver(store=store)
    left_behind.begin(step=1, extra={}, beside={"stages/base/metrics.jsonl": b"old"})
    training.engine = build()
    training.store.put("stages/base/metrics.jsonl", b"new")
    training.save_at(1)
    taken_over.set()
    with pytest.raises(FencedError, match="taken over by process"):
        left_behind.finish()
    _, engine = training.load()
    assert bits(engine) == training.bits_at[1]
    assert training.store.get("stages/base/metrics.jsonl") == b"new"


def test_training_goes_on_while_a_store_takes_its_time_to_commit(training: Training) -> None:
    asked, answered = threading.Event(), threading.Event()

    class Slow:
        """Does not answer a commit until it is told to."""

        uri = training.store.uri

        def put_new(self, key: str, data: bytes) -> bool:
            asked.set()
            answered.wait()
            return training.store.put_new(key, data)

        def __getattr__(self, name: str) -> Any:
            return getattr(training.store, name)

    store: Any = Slow()
    saver = training.saver(store=store)
    advance(training.engine, step=0)
    saved = bits(training.engine)
    saver.begin(step=1, extra={"step": 1})
    while not asked.is_set():
        assert not saver.poll(saver.is_idle)
    advance(training.engine, step=1)
    assert not saver.poll(saver.is_idle)
    assert saver.is_under_way
    assert latest(training.store, PREFIX) is None
    answered.set()
    assert saver.finish()
    assert not saver.is_under_way
    _, engine = training.load()
    assert bits(engine) == saved


def test_a_lost_writers_late_index_does_not_reach_a_commit(training: Training) -> None:
    training.save_at(2)
    target = f"{PREFIX}/step-00000004"
    training.store.put(f"{target}/{INDEX}", b"of a writer that was lost")
    training.save_at(4)
    assert not training.store.put_new(f"{target}/{INDEX}", b"on its way since then")
    extra, _ = training.load()
    assert extra is not None
    assert extra["step"] == 4


def test_checkpoints_that_cannot_be_deleted_do_not_undo_a_commit(training: Training) -> None:
    class Kept:
        def delete(self, key: str) -> None:
            raise UserError(f"{key}: not permitted")

        def __getattr__(self, name: str) -> Any:
            return getattr(training.store, name)

    store: Any = Kept()
    saver = training.saver(save=Save(keep=1), store=store)
    for step in (1, 2):
        saver.begin(step=step, extra={"step": step})
        assert saver.finish()
    assert saver.untidy == f"{PREFIX}/step-00000001/COMMIT: not permitted"
    assert committed(training.store, PREFIX) == [2, 1]


def test_another_version_is_the_users_error_and_stays(training: Training) -> None:
    training.save_at(2)
    path = training.path(2, "COMMIT")
    later = Commit.parse(path.read_bytes()).model_copy(update={"version": VERSION + 1})
    path.write_bytes(later.to_bytes())
    wanted = f"step-00000002: checkpoint format {VERSION + 1}, wanted {VERSION}; go on with"
    with pytest.raises(UserError, match=wanted):
        training.load()
    assert path.read_bytes() == later.to_bytes()


def test_commit_deletes_what_a_lost_writer_left_at_its_step(training: Training) -> None:
    training.save_at(1)
    training.path(1, "COMMIT").unlink()
    lost = file_of(training, step=1).name
    training.save_at(1)
    assert file_of(training, step=1).name != lost


def test_commit_after_the_run_was_started_again_is_refused(training: Training) -> None:
    training.store.put("attempts/0001.json", b"{}")
    first = training.saver(attempt=1)
    first.begin(step=1, extra={})
    first.finish()
    training.store.put("attempts/0002.json", b"{}")
    first.begin(step=2, extra={})
    with pytest.raises(FencedError, match="start 2 of the run goes on"):
        first.finish()
    with pytest.raises(FencedError, match="start 2 of the run goes on"):
        training.saver(attempt=1)
    second = training.saver(attempt=2)
    second.begin(step=3, extra={})
    second.finish()
    assert committed(training.store, PREFIX) == [3, 1]


def test_failed_write_names_the_place_and_keeps_the_last_commit(training: Training) -> None:
    training.save_at(1)
    (training.folder / "step-00000002").write_text("a file where a folder must go")
    with pytest.raises(UserError, match="step-00000002 was not written"):
        training.save_at(2)
    extra, _ = training.load()
    assert extra is not None
    assert extra["step"] == 1


def test_large_state_is_split_over_files(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "PART_BYTES", 100)
    training.save_at(2)
    names = sorted(path.name for path in training.path(2, "").glob("rank-*"))
    first = names[-1].removesuffix(".safetensors")
    assert names == [f"{first}.0001.safetensors", f"{first}.0002.safetensors", names[-1]]
    _, engine = training.load()
    assert bits(engine) == training.bits_at[2]


def test_the_writer_rests_between_files_until_somebody_waits(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "PART_BYTES", 100)
    monkeypatch.setattr(save, "REST", 1e8)
    put: list[str] = []
    first = threading.Event()

    class Heard:
        """Says what is written."""

        uri = training.store.uri

        def put(self, key: str, data: bytes | memoryview) -> None:
            training.store.put(key, data)
            put.append(key)
            first.set()

        def __getattr__(self, name: str) -> Any:
            return getattr(training.store, name)

    store: Any = Heard()
    saver = training.saver(store=store)
    saver.rests = True
    saver.begin(step=1, extra={})
    first.wait()
    assert not saver.poll(saver.is_idle)
    assert len(put) == 1
    assert saver.finish()
    assert len([key for key in put if "/rank-" in key]) == 3


def test_steps_after_the_copy_do_not_change_what_is_written(training: Training) -> None:
    written = threading.Event()
    going_on = threading.Event()

    class Slow:
        """Writes only once the engine has moved on."""

        uri = training.store.uri

        def put(self, key: str, data: bytes | memoryview) -> None:
            going_on.wait()
            training.store.put(key, data)
            written.set()

        def __getattr__(self, name: str) -> Any:
            return getattr(training.store, name)

    store: Any = Slow()
    saver = training.saver(store=store)
    before = bits(training.engine)
    saver.begin(step=1, extra={})
    saver.poll(saver.is_idle)  # nothing is written: no commit, and no wait
    assert not training.path(1, "COMMIT").exists()
    saver.wait_for_copy()
    advance(training.engine, step=0)
    going_on.set()
    saver.finish()
    assert written.is_set()
    _, engine = training.load()
    assert bits(engine) == before != bits(training.engine)


def test_a_copy_that_fails_loses_the_save_and_holds_nobody_up(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    training.save_at(1)
    saver = training.saver()

    def no_memory(_: HostBuffers) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr(HostBuffers, "copy", no_memory)
    saver.begin(step=2, extra={})
    saver.wait_for_copy()
    with pytest.raises(Exception, match="no memory"):
        saver.finish()
    assert not saver.is_under_way
    assert training.path(1, "COMMIT").exists()
    assert not training.path(2, "COMMIT").exists()


def test_second_save_uses_the_memory_of_the_first(training: Training) -> None:
    buffers = HostBuffers({"net": training.engine}, ranks=ALONE)
    first = [np.frombuffer(file.raw, dtype=np.uint8) for file in buffers.begin()]
    buffers.copy()
    advance(training.engine, step=0)
    second = [np.frombuffer(file.raw, dtype=np.uint8) for file in buffers.begin()]
    buffers.copy()
    assert all(np.shares_memory(*pair) for pair in zip(first, second, strict=True))
