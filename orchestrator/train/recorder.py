"""What a stage tells of itself while it trains: metrics, progress, memory."""

import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil
import torch

from orchestrator.recipe.stage import Stage
from orchestrator.train.collectives import can_be_timed
from orchestrator.train.ledger import Ledger
from orchestrator.train.loop import Step
from orchestrator.train.metrics_log import MetricsLog
from orchestrator.train.ranks import Ranks
from orchestrator.train.stragglers import Stragglers

MEBI = 1024.0**2
TERA = 1e12
NANO = 1e9


class Recorder:
    """Turns windows of steps into logged metrics; collective at logged steps, rank 0 writes."""

    def __init__(
        self,
        *,
        stage: Stage,
        ranks: Ranks,
        log: MetricsLog,
        event: Callable[[dict[str, Any]], None],
        ledger: Ledger,
        nodes: Sequence[str],
    ) -> None:
        self._stage = stage
        self._train = stage.training
        self._ranks = ranks
        self._log = log
        self._event = event
        self._process = psutil.Process()
        self._skipped = 0
        self._spikes = 0
        self._ledger = ledger
        self._computed_ns = 0  # up to the last logged step
        compares = ranks.world_size > 1 and can_be_timed()
        self._stragglers = Stragglers(nodes) if compares else None
        psutil.cpu_percent()  # the first call only starts the measurement

    def record(self, step: Step, *, more: Mapping[str, float]) -> dict[str, float]:
        """Logs a window; every rank must call it at the same steps.

        Args:
            step: the last one of the window.
            more: values of others that are logged with it.

        Returns:
            What was logged, on rank 0; on others the means alone, which are the same there.
        """
        values, own_s = self._over_ranks(step)
        if self._ranks.rank != 0:
            return values
        self._skipped += step.window.skipped
        self._spikes += step.window.spikes
        values |= self._speed(step) | self._machine() | self._compared(own_s, step=step)
        values |= more
        values |= {
            "ranks": float(self._ranks.world_size),
            "lr": step.lr,
            "skipped_steps": float(self._skipped),
            "spikes": float(self._spikes),
        }
        for network, norm in step.window.grad_norm.items():
            values[f"grad_norm/{network}"] = norm
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
        return {"skipped_steps": self._skipped, "spikes": self._spikes}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a checkpoint's counts."""
        self._skipped = state["skipped_steps"]
        self._spikes = state["spikes"]

    def _progress(self, step: int, **values: float) -> None:
        head = {"kind": "progress", "stage": self._stage.id}
        self._event(head | {"step": step, "steps": self._train.steps} | values)

    def _over_ranks(self, step: Step) -> tuple[dict[str, float], list[float]]:
        """Means of the window, and every rank's own seconds per step, in one all-reduce."""
        window = step.window
        names = sorted(window.stats)
        of_both = (window.stats, window.weights)
        both = [one[name] for one in of_both for name in names]
        own = torch.zeros(self._ranks.world_size)
        own[self._ranks.rank] = self._own_s() / window.steps
        together = torch.stack(both)
        together = self._ranks.total(torch.cat([together, own.to(together.device)])).tolist()
        sums, weights = together[: len(names)], together[len(names) : len(both)]
        means = {
            name: total / weight
            for name, total, weight in zip(names, sums, weights, strict=True)
            if weight
        }
        return means, together[len(both) :]

    def _own_s(self) -> float:
        """What this rank did by itself since the last logged step: no collective, no waiting."""
        computed_ns = self._ledger.read().spent_ns["compute"]
        before_ns, self._computed_ns = self._computed_ns, computed_ns
        return (computed_ns - before_ns) / NANO

    def _compared(self, own_s: Sequence[float], *, step: Step) -> dict[str, float]:
        if self._stragglers is None:
            return {}
        for text in self._stragglers.notes(own_s, steps=step.window.steps):
            self._event({"kind": "note", "stage": self._stage.id, "text": text})
        return self._stragglers.metrics(own_s)

    def _speed(self, step: Step) -> dict[str, float]:
        elapsed_s = max(time.monotonic() - step.window.started_s, 1e-9)
        step_s = elapsed_s / step.window.steps
        return {
            "step_s": step_s,
            "clips_per_s": step.window.clips / elapsed_s,
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
