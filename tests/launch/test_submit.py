"""`rushes submit` and `rushes job` on a cluster that only pretends to be one."""

import json
import os
import platform
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.__main__ import main
from orchestrator.launch import jobs as jobs_module
from orchestrator.launch import submit as submit_module
from orchestrator.launch.submit import next_id
from tests.clusters import FakeJobs

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "jobs" / "sora_debug.yaml"
ADDRESS = "http://127.0.0.1:8265"


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeJobs:
    """A cluster on this machine; commands are typed in an empty folder."""
    fake = FakeJobs(address=ADDRESS, host_names=(platform.node(),))
    for module in (jobs_module, submit_module):
        monkeypatch.setattr(module, "open_jobs", lambda _address: fake)
    monkeypatch.chdir(tmp_path)
    return fake


def rushes(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr("sys.argv", ["rushes", *args])
    return main()


def submit(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    return rushes(monkeypatch, "submit", str(RECIPE), "--address", ADDRESS, *args)


def test_a_job_carries_its_run_its_digest_and_the_given_name(
    jobs: FakeJobs,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert submit(monkeypatch, "--name", "try 7", "--set", "seed=1") == 0
    (job,) = jobs.list()
    assert job.metadata["rushes.run"] == str(tmp_path / "runs" / "sora-debug")
    assert job.metadata["job_name"] == "try 7"
    assert len(job.metadata["rushes.digest"]) == 64
    command = shlex.split(jobs.commands[job.id])
    assert command[:5] == ["python", "-m", "orchestrator", "train", "jobs/sora_debug.yaml"]
    assert "seed=1" in command
    out = capsys.readouterr().out
    assert f"sending {len(jobs.files[job.id])} files, " in out
    assert f"rushes job stop {job.id} --address {ADDRESS}" in out


def test_places_that_are_absolute_already_are_not_named_again(
    jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert submit(monkeypatch, "--set", "data.train.uri=/shared/train") == 0
    (command,) = jobs.commands.values()
    named = [part for part in shlex.split(command) if part.startswith("data.")]
    eval_uri = tmp_path / "data" / "digits-debug" / "eval"
    assert named == ["data.train.uri=/shared/train", f'data.eval.uri="{eval_uri}"']


def test_a_run_that_a_job_works_on_is_not_started_twice(
    jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(monkeypatch) == 0
    assert submit(monkeypatch) == 0
    (job,) = jobs.list()
    assert f"job {job.id} runs this already; nothing is sent" in capsys.readouterr().out


def test_another_recipe_for_a_run_that_goes_on_is_refused(
    jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(monkeypatch) == 0
    assert submit(monkeypatch, "--set", "seed=1") == 2
    (job,) = jobs.list()
    assert f"stop it: rushes job stop {job.id}" in capsys.readouterr().err


def test_a_run_that_ended_is_taken_up_by_another_job(
    jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert submit(monkeypatch) == 0
    (first,) = jobs.list()
    jobs.end(first.id, status="STOPPED", exit_code=None)
    assert submit(monkeypatch) == 0
    second = jobs.list()[1]
    assert first.id.rpartition("-")[0] == second.id.rpartition("-")[0]
    assert (first.id[-2:], second.id[-2:]) == ("-1", "-2")


def test_two_commands_at_once_start_one_job(
    jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    send = jobs.submit

    def sooner(job: str, **kwargs: Any) -> None:
        send(job, **kwargs)  # the other command, between our look and our request
        send(job, **kwargs)

    monkeypatch.setattr(jobs, "submit", sooner)
    assert submit(monkeypatch) == 0
    (job,) = jobs.list()
    assert f"job    {job.id}" in capsys.readouterr().out


def test_a_command_that_was_sooner_between_two_looks_starts_the_only_job(
    jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other's job is there after our first look: its number must not become one higher."""
    assert submit(monkeypatch) == 0
    (theirs,) = jobs.list()
    looks, now = iter([lambda: ()]), jobs.list
    monkeypatch.setattr(jobs, "list", lambda: next(looks, now)())
    capsys.readouterr()
    assert submit(monkeypatch) == 0
    assert list(jobs.known) == [theirs.id]
    assert f"job    {theirs.id}" in capsys.readouterr().out


def test_following_the_same_command_again_follows_the_job_that_is_there(
    jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(monkeypatch) == 0
    (job,) = jobs.list()
    jobs.logs[job.id] = "a line of the log\n"
    jobs.on_look = lambda: jobs.end(job.id, status="FAILED", exit_code=75)
    assert submit(monkeypatch, "--follow") == 75
    assert "a line of the log" in capsys.readouterr().out


def test_a_sigterm_while_a_job_is_sent_stops_it(
    jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = jobs.submit

    def interrupted(job: str, **kwargs: Any) -> None:
        assert callable(signal.getsignal(signal.SIGTERM)), "it would end us, and the job go on"
        os.kill(os.getpid(), signal.SIGTERM)
        send(job, **kwargs)

    monkeypatch.setattr(jobs, "submit", interrupted)
    assert submit(monkeypatch, "--follow") == 143
    (job,) = jobs.list()
    assert job.status == "STOPPED"


@pytest.mark.parametrize("beside", [(), (platform.node(),)], ids=["a tunnel", "the head"])
def test_a_relative_place_means_nothing_where_there_are_other_machines(
    jobs: FakeJobs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    beside: tuple[str, ...],
) -> None:
    jobs.host_names = (*beside, "head-of-another-network")
    assert submit(monkeypatch) == 2
    err = capsys.readouterr().err
    assert "--run=runs: a relative folder means nothing on head-of-another-network" in err
    assert not jobs.list()


@pytest.mark.parametrize(
    "args",
    [
        ("--set", "tracking.uri=postgresql://u:planted@db/mlflow"),  # secret-scan: ok
        ("--set", "tracking.uri=http://planted@mlflow:5000"),
        ("--set", "tracking.uri=postgresql://db/mlflow?user=u&password=planted"),
        ("--run", "s3://u:planted@bucket/runs"),  # secret-scan: ok
        ("--run", "r", "--set", "runs=s3://u:planted@bucket"),  # secret-scan: ok
        ("--address", "http://u:planted@head:8265"),  # secret-scan: ok
        ("--address", "u:planted@head:8265"),
        ("--address", "http://head:8265?token=planted"),
    ],
)
def test_a_password_is_neither_sent_nor_shown(
    jobs: FakeJobs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: tuple[str, ...],
) -> None:
    assert submit(monkeypatch, *args) == 2
    assert not jobs.list()
    shown = capsys.readouterr()
    assert "planted" not in shown.out + shown.err


def test_a_password_that_another_option_replaces_is_not_kept_in_the_command(
    jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ("--set", "tracking.uri=http://me:planted@mlflow:5000")  # secret-scan: ok
    assert submit(monkeypatch, *first, "--set", "tracking.uri=sqlite:///mlflow.db") == 2
    assert not jobs.list()
    shown = capsys.readouterr()
    assert "--set tracking.uri: holds a password" in shown.err
    assert "planted" not in shown.out + shown.err


@pytest.mark.parametrize(
    "comment",
    [
        "# http://me:planted@mlflow:5000",  # secret-scan: ok
        "# export MLFLOW_TRACKING_PASSWORD='planted'",
    ],
)
def test_a_password_in_a_comment_is_not_sent_with_the_file(
    jobs: FakeJobs,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    comment: str,
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"{RECIPE.read_text()}{comment}\n")
    assert rushes(monkeypatch, "submit", str(file), "--address", ADDRESS) == 2
    assert not jobs.list()
    shown = capsys.readouterr()
    assert "has a password or a token, and the file is sent" in shown.err
    assert "planted" not in shown.out + shown.err


def test_ids_of_a_run_count_up_and_other_runs_do_not_matter() -> None:
    first = next_id("a", run="s3://b/a", used=[])
    assert first.endswith("-1")
    assert next_id("a", run="s3://b/a", used=[first, "raysubmit_x"]).endswith("-2")
    assert next_id("a", run="s3://b/other", used=[first]).endswith("-1")
    assert next_id("a", run="s3://b/other", used=[]) != first


def test_the_list_holds_old_jobs_and_those_of_one_run(
    jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs.add("raysubmit_1")
    jobs.end("raysubmit_1")
    assert submit(monkeypatch) == 0
    capsys.readouterr()
    assert rushes(monkeypatch, "job", "list", "--address", ADDRESS, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["status"] for one in found] == ["SUCCEEDED", "RUNNING"]
    of_run = ("job", "list", "--address", ADDRESS, "--run", "runs/sora-debug")
    assert rushes(monkeypatch, *of_run, "--json") == 0
    assert [one["job"] for one in json.loads(capsys.readouterr().out)] == [found[1]["job"]]
    assert rushes(monkeypatch, *of_run) == 0
    assert "RUNNING" in capsys.readouterr().out


def test_a_job_is_stopped_by_the_run_that_it_works_on(
    jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(monkeypatch) == 0
    assert rushes(monkeypatch, "job", "stop", "runs/sora-debug", "--address", ADDRESS) == 0
    (job,) = jobs.list()
    assert job.status == "STOPPED"
    assert "the command that submitted it goes on with its run" in capsys.readouterr().out


def test_a_job_that_is_not_there_is_exit_2(
    jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rushes(monkeypatch, "job", "stop", "nobody", "--address", ADDRESS) == 2
    assert "JOB=nobody" in capsys.readouterr().err
