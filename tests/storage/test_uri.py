"""Names of places."""

from pathlib import Path

import pytest

from orchestrator.storage.uri import found_from, join_uri, parent_uri, relative_to, resolve


def test_a_relative_folder_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("runs/one/") == f"{tmp_path}/runs/one"
    assert resolve("file:///a%20b/c/") == "/a b/c"


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [("s3://b/p/", "s3://b/p"), ("s3://b", "s3://b"), ("memory://", "memory://")],
)
def test_a_uri_loses_its_last_slash_only(uri: str, wanted: str) -> None:
    assert resolve(uri) == wanted


@pytest.mark.parametrize(
    ("uri", "parts", "wanted"),
    [
        ("s3://b", ("x", "y/z"), "s3://b/x/y/z"),
        ("s3://b/p/", ("/x/",), "s3://b/p/x"),
        ("memory://", ("x",), "memory://x"),
        ("/", ("x",), "/x"),
        ("runs", ("x",), "runs/x"),
    ],
)
def test_parts_go_below(uri: str, parts: tuple[str, ...], wanted: str) -> None:
    assert join_uri(uri, *parts) == wanted


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("/runs/one", "/runs"),
        ("/runs", "/"),
        ("/", None),
        ("s3://b/runs/one", "s3://b/runs"),
        ("s3://b/one", "s3://b"),
        ("s3://b", None),
        ("memory://a/b", "memory://a"),
    ],
)
def test_a_place_is_in_another_unless_it_is_all_there_is(uri: str, wanted: str | None) -> None:
    assert parent_uri(uri) == wanted


@pytest.mark.parametrize(
    ("uri", "folder", "way"),
    [
        ("/runs/x/1", "/runs/a/b", "../../x/1"),
        ("/x", "/", "x"),
        ("/runs/a/x", "/runs/a", "x"),
        ("s3://b/runs/x", "s3://b/runs/a/b/", "../../x"),
        ("s3://b/x", "s3://b", "x"),
        ("memory://x/y", "memory://a", "../x/y"),
    ],
)
def test_a_place_is_found_by_the_way_there(uri: str, folder: str, way: str) -> None:
    assert relative_to(uri, folder=folder) == way
    assert found_from(way, folder=folder) == uri


@pytest.mark.parametrize("uri", ["/x/y", "s3://b/x", "memory://x"])
def test_an_absolute_place_is_found_from_anywhere(uri: str) -> None:
    assert found_from(uri, folder="s3://c/z") == uri


def test_there_is_no_way_into_another_kind_of_store() -> None:
    with pytest.raises(ValueError, match="wanted the same kind of store"):
        relative_to("s3://b/x", folder="/runs")
