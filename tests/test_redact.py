"""What counts as a secret in a text, and what is left of it."""

import pytest

from orchestrator.errors import RushesError, UserError, heard, in_a_line, told
from orchestrator.redact import assigns_secret, holds_secret, redact

SECRETS = [
    ("s3://someone:planted@bucket/key", "s3://***@bucket/key"),  # secret-scan: ok
    ("postgresql://me:pla/nt@ed@db:5432/mlflow", "postgresql://***@db:5432/mlflow"),
    ("postgresql://me:pla'nted@db/mlflow", "postgresql://***@db/mlflow"),
    ("https://:planted@host/api", "https://***@host/api"),
    ("https://planted@host:5000/api", "https://***@host:5000/api"),
    ("postgresql://me@db/x?sslmode=require&password=planted", None),
    ("https://host/clip.mp4?X-Amz-Credential=planted&X-Amz-Expires=60", None),
    ("az://films/a?sv=2024&sig=planted", "az://films/a?sv=2024&sig=***"),
    ("gs://films/a?access_token=planted", "gs://films/a?access_token=***"),
]
PLAIN = [
    "runs/a@b:c?token=no-uri",
    "sqlite:////data/mlflow.db",
    "postgresql://me@db:5432/mlflow?sslmode=require&sslkey=/etc/key.pem",
    "mysql+pymysql://me@db/mlflow?read_default_file=/etc/my.cnf",
    "abfs://films@account.dfs.core.windows.net/clips",
    "s3://films/a:b@c/d",
    "http://127.0.0.1:5000/a@b?page=2",
]


@pytest.mark.parametrize(("uri", "left"), SECRETS)
def test_a_secret_in_a_uri_is_seen_and_taken_out(uri: str, left: str | None) -> None:
    assert holds_secret(uri)
    text = redact(f"cannot reach '{uri}': it's down")
    assert "planted" not in text
    assert "pla/nt" not in text
    assert "nted" not in text
    assert text.startswith("cannot reach '")
    assert text.endswith("': it's down")
    if left is not None:
        assert left in text


@pytest.mark.parametrize("uri", PLAIN)
def test_a_uri_without_a_secret_stays_as_it_is(uri: str) -> None:
    assert not holds_secret(uri)
    if "://" in uri:
        assert redact(f"{uri}: no such place") == f"{uri}: no such place"


@pytest.mark.parametrize(
    "name",
    [
        *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN"),
        *("MYSQL_PWD", "STORE_PASS", "CAPTIONS_APIKEY"),
    ],
)
def test_the_value_of_a_secret_variable_is_taken_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "planted-in-it")
    assert redact("the server said: planted-in-it is wrong") == "the server said: *** is wrong"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("export HF_TOKEN=planted; ls", "export HF_TOKEN=***; ls"),
        ("env: SOME_API_KEY='planted' B=1", "env: SOME_API_KEY=*** B=1"),
    ],
)
def test_a_value_that_a_secret_variable_gets_is_seen_and_taken_out(text: str, left: str) -> None:
    assert assigns_secret(text)
    assert redact(text) == left


@pytest.mark.parametrize(
    "text",
    ["HF_TOKEN=$TOKEN", "RAY_AUTH_TOKEN_PATH=/etc/token", "AWS_ACCESS_KEY_ID=AKIA", "HF_TOKEN: no"],
)
def test_a_variable_that_is_only_spoken_of_stays(text: str) -> None:
    assert not assigns_secret(text)
    assert redact(text) == text


def test_other_variables_and_short_values_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/etc/rushes/token")
    monkeypatch.setenv("HF_TOKEN", "no")
    assert redact("no /etc/rushes/token") == "no /etc/rushes/token"


def test_an_error_holds_no_secret_in_this_process_or_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "planted-in-it")
    text = "s3://u:planted@b: planted-in-it"  # secret-scan: ok
    for error in (UserError(text), heard(told(ValueError(text)), where="unit 3")):
        assert isinstance(error, RushesError)
        assert "planted" not in str(error) + repr(error)
    assert "planted" not in in_a_line(OSError(text))
