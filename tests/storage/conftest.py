"""A proxy between a store and its S3 server."""

from collections.abc import Iterator

import pytest

from tests.fault_proxy import FaultProxy, fault_proxy
from tests.s3store import S3Store


@pytest.fixture
def proxy(s3: S3Store, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Between the store and its server, where ``bucket`` is."""
    with fault_proxy(s3.port) as proxy:
        for name, value in s3.environment(url=proxy.url).items():
            monkeypatch.setenv(name, value)
        yield proxy
