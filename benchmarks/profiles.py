"""Where the time of a training step goes: its largest operators, and the share of arithmetic."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch.profiler import ProfilerActivity, profile

TOP = 8
_ARITHMETIC = ("conv", "mm", "dot_product", "matmul", "linear", "einsum")
"""Parts of the names of operators that multiply matrices: nothing but a smaller network or a faster
library makes them shorter."""


@dataclass(frozen=True)
class Profile:
    """Milliseconds of one step by operator, each without what it calls."""

    operator_ms: Mapping[str, float]

    @property
    def total_ms(self) -> float:
        """Of the step, as slow as the profiler makes it."""
        return sum(self.operator_ms.values())

    @property
    def arithmetic_ms(self) -> float:
        """In convolutions, matrix products and attention."""
        return sum(
            took_ms
            for name, took_ms in self.operator_ms.items()
            if any(part in name for part in _ARITHMETIC)
        )

    def lines(self, *, name: str) -> list[str]:
        """Rows of a Markdown table: the share of arithmetic, then the largest operators."""
        total_ms = self.total_ms
        rows = [("convolutions, matrix products, attention", self.arithmetic_ms)]
        rows += sorted(self.operator_ms.items(), key=lambda one: one[1], reverse=True)[:TOP]
        return [
            f"| {name} | {operator} | {took_ms:.0f} ms | {took_ms / total_ms:.0%} |"
            for operator, took_ms in rows
        ]


def profile_step(step: Callable[[], object]) -> Profile:
    """One step on the CPU, after it has run before."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    return Profile(
        {
            event.key: event.self_cpu_time_total / 1000
            for event in seen.key_averages()
            if event.self_cpu_time_total
        }
    )


def profile_table(profiles: Mapping[str, Profile]) -> str:
    """Markdown: the steps of several networks, one below the other."""
    lines = [
        "| network | operator, without what it calls | time | share |",
        "| --- | --- | --- | --- |",
    ]
    for name, seen in profiles.items():
        lines += seen.lines(name=name)
    return "\n".join(lines)
