"""Step times of one stage in several layouts: planned, measured, and whether their order is right.

``rushes plan`` is asked about the cores of this machine, whose row of its table is measured in the
same run. Layouts take steps in turns. docs/benchmarks.md says what is counted and how.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from layouts import Gang, Took
from order import MARGIN, Case, Layouts, Pair, Way, layouts_table, pairs, pairs_table

from orchestrator.plan.choose import Option, written
from orchestrator.plan.facts import Training
from orchestrator.plan.gpus import load_gpus
from orchestrator.plan.memory import FP32
from orchestrator.plan.timing import LINK_EFFICIENCY, PAGE_BYTES, Cluster, passed_bytes
from orchestrator.recipe.load import load_recipe
from orchestrator.train.measure import measure as count

JOBS = Path(__file__).resolve().parent.parent / "jobs"
RANKS = 2
WARM_UP = 2  # steps
IDLE = 0.95  # of a lone worker's time that a processor is at work
CASES = (
    Case("debug", "sora_debug.yaml", "dit", batch=16),
    Case(
        "wide",
        "sora_debug.yaml",
        "dit",
        batch=4,
        overrides=tuple(f"stages.dit.train.model.{one}" for one in ("width=384", "heads=6")),
    ),
    Case("autoencoder", "sora_debug.yaml", "autoencoder", batch=4),
    Case("unet", "imagen_video_digits.yaml", "base", batch=16),
)
WAYS = (
    Way(workers=0, zero=0, passes=1),
    Way(workers=0, zero=0, passes=1, checkpointing=True),
    Way(workers=0, zero=0, passes=4),
    Way(workers=2, zero=0, passes=1),
    Way(workers=2, zero=0, passes=1, checkpointing=True),
    Way(workers=2, zero=1, passes=1),
    Way(workers=2, zero=2, passes=1),
    Way(workers=2, zero=2, passes=2),
    Way(workers=2, zero=3, passes=1),
    Way(workers=2, zero=3, passes=2),
    Way(workers=2, zero=3, passes=1, checkpointing=True),
)
# A lone worker's passes, large and small: what share of the peak a model reaches, and what every
# pass takes whatever its size.
TOLD = (WAYS[0], WAYS[2])


def run(
    cases: Sequence[Case], *, ways: Sequence[Way], rounds: int
) -> tuple[list[Layouts], list[dict[str, float]]]:
    """Takes the steps; what all layouts took, and what the machine reached between them."""
    gangs = {1: Gang(ranks=1), RANKS: Gang(ranks=RANKS)}
    found, seen = list[Layouts](), list[dict[str, float]]()
    for case in cases:
        for way in ways:
            _say(f"{case.name}: builds {way}")
            path, overrides = JOBS / case.recipe, way.overrides(case)
            gangs[way.ranks].ask("build", way.key, path, overrides, case.stage)
        took: dict[Way, list[Took]] = {way: [] for way in ways}
        for number in range(WARM_UP + rounds):
            _say(f"{case.name}: round {number + 1} of {WARM_UP + rounds}")
            speeds = gangs[RANKS].ask("machine")
            for way in ways if number % 2 else reversed(ways):
                steps: list[Took] = gangs[way.ranks].ask("step", way.key)
                if number >= WARM_UP:
                    took[way].append(max(steps, key=lambda one: one.step))
            if number:
                seen.append(
                    {name: statistics.fmean(one[name] for one in speeds) for name in speeds[0]}
                )
        found.append(Layouts(case=case, took=took))
        for gang in gangs.values():
            gang.ask("forget")
    return found, seen


def core(
    seen: Sequence[Mapping[str, float]], *, reference: Layouts, facts: Training
) -> dict[str, Any]:
    """A core of this machine that trains a model, as a row of the table of GPUs.

    Args:
        seen: what it reached, a round each.
        reference: the model, whose two layouts on a lone worker say what share of the peak a pass
            reaches and what it takes whatever its size.
        facts: of it.
    """
    reached = {name: statistics.median(one[name] for one in seen) for name in seen[0]}
    peak, memory, link = (reached[name] for name in ("flops", "memory", "link"))
    # Alone, a worker waits for nothing: on an idle machine the processor's time is all of it.
    once, often = ([one.busy_passes for one in reference.took[way]] for way in TOLD)
    more = TOLD[1].passes - TOLD[0].passes
    added_s = statistics.median((two - one) / more for one, two in zip(once, often, strict=True))
    over_s = passed_bytes(facts.parameters, bf16=False) / memory
    pages = FP32 * facts.parameters / PAGE_BYTES
    arithmetic_s = statistics.median(once) - max(added_s, over_s) - pages * reached["fault"]
    flops = facts.clip_flops * reference.case.batch / arithmetic_s
    peak = max(peak, flops)
    share = flops / peak
    tensors = sum(len(network.trained) for network in facts.networks)
    return {
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30 / RANKS,
        "tflops": peak / 1e12,
        "tflops_fp32": peak / 1e12,
        "bandwidth": memory / 1e9,
        "link": link / 1e9 / LINK_EFFICIENCY,  # what was reached; the table has data sheets
        "network": link / 1e9 / LINK_EFFICIENCY,
        "price": 0.0,
        "efficiency": share,
        "compiled": share,
        "launch_us": 1e6 * max(added_s - over_s, 0.0) / tensors,
        **{f"{name}_us": 1e6 * reached[name] for name in ("reduce", "gather", "update", "fault")},
        "overlaps": False,
    }


def planned(case: Case, way: Way, *, facts: Training, cluster: Cluster) -> Option:
    """What the plan says of the recipe's own layout."""
    recipe = load_recipe(JOBS / case.recipe, overrides=way.overrides(case))
    return written(recipe.stage(case.stage), facts, ranks=way.ranks, cluster=cluster)


def facts_of(case: Case) -> Training:
    """What the plan has to know of a stage, the same in every layout."""
    recipe = load_recipe(JOBS / case.recipe, overrides=TOLD[0].overrides(case))
    facts = count(recipe, device="cpu")[case.stage]
    assert isinstance(facts, Training)
    return facts


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """Four digits of each number."""
    return {
        name: one if isinstance(one, bool) else float(f"{one:.4g}") for name, one in row.items()
    }


def as_tree(found: Sequence[Layouts], *, rows: Mapping[str, Any]) -> dict[str, Any]:
    """Every step, for machines."""
    return {
        "machine": platform.platform(),
        "torch": torch.__version__,
        "rows": dict(rows),
        "steps": {
            case.case.name: {
                way.key: [asdict(one) for one in took] for way, took in case.took.items()
            }
            for case in found
        },
    }


def at_work(found: Sequence[Layouts]) -> float:
    """What part of a lone worker's steps its processor was at work: near 1 on an idle machine."""
    alone = [
        one for case in found for way, took in case.took.items() for one in took if way.ranks == 1
    ]
    return sum(one.busy for one in alone) / sum(one.step for one in alone)


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def main() -> int:
    """Measures and prints; exit code 1 if a pair comes in the wrong order."""
    parser = argparse.ArgumentParser(description="planned and measured step times of layouts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", choices=[case.name for case in CASES], action="append")
    parser.add_argument("--gpus", type=Path, help="write this machine's row, for rushes plan")
    parser.add_argument("--out", type=Path, help="write the measurements as JSON")
    args = parser.parse_args()
    cases = [case for case in CASES if args.case is None or case.name in args.case]
    found, seen = run(cases, ways=WAYS, rounds=args.rounds)
    facts = {case.name: facts_of(case) for case in cases}
    rows = {
        f"CORE-{one.case.name}": core(seen, reference=one, facts=facts[one.case.name])
        for one in found
    }
    with tempfile.TemporaryDirectory(prefix="rushes-order-") as folder:
        path = args.gpus or Path(folder) / "cores.yaml"
        path.write_text(yaml.safe_dump(rows))
        table = load_gpus(path)
    compared: list[Pair] = []
    for name, one in zip(rows, found, strict=True):
        cluster = Cluster(name=name, gpu=table[name], gpus_per_node=RANKS)
        own = facts[one.case.name]
        options = {way: planned(one.case, way, facts=own, cluster=cluster) for way in one.took}
        print(layouts_table(one, options), end="\n\n")
        compared += pairs(one, options, told=TOLD)
    print(pairs_table(compared), end="\n\n")
    print(yaml.safe_dump({name: shown(row) for name, row in rows.items()}))
    wrong = [pair for pair in compared if pair.is_judged and not pair.is_right]
    judged = sum(pair.is_judged for pair in compared)
    print(
        f"{len(compared)} pairs, {judged} whose planned times differ by {MARGIN - 1:.0%} or more: "
        f"{judged - len(wrong)} in the right order, by processors' time "
        f"{sum(pair.is_judged and pair.busy > 1.0 for pair in compared)}"
    )
    if at_work(found) < IDLE:
        print(f"not idle: a lone worker had a processor {at_work(found):.0%} of its time")
    if args.out is not None:
        args.out.write_text(json.dumps(as_tree(found, rows=rows), indent=1) + "\n")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
