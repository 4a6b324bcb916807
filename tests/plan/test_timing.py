"""What a step's time is made of: what is sent, copied, launched, and done around every tensor."""

from dataclasses import replace

import pytest

from orchestrator.plan.facts import Training
from orchestrator.plan.layout import Layout
from orchestrator.plan.timing import (
    PAGE_BYTES,
    Cluster,
    StepTime,
    copied_bytes,
    fresh_bytes,
    sent_bytes,
    step_time,
)
from tests.plan.stages import BILLION, H100, facts, layout


def changed(**fields: float | bool) -> Cluster:
    """An H100 with other fields in its row."""
    return replace(H100, gpu=H100.gpu.model_copy(update=fields))


def test_what_is_sent_is_what_the_engines_send() -> None:
    ring = 7 / 8
    assert sent_bytes(BILLION, layout(0), bf16=True) == ring * 8 * BILLION
    assert sent_bytes(BILLION, layout(1), bf16=True) == ring * 10 * BILLION
    assert sent_bytes(BILLION, layout(2, accumulation=3), bf16=True) == ring * 26 * BILLION
    assert sent_bytes(2 * BILLION, layout(3), bf16=True) == ring * 16 * BILLION


def serial(found: Training, one: Layout, **fields: float) -> StepTime:
    """A step on a GPU that does one thing after another, as a processor's core does."""
    cluster = changed(overlaps=False, **{"gather_us": 0.0, **fields})
    return step_time(found, one, cluster=cluster, bf16=False, compiled=False)


def test_what_does_one_thing_after_another_waits_for_all_that_is_sent_and_copied() -> None:
    cluster = H100
    for zero in (0, 1, 2, 3):
        sent_s = sent_bytes(BILLION, layout(zero), bf16=False) / cluster.link_bytes_per_s(8)
        copied_s = copied_bytes(BILLION, layout(zero), bf16=False) / (cluster.gpu.bandwidth * 1e9)
        assert serial(facts(), layout(zero)).communication == pytest.approx(sent_s + copied_s)
    beside = step_time(facts(), layout(3), cluster=cluster, bf16=False, compiled=False)
    assert beside.communication < serial(facts(), layout(3)).communication / 3


def test_what_does_one_thing_after_another_goes_over_all_weights_in_every_pass() -> None:
    once, again = layout(0), replace(layout(0), accumulation=4)
    arithmetic_s = 3e13 / H100.gpu.flops_per_s(bf16=False, compiled=False)
    over_s = serial(facts(), once).compute - arithmetic_s - 100 * 30e-6
    # Read twice, written once, read and added to float32 sums: 24 bytes.
    assert over_s * H100.gpu.bandwidth * 1e9 == pytest.approx(24 * BILLION)
    assert serial(facts(), again).compute == pytest.approx(4 * serial(facts(), once).compute)


@pytest.mark.parametrize(
    ("field", "passes"),
    [
        ("launch_us", (2, 2, 2, 2)),
        ("reduce_us", (0, 1, 2, 0)),  # ZeRO 1 sends gradients once a step
        ("gather_us", (0, 0, 0, 2)),
    ],
)
def test_what_is_done_around_every_tensor_counts_in_the_passes_that_do_it(
    field: str, passes: tuple[int, ...]
) -> None:
    for zero, times in enumerate(passes):
        twice = layout(zero, accumulation=2)
        slow, fast = (serial(facts(), twice, **{field: one}) for one in (500.0, 0.0))
        assert slow.compute - fast.compute == pytest.approx(times * 100 * 500e-6)


def test_recomputed_blocks_are_launched_and_gathered_once_more() -> None:
    again = replace(layout(3), checkpointing=True)
    for field, times in (("launch_us", 4 / 3), ("gather_us", 3 / 2)):
        slow, fast = (serial(facts(), again, **{field: one}) for one in (500.0, 0.0))
        assert slow.compute - fast.compute == pytest.approx(times * 100 * 500e-6)


def test_updating_sharded_weights_costs_every_tensor_once_a_step() -> None:
    for zero in (0, 1, 2, 3):
        twice = layout(zero, accumulation=2)
        slow, fast = (serial(facts(), twice, update_us=one) for one in (500.0, 0.0))
        added_s = slow.optimizer - fast.optimizer
        assert added_s == pytest.approx(100 * 500e-6 if zero == 3 else 0.0)


def test_new_memory_is_paid_for_by_the_page() -> None:
    # In bytes a weight: gradients, and what is joined of them.
    wanted = {0: 4 + 4, 1: 4 + 8.5, 2: 3 * (4 + 8.5), 3: 3 * (4 + 8)}
    for zero, per_weight in wanted.items():
        thrice = layout(zero, accumulation=3)
        slow, fast = (serial(facts(), thrice, fault_us=one).total for one in (2.0, 0.0))
        assert slow - fast == pytest.approx(per_weight * BILLION / PAGE_BYTES * 2e-6)
    assert fresh_bytes(BILLION, layout(0, ranks=1), bf16=False) == 0


def test_the_tables_gpus_pay_for_none_of_what_was_measured_on_cores() -> None:
    bare = changed(launch_us=30.0, reduce_us=0.0, gather_us=30.0, update_us=0.0, fault_us=0.0)
    for zero in (0, 1, 2, 3):
        for cluster in (H100, bare):
            step = step_time(facts(), layout(zero), cluster=cluster, bf16=True, compiled=False)
            pass_s = 3e13 / H100.gpu.flops_per_s(bf16=True, compiled=False)
            assert step.compute == pytest.approx(pass_s)


def test_a_pass_is_no_shorter_than_its_kernels_take_to_launch() -> None:
    for zero, wanted in ((0, 100 * 30e-6), (3, 100 * 60e-6)):
        step = step_time(facts(flops=1.0), layout(zero), cluster=H100, bf16=True, compiled=False)
        assert step.compute == pytest.approx(wanted)
