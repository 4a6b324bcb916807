"""A gang of plain processes on this machine: one per rank, no Ray."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.cascade.events import gang_ending, gang_started
from orchestrator.cascade.executor import EventSink
from orchestrator.cascade.worker_env import worker_env
from orchestrator.errors import RushesError, error_with_code
from orchestrator.train.job import StageJob, StageResult
from orchestrator.train.loopback import HOST, LOOPBACK

_POLL_S = 0.2
_KILL_AFTER_S = 10.0  # how long ranks may outlive a rank that failed


@dataclass
class _Rank:
    process: "subprocess.Popen[bytes]"
    log: Path
    reader: threading.Thread
    said: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def run_gang(
    job: StageJob, *, on_event: EventSink, stop: threading.Event, logs: Path
) -> StageResult:
    """Runs a training stage in one process per rank; blocks.

    Args:
        job: a training stage.
        on_event: takes the ranks' events, from a thread for each of them, and the gang's own.
        stop: set to send every rank a SIGTERM, upon which it saves.
        logs: a local folder for what ranks print.

    Raises:
        RushesError: what a rank raised, or one line with the path of its log.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rushes-job-") as folder:
        path = Path(folder) / "job.json"
        path.write_text(job.model_dump_json())
        port = _free_port()
        ranks = [
            _start(rank, job=job, path=path, port=port, on_event=on_event, logs=logs)
            for rank in range(job.spec.compute.ranks)
        ]
        on_event(gang_started(job.stage, workers=len(ranks)))
        try:
            failed = _wait(ranks, stop=stop)
            on_event(gang_ending(job.stage, failed=bool(failed)))
        finally:
            _end(ranks)
    return _result(job, ranks, failed=failed, stop=stop)


def _start(
    rank: int, *, job: StageJob, path: Path, port: int, on_event: EventSink, logs: Path
) -> _Rank:
    environment = os.environ | worker_env(job.spec) | LOOPBACK
    environment |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(job.spec.compute.ranks),
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(port),
    }
    log = logs / f"{job.stage}-rank{rank}.log"
    read_fd, write_fd = os.pipe()
    command = [sys.executable, "-m", "orchestrator.train"]
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*command, str(path), "--events", str(write_fd), "--until-eof"],
            stdin=subprocess.PIPE,  # never written to: it ends when this process does
            stdout=out,
            stderr=out,
            env=environment,
            pass_fds=(write_fd,),
            start_new_session=True,  # Ctrl-C reaches us alone; we ask the ranks to save
        )
    os.close(write_fd)
    said: list[dict[str, Any]] = []
    reader = threading.Thread(target=_read, args=(read_fd, said, on_event), daemon=True)
    reader.start()
    return _Rank(process=process, log=log, reader=reader, said=said)


def _read(fd: int, said: list[dict[str, Any]], on_event: EventSink) -> None:
    with os.fdopen(fd, "rb") as lines:
        for line in lines:
            event = json.loads(line)
            if event["kind"] in ("result", "error"):
                said.append(event)
            else:
                on_event(event)


def _wait(ranks: list[_Rank], *, stop: threading.Event) -> list[int]:
    """Waits until all ranks have ended well, or some have not; returns those."""
    asked = False
    while True:
        codes = [rank.process.poll() for rank in ranks]
        failed = [number for number, code in enumerate(codes) if code]
        if failed or None not in codes:
            return failed
        if stop.wait(_POLL_S) and not asked:
            asked = True
            for rank in ranks:
                rank.process.send_signal(signal.SIGTERM)
        elif asked:
            time.sleep(_POLL_S)


def _end(ranks: list[_Rank]) -> None:
    deadline = time.monotonic() + _KILL_AFTER_S
    for rank in ranks:
        if rank.process.poll() is None:
            rank.process.terminate()
    for rank in ranks:
        try:
            rank.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.process.kill()
            rank.process.wait()
        assert rank.process.stdin is not None
        rank.process.stdin.close()
        rank.reader.join()


def _result(
    job: StageJob, ranks: list[_Rank], *, failed: list[int], stop: threading.Event
) -> StageResult:
    for rank in ranks:
        for event in rank.said:
            if event["kind"] == "error":
                raise error_with_code(event["exit_code"], event["text"])
    killed = {code for one in failed if (code := ranks[one].process.returncode) < 0}
    if stop.is_set() and killed == {-signal.SIGTERM}:
        # Our own SIGTERM, before Python could listen to it: there was nothing to save yet.
        return StageResult(status="stopped", step=0)
    if failed:
        # One that a signal killed is the cause; its peers then fail for want of it.
        number = min(failed, key=lambda one: ranks[one].process.returncode)
        rank = ranks[number]
        raise RushesError(
            f"stage {job.stage}: rank {number} ended with {rank.process.returncode}: "
            f"{_last_line(rank.log)}; log: {rank.log}"
        )
    (result,) = (event for event in ranks[0].said if event["kind"] == "result")
    return StageResult(status=result["status"], step=result["step"])


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]
