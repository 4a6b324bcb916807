"""`rushes export`: a stage's EMA weights, as files."""

from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.launch.run_folder import open_run
from orchestrator.train.weights import CONFIG, WEIGHTS, read_config


def export_stage(uri: str, *, stage: str, out: Path) -> list[Path]:
    """Copies ema.safetensors and config.json of a finished training stage.

    Raises:
        UserError: if there is no such stage, or it has not finished.
    """
    store, recipe = open_run(uri)
    ids = [one.id for one in recipe.stages if one.train is not None]
    if stage not in ids:
        raise UserError(f"--stage {stage}: wanted one of {', '.join(ids)}")
    read_config(store, stage=stage)
    try:
        out.mkdir(parents=True, exist_ok=True)
        paths: list[Path] = []
        for key in (WEIGHTS, CONFIG):
            path = out / Path(key).name
            path.write_bytes(store.get(f"stages/{stage}/{key}"))
            paths.append(path)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}") from None
    return paths
