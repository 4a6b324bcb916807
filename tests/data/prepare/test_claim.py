"""Whose a target is: nothing of others is lost there, and of two starts the later one goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.data.head import HEAD
from orchestrator.data.prepare.claim import OWNER, Claim, take
from orchestrator.errors import FencedError, UserError
from orchestrator.storage.store import open_store
from tests.data.clips import write_source
from tests.data.prepare.films import one_scene, photo
from tests.data.prepare.test_prepare import configured, files_of, run


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    one_scene(folder / "film.mp4", 1, seconds=1.0)
    photo(folder / "photo.png", 2)
    return folder


@pytest.mark.parametrize(
    "name", ["shard-000000.tar", "steps/mine.txt", "rows.parquet", "index.parquet", OWNER]
)
def test_files_of_others_are_neither_replaced_nor_deleted(
    raw: Path, tmp_path: Path, name: str
) -> None:
    theirs = tmp_path / name
    theirs.parent.mkdir(parents=True, exist_ok=True)
    theirs.write_text("{}")
    with pytest.raises(UserError, match=f"{name}: `rushes prepare` did not write it") as refused:
        run(raw, tmp_path)
    assert "\n" not in str(refused.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [theirs]
    assert theirs.read_text() == "{}"


def test_clips_of_others_are_not_written_over(raw: Path, tmp_path: Path) -> None:
    write_source(str(tmp_path), {(1, 8, 8): 2})
    before = files_of(tmp_path)
    with pytest.raises(UserError, match="did not write, wanted an empty TARGET"):
        run(raw, tmp_path)
    assert files_of(tmp_path) == before


def test_other_files_may_lie_in_a_target(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "README").write_text("mine")
    assert run(raw, tmp_path).kept == 2
    assert (tmp_path / "README").read_text() == "mine"


def test_what_was_prepared_before_there_were_claims_is_gone_on_with(
    raw: Path, tmp_path: Path
) -> None:
    report = run(raw, tmp_path)
    (tmp_path / OWNER).unlink()
    assert run(raw, tmp_path) == report
    assert (tmp_path / OWNER).exists()


def meanwhile(step: str, act: Callable[[], object]) -> Callable[[str, int, int], None]:
    """Acts once, when a step begins."""
    acts = [act]

    def on_progress(name: str, done: int, _total: int) -> None:
        if name == step and not done and acts:
            acts.pop()()

    return on_progress


@pytest.mark.parametrize("step", ["probe to score", "shards"])
def test_of_two_starts_the_later_one_goes_on(raw: Path, tmp_path: Path, step: str) -> None:
    out, other = tmp_path / "out", configured("encoding.crf=30", "shard_bytes=1000000")
    with pytest.raises(FencedError, match="taken over by process") as fenced:
        run(raw, out, on_progress=meanwhile(step, lambda: run(raw, out, config=other)))
    assert "\n" not in str(fenced.value)
    run(raw, tmp_path / "alone", config=other)
    published = ("shard-", "rows.parquet", "index.")
    assert {name: data for name, data in files_of(out).items() if name.startswith(published)} == {
        name: data
        for name, data in files_of(tmp_path / "alone").items()
        if name.startswith(published)
    }
    assert run(raw, out, config=other).kept == 2
    run(raw, out)
    run(raw, tmp_path / "first")
    assert files_of(out) == files_of(tmp_path / "first")


def test_a_worker_of_an_earlier_start_writes_no_shard(raw: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with pytest.raises(FencedError):
        run(raw, tmp_path, on_progress=meanwhile("shards", lambda: take(store)))
    assert store.list("steps/plan/")
    assert not [*store.list("shard-"), *store.list("steps/shards/")]


def test_a_start_that_lost_its_files_says_who_took_over(raw: Path, tmp_path: Path) -> None:
    def lose() -> None:
        take(open_store(str(tmp_path)))
        for path in (tmp_path / "steps").rglob("*.parquet"):
            path.unlink()

    with pytest.raises(FencedError):
        run(raw, tmp_path, on_progress=meanwhile("encode", lose))
    assert not (tmp_path / HEAD).exists()


def test_a_claim_looks_now_and_then(tmp_path: Path) -> None:
    now_s = 0.0
    store = open_store(str(tmp_path))
    claim = Claim(store, take(store).token, clock=lambda: now_s)
    claim.check()
    take(store)
    claim.look()
    now_s = 6.0
    with pytest.raises(FencedError):
        claim.look()
