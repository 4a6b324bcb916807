"""The image's steps in a clean root, without Docker: whether what they install works.

    python -m tests.cluster.clean_root FOLDER

makes Debian with its own Python 3.11 in FOLDER, in place of the image that FROM names; runs the
Dockerfile's other steps there, each as its user; and tries the result as the image's user. Needs
root, debootstrap, the network and 15 GB. The folder is yours to look at and to remove.
"""

import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.files import ROOT, instructions

DEBIAN = "bookworm"
# In the base image `python` and `pip` are those of /usr/local/bin, and headers lie beside.
PACKAGES = "ca-certificates,python3,python3-dev,python3-venv"
BASE = "python3 -m venv /usr/local"
CODE = ("orchestrator", "models", "jobs")
# How names are found and whose certificates are trusted is this machine's business.
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
TRUSTED = "/etc/trusted.crt"
# Each step has processes and mounts of its own, which end with it.
_STEP = 'mount -t proc proc "$0/proc" && exec "$@"'
_TRIED = (
    "pip check",
    "set -e; for one in pgrep curl wget timeout ssh rsync g++ rushes-leave rushes-spot-watch; do"
    " command -v $one; done",
    'python -c "import ray, mlflow, boto3, googleapiclient; print(ray.__version__)"',
    "! python -c 'import orchestrator' 2>/dev/null",
    # With the compiler of the image, as a first use does.
    "python -c 'from deepspeed.ops.op_builder import CPUAdamBuilder as One; One().load()'",
    # The code that a job brings.
    "cd /tmp/code && python -m orchestrator check jobs/sora_digits.yaml",
)


@dataclass
class Root:
    """A folder that becomes a machine's root, and where a Dockerfile's steps have got to."""

    folder: Path
    user: str = "0"
    work: str = "/"
    env: dict[str, str] = field(
        default_factory=lambda: {
            "PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "PIP_CERT": TRUSTED,
            "DEBIAN_FRONTEND": "noninteractive",
        }
    )

    def make(self) -> None:
        """Debian, with a Python where the base image has it."""
        packages = f"--include={PACKAGES}"
        command = ("debootstrap", "--variant=minbase", packages, DEBIAN, str(self.folder))
        subprocess.run(command, check=True)
        shutil.copyfile("/etc/resolv.conf", self.folder / "etc/resolv.conf")
        shutil.copyfile(CERTIFICATES, self.folder / TRUSTED[1:])
        self.run(BASE)

    def run(self, line: str) -> None:
        """A line of shell, as the user and in the folder that the steps before have set."""
        own = ("unshare", "--mount", "--pid", "--fork", "sh", "-c", _STEP, str(self.folder))
        env = [f"{name}={value}" for name, value in self.env.items()]
        inside = ("chroot", f"--userspec={self.user}:{self.user}", str(self.folder))
        at = ("/usr/bin/env", "--ignore-environment", f"--chdir={self.work}", *env)
        print(f"+ {line}", flush=True)
        subprocess.run((*own, *inside, *at, "/bin/sh", "-c", line), check=True)

    def copy(self, rest: str) -> None:
        """COPY: files of the repository; the last word is a folder."""
        words = shlex.split(rest)
        modes = [word.removeprefix("--chmod=") for word in words if word.startswith("--chmod=")]
        *sources, target = [word for word in words if not word.startswith("--")]
        place = self.folder / Path(self.work, target).relative_to("/")
        for source in sources:
            copied = Path(shutil.copy(ROOT / source, place))
            for mode in modes:
                copied.chmod(int(mode, 8))

    def step(self, word: str, rest: str) -> None:
        """One instruction of a Dockerfile; of an unknown one it is an error."""
        match word:
            case "FROM" | "CMD":
                pass
            case "RUN":
                self.run(rest)
            case "COPY":
                self.copy(rest)
            case "WORKDIR":
                self.work = rest
                (self.folder / rest[1:]).mkdir(parents=True, exist_ok=True)
            case "USER":
                self.user, self.env["HOME"] = rest, "/home/ray"
            case "ENV":
                for name, _, value in (one.partition("=") for one in shlex.split(rest)):
                    self.env[name] = value.replace("$PATH", self.env["PATH"])
            case _:
                raise NotImplementedError(f"{word} {rest}")


def main() -> None:
    """All of it; the first step that fails ends it."""
    root = Root(Path(sys.argv[1]).absolute())
    root.make()
    for word, rest in instructions():
        root.step(word, rest)
    for name in CODE:
        shutil.copytree(ROOT / name, root.folder / "tmp/code" / name)
    for line in _TRIED:
        root.run(line)
    print("the image's steps work")


if __name__ == "__main__":
    main()
