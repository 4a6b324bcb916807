"""Secrets in texts: told in a URI, and taken out of what people read."""

import os
import re

_HIDDEN = "***"
# Up to the last @, as databases' drivers read it: a password may hold slashes and apostrophes. A
# port is none.
_PASSWORD = re.compile(r"(?<=://)[^\s/@:\"']*:(?!\d+/)[^\s\"]*@")
_WEB_USER = re.compile(r"(https?://)[^\s/@\"']+@")  # there a token may be all that there is
_QUERY = re.compile(
    r"([?&;](?:[\w.%-]*(?:passw|pwd|secret|token|credential|signature|api_?key|access_?key)[\w.%-]*"
    r"|sig|key)=)[^\s&;#\"']+",
    re.IGNORECASE,
)
_NAME = r"(?:PASSWORD|PASSWD|_PASS|_PWD|SECRET|TOKEN|_KEY|APIKEY|CONNECTION_STRING)"
_VARIABLE = re.compile(_NAME + "$")
# As a shell takes it; of ``NAME=$OTHER`` nothing is told.
_ASSIGNED = re.compile(rf"(\b[A-Z0-9_]*{_NAME}=)(?!\$)[\"']?[^\s;\"']+[\"']?")
_LEAST_CHARS = 8  # a shorter value may be a word that has nothing to do with it


def holds_secret(uri: str) -> bool:
    """True for a URI with a password, a web address with a user, or a query with a token.

    A user alone is none elsewhere: ``abfs://container@account``, ``postgresql://user@host``.
    """
    return "://" in uri and any(one.search(uri) for one in (_PASSWORD, _WEB_USER, _QUERY))


def assigns_secret(text: str) -> bool:
    """True where a variable that is called a secret gets a value: ``export HF_TOKEN=hf_...``."""
    return _ASSIGNED.search(text) is not None


def redact(text: str) -> str:
    """The text with ``***`` where a URI in it holds a secret, or a variable gets one.

    The values of environment variables that are called a secret (``..._PASSWORD``,
    ``AWS_SECRET_ACCESS_KEY``, ``HF_TOKEN``) are taken out too, wherever they stand.
    """
    for value in _values():
        text = text.replace(value, _HIDDEN)
    text = _ASSIGNED.sub(rf"\1{_HIDDEN}", text)
    text = _PASSWORD.sub(f"{_HIDDEN}@", text)
    text = _WEB_USER.sub(rf"\1{_HIDDEN}@", text)
    return _QUERY.sub(rf"\1{_HIDDEN}", text)


def _values() -> list[str]:
    """Longest first: one may be a part of another."""
    found = {os.environ.get(name, "") for name in os.environ if _VARIABLE.search(name)}
    return sorted((value for value in found if len(value) >= _LEAST_CHARS), key=len, reverse=True)
