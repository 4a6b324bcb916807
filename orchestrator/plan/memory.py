"""What a training stage holds on each GPU, as our engines lay it out.

Letters: P weights that train, p = P / ranks. Masters, moments, EMA and gradient sums are float32;
weights are float32 or bf16. Where the engines keep what is in orchestrator/train/engine; what
DeepSpeed adds to it was read in its source and is measured by tests/plan/test_memory.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from orchestrator.plan.facts import Network, Training
from orchestrator.plan.layout import Layout

FP32, BF16 = 4, 2
REDUCE_BYTES = 64 * 2**20  # as orchestrator/train/engine/replicated.py has it
BUCKET_ELEMENTS = 50_000_000  # as orchestrator/train/engine/zero.py has it, and DeepSpeed prefetch
LIVE_ELEMENTS = 1_000_000_000  # DeepSpeed's stage 3 leaves so many weights gathered
FLAT_ELEMENTS = 500_000_000  # its BF16_Optimizer sends so many gradients at once
# Gradients of activations, inputs, losses and what kernels need while they run, as a part of what
# is kept; and what an allocator loses between its blocks.
WORKING_SHARE = 0.03
RESERVE_SHARE = 0.04


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the moment of a step that needs most.

    Attributes:
        weights: what the forward pass computes with, a shard of it under ZeRO 3.
        gradients: sums, and what waits to be reduced.
        optimizer: masters and moments.
        ema: the average of the masters.
        activations: what the backward pass still needs.
        buffers: buckets of gradients, weights that ZeRO 3 has gathered.
        beside: frozen networks: encoders, a teacher.
    """

    weights: int
    gradients: int
    optimizer: int
    ema: int
    activations: int
    buffers: int
    beside: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, one.name) for one in fields(self))

    def needed(self) -> int:
        """What a GPU must have: an allocator cannot use every byte."""
        return int(self.total * (1 + RESERVE_SHARE))


@dataclass(frozen=True)
class Moment:
    """What an engine holds beside weights, optimizer and EMA.

    Attributes:
        gradients: sums of them.
        buffers: what they are sent through, weights that are gathered.
    """

    gradients: int
    buffers: int


@dataclass(frozen=True)
class State:
    """What one engine holds, without activations.

    Attributes:
        forward: when all activations are there and the backward pass begins.
        reduce: when gradients are sent.
        remaining: part of the activations that is still there when the first are sent.
        step: when the optimizer steps.
        rest: while another network of the stage has its turn.
    """

    weights: int
    optimizer: int
    ema: int
    forward: Moment
    reduce: Moment
    remaining: float
    step: Moment
    rest: int


def engine_state(network: Network, layout: Layout, *, bf16: bool) -> State:
    """What an engine around a network holds on one rank."""
    if layout.zero == 0:
        return _replicated(network, layout, bf16=bf16)
    if layout.zero == 3:
        return _sharded_weights(network, layout, bf16=bf16)
    if layout.zero == 2:
        return _sharded_gradients(network, layout, bf16=bf16)
    return _sharded_optimizer(network, layout, bf16=bf16)


def _replicated(network: Network, layout: Layout, *, bf16: bool) -> State:
    whole, largest = network.parameters, network.largest
    gradients = FP32 * whole
    sent = min(gradients, REDUCE_BYTES + FP32 * largest) if layout.ranks > 1 else 0
    return State(
        weights=(BF16 if bf16 else FP32) * (whole + network.frozen),
        optimizer=(3 if bf16 else 2) * gradients,
        ema=gradients,
        forward=Moment(gradients if layout.accumulation > 1 else 0, 0),
        reduce=Moment(gradients, sent),
        remaining=0.0,
        step=Moment(gradients, 0),
        rest=gradients,
    )


def _sharded_optimizer(network: Network, layout: Layout, *, bf16: bool) -> State:
    whole, part, bucket = _sizes(network, layout)
    again = layout.accumulation > 1
    if bf16:  # DeepSpeed's BF16_Optimizer keeps float32 sums of all gradients at all times
        sums, own = FP32 * whole, BF16 * whole
        forward = Moment(sums + own if again else sums, 0)
        reduce = Moment(sums + own, FP32 * min(whole, FLAT_ELEMENTS))
        step, rest = Moment(sums, 0), sums + own
    else:
        sums, sent = FP32 * whole, FP32 * bucket
        forward, reduce = Moment(sums if again else 0, sent), Moment(sums, sent)
        step, rest = Moment(FP32 * part, FP32 * part), sums
    return State(
        weights=(BF16 if bf16 else FP32) * (whole + network.frozen),
        optimizer=3 * FP32 * part,
        ema=FP32 * part,
        forward=forward,
        reduce=reduce,
        remaining=0.0,
        step=step,
        rest=rest,
    )


def _sharded_gradients(network: Network, layout: Layout, *, bf16: bool) -> State:
    whole, part, bucket = _sizes(network, layout)
    sums = FP32 * part
    held = sums if layout.accumulation > 1 else 0
    if bf16:  # a bucket, its float32 copy, and that part of it which is other ranks'
        others = FP32 * bucket * (layout.ranks - 1) // layout.ranks
        forward = Moment(held, BF16 * bucket)
        reduce = Moment(sums, (BF16 + FP32) * bucket + others)
        step = Moment(sums, 0)
    else:  # a bucket and a copy of it; sums are made when the first bucket has been sent
        forward = Moment(held, FP32 * bucket)
        reduce = Moment(held + (sums if whole > bucket else 0), 2 * FP32 * bucket)
        step = Moment(sums, sums)
    return State(
        weights=(BF16 if bf16 else FP32) * (whole + network.frozen),
        optimizer=3 * FP32 * part,
        ema=FP32 * part,
        forward=forward,
        reduce=reduce,
        remaining=1 - bucket / whole,
        step=step,
        rest=sums,
    )


def _sharded_weights(network: Network, layout: Layout, *, bf16: bool) -> State:
    whole, part, bucket = _sizes(network, layout)
    value = BF16 if bf16 else FP32
    persistent = network.in_small_tensors
    live = value * min(whole - persistent, LIVE_ELEMENTS)
    fetched = min(live, value * BUCKET_ELEMENTS)
    sums, sent = FP32 * part, FP32 * bucket  # the bucket is there at all times
    return State(
        weights=value * (part + persistent + network.frozen),
        optimizer=3 * FP32 * part,
        ema=FP32 * part,
        forward=Moment(sums, live + fetched + sent),
        # A copy of the bucket, and in bf16 the gradients that it was filled from.
        reduce=Moment(sums, live + 2 * sent + (BF16 * bucket if bf16 else 0)),
        remaining=1 - bucket / whole,
        step=Moment(sums, sent + FP32 * min(part, LIVE_ELEMENTS)),
        rest=sums + sent,
    )


def _sizes(network: Network, layout: Layout) -> tuple[int, int, int]:
    """Weights, those of one rank, and elements of a bucket of gradients."""
    whole = network.parameters
    return whole, -(-whole // layout.ranks), min(whole, BUCKET_ELEMENTS)


def memory(facts: Training, layout: Layout, *, bf16: bool) -> Memory:
    """What one GPU holds when it holds most."""
    states = [engine_state(one, layout, bf16=bf16) for one in facts.networks]
    most = max(_moments(facts.networks, states, layout), key=sum)
    return Memory(
        weights=sum(state.weights for state in states),
        gradients=most[0],
        optimizer=sum(state.optimizer for state in states),
        ema=sum(state.ema for state in states),
        activations=most[1],
        buffers=most[2],
        beside=sum(one.parameters * one.weight_bytes for one in facts.beside),
    )


def _moments(
    networks: Sequence[Network], states: Sequence[State], layout: Layout
) -> Iterator[tuple[int, int, int]]:
    """Gradients, activations and buffers of every moment of every network's turn."""
    everyone = sum(state.rest for state in states)
    for network, state in zip(networks, states, strict=True):
        others = everyone - state.rest
        clips = layout.micro_batch / layout.sharing * (1 + WORKING_SHARE)
        kept = clips * network.activations.peak(checkpointing=layout.checkpointing)
        block = clips * network.activations.block  # the last one to go backward
        for moment, activations in (
            (state.forward, kept),
            (state.reduce, max(kept * state.remaining, block)),
            (state.step, 0.0),
        ):
            yield others + moment.gradients, int(activations), moment.buffers
