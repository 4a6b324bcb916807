"""Bodies on their way to S3: at once, or in parts."""

import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from orchestrator.errors import RushesError
from orchestrator.storage.errors import NotFoundError, TransientError
from orchestrator.storage.limit import Limit

T = TypeVar("T")

PART_BYTES = 32 * 2**20  # of an upload; a larger object goes up in parts of this size
_PARALLEL = 4  # parts under way, each of them copied
_ABORT_S = 8.0


class Requests(Protocol):
    """Requests about one key: each is tried again until its limit."""

    def __call__(self, call: Callable[[Any, str], T], *, limit: Limit) -> T:
        """What ``call`` makes of a client and the name of the object."""
        ...


class Body(io.BytesIO):
    """A copy of data, sent piece by piece until its time is up.

    boto3 gives a socket's timeout to every piece, but to bytes only once; and what nobody waits
    for any more does not become visible.
    """

    def __init__(self, data: bytes | memoryview, *, limit: Limit) -> None:
        super().__init__(data)
        self._limit = limit

    def read(self, size: int | None = -1, /) -> bytes:
        """The next piece.

        Raises:
            TransientError: if the time is up.
        """
        self._limit.check()
        return super().read(size)


def goes_in_parts(data: bytes | memoryview) -> bool:
    """Whether data is too large for one request."""
    return len(data) > PART_BYTES


def put_in_parts(send: Requests, data: memoryview, *, bucket: str, limit: Limit) -> None:
    """Uploads an object in parts, some at once; after a failure the parts are deleted.

    Raises:
        TransientError: if the upload was gone before it was complete.
        RushesError: what a part or another of its requests ends with.
    """
    upload = send(
        lambda s3, name: s3.create_multipart_upload(
            Bucket=bucket, Key=name, ChecksumAlgorithm="CRC32"
        )["UploadId"],
        limit=limit,
    )

    def send_part(number: int) -> dict[str, Any]:
        part = data[(number - 1) * PART_BYTES : number * PART_BYTES]
        its_limit = limit.part(num_bytes=len(part))
        answer = send(
            lambda s3, name: s3.upload_part(
                Bucket=bucket,
                Key=name,
                UploadId=upload,
                PartNumber=number,
                Body=Body(part, limit=its_limit),
                ChecksumAlgorithm="CRC32",
            ),
            limit=its_limit,
        )
        sums = {name: answer[name] for name in ("ETag", "ChecksumCRC32") if name in answer}
        return {"PartNumber": number, **sums}

    def complete(s3: Any, name: str) -> None:
        s3.complete_multipart_upload(
            Bucket=bucket, Key=name, UploadId=upload, MultipartUpload={"Parts": parts}
        )

    try:
        parts = _in_parallel(send_part, range(1, -(-len(data) // PART_BYTES) + 1))
        send(complete, limit=limit.part(num_bytes=0))
    except NotFoundError:  # completed by a try whose answer was lost, or cleared away
        raise TransientError("the upload was gone before it was complete") from None
    except BaseException:
        with suppress(RushesError):
            send(
                lambda s3, name: s3.abort_multipart_upload(
                    Bucket=bucket, Key=name, UploadId=upload
                ),
                limit=Limit(_ABORT_S),
            )
        raise


def _in_parallel(call: Callable[[int], T], numbers: Iterable[int]) -> list[T]:
    """Results in the order of ``numbers``; after a failure no further call begins."""
    with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="upload") as pool:
        calls = [pool.submit(call, number) for number in numbers]
        try:
            return [one.result() for one in calls]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
