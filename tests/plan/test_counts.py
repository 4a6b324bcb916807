"""FLOPs against torch's own counter, and kept bytes against what autograd really keeps."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.sora.dit_config import DiTConfig, Preset
from models.text.config import Byt5Config, T5Config
from models.text.pair_config import PretrainedPairConfig
from orchestrator.plan.facts import Training
from orchestrator.plan.gpus import GIB
from orchestrator.plan.layout import Layout
from orchestrator.plan.memory import memory
from orchestrator.recipe.load import load_recipe
from orchestrator.train import measured
from orchestrator.train.flops import on_meta
from orchestrator.train.frozen import frozen_pair, frozen_text
from orchestrator.train.kept import watch
from orchestrator.train.measure import measure
from tests.plan.networks import CASES, real

JOBS = Path(__file__).parents[2] / "jobs"
# torch counts products of norms and of pooled text too.
FLOPS = 0.01
# Small things are left out, such as the sines of a time: 0.7 % of the smallest of these networks.
KEPT = 0.01


@pytest.mark.parametrize("name", CASES)
def test_flops_are_those_that_torch_counts(name: str) -> None:
    case = CASES[name]
    found = watch(on_meta(case.build), *case.inputs, blocks=(), device="cuda")
    module = on_meta(case.build).requires_grad_(False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*case.inputs)
    assert found.flops == pytest.approx(counter.get_total_flops(), rel=FLOPS)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_what_a_forward_pass_keeps_is_what_autograd_keeps(
    name: str, precision: torch.dtype
) -> None:
    case = CASES[name]
    found = watch(on_meta(case.build).to(precision), *case.inputs, blocks=(), device="cpu")
    module = case.build()
    for parameter in module.parameters():
        parameter.data = parameter.data.to(precision)
    assert found.whole == pytest.approx(kept_by_autograd(module, *real(case.inputs)), rel=KEPT)


def kept_by_autograd(module: nn.Module, *inputs: object) -> int:
    weights = {
        one.untyped_storage().data_ptr() for one in (*module.parameters(), *module.buffers())
    }
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(*inputs)
    return sum(one.untyped_storage().nbytes() for one in kept.values())


def test_recomputation_keeps_less_and_computes_more() -> None:
    case = CASES["joint"]
    module = on_meta(case.build)
    found = watch(module, *case.inputs, blocks=module.dit.blocks(), device="cuda")
    assert found.between + found.block < found.whole / 2
    assert found.flops / 2 < found.block_flops < found.flops


@pytest.mark.parametrize(
    ("preset", "clips", "checkpointing", "measured_gib"),
    [("XL", 8, False, 46.8), ("XL", 8, True, 18.3), ("2B", 4, False, 47.8), ("2B", 4, True, 35.1)],
)
def test_memory_is_what_an_h200_has_needed(
    preset: Preset, clips: int, checkpointing: bool, measured_gib: float
) -> None:
    # Peaks of torch's allocator: docs/benchmarks.md, "Training step of the big presets".
    network = measured.dit(
        DiTConfig(preset=preset),
        text=Byt5Config(),
        latents=(16, 9, 32, 32),
        bf16=True,
        device="cuda",
    )
    found = memory(
        Training(networks=(network,), beside=(), clip_bytes=0),
        Layout(ranks=1, zero=0, micro_batch=clips, accumulation=1, checkpointing=checkpointing),
        bf16=True,
    )
    assert found.total / GIB == pytest.approx(measured_gib, rel=0.03)


def test_a_student_has_its_teacher_beside_it() -> None:
    facts = measure(load_recipe(JOBS / "imagen_video_digits.yaml"))
    student, teacher = facts["base-guided"], facts["base"]
    assert isinstance(student, Training)
    assert isinstance(teacher, Training)
    assert student.networks == teacher.networks
    assert [one.name for one in student.beside] == ["base"]
    assert student.clip_flops == pytest.approx(teacher.clip_flops * 5 / 3)


def test_frozen_encoders_have_their_published_sizes() -> None:
    xxl = T5Config(kind="t5", path="google/t5-v1_1-xxl", dtype="bfloat16")
    text = frozen_text(xxl, tokens=64)
    assert text is not None
    assert text.parameters == pytest.approx(4.76e9, rel=0.01)  # the encoder's half
    assert text.weight_bytes == 2
    large = PretrainedPairConfig(kind="clip", path="openai/clip-vit-large-patch14")
    assert frozen_pair(large, tokens=77).parameters == pytest.approx(428e6, rel=0.01)
    with pytest.raises(ValueError, match="not known before it is fetched"):
        frozen_text(T5Config(kind="t5", path="someone/t5"), tokens=64)
