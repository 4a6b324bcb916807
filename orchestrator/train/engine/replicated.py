"""The engine that shards nothing: one plain process, or ZeRO stage 0 over many."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from orchestrator.recipe.train import Optim
from orchestrator.train.engine import foreach
from orchestrator.train.engine.average import Average
from orchestrator.train.engine.base import Fragment, Precision, StateReader, StepOutcome
from orchestrator.train.engine.collect import collect
from orchestrator.train.engine.optimizer import (
    LrScale,
    build_adamw,
    fresh_state,
    parameter_groups,
    set_lr,
)

REDUCE_BYTES = 64 * 2**20  # gradient bytes that travel in one all-reduce
CLIP_EPS = 1e-6  # as DeepSpeed's clipping has it


class ReplicatedEngine:
    """Every rank holds all masters, moments and EMA in float32 and applies the same step.

    In bf16 the module's parameters (frozen ones too, buffers not) are cast, while masters keep
    their float32 initial values and gradients are summed in float32.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        precision: Precision,
        optim: Optim,
        accumulation: int,
        ema_decay: float,
        device: torch.device,
        lr_scale: LrScale,
    ) -> None:
        self.module = module.to(device)
        self.grad_clip = optim.grad_clip
        self._device = device
        self._accumulation = accumulation
        self._gathered = 0
        self._world_size = dist.get_world_size() if dist.is_initialized() else 1
        self._rank = dist.get_rank() if dist.is_initialized() else 0
        groups = parameter_groups(module, weight_decay=optim.weight_decay, lr_scale=lr_scale)
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        self._names = [name for name, _ in named]
        self._parameters = [parameter for _, parameter in named]
        self.num_params = sum(parameter.numel() for parameter in self._parameters)
        for parameter in self._parameters:
            parameter.data = parameter.data.contiguous()
        self._masters = self._parameters if precision == "fp32" else self._cast()
        master_of = dict(zip(self._parameters, self._masters, strict=True))
        self._optimizer = build_adamw(
            [{**group, "params": [master_of[p] for p in group["params"]]} for group in groups],
            optim=optim,
        )
        for master in self._masters:
            self._optimizer.state[master] = fresh_state(master)
        self._ema = Average(self._masters, decay=ema_decay, push=self._push)

    def _cast(self) -> list[nn.Parameter]:
        masters = [nn.Parameter(p.detach().float().clone()) for p in self._parameters]
        for parameter in self.module.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(torch.bfloat16)
        for parameter, master in zip(self._parameters, masters, strict=True):
            parameter.register_post_accumulate_grad_hook(_moves_gradient_to(master))
        return masters

    @property
    def applied_steps(self) -> int:
        """AdamW's step count."""
        return int(self._optimizer.state[self._masters[0]]["step"].item())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See ``Engine``."""
        return self.module(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """See ``Engine``."""
        (loss / self._accumulation).backward()
        self._gathered += 1

    def step(self, *, lr: float, limit: float = math.inf) -> StepOutcome:
        """See ``Engine``; the norm is the step's one host sync."""
        if self._gathered != self._accumulation:
            raise RuntimeError(
                f"step after {self._gathered} backward passes, wanted {self._accumulation}"
            )
        self._gathered = 0
        gradients = self._reduced_gradients()
        norm = torch.nn.utils.get_total_norm(gradients).item()
        applied = math.isfinite(norm) and norm <= limit
        if applied:
            self._apply(gradients, norm=norm, lr=lr)
        for master in self._masters:
            master.grad = None
        return StepOutcome(applied=applied, grad_norm=norm)

    @torch.no_grad()
    def _apply(self, gradients: list[Tensor], *, norm: float, lr: float) -> None:
        if self.grad_clip is not None and norm + CLIP_EPS > self.grad_clip:
            foreach.scale(gradients, factor=self.grad_clip / (norm + CLIP_EPS))
        set_lr(self._optimizer.param_groups, lr=lr)
        self._optimizer.step()
        self._ema.follow()
        self._push()

    def _push(self) -> None:
        if self._masters is not self._parameters:
            foreach.copy([parameter.data for parameter in self._parameters], source=self._masters)

    def _reduced_gradients(self) -> list[Tensor]:
        for master in self._masters:
            if master.grad is None:
                # As under ZeRO, a parameter that took no part has a zero gradient.
                master.grad = torch.zeros_like(master)
        gradients = [master.grad for master in self._masters if master.grad is not None]
        if self._world_size > 1:
            for bucket in _buckets(gradients):
                flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
                dist.all_reduce(flat)
                flat /= self._world_size
                parts = flat.split([gradient.numel() for gradient in bucket])
                for gradient, part in zip(bucket, parts, strict=True):
                    gradient.copy_(part.view_as(gradient))
        return gradients

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See ``Engine``."""
        return {n: tuple(m.shape) for n, m in zip(self._names, self._masters, strict=True)}

    def fragments(self) -> Iterator[Fragment]:
        """An even part of each parameter: the state is whole here, but is saved only once."""
        for index, (name, master) in enumerate(zip(self._names, self._masters, strict=True)):
            numel = master.numel()
            start = numel * self._rank // self._world_size
            end = numel * (self._rank + 1) // self._world_size
            if end > start:
                whole = self._state(index)
                yield Fragment(
                    name=name,
                    shape=tuple(master.shape),
                    start=start,
                    numel=end - start,
                    tensors={key: tensor[start:end] for key, tensor in whole.items()},
                )

    def _state(self, index: int) -> dict[Any, Tensor]:
        master = self._masters[index]
        moments = self._optimizer.state[master]
        return {
            "fp32": master.data.view(-1),
            "exp_avg": moments["exp_avg"].view(-1),
            "exp_avg_sq": moments["exp_avg_sq"].view(-1),
            "ema": self._ema.tensors[index].view(-1),
        }

    def load(self, reader: StateReader, *, applied_steps: int) -> None:
        """See ``Engine``."""
        for index, (name, master) in enumerate(zip(self._names, self._masters, strict=True)):
            for key, tensor in self._state(index).items():
                tensor.copy_(reader.read(key, name=name, start=0, numel=tensor.numel()))
            self._optimizer.state[master]["step"].fill_(applied_steps)
        self._push()

    def ema_weights(self) -> AbstractContextManager[None]:
        """See ``Engine``."""
        return self._ema.in_force()

    def gather_ema(self) -> dict[str, Tensor]:
        """See ``Engine``."""
        return collect(self.fragments(), key="ema", device=self._device)


def _moves_gradient_to(master: nn.Parameter) -> Callable[[Tensor], None]:
    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradient, parameter.grad = parameter.grad, None
        if master.grad is None:
            master.grad = gradient.float()
        else:
            master.grad.add_(gradient)

    return hook


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        bucket.append(gradient)
        size += gradient.numel() * gradient.element_size()
        if size >= REDUCE_BYTES:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket
