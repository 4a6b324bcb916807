"""Planned memory against what engines of two ranks hold at most, by torch's own allocator."""

from collections.abc import Iterator
from contextlib import closing

import pytest
import torch

from orchestrator.plan.facts import Activations, Network, Training
from orchestrator.plan.layout import Layout
from orchestrator.plan.memory import memory
from orchestrator.train.flops import on_meta
from orchestrator.train.kept import watch
from tests.numerics.gang import Gang
from tests.plan import engines

RANKS, CLIPS = 2, 2
# Of the whole: what a pass needs while it runs is not modelled layer by layer.
TOLERANCE = 0.05


@pytest.fixture(scope="module")
def gang(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gang]:
    folder = tmp_path_factory.mktemp("group")
    with closing(Gang(world_size=RANKS, folder=folder)) as gang:
        yield gang


def planned(network: str, *, zero: int, precision: str, accumulation: int) -> int:
    case, bf16 = engines.CASES[network], precision == "bf16"
    module = on_meta(case.build)
    found = watch(module.bfloat16() if bf16 else module, *case.inputs, blocks=(), device="cpu")
    facts = Training(
        networks=(
            Network(
                name=network,
                trained=tuple(one.numel() for one in module.parameters()),
                frozen=0,
                activations=Activations(whole=found.whole, between=found.whole, block=0),
                forward=found.flops,
                recomputed=0.0,
            ),
        ),
        beside=(),
        clip_bytes=0,
    )
    layout = Layout(
        ranks=RANKS, zero=zero, micro_batch=CLIPS, accumulation=accumulation, checkpointing=False
    )
    return memory(facts, layout, bf16=bf16).total


# Convolutions in bf16 take minutes on a CPU, so that is for the transformer alone.
SETUPS = [("fp32", 1, network) for network in engines.CASES]
SETUPS += [("fp32", 2, "dit"), ("bf16", 1, "dit")]


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize(("precision", "accumulation", "network"), SETUPS)
def test_an_engine_holds_what_was_planned(
    gang: Gang, network: str, zero: int, precision: str, accumulation: int
) -> None:
    seen = gang.run(
        engines.peak_bytes,
        network=network,
        zero=zero,
        precision=precision,
        accumulation=accumulation,
        clips=CLIPS,
    )
    wanted = planned(network, zero=zero, precision=precision, accumulation=accumulation)
    assert torch.tensor(seen).float().mean().item() == pytest.approx(wanted, rel=TOLERANCE)
