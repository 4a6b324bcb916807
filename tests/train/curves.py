"""What a stage has logged, for comparison with another run."""

import json
from pathlib import Path
from typing import Any

MEASURED = (
    *("time_ms", "step_s", "clips_per_s", "tokens_per_s", "model_tflops", "data_wait_s"),
    *("memory_mib", "gpu_memory_mib", "system/", "save/blocked_s", "ranks/"),
)  # how names begin


def logged(metrics: Path, *, without: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, but what was measured and names that begin as ``without``."""
    return [
        {name: value for name, value in row.items() if not name.startswith((*MEASURED, *without))}
        for row in map(json.loads, metrics.read_text().splitlines())
    ]
