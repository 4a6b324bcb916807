"""Recomputation and compilation of blocks, together."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from orchestrator.train.engine.blocks import apply_memory_and_speed


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.linear = nn.Linear(8, 8)

    def forward(self, x_BD: Tensor) -> Tensor:
        return x_BD + torch.tanh(self.linear(self.norm(x_BD)))


def gradients(*, checkpointing: bool, compile: bool) -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(Block(), Block(), Block())
    apply_memory_and_speed(network, checkpointing=checkpointing, compile=compile)
    network(torch.randn(4, 8, requires_grad=True)).square().mean().backward()
    return {name: w.grad for name, w in network.named_parameters() if w.grad is not None}


# The tracer looks at the .grad of what it is given, and torch warns of that.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_blocks_are_compiled_whether_or_not_they_are_recomputed(
    checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = gradients(checkpointing=False, compile=False)
    # Traced as for the real compiler, run as traced: it would take a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()
    found = gradients(checkpointing=checkpointing, compile=True)
    assert counters["stats"]["unique_graphs"] == 1  # one code object, three blocks
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient)
