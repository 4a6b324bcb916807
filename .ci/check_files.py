"""Refuses files that do not belong into a commit: above 500 kB, or with a credential in them."""

import re
import sys
from pathlib import Path

MAX_BYTES = 500_000

SECRETS = {
    "private key": re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    "AWS access key id": re.compile(rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "AWS secret key": re.compile(rb"(?i)secret_access_key\W{1,6}[A-Za-z0-9/+]{40}\b"),
    "GitHub token": re.compile(rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{60,})"),
    "Hugging Face token": re.compile(rb"\bhf_[A-Za-z0-9]{34}\b"),
    "password in a URL": re.compile(rb"\b(?:s3|https?|postgresql)://[^\s/:@\"'{}]+:[^\s/@\"'{}]+@"),
}
ALLOWED = b"secret-scan: ok"  # on the line itself, for made-up credentials in tests


def problems(path: Path) -> list[str]:
    """What is wrong with one file; the secret itself is never shown."""
    data = path.read_bytes()
    found = []
    if len(data) > MAX_BYTES:
        found.append(f"{path}: {len(data)} bytes, wanted at most {MAX_BYTES}")
    for number, line in enumerate(data.splitlines(), start=1):
        if ALLOWED in line:
            continue
        found += [f"{path}:{number}: {what}" for what, form in SECRETS.items() if form.search(line)]
    return found


def main() -> int:
    """Checks the files named on the command line; 1 if one is refused."""
    named = [Path(name) for name in sys.argv[1:]]
    found = [text for path in named if path.is_file() for text in problems(path)]
    for text in found:
        print(text, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
