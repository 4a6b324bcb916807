"""Names of places."""

from pathlib import Path

import pytest

from orchestrator.storage.uri import join_uri, resolve


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
