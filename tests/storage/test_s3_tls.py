"""A store behind TLS: whose certificate is trusted, by both clients."""

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from orchestrator.errors import UserError
from orchestrator.storage.store import open_store

ANSWER = (
    b'HTTP/1.1 206 Partial Content\r\nETag: "x"\r\nContent-Range: bytes 0-3/20\r\n'
    b"Last-Modified: Sat, 28 Nov 2026 00:00:00 GMT\r\n"
    b"Content-Length: 4\r\nConnection: close\r\n\r\n0123"
)


def certificate(
    name: str, *, by: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """For 127.0.0.1, signed by an authority; an authority's own if there is none."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer, signing = by or (subject, key)
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .sign(signing, hashes.SHA256())
    )
    return made, key


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The certificate of who signed that of the store that the environment leads to."""
    root, root_key = certificate("authority", by=None)
    own, own_key = certificate("store", by=(root.subject, root_key))
    (tmp_path / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (tmp_path / "own.pem").write_bytes(
        own.public_bytes(Encoding.PEM)
        + own_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.pem")

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, suppress(OSError), context.wrap_socket(client, server_side=True) as safe:
                safe.recv(65536)
                safe.sendall(ANSWER)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": f"https://127.0.0.1:{listener.getsockname()[1]}",
        }.items():
            monkeypatch.setenv(name, value)
        yield tmp_path / "root.pem"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_an_authority_of_ones_own_is_trusted(
    authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    store = open_store("s3://films")
    assert store.get("a") == b"0123"  # boto3
    assert store.get_range("a", start=0, length=4) == b"0123"  # obstore


@pytest.mark.usefixtures("authority")
def test_a_stranger_is_refused_at_once() -> None:
    store = open_store("s3://films")
    for call in (lambda: store.get("a"), lambda: store.get_range("a", start=0, length=4)):
        with pytest.raises(UserError, match=r"not trusted, .* AWS_CA_BUNDLE names"):
            call()


def test_certificates_that_are_not_there_are_the_users_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/no/such.pem")
    with pytest.raises(UserError, match=r"AWS_CA_BUNDLE: /no/such\.pem: no such file"):
        open_store("s3://films").get("a")
