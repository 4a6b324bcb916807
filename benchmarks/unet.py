"""A training step of our space-time U-Nets beside two public ones of about the same size.

Each case times forward and backward pass of both networks in one process, in turns, in float32
and without an optimizer; a process for each network then gives its peak memory.
docs/benchmarks.md says what is counted.
"""

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers import unet3d
from benchmarks.profiles import Profile, profile_step, profile_table
from models.nn.unet import SpaceTimeUNet, UNetInputs
from models.nn.unet_config import UNetConfig
from models.text.states import TextStates

BUDGET = 1.2  # the peer's time over ours, at least
WARMUP_ROUNDS = 2
MEMORY_STEPS = 3
TEXT_WIDTH, WORDS = 256, 16
HINT = (
    "{missing} not installed; wanted: the pip install --no-deps --target DIR of "
    "docs/benchmarks.md, then PYTHONPATH=.:DIR"
)
Forward = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    """Two networks and the clips that both are trained on."""

    name: str
    package: str  # the peer's
    batch: int
    frames: int
    size: int
    ours: UNetConfig

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the clips, [B, 3, T, H, W]."""
        return self.batch, 3, self.frames, self.size, self.size


# Widths, levels, blocks and attention are the peer's as far as the layouts allow; the rest of the
# difference in weights is the peer's (null tokens, feed-forwards, a perceiver).
CASES = (
    Case(
        name="imagen-video",
        package="imagen_pytorch",
        batch=1,
        frames=8,
        size=64,
        ours=UNetConfig(
            layout="efficient",
            width=64,
            mults=(1, 2, 4),
            blocks=(4, 4, 6),
            attention=(2,),
            context_attention=(2,),
            temporal_attention=(0, 1, 2),
            temporal_conv=True,
            text=True,
            skip_scale=True,
        ),
    ),
    Case(
        name="make-a-video",
        package="make_a_video_pytorch",
        batch=1,
        frames=8,
        size=64,
        ours=UNetConfig(
            layout="adm",
            width=48,
            groups=16,
            head_width=48,
            mults=(1, 2, 2, 4),
            blocks=2,
            attention=(3,),
            temporal_attention=(3,),
            temporal_conv=True,
        ),
    ),
)


def our_network(case: Case) -> tuple[nn.Module, Forward]:
    """Ours, and a forward pass over made-up clips."""
    unet = SpaceTimeUNet(case.ours, text_width=TEXT_WIDTH if case.ours.text else None)
    x_BCTHW, t_B = torch.randn(case.shape), torch.rand(case.batch)
    text = TextStates(
        tokens_BLD=torch.randn(case.batch, WORDS, TEXT_WIDTH),
        mask_BL=torch.ones(case.batch, WORDS, dtype=torch.bool),
        pooled_BD=torch.zeros(case.batch, TEXT_WIDTH),
    )
    inputs = UNetInputs(text=text if case.ours.text else None)
    return unet, lambda: unet(x_BCTHW, t_B, inputs)


def peer_network(case: Case) -> tuple[nn.Module, Forward]:
    """The package's, and a forward pass over made-up clips."""
    x_BCTHW, t_B = torch.randn(case.shape), torch.rand(case.batch)
    if case.package == "imagen_pytorch":
        unet = unet3d()(
            dim=64,
            text_embed_dim=TEXT_WIDTH,
            dim_mults=(1, 2, 4),
            num_resnet_blocks=(1, 2, 3),
            layer_attns=(False, False, True),
            layer_cross_attns=(False, False, True),
            memory_efficient=True,
            init_conv_to_final_conv_residual=True,
        )
        words_BLD = torch.randn(case.batch, WORDS, TEXT_WIDTH)
        mask_BL = torch.ones(case.batch, WORDS, dtype=torch.bool)
        return unet, lambda: unet(x_BCTHW, t_B, text_embeds=words_BLD, text_mask=mask_BL)
    from make_a_video_pytorch import SpaceTimeUnet  # pyright: ignore[reportMissingImports]

    # Its temporal compression, which is not in the paper, would halve the frames of each level.
    unet = SpaceTimeUnet(
        dim=64,
        dim_mult=(1, 2, 4),
        self_attns=(False, False, True),
        temporal_compression=(False, False, False),
        resnet_block_depths=(1, 1, 1),
    )
    return unet, lambda: unet(x_BCTHW, timestep=t_B)


SIDES = {"ours": our_network, "peer": peer_network}


@dataclass(frozen=True)
class Result:
    """Medians over rounds; memory is what a process holds more at its peak than after imports."""

    case: str
    parameters: Mapping[str, int]
    forward_gflops: Mapping[str, float]
    step_ms: Mapping[str, list[float]]
    peak_mib: Mapping[str, float]
    profiles: Mapping[str, Profile]

    @property
    def speedup(self) -> float:
        """The peer's median step over ours."""
        ours, peer = (statistics.median(self.step_ms[side]) for side in SIDES)
        return peer / ours


def measure(case: Case, *, rounds: int) -> Result:
    """Both networks in turns, then the peak memory of each."""
    torch.manual_seed(0)
    built = {side: build(case) for side, build in SIDES.items()}
    step_ms: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(WARMUP_ROUNDS + rounds):
        # Every second round begins with the peer: a machine that slows down favours none.
        for side in list(SIDES)[:: 1 if number % 2 == 0 else -1]:
            network, forward = built[side]
            took_ms = _step_ms(network, forward)
            if number >= WARMUP_ROUNDS:
                step_ms[side].append(took_ms)
    return Result(
        case=case.name,
        parameters={
            side: sum(weight.numel() for weight in network.parameters())
            for side, (network, _) in built.items()
        },
        forward_gflops={side: _gflops(forward) for side, (_, forward) in built.items()},
        step_ms=step_ms,
        peak_mib={side: _in_a_process(case, side) for side in SIDES},
        profiles={side: profile_step(partial(_step_ms, *both)) for side, both in built.items()},
    )


def _step_ms(network: nn.Module, forward: Forward) -> float:
    network.zero_grad(set_to_none=True)
    started_s = time.perf_counter()
    forward().square().mean().backward()
    return 1000 * (time.perf_counter() - started_s)


def _gflops(forward: Forward) -> float:
    with FlopCounterMode(display=False) as counter:
        forward()
    return counter.get_total_flops() / 1e9


def _in_a_process(case: Case, side: str) -> float:
    command = [sys.executable, __file__, "--case", case.name, "--memory-of", side]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def peak_mib(case: Case, side: str) -> float:
    """Of this process, over what it holds with both packages imported and no network built."""
    for build in SIDES.values():
        build(case)
    gc.collect()
    before = psutil.Process().memory_info().rss
    torch.manual_seed(0)
    network, forward = SIDES[side](case)
    for _ in range(MEMORY_STEPS):
        _step_ms(network, forward)
    # Not getrusage: its maximum begins with that of the parent process.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**10 - before / 2**20


def table(results: Sequence[Result]) -> str:
    """Markdown: medians, and the peer's share of ours."""
    lines = [
        "| case | network | parameters | forward | step, median | lowest to highest | peak memory "
        "| peer / ours |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        for side in SIDES:
            steps = result.step_ms[side]
            ratio = f"{result.speedup:.2f}x" if side == "ours" else ""
            lines.append(
                f"| {result.case} | {side} | {result.parameters[side] / 1e6:.1f}M "
                f"| {result.forward_gflops[side]:.0f} GFLOP | {statistics.median(steps):.0f} ms "
                f"| {min(steps):.0f} to {max(steps):.0f} ms | {result.peak_mib[side]:.0f} MiB "
                f"| {ratio} |"
            )
    return "\n".join(lines)


def main() -> int:
    """Measures; exit code 1 if we are slower than the budget or need more memory."""
    parser = argparse.ArgumentParser(description="our U-Nets beside public ones, a training step")
    parser.add_argument("--case", choices=[case.name for case in CASES], action="append")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each network")
    parser.add_argument("--json", type=Path, help="write the measurements as JSON")
    parser.add_argument("--memory-of", choices=list(SIDES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    cases = [case for case in CASES if args.case is None or case.name in args.case]
    missing = [case.package for case in cases if find_spec(case.package) is None]
    if missing:
        parser.exit(2, HINT.format(missing=" and ".join(missing)) + "\n")
    if args.memory_of is not None:
        print(peak_mib(cases[0], args.memory_of))
        return 0
    results = [measure(case, rounds=args.rounds) for case in cases]
    print(table(results))
    for result in results:
        if result.speedup < BUDGET:
            print(
                f"\n{result.case} is {result.speedup:.2f}x, wanted {BUDGET}x; one step of each:\n"
            )
            print(profile_table(result.profiles))
    if args.json is not None:
        about = {
            "machine": platform.platform(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "budget": BUDGET,
            "results": [{**asdict(one), "speedup": one.speedup} for one in results],
        }
        args.json.write_text(json.dumps(about, indent=1) + "\n")
    return int(
        any(one.speedup < BUDGET or one.peak_mib["ours"] > one.peak_mib["peer"] for one in results)
    )


if __name__ == "__main__":
    raise SystemExit(main())
