"""The commands that users are told to type, on a cluster that only pretends to be one."""

import shlex
from pathlib import Path

import pytest

from orchestrator.__main__ import main
from orchestrator.launch import submit as submit_module
from tests.cluster.files import CLUSTER, ROOT
from tests.clusters import FakeJobs

PAGES = (ROOT / "docs" / "cluster.md", *sorted(CLUSTER.glob("*/README.md")))
START = "rushes submit "


def commands(page: Path) -> list[list[str]]:
    """Every `rushes submit` of a page as words, continuation lines joined."""
    text = page.read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(START)]


def test_every_way_to_a_cluster_ends_with_a_job() -> None:
    told = {page.parent.name for page in PAGES if commands(page)}
    assert told == {"docs", "aws", "gcp", "kuberay", "on-premises"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_what_a_page_tells_to_submit_is_taken(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # as all of them say
    for words in commands(page):
        head = FakeJobs(host_names=("a-head-behind-a-tunnel",))
        monkeypatch.setattr(submit_module, "open_jobs", lambda _, head=head: head)
        monkeypatch.setattr("sys.argv", [word for word in words if word != "--follow"])
        assert main() == 0, words
        (job,) = head.list()
        assert job.metadata["rushes.run"] == words[words.index("--run") + 1]
