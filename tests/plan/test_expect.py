"""What failures make of a stage."""

from dataclasses import replace

from orchestrator.launch.plan_failures import failure_notes
from orchestrator.plan.choose import weigh
from orchestrator.plan.expect import AmongFailures, Assumed, among_failures
from orchestrator.plan.facts import Passing
from orchestrator.plan.failures import load_failures
from orchestrator.plan.layout import Layout
from orchestrator.plan.plan import STATE_BYTES, make_plan
from tests.plan.stages import BILLION, H100, TABLE, debug, dit, facts, layout

FAILURES = load_failures()


def expected(
    laid_out: Layout, *, assumed: Assumed | None = None, steps: int = 100_000, batch: int = 64
) -> AmongFailures:
    """Of a network of a billion weights, a tenth of a second and more a step."""
    stage = dit(f"train.batch={batch}", "train.micro_batch=1", f"train.steps={steps}")
    option = weigh(stage, facts(), laid_out, cluster=H100)
    return among_failures(
        stage,
        facts(),
        option,
        cluster=H100,
        checkpoint_bytes=STATE_BYTES * BILLION,
        assumed=assumed or Assumed(failures=FAILURES),
    )


def test_a_stage_of_many_failures_ends() -> None:
    """Eight nodes of which one fails every hour: half an hour for another one, each time."""
    assumed = Assumed(failures=load_failures(mttf_h=8.0))
    found = expected(layout(2, ranks=64), steps=10**9, assumed=assumed).expected
    assert found.ends
    assert found.failures > 30_000
    assert 0.5 < found.goodput < 0.7


def test_a_stage_that_never_ends_is_told_how_it_would() -> None:
    """Half a minute a step and a failure every six: 60 steps never pass without one."""
    recipe = debug("stages.dit.train.steps=2000")
    passing = Passing(parameters=10, weight_bytes=4, flops=1e15)
    plan = make_plan(
        recipe,
        {one.id: facts() if one.id == "dit" else passing for one in recipe.stages}
        | {"autoencoder": facts(flops=1e9)},
        cluster=H100,
        gpus=None,
        table=TABLE,
        assumed=Assumed(failures=load_failures(mttf_h=0.05)),
    )
    said = [line for line in failure_notes(plan) if line.startswith("dit: ")]
    assert said[0].startswith("dit: never ends")
    assert said[1].endswith("points of goodput with save.every_steps=1")


def test_an_elastic_gang_that_shares_clips_has_a_clip_for_every_group() -> None:
    """16 clips in groups of four: 64, 32, 16 and 8 GPUs do them in 1, 2, 4 and 8 passes."""
    shared = replace(layout(2, ranks=64), sharing=4)
    found = expected(shared, batch=16, assumed=Assumed(failures=FAILURES, elastic=True))
    assert found.sizes == (8, 16, 32, 64)


def test_every_rank_reads_all_of_a_checkpoint_where_nothing_is_sharded() -> None:
    """16 GB: a second from eight nodes with a GB/s each, else 64 times as long."""
    assumed = Assumed(failures=load_failures(mttf_h=100.0))
    whole, part = (
        expected(layout(zero, ranks=64), assumed=assumed, steps=10**7).expected for zero in (0, 1)
    )
    assert part.goodput - whole.goodput > 0.001
