"""A small diffusion transformer and a critic, with what a real one has: norms, biases, a table."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Shape letters: B clips, N tokens, D width, C channels of a token.
CHANNELS, TOKENS, WIDTH, HEADS, TIMES = 6, 5, 48, 3, 16


class Block(nn.Module):
    """adaLN attention and MLP; the MLP's matrices are big enough for ZeRO-3 to shard."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.modulation = nn.Linear(WIDTH, 2 * WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        self.gain = nn.Parameter(torch.ones(WIDTH))  # read by this module itself

    def forward(self, x_BND: Tensor, cond_BD: Tensor) -> Tensor:
        """Returns tokens [B, N, D]."""
        shift_BD, scale_BD = self.modulation(F.silu(cond_BD)).chunk(2, dim=-1)
        h_BND = self.norm(x_BND) * (1 + scale_BD[:, None]) + shift_BD[:, None]
        q, k, v = (
            t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(h_BND).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x_BND = x_BND + self.gain * self.out(attended)
        return x_BND + self.down(F.gelu(self.up(x_BND)))


class Denoiser(nn.Module):
    """Predicts a clip's noise from its tokens and its time step."""

    def __init__(self) -> None:
        super().__init__()
        self.times = nn.Embedding(TIMES, WIDTH)
        self.inner = nn.Linear(CHANNELS, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.outer = nn.Linear(WIDTH, CHANNELS)
        self.frozen = nn.Linear(CHANNELS, CHANNELS)
        self.frozen.requires_grad_(False)
        self.register_buffer("spread", torch.linspace(0.5, 1.5, CHANNELS))

    def forward(self, x_BNC: Tensor, time_B: Tensor) -> Tensor:
        """Returns a prediction [B, N, C] in float32."""
        dtype = self.inner.weight.dtype
        x_BND = self.inner((x_BNC + self.frozen(x_BNC.to(dtype))).to(dtype))
        for block in self.blocks:
            x_BND = block(x_BND, self.times(time_B))
        return self.outer(x_BND).float() * self.spread


class Critic(nn.Module):
    """Scores clips, as a discriminator does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(CHANNELS, 2 * WIDTH)
        self.middle = nn.Linear(2 * WIDTH, WIDTH)
        self.outer = nn.Linear(WIDTH, 1)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Returns scores [B, N, 1] in float32."""
        x = x_BNC.to(self.inner.weight.dtype)
        x = F.leaky_relu(self.inner(x), 0.2)
        return self.outer(F.leaky_relu(self.middle(x), 0.2)).float()


class Branching(nn.Module):
    """A network with a branch that some steps don't use, as image steps skip what mixes frames."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(CHANNELS, WIDTH)
        self.branch = nn.Linear(WIDTH, 2 * WIDTH)
        self.join = nn.Linear(2 * WIDTH, WIDTH)
        self.outer = nn.Linear(WIDTH, CHANNELS)

    def forward(self, x_BNC: Tensor, *, uses_branch: bool) -> Tensor:
        """Returns a prediction [B, N, C] in float32."""
        x = torch.tanh(self.trunk(x_BNC.to(self.trunk.weight.dtype)))
        if uses_branch:
            x = x + self.join(torch.tanh(self.branch(x)))
        return self.outer(x).float()


def build(network: type[nn.Module]) -> nn.Module:
    """The same initial weights in every process; nothing is left at zero or one."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        module = network()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape))
    return module
