"""How long a step takes: arithmetic, what travels between GPUs, the optimizer."""

from dataclasses import dataclass

from orchestrator.plan.facts import Network, Passing, Training
from orchestrator.plan.gpus import Gpu
from orchestrator.plan.layout import Layout
from orchestrator.plan.memory import BF16, FP32, LIVE_ELEMENTS

# AdamW reads and writes masters and moments, clipping the gradients, the EMA itself.
OPTIMIZER_BYTES = 58  # per weight that a rank owns
LINK_EFFICIENCY = 0.8  # of what a link's data sheet says, for large messages
# A pass is at least as long as its kernels take to launch: some six per weight tensor, forward
# and backward, at 5 us each; as long again for what ZeRO 3 does in Python around every module.
LAUNCH_S = 30e-6
GATHER_S = 30e-6
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

    ZeRO 0, 1 and 2 send after passes, ZeRO 3 beside them: a part of that is waited for, or what
    takes longer than the passes themselves.
    """
    rate = cluster.gpu.flops_per_s(bf16=bf16, compiled=compiled)
    clips = layout.micro_batch / layout.sharing  # of a clip that is shared, each computes its part
    one_pass = max(clips * _clip_flops(facts, layout) / rate, _launch_s(facts, layout))
    compute = layout.accumulation * one_pass
    exchanged = sum(
        exchanged_bytes(network, layout, bf16=bf16) for network in facts.networks
    ) / cluster.link_bytes_per_s(layout.sharing)
    sent = sum(
        sent_bytes(network.parameters, layout, bf16=bf16) for network in facts.networks
    ) / cluster.link_bytes_per_s(layout.ranks)
    owned = facts.parameters / (layout.ranks if layout.zero else 1)
    return StepTime(
        compute=compute,
        communication=exchanged
        + (max(NEVER_HIDDEN * sent, sent - compute) if layout.zero == 3 else sent),
        optimizer=OPTIMIZER_BYTES * owned / (cluster.gpu.bandwidth * 1e9),
    )


def _launch_s(facts: Training, layout: Layout) -> float:
    tensors = sum(len(network.trained) for network in facts.networks)
    again = 4 / 3 if layout.checkpointing else 1.0
    return tensors * (LAUNCH_S * again + (GATHER_S if layout.zero == 3 else 0.0))


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


def passing_time(facts: Passing, *, gpu: Gpu, ranks: int) -> float | None:
    """Seconds of a stage that trains nothing, in float32; None if its work is not known."""
    if facts.flops is None:
        return None
    return facts.flops / (ranks * gpu.flops_per_s(bf16=False, compiled=False))
