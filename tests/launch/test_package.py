"""What a job is sent."""

from pathlib import Path

import pytest

import orchestrator
from orchestrator.errors import UserError
from orchestrator.launch import package

ROOT = Path(__file__).parents[2]


def test_the_package_holds_code_and_the_recipe_only(tmp_path: Path) -> None:
    size = package.make_package(tmp_path, recipe=ROOT / "jobs" / "sora_debug.yaml")
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert "orchestrator/__main__.py" in names
    assert "jobs/sora_debug.yaml" in names
    assert not [name for name in names if Path(name).suffix not in (".py", ".yaml", ".toml")]
    assert {Path(name).parts[0] for name in names} == {
        *("orchestrator", "models", "jobs", "pyproject.toml")
    }
    assert size == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())


def test_something_big_among_the_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "orchestrator"
    fake.mkdir()
    (fake / "__init__.py").write_text("")
    (fake / "weights.bin").write_bytes(bytes(package.MAX_BYTES + 1))
    (fake / ".env").write_text("SECRET=1")
    monkeypatch.setattr(orchestrator, "__file__", str(fake / "__init__.py"))
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(UserError, match="not code"):
        package.make_package(target, recipe=ROOT / "jobs" / "sora_debug.yaml")
    assert not (target / "orchestrator" / ".env").exists()
