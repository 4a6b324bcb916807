"""What is found below a folder or in a table, and under which keys."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.names import key_and_ext, unsafe
from orchestrator.data.prepare.keys import clip_key, keys_of, units_of
from orchestrator.data.prepare.listing import Listing, list_source
from orchestrator.data.prepare.records import IMAGE, MISSING, NAME, REFUSED, VIDEO
from orchestrator.errors import UserError
from orchestrator.storage.entry import Entry
from orchestrator.storage.errors import RefusedError
from orchestrator.storage.folder import FolderStore


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def listed(folder: Path, *, target: str | None = None) -> Listing:
    return list_source(str(folder), target=target or str(folder.parent / "out"))


def test_videos_and_images_are_found_with_what_is_beside_them(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    put(raw, "a.MP4", "a.txt", "a.json", "sub/b.jpg", "sub/notes.txt", "sub/c.pdf", "d.webm")
    listing = listed(raw)
    assert [(row.key, row.kind, row.txt, row.json) for row in listing.rows] == [
        ("a", VIDEO, "a.txt", "a.json"),
        ("d", VIDEO, None, None),
        ("sub/b", IMAGE, None, None),
    ]
    assert {row.root for row in listing.rows} == {str(raw)}
    assert listing.others == 2


def test_a_caption_that_is_written_anew_changes_the_row(tmp_path: Path) -> None:
    put(tmp_path / "raw", "a.mp4", "a.txt")
    (before,) = listed(tmp_path / "raw").rows
    (tmp_path / "raw" / "a.txt").write_text("a longer caption")
    (after,) = listed(tmp_path / "raw").rows
    assert before != after


def test_what_lies_in_the_target_is_not_prepared(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", "shards/b.mp4", "shards-of-mine/c.mp4")
    rows = listed(tmp_path, target=str(tmp_path / "shards")).rows
    assert [row.key for row in rows] == ["a", "shards-of-mine/c"]
    with pytest.raises(UserError, match="both SOURCE and TARGET"):
        listed(tmp_path, target=str(tmp_path))


def test_nothing_is_prepared_that_lies_in_the_target(tmp_path: Path) -> None:
    target = tmp_path / "out"
    put(target, "shard-videos/a.mp4")
    with pytest.raises(UserError, match=r"shard-videos: inside of TARGET"):
        listed(target / "shard-videos", target=str(target))
    (tmp_path / "link").symlink_to(target)
    for path in ("out/shard-videos/a.mp4", "link/shard-videos/a.mp4"):
        table = csv_table(tmp_path / "t.csv", f"path\n{path}\n")
        with pytest.raises(UserError, match=r"out/shard-videos/a.mp4: inside of TARGET"):
            listed(table, target=str(target))


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "a.pdf")
    with pytest.raises(UserError, match="no videos or images, wanted one of mp4"):
        listed(tmp_path, target="/elsewhere")


def test_a_name_that_is_no_text_is_a_row_with_its_reason(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    put(raw, "a.mp4")
    Path(os.fsdecode(os.fsencode(raw) + b"/b\xff.mp4")).write_bytes(b"x")
    rows = listed(raw).rows
    assert [row.reason for row in rows] == [None, NAME]
    assert rows[1].name == "b\ufffd.mp4"


def test_keys_hold_no_dots_and_stay_apart() -> None:
    names = [
        "a.b.mp4",
        "a_b.mp4",
        "x/y.mp4",
        "x/y.mov",
        "../up.mp4",
        "s3://b/k.mp4",
        "A.mp4",
        "a.mp4",
    ]
    keys = keys_of(names)
    assert [key.partition("-")[0] for key in keys] == [
        "a_b",
        "a_b",
        *["x/y"] * 2,
        "up",
        "b/k",
        "A",
        "a",
    ]
    assert len(set(keys)) == len(names)
    assert keys_of(["x/y.mp4"]) == ["x/y"]


@given(st.lists(st.text(st.characters(exclude_categories=[]), min_size=1), unique=True, max_size=8))
def test_any_name_gives_a_key_that_tars_take(names: list[str]) -> None:
    keys = [clip_key(key, 7) for key in keys_of([f"{name}.mp4" for name in names])]
    assert len({key.casefold() for key in keys}) == len(names)
    for key in keys:
        assert key_and_ext(f"{key}.json") == (key, "json")
        assert unsafe(key) is None


def units(names: list[str], *, per_unit: int = 8) -> set[tuple[str, tuple[str, ...]]]:
    """Every unit by its name, with what is in it."""
    found = units_of(names, per_unit=per_unit)
    assert [place for places in found.values() for place in places] == list(range(len(names)))
    assert all(1 <= len(places) <= per_unit for places in found.values())
    return {(unit, tuple(names[place] for place in places)) for unit, places in found.items()}


FIRST = [f"/raw/2024-01/{number:05d}.mp4" for number in range(500)]


def test_units_are_not_many_more_than_they_must_be() -> None:
    assert len(units(FIRST)) <= 2 * len(FIRST) / 8
    assert len(units(FIRST, per_unit=1)) == 500
    assert len(units(FIRST[:1])) == 1


def test_more_videos_behind_the_others_do_no_more_than_one_unit_again() -> None:
    more = [*FIRST, *(f"/raw/2024-02/{number:05d}.mp4" for number in range(50))]
    again = units(FIRST) - units(more)
    assert len(again) <= 1
    assert len(units(more) - units(FIRST)) <= 2 * 50 / 8 + 1


@pytest.mark.parametrize("place", [0, 17, 250, 499])
def test_a_video_among_the_others_does_about_a_unit_again(place: int) -> None:
    more = [*FIRST[:place], "/raw/2024-01/new.mp4", *FIRST[place:]]
    again = units(FIRST) - units(more)
    assert sum(len(names) for _, names in again) <= 2 * 8


def test_videos_everywhere_leave_units_alone_that_have_none_of_them() -> None:
    added = [f"{FIRST[number * 10]}x.mp4" for number in range(50)]
    again = units(FIRST) - units(sorted([*FIRST, *added]))
    assert len(again) <= 2 * len(added)
    assert sum(len(names) for _, names in again) < 0.8 * len(FIRST)


def csv_table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_table_names_videos_and_their_captions(tmp_path: Path) -> None:
    put(tmp_path, "in/a.mp4", "in/b.png", "else/c.mov")
    outside = tmp_path / "else" / "c.mov"
    rows = [
        {"path": "a.mp4", "caption": "one"},
        {"path": "./b.png", "caption": ["two", " ", "three"]},
        {"path": str(outside)},
        {"path": "gone.mp4"},
    ]
    (tmp_path / "in" / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = listed(tmp_path / "in" / "t.jsonl").rows
    assert [(row.name, row.kind, row.captions, row.reason) for row in found] == [
        ("a.mp4", VIDEO, ("one",), None),
        ("b.png", IMAGE, ("two", "three"), None),
        ("c.mov", VIDEO, (), None),
        ("gone.mp4", VIDEO, (), MISSING),
    ]
    assert [row.root for row in found] == [
        *[str(tmp_path / "in")] * 2,
        str(tmp_path / "else"),
        str(tmp_path / "in"),
    ]


def test_a_file_of_a_table_that_the_store_refuses_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a.mp4", "b.mp4")
    entry = FolderStore.entry

    def refusing(store: FolderStore, key: str) -> Entry:
        if key == "b.mp4":
            raise RefusedError("b.mp4: not for you")
        return entry(store, key)

    monkeypatch.setattr(FolderStore, "entry", refusing)
    rows = listed(csv_table(tmp_path / "t.csv", "path\na.mp4\nb.mp4\n")).rows
    assert [(row.reason, row.detail) for row in rows] == [
        (None, ""),
        (REFUSED, "b.mp4: not for you"),
    ]


def test_every_kind_of_table_says_the_same(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", "b.mp4")
    csv_table(tmp_path / "t.csv", 'path,caption,other\na.mp4,"one, two",x\nb.mp4,,y\n')
    rows = [{"path": "a.mp4", "caption": "one, two"}, {"path": "b.mp4", "caption": None}]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    kinds = [listed(tmp_path / f"t.{kind}").rows for kind in ("csv", "jsonl", "parquet")]
    assert kinds[0] == kinds[1] == kinds[2]
    assert [row.captions for row in kinds[0]] == [("one, two",), ()]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "file,caption\na.mp4,x\n", "columns are file, caption; wanted path"),
        ("t.csv", "path\na.mp4\n./a.mp4\n", "a.mp4 in rows 1 and 2, wanted it once"),
        ("t.csv", "path\n../a.mp4\n", "path=../a.mp4 leaves the table's folder"),
        (
            "t.csv",
            "path\nhttps://host/a.mp4?X-Amz-Signature=planted\n",
            "path=https://host/a.mp4?X-Amz-Signature=*** holds a password or token",
        ),
        ("t.csv", "path\n", "no rows"),
        ("t.csv", "path,caption\n,x\n", "path='', wanted"),
        ("t.jsonl", '{"path": "a.mp4"}\n{"path": 3}\n', "path=3, wanted"),
        ("t.jsonl", '{"path": "a.mp4"}\nnothing\n', "line 2 is not JSON"),
        ("t.jsonl", '{"path": "a.mp4"}\n{"file": "b.mp4"}\n', "columns are file; wanted path"),
        ("t.jsonl", '{"path": "a.mp4", "caption": 4}\n', "row 1: caption=4, wanted"),
        ("t.parquet", "no parquet", "not a table"),
    ],
)
def test_a_table_that_is_wrong_is_refused_in_one_line(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    put(tmp_path, "a.mp4")
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as refused:
        listed(tmp_path / name)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
