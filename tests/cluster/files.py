"""The files of cluster/."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"


def documents(name: str) -> list[Any]:
    """All documents of a YAML file."""
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def document(name: str) -> Any:
    """The only document of a YAML file."""
    (found,) = documents(name)
    return found


def pinned(package: str) -> str:
    """A package's version in constraints.txt."""
    name = package.replace("-", "[-_]")
    text = (ROOT / "constraints.txt").read_text()
    match = re.search(rf"^{name}==(.+)$", text, re.MULTILINE | re.IGNORECASE)
    assert match is not None, f"{package} is not in constraints.txt"
    return match[1]


def instructions() -> list[tuple[str, str]]:
    """Every instruction of the Dockerfile with its arguments, continuation lines joined."""
    text = (CLUSTER / "image" / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]
