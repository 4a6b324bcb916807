"""How long a step takes: arithmetic, what travels between GPUs, the optimizer."""

from collections import Counter
from dataclasses import dataclass

from orchestrator.plan.facts import Network, Passing, Training
from orchestrator.plan.gpus import Gpu
from orchestrator.plan.layout import Layout
from orchestrator.plan.memory import BF16, FP32, LIVE_ELEMENTS

# AdamW reads and writes masters and moments, clipping the gradients, the EMA itself.
OPTIMIZER_BYTES = 58  # per weight that a rank owns
LINK_EFFICIENCY = 0.8  # of what a link's data sheet says, for large messages
PAGE_BYTES = 4096  # of memory that a process gets
# Of what ZeRO 3 sends beside computing: the first and the last of every pass have nothing to hide
# behind, and what is sent takes memory bandwidth from what computes.
NEVER_HIDDEN = 0.25


@dataclass(frozen=True)
class Cluster:
    """Equal GPUs in equal nodes."""

    name: str  # of the GPU
    gpu: Gpu
    gpus_per_node: int

    def link_bytes_per_s(self, ranks: int) -> float:
        """What each GPU sends at once in a ring over all of them.

        Between nodes the rings share the node's network cards, each GPU's neighbours being on
        its own node but for one ring's ends.
        """
        speed = self.gpu.link
        if ranks > self.gpus_per_node:
            speed = min(speed, self.gpu.network * self.gpus_per_node)
        return speed * 1e9 * LINK_EFFICIENCY


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step.

    Attributes:
        compute: forward and backward passes, and the frozen networks' answers.
        communication: what of it computing does not hide.
        optimizer: AdamW and the EMA.
    """

    compute: float
    communication: float
    optimizer: float

    @property
    def total(self) -> float:
        """All three, one after another."""
        return self.compute + self.communication + self.optimizer


def step_time(
    facts: Training, layout: Layout, *, cluster: Cluster, bf16: bool, compiled: bool
) -> StepTime:
    """One optimizer step of a layout.

    A pass is at least as long as its kernels take to launch. ZeRO 0, 1 and 2 send after passes,
    ZeRO 3 beside them: a part of that is waited for, or what takes longer than the passes
    themselves. What does one thing after another (a core) waits for all of it, for what Python
    does, and for what is copied.
    """
    rate, bandwidth = (
        cluster.gpu.flops_per_s(bf16=bf16, compiled=compiled),
        cluster.gpu.bandwidth * 1e9,
    )
    clips = layout.micro_batch / layout.sharing  # of a clip that is shared, each computes its part
    arithmetic, launch = (
        clips * _clip_flops(facts, layout) / rate,
        _launch_s(facts, layout, cluster),
    )
    one_pass = max(arithmetic, launch)
    if not cluster.gpu.overlaps:
        one_pass = arithmetic + launch + passed_bytes(facts.parameters, bf16=bf16) / bandwidth
    page_s = cluster.gpu.fault_us * 1e-6 / PAGE_BYTES
    gradients = facts.parameters * FP32 * (layout.accumulation if layout.zero >= 2 else 1)
    compute = layout.accumulation * one_pass + gradients * page_s
    exchanged = sum(
        exchanged_bytes(network, layout, bf16=bf16) for network in facts.networks
    ) * _exchange_s(layout, cluster=cluster)
    sent = sum(
        sent_bytes(network.parameters, layout, bf16=bf16) for network in facts.networks
    ) / cluster.link_bytes_per_s(layout.ranks)
    if not cluster.gpu.overlaps:
        sent += copied_bytes(facts.parameters, layout, bf16=bf16) / bandwidth
    elif layout.zero == 3:
        sent = max(NEVER_HIDDEN * sent, sent - compute)
    sent += fresh_bytes(facts.parameters, layout, bf16=bf16) * page_s
    owned = facts.parameters / (layout.ranks if layout.zero else 1)
    updates_s = _tensors(facts) * cluster.gpu.update_us * 1e-6 if layout.zero == 3 else 0.0
    return StepTime(
        compute=compute,
        communication=exchanged + sent,
        optimizer=OPTIMIZER_BYTES * owned / bandwidth + updates_s,
    )


def _launch_s(facts: Training, layout: Layout, cluster: Cluster) -> float:
    gpu = cluster.gpu
    again = 4 / 3 if layout.checkpointing else 1.0
    match layout.zero:
        case 0:
            around_us = 0.0
        case 1:
            around_us = gpu.reduce_us / layout.accumulation  # in the last pass of a step
        case 2:
            around_us = gpu.reduce_us
        case _:
            # Recomputed blocks ask for their weights a third time, one after another.
            thrice = layout.checkpointing and not gpu.overlaps
            around_us = gpu.gather_us * (3 / 2 if thrice else 1.0)
    return _tensors(facts) * (gpu.launch_us * again + around_us) * 1e-6


def _tensors(facts: Training) -> int:
    return sum(len(network.trained) for network in facts.networks)


def passed_bytes(parameters: int, *, bf16: bool) -> float:
    """Bytes of memory that weights take in one pass, beside activations.

    They are read forward and backward, their gradients are written and added to float32 sums.
    """
    value = BF16 if bf16 else FP32
    return parameters * (2 * value + value + value + 2 * FP32)


def copied_bytes(parameters: int, layout: Layout, *, bf16: bool) -> float:
    """Bytes of memory that engines read and write around what is sent, in one optimizer step.

    ZeRO 0 joins gradients, divides them and takes them apart. DeepSpeed copies them into buckets,
    divides those, joins them again to be sent and keeps its part, of which ZeRO 1 and 2 make one
    tensor for the step; ZeRO 3 does for every rank's part and for the sum that is not sent on what
    the others do once; there every gathered weight is joined of its parts too.
    """
    if layout.ranks == 1:
        return 0.0
    value, both = BF16 if bf16 else FP32, 2 * FP32  # what is read is written
    kept = both / layout.ranks
    match layout.zero:
        case 0:
            return parameters * 3 * both
        case 1:
            return parameters * (3 * both + 2 * kept)
        case 2:
            return parameters * (layout.accumulation * (3 * both + kept) + kept)
        case _:
            gathered = 2 * value * (1 + 1 / layout.ranks)
            return layout.accumulation * parameters * (gathered + 4 * both + 2 * kept)


def fresh_bytes(parameters: int, layout: Layout, *, bf16: bool) -> float:
    """Bytes of what is copied to memory that was got for it, in one optimizer step.

    ZeRO 0 joins gradients. DeepSpeed gets buckets for every backward pass, joins what it sends of
    them, and gets its own part; in ZeRO 3 gathered weights and every rank's part.
    """
    if layout.ranks == 1:
        return 0.0
    match layout.zero:
        case 0:
            return parameters * FP32
        case 1:
            return parameters * FP32 * (2 + 1 / layout.ranks)
        case 2:
            return parameters * FP32 * (layout.accumulation * (2 + 1 / layout.ranks))
        case _:
            value = BF16 if bf16 else FP32
            return layout.accumulation * parameters * (value + FP32)


def _clip_flops(facts: Training, layout: Layout) -> float:
    again = sum(network.recomputed for network in facts.networks) if layout.checkpointing else 0.0
    return facts.clip_flops + again


def sent_bytes(parameters: int, layout: Layout, *, bf16: bool) -> float:
    """Bytes that each GPU sends in one optimizer step.

    Gradients travel in float32. ZeRO 0 and 1 reduce them once a step, 2 and 3 after every pass;
    DeepSpeed reduces to all ranks in ZeRO 1 and 2, and to their owners in 3. In 1 and 2 the owners
    send their new weights once, in 3 all weights are gathered for every pass: twice, unless all
    of them may stay until the backward pass.
    """
    ring = (layout.ranks - 1) / layout.ranks
    gradients, weights = FP32 * parameters, (BF16 if bf16 else FP32) * parameters
    match layout.zero:
        case 0:
            return ring * 2 * gradients
        case 1:
            return ring * (2 * gradients + weights)
        case 2:
            return ring * (layout.accumulation * 2 * gradients + weights)
        case _:
            gathers = 1 if parameters <= LIVE_ELEMENTS else 2
            return ring * layout.accumulation * (gathers * weights + gradients)


def exchanged_bytes(network: Network, layout: Layout, *, bf16: bool) -> float:
    """Bytes that each of the GPUs that share clips sends to the others in one optimizer step.

    Once forward, once backward, and once more where blocks are recomputed. It is waited for: the
    next layer needs it.
    """
    passes = layout.accumulation * (3 if layout.checkpointing else 2)
    values = layout.micro_batch * network.exchanged / layout.sharing
    return passes * (BF16 if bf16 else FP32) * values * (layout.sharing - 1) / layout.sharing


def _exchange_s(layout: Layout, *, cluster: Cluster) -> float:
    """Seconds for each byte that a GPU sends to those that share clips with it.

    Each of them gets as much. What goes to other nodes goes over the GPU's own network card, beside
    what stays on the node; the GPU with most of the others elsewhere is waited for.
    """
    others, node = layout.sharing - 1, cluster.gpus_per_node
    if not others:
        return 0.0
    ends = range(layout.sharing, min(layout.ranks, layout.sharing * node) + 1, layout.sharing)
    groups = (Counter(rank // node for rank in range(end - layout.sharing, end)) for end in ends)
    away = max(layout.sharing - min(group.values()) for group in groups)
    gpu = cluster.gpu
    slower = max((others - away) / gpu.link, away / gpu.network) / others
    return slower / (1e9 * LINK_EFFICIENCY)


def passing_time(facts: Passing, *, gpu: Gpu, ranks: int) -> float | None:
    """Seconds of a stage that trains nothing, in float32; None if its work is not known."""
    if facts.flops is None:
        return None
    return facts.flops / (ranks * gpu.flops_per_s(bf16=False, compiled=False))
