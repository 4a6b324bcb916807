"""What a stage tells of itself while it trains: metrics, progress, memory."""

import math
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil
import torch

from orchestrator.recipe.stage import Stage
from orchestrator.train.loop import Step
from orchestrator.train.metrics_log import MetricsLog
from orchestrator.train.ranks import Ranks

MEBI = 1024.0**2
TERA = 1e12


class Recorder:
    """Turns windows of steps into logged metrics; collective at logged steps, rank 0 writes."""

    def __init__(
        self,
        *,
        stage: Stage,
        ranks: Ranks,
        log: MetricsLog,
        event: Callable[[dict[str, Any]], None],
    ) -> None:
        self._stage = stage
        self._train = stage.training
        self._ranks = ranks
        self._log = log
        self._event = event
        self._process = psutil.Process()
        self._skipped = 0
        psutil.cpu_percent()  # the first call only starts the measurement

    def record(self, step: Step, *, more: Mapping[str, float]) -> dict[str, float]:
        """Logs a window; every rank must call it at the same steps.

        Args:
            step: the one that ends the window.
            more: values of others that are logged with it.

        Returns:
            What was logged, on rank 0; nothing on others.
        """
        values = self._means(step)
        if self._ranks.rank != 0:
            return {}
        self._skipped += step.window.skipped
        values |= self._speed(step) | self._machine() | dict(more)
        values |= {"lr": step.lr, "skipped_steps": float(self._skipped)}
        for network, norm in step.window.grad_norm.items():
            values[f"grad_norm/{network}"] = float(norm)
        time_ms = int(time.time() * 1000)
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        finite["nonfinite"] = float(len(values) - len(finite))
        self._log.append(finite, step=step.number, time_ms=time_ms)
        self._event(
            {
                "kind": "metrics",
                "stage": self._stage.id,
                "step": step.number,
                "time_ms": time_ms,
                "values": finite,
            }
        )
        self._progress(
            step.number,
            loss=values["loss"],
            clips_per_s=values["clips_per_s"],
            eta_s=(self._train.steps - step.number) * values["step_s"],
        )
        return finite

    def stopped(self, step: Step) -> None:
        """Tells how far a stop let the stage come; its window is logged by the next start."""
        self._progress(step.number)

    def state_dict(self) -> dict[str, int]:
        """What a resumed stage goes on counting from, as JSON; rank 0's is the one to keep."""
        return {"skipped_steps": self._skipped}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a checkpoint's counts."""
        self._skipped = state["skipped_steps"]

    def _progress(self, step: int, **values: float) -> None:
        head = {"kind": "progress", "stage": self._stage.id}
        self._event(head | {"step": step, "steps": self._train.steps} | values)

    def _means(self, step: Step) -> dict[str, float]:
        window = step.window
        names = sorted(window.stats)
        of_both = (window.stats, window.weights)
        both = torch.stack([torch.stack([one[name] for name in names]) for one in of_both])
        sums, weights = self._ranks.total(both).tolist()
        return {
            name: total / weight
            for name, total, weight in zip(names, sums, weights, strict=True)
            if weight
        }

    def _speed(self, step: Step) -> dict[str, float]:
        elapsed_s = max(time.monotonic() - step.window.started_s, 1e-9)
        step_s = elapsed_s / step.window.steps
        return {
            "step_s": step_s,
            "clips_per_s": self._train.batch / step_s,
            "tokens_per_s": step.window.units / elapsed_s,
            "model_tflops": step.window.flops / elapsed_s / TERA,
            "data_wait_s": step.window.wait_s / step.window.steps,
        }

    def _machine(self) -> dict[str, float]:
        node = f"system/{platform.node()}"
        values = {
            "memory_mib": self._process.memory_info().rss / MEBI,
            f"{node}/cpu_utilization_percentage": psutil.cpu_percent(),
            f"{node}/system_memory_usage_percentage": psutil.virtual_memory().percent,
        }
        if self._ranks.device.type == "cuda":
            values["gpu_memory_mib"] = torch.cuda.max_memory_allocated() / MEBI
        return values
