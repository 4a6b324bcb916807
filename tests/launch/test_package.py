"""What a job is sent, and what is never sent."""

import os
from pathlib import Path
from zipfile import ZipFile

import pytest
from ray._private.runtime_env.packaging import create_package

import orchestrator
from orchestrator.errors import UserError
from orchestrator.launch import package
from orchestrator.launch.package import Package, list_package
from orchestrator.recipe.load import read_recipe

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "jobs" / "sora_debug.yaml"
GB = 10**9


def listed(folder: Path, *overrides: str) -> Package:
    return list_package(read_recipe(RECIPE, overrides=overrides), file=RECIPE, folder=folder)


def names(found: Package) -> set[str]:
    return {one.name for one in found.files}


def sparse(path: Path, num_bytes: int) -> Path:
    """A file of that size that takes no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(num_bytes)
    return path


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of ours with one module."""
    folder = tmp_path / "orchestrator"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(orchestrator, "__file__", str(folder / "__init__.py"))
    return folder


def test_the_package_holds_code_and_the_recipe_only(tmp_path: Path) -> None:
    found = listed(tmp_path)
    assert {"orchestrator/__main__.py", "jobs/sora_debug.yaml"} <= names(found)
    assert {Path(name).parts[0] for name in names(found)} == {"orchestrator", "models", "jobs"}
    assert found.left_out == ()  # none of our own files is called like a secret
    assert not [name for name in names(found) if Path(name).suffix in (".pyc", ".md")]
    target = tmp_path / "target"
    found.copy_to(target)
    copies = [path for path in target.rglob("*") if path.is_file()]
    assert {str(path.relative_to(target)) for path in copies} == names(found)
    assert found.num_bytes == sum(path.stat().st_size for path in copies)


def test_a_working_folder_with_2_gb_and_a_secret_sends_neither(tmp_path: Path) -> None:
    sparse(tmp_path / "clips.tar", 2 * GB)
    sparse(tmp_path / "runs" / "a" / "weights.safetensors", 2 * GB)
    (tmp_path / ".env").write_text("AWS_SECRET_ACCESS_KEY=planted")
    (tmp_path / "id_ed25519").write_text("planted")
    found = listed(tmp_path)
    assert not [one for one in found.files if one.source.is_relative_to(tmp_path)]
    assert found.num_bytes < package.MAX_BYTES / 10


def test_gigabytes_among_the_code_are_refused_by_path_and_size(tmp_path: Path, code: Path) -> None:
    sparse(code / "weights.bin", 2 * GB)
    with pytest.raises(UserError) as caught:
        listed(tmp_path)
    text = str(caught.value)
    assert "orchestrator/weights.bin has 2.0 GB" in text
    assert "wanted at most 67.1 MB" in text


def test_secrets_and_links_out_of_the_code_are_left_out_by_name(tmp_path: Path, code: Path) -> None:
    (tmp_path / "elsewhere.txt").write_text("planted")
    secrets = {
        *(".env", ".env.local", "prod.env", "tls.pem", "Credentials.json", "id_rsa"),
        *("application_default_credentials.json", "secret.yaml", "auth_token", "accessKeys.csv"),
    }
    for name in secrets:
        (code / name).write_text("planted")
    (code / ".git").mkdir()
    (code / ".git" / "config").write_text("planted")
    (code / "notes.txt").symlink_to(tmp_path / "elsewhere.txt")
    (code / "all").symlink_to(tmp_path)
    found = listed(tmp_path)
    hidden = secrets | {".git", "notes.txt", "all"}
    assert set(found.left_out) == {f"orchestrator/{name}" for name in hidden}
    ours = {one.name for one in found.files if one.source.is_relative_to(tmp_path)}
    assert ours == {"orchestrator/__init__.py"}


def perceptual(path: str) -> str:
    value = f"{{path: {path}, weight: 0.1}}"
    return f"stages.autoencoder.train.objective.perceptual={value}"


def test_a_small_file_that_the_recipe_names_goes_along_under_the_same_name(tmp_path: Path) -> None:
    sparse(tmp_path / "weights" / "vgg.safetensors", 1000)
    assert "weights/vgg.safetensors" in names(
        listed(tmp_path, perceptual("weights/vgg.safetensors"))
    )


@pytest.mark.parametrize("path", ["/models/vgg.safetensors"])
def test_an_absolute_path_is_one_of_the_nodes(tmp_path: Path, path: str) -> None:
    assert names(listed(tmp_path, perceptual(path))) == names(listed(tmp_path))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("large.safetensors", "large.safetensors has 2.0 GB"),
        ("absent.safetensors", "perceptual.path=absent.safetensors: does not exist"),
        ("../vgg.safetensors", "perceptual.path=../vgg.safetensors: lies outside"),
        (".env", "perceptual.path=.env: a name that is kept for secrets"),
        ("outward.safetensors", "perceptual.path=outward.safetensors: a link that leads out"),
        ("inward.safetensors", "perceptual.path=inward.safetensors: a link that leads out"),
    ],
)
def test_a_file_that_cannot_be_sent_is_refused_in_one_line(
    tmp_path: Path, path: str, reason: str
) -> None:
    folder = tmp_path / "folder"
    sparse(folder / "large.safetensors", 2 * GB)
    (folder / ".env").write_text("planted")
    sparse(tmp_path / "vgg.safetensors", 10)
    (folder / "outward.safetensors").symlink_to(tmp_path / "vgg.safetensors")
    (folder / "inward.safetensors").symlink_to(folder / ".env")
    with pytest.raises(UserError) as caught:
        listed(folder, perceptual(path))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_encoder_weights_goes_along_and_a_hub_name_does_not(tmp_path: Path) -> None:
    def text(path: str) -> str:
        return f"text={{kind: t5, path: {path}}}"

    sparse(tmp_path / "t5" / "model.safetensors", 1000)
    (tmp_path / "t5" / "config.json").write_text("{}")
    (tmp_path / "t5" / ".cache").mkdir()
    sent = {"t5/model.safetensors", "t5/config.json"}
    assert names(listed(tmp_path, text("t5"))) - names(listed(tmp_path)) == sent
    assert names(listed(tmp_path, text("google/t5-v1_1-small"))) == names(listed(tmp_path))
    with pytest.raises(UserError, match=r"text\.path=nowhere"):
        listed(tmp_path, text("nowhere"))


def test_plain_ray_job_submit_leaves_the_same_secrets_out() -> None:
    lines = (ROOT / ".rayignore").read_text().splitlines()
    assert set(package.SECRET) <= set(lines)


def test_nothing_of_our_own_has_a_name_that_is_not_sent(tmp_path: Path) -> None:
    assert listed(tmp_path).left_out == ()
    code = {one.name for one in listed(tmp_path).files if one.name.endswith(".py")}
    there = {
        os.path.relpath(path, ROOT)
        for room in ("models", "orchestrator")
        for path in (ROOT / room).rglob("*.py")
    }
    assert code == there


def test_plain_ray_job_submit_sends_code_and_no_secrets(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("orchestrator/a.py", "orchestrator/data/b.py", "jobs/a.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1")
    for name in (".env", "orchestrator/.env", "id_rsa", "credentials.json", "orchestrator/a.key"):
        (folder / name).write_text("planted")
    sparse(folder / "runs" / "a" / "frames.raw", 1000)
    sparse(folder / "weights.safetensors", 1000)
    (folder / ".rayignore").write_text((ROOT / ".rayignore").read_text())
    target = tmp_path / "package.zip"
    create_package(str(folder), target, include_gitignore=True)
    with ZipFile(target) as package_file:
        sent = {name for name in package_file.namelist() if not name.endswith("/")}
    assert sent == {"orchestrator/a.py", "orchestrator/data/b.py", "jobs/a.yaml"}
