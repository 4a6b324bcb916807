"""Which layouts are legal, which is the best, and what is said of one that does not fit."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.launch.plan_tables import notes
from orchestrator.plan.choose import best, lost, options, written
from orchestrator.plan.expect import Assumed, among_failures
from orchestrator.plan.facts import Facts, Passing, Training
from orchestrator.plan.failures import load_failures
from orchestrator.plan.gpus import find_gpu, load_gpus
from orchestrator.plan.layout import legal_layouts, legal_ranks
from orchestrator.plan.memory import engine_state, memory
from orchestrator.plan.plan import RunPlan, make_plan
from orchestrator.plan.remedy import nearest
from orchestrator.plan.schedule import schedule
from orchestrator.plan.timing import (
    Cluster,
    exchanged_bytes,
    step_time,
)
from orchestrator.recipe.load import load_recipe
from orchestrator.recipe.recipe import Recipe
from tests.plan.stages import BILLION, H100, JOBS, ONE_HEAD, TABLE, debug, dit, facts, layout


def test_every_layout_splits_the_batch_into_full_passes() -> None:
    stage = dit("train.batch=48", "train.micro_batch=1")
    found = list(legal_layouts(stage, ranks=8))
    # 6, 12 and 24 clips for each of 8, 4 and 2 groups, in micro-batches that divide them.
    assert len(found) == len(set(found)) == (4 + 6 + 8) * 4 * 2
    for one in found:
        assert one.micro_batch * one.accumulation * one.ranks == 48 * one.sharing


def test_a_batch_that_does_not_split_has_no_layout() -> None:
    stage = dit("train.batch=48", "train.micro_batch=1", ONE_HEAD)
    assert list(legal_layouts(stage, ranks=32)) == []
    assert legal_ranks(stage, most=32) == [24]


def test_clips_are_shared_by_as_many_gpus_as_split_the_heads() -> None:
    stage = dit("train.batch=48", "train.micro_batch=1")
    assert stage.training.dit.shape.heads == 4
    assert {one.sharing for one in legal_layouts(stage, ranks=24)} == {1, 2, 4}
    assert {one.sharing for one in legal_layouts(stage, ranks=6)} == {1, 2}
    other = debug().stage("autoencoder")
    assert {one.sharing for one in legal_layouts(other, ranks=2)} == {1}


def test_with_shared_clips_more_gpus_find_work_than_there_are_clips() -> None:
    stage = dit("train.batch=16", "train.micro_batch=1")
    assert legal_ranks(stage, most=100) == [16, 32, 64]
    assert legal_ranks(stage, most=3) == [2]
    recipe = debug("stages.dit.train.batch=16", "stages.dit.train.micro_batch=1")
    plan = planned(recipe, facts(flops=1e15), gpus=100)
    found = {one.stage: one.layouts.chosen.layout for one in plan.stages if one.layouts}
    assert (found["dit"].ranks, found["dit"].sharing, found["dit"].accumulation) == (64, 4, 1)
    assert found["autoencoder"].sharing == 1
    # Nothing is won with more of them: it takes as few as are as fast.
    (idle,) = facts().networks
    slow = replace(facts(), networks=(replace(idle, forward=0.0, recomputed=0.0),))
    plan = planned(recipe, slow, gpus=100)
    assert {one.ranks for one in plan.stages if one.stage == "dit"} == {16}


def test_a_shared_clip_is_a_part_on_each_gpu_and_has_to_be_exchanged() -> None:
    (network,) = facts(clip_gib=80.0).networks
    found = replace(facts(), networks=(replace(network, exchanged=BILLION),))
    alone = replace(layout(2), accumulation=2)
    shared = replace(alone, sharing=4, accumulation=8)
    kept = [memory(found, one, bf16=True).activations for one in (alone, shared)]
    assert kept[1] == pytest.approx(kept[0] / 4)
    steps = [
        step_time(found, one, cluster=H100, bf16=True, compiled=False) for one in (alone, shared)
    ]
    assert steps[1].compute == pytest.approx(steps[0].compute)
    # A quarter of the values, three quarters of that to others, forward and backward, eight times.
    assert exchanged_bytes(found.networks[0], shared, bf16=True) == 8 * 2 * 2 * BILLION * 3 / 16
    assert steps[1].communication > steps[0].communication
    assert exchanged_bytes(found.networks[0], alone, bf16=True) == 0


def test_an_elastic_gang_shrinks_by_whole_groups() -> None:
    stage = dit("train.batch=4", "train.micro_batch=1")
    groups = stage.compute.model_copy(update={"workers": 24, "sequence_parallel": 6})
    stage = stage.model_copy(update={"compute": groups})
    found = written(stage, facts(), ranks=24, cluster=H100)
    sizes = among_failures(
        stage,
        facts(),
        found,
        cluster=Cluster(name="H100", gpu=TABLE["H100"], gpus_per_node=4),
        checkpoint_bytes=BILLION,
        assumed=Assumed(failures=load_failures(), elastic=True),
    ).sizes
    assert sizes == (12, 24)


@pytest.mark.parametrize(("gpus_per_node", "away"), [(8, 0), (2, 2), (3, 3)])
def test_what_is_exchanged_between_nodes_takes_each_gpus_own_network_card(
    gpus_per_node: int, away: int
) -> None:
    """Groups of four: with three GPUs a node the fourth of the first one is alone on its node."""
    cluster = replace(H100, gpus_per_node=gpus_per_node)
    (network,) = facts().networks
    shared = replace(layout(2), sharing=4, accumulation=4)

    def sending(exchanged: int) -> float:
        found = replace(facts(), networks=(replace(network, exchanged=exchanged),))
        return step_time(found, shared, cluster=cluster, bf16=True, compiled=False).communication

    bytes_sent = exchanged_bytes(replace(network, exchanged=BILLION), shared, bf16=True)
    gb_s = 450.0 if not away else 50.0 * 3 / away
    assert sending(BILLION) - sending(0) == pytest.approx(bytes_sent / (0.8e9 * gb_s))


def test_clips_are_shared_where_not_even_one_fits() -> None:
    stage = dit("train.batch=8", "train.micro_batch=1", "train.checkpointing=true")
    long = facts(clip_gib=1600.0)  # a tenth of it with recomputation
    own = written(stage, long, ranks=8, cluster=H100)
    found = nearest(stage, long, own=own.layout, cluster=H100, table=TABLE)
    assert found is not None
    assert found.text == "--set stages.dit.compute.sequence_parallel=4"


def test_one_gpu_shards_nothing() -> None:
    assert {one.zero for one in legal_layouts(dit(), ranks=1)} == {0}


def test_a_contrastive_batch_is_one_pass() -> None:
    recipe = load_recipe(JOBS / "make_a_video_digits.yaml")
    stage = next(one for one in recipe.stages if one.id == "pair")
    found = list(legal_layouts(stage, ranks=2))
    assert {one.accumulation for one in found} == {1}


@pytest.mark.parametrize("bf16", [False, True])
def test_each_zero_stage_holds_less_than_the_one_before(bf16: bool) -> None:
    states = [
        engine_state(facts().networks[0], layout(zero, ranks=64), bf16=bf16)
        for zero in (0, 1, 2, 3)
    ]
    optimizer = [one.optimizer for one in states]
    assert optimizer[0] > optimizer[1] == optimizer[2] == optimizer[3]
    assert [one.weights for one in states[:3]] == [states[0].weights] * 3
    assert states[3].weights == pytest.approx(states[0].weights / 64)
    assert states[2].step.gradients == pytest.approx(4 * BILLION / 64)


def test_masters_moments_and_ema_of_a_billion_weights_are_sixteen_gigabytes() -> None:
    found = memory(facts(), layout(0, ranks=1), bf16=True)
    assert found.weights == 2 * BILLION
    assert found.optimizer + found.ema == 16 * BILLION


def test_recomputation_takes_less_memory_and_more_time() -> None:
    plain = layout(2)
    again = replace(plain, checkpointing=True)
    assert memory(facts(), again, bf16=True).total < memory(facts(), plain, bf16=True).total
    seconds = [
        step_time(facts(), one, cluster=H100, bf16=True, compiled=False).compute
        for one in (plain, again)
    ]
    assert seconds[1] == pytest.approx(seconds[0] * 4 / 3)


def test_the_best_layout_is_the_fastest_that_fits() -> None:
    stage = dit("train.batch=64", "train.precision=bf16", ONE_HEAD)
    found = options(stage, facts(clip_gib=60.0), ranks=8, cluster=H100)
    chosen = best(found)
    assert chosen is not None
    assert chosen.fits
    assert all(one.step.total >= 0.99 * chosen.step.total for one in found if one.fits)
    reasons = {
        (one.option.layout.zero, one.option.layout.checkpointing): one.why
        for one in lost(found, chosen=chosen, cluster=H100)
    }
    assert len(reasons) == 7  # each kind but its own
    assert "GiB, H100 has 78" in reasons[0, False]


@pytest.mark.parametrize(
    ("clip_gib", "wanted"),
    [
        (20.0, "--set stages.dit.train.micro_batch="),
        (None, "--set stages.dit.compute.zero="),
    ],
)
def test_the_nearest_change_is_one_field_if_that_is_enough(
    clip_gib: float | None, wanted: str
) -> None:
    stage = dit("train.batch=8", "train.micro_batch=4", "train.precision=bf16")
    big = facts(weights=4 * BILLION, clip_gib=1.0) if clip_gib is None else facts(clip_gib=clip_gib)
    own = written(stage, big, ranks=2, cluster=H100)
    own = replace(own, layout=replace(own.layout, zero=0 if clip_gib is None else 3))
    found = nearest(stage, big, own=own.layout, cluster=H100, table=TABLE)
    assert found is not None
    assert found.option.fits
    assert found.text.startswith(wanted)
    assert " " not in found.text.removeprefix("--set ")


def test_more_gpus_or_larger_ones_are_the_next_resort() -> None:
    stage = dit("train.batch=64", "train.precision=bf16", ONE_HEAD)
    big = facts(weights=20 * BILLION, clip_gib=0.1)
    own = layout(3, ranks=2)
    found = nearest(stage, big, own=own, cluster=H100, table=TABLE)
    assert found is not None
    assert found.text.startswith("--set stages.dit.compute.workers=")
    found = nearest(stage, big, own=own, cluster=H100, table=TABLE, asked=2)
    assert found is not None
    assert found.text.startswith("--nodes ")
    wide, own = facts(weights=BILLION, clip_gib=900.0), layout(3, ranks=64)
    found = nearest(stage, wide, own=own, cluster=H100, table=TABLE)
    assert found is not None
    assert found.text.startswith("H200 GPUs --set stages.dit.train.checkpointing=true")
    found = nearest(stage, wide, own=own, cluster=H100, table=TABLE, asked=64)
    assert found is not None
    assert found.text.startswith("--gpu H200: ZeRO ")
    endless = facts(clip_gib=1e5)
    assert nearest(stage, endless, own=layout(3, ranks=64), cluster=H100, table=TABLE) is None


def planned(recipe: Recipe, found: Training, *, gpus: int | None = None) -> RunPlan:
    passing = Passing(parameters=10, weight_bytes=4, flops=1e15)
    whole: dict[str, Facts] = {
        stage.id: found if stage.train is not None else passing for stage in recipe.stages
    }
    return make_plan(recipe, whole, cluster=H100, gpus=gpus, table=TABLE)


def test_a_recipe_that_does_not_fit_is_refused_with_what_would() -> None:
    recipe = debug("stages.dit.train.micro_batch=16", "stages.autoencoder.train.micro_batch=1")
    with pytest.raises(UserError, match=r"stages\.dit with ZeRO 1, 1 x 16 needs") as refused:
        planned(recipe, facts(clip_gib=20.0))
    text = str(refused.value)
    assert "H100 has 78" in text
    assert "nearest that fits" in text
    assert "--set stages.dit.train.micro_batch=" in text
    assert "\n" not in text


def test_a_step_that_would_count_as_hanging_is_named() -> None:
    recipe = debug("stages.dit.compute.hang_after_s=5.0")
    (line,) = (one for one in notes(planned(recipe, facts(flops=1e14))) if "hang" in one)
    assert line.startswith("dit: raise compute.hang_after_s=5 above ")


def test_stages_wait_for_what_they_need_and_for_gpus() -> None:
    recipe = load_recipe(JOBS / "imagen_video_digits.yaml")
    names = [stage.id for stage in recipe.stages]
    seconds = {name: 10.0 + place for place, name in enumerate(names)}
    ranks = dict.fromkeys(names, 4)
    free = schedule(recipe, seconds=seconds, ranks=ranks, capacity=None)
    tight = schedule(recipe, seconds=seconds, ranks=ranks, capacity=8)
    for slots in (free, tight):
        for stage in recipe.stages:
            for needed in recipe.needs(stage):
                assert slots[stage.id].start >= slots[needed].end
    for moment in {slot.start for slot in tight.values()}:
        running = [one for one in tight.values() if one.start <= moment < one.end]
        assert len(running) <= 2
    last = max(slot.end for slot in free.values())
    critical = [name for name in names if free[name].critical]
    assert sum(seconds[name] for name in critical) == pytest.approx(last)
    assert max(slot.end for slot in tight.values()) >= sum(seconds.values()) / 2


def test_a_users_gpu_joins_the_table(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    row = "memory: 60, tflops: 500, tflops_fp32: 50, bandwidth: 2000, link: 100, network: 10"
    file.write_text(f"X1: {{{row}, price: 1.5, efficiency: 0.3, compiled: 0.4}}\n")
    name, gpu = find_gpu("x1", table=load_gpus(file))
    assert (name, gpu.price) == ("X1", 1.5)
    with pytest.raises(UserError, match="--gpu P100: not in the table, wanted one of H100"):
        find_gpu("P100", table=TABLE)
    file.write_text(f"X1: {{{row}, price: cheap, efficiency: 0.3, compiled: 0.4}}\n")
    with pytest.raises(UserError, match=r"X1\.price"):
        load_gpus(file)
