"""Ray's client of a cluster's jobs, against servers that refuse, hang or are something else."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from orchestrator.errors import RushesError, UnavailableError, UserError
from orchestrator.launch.jobs import LostJobError, checked_address, open_jobs


@contextmanager
def answering(status: int, body: bytes, *, only: str = "/") -> Iterator[str]:
    """A server that gives every request below ``only`` the same answer, others 404; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path.startswith(only) else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


def test_a_cluster_that_wants_a_token_says_how_to_give_it() -> None:
    with (
        answering(401, b"Unauthorized: Missing authentication token") as url,
        pytest.raises(UserError, match=r"Missing authentication token.*RAY_AUTH_TOKEN_PATH"),
    ):
        open_jobs(url)


@pytest.mark.parametrize(
    ("body", "kind"), [(b"<html>", UnavailableError), (b"{}", UserError), (b"[]", UserError)]
)
def test_a_server_that_is_not_ray_is_one_line(body: bytes, kind: type[RushesError]) -> None:
    with answering(200, body) as url, pytest.raises(kind) as caught:
        open_jobs(url)
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_link_that_is_cut_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.launch import ray_jobs

    monkeypatch.setattr(ray_jobs, "_ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UnavailableError, match="timed out"):
            open_jobs(url)


def test_the_address_that_was_given_is_the_one_that_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    with answering(200, b'{"ray_version": "2.60.0"}') as url:
        assert open_jobs(url).address == url


def test_a_job_that_the_cluster_does_not_know_is_told_from_other_failures() -> None:
    with answering(200, b'{"ray_version": "2.60.0"}', only="/api/version") as url:
        jobs = open_jobs(url)
        with pytest.raises(LostJobError, match="knows no job j"):
            jobs.get("j")


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "ray://head:10001", "http://", "head"])
def test_an_address_that_is_no_url_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="http://HOST:8265"):
        checked_address(address)
