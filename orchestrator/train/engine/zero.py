"""The engine that shards: DeepSpeed ZeRO stages 1, 2 and 3."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.recipe.train import Optim
from orchestrator.train.engine.average import Average
from orchestrator.train.engine.base import Fragment, Precision, StateReader, StepOutcome
from orchestrator.train.engine.collect import collect
from orchestrator.train.engine.library import save_stock, start_engine
from orchestrator.train.engine.optimizer import (
    LrScale,
    build_adamw,
    fresh_state,
    parameter_groups,
    set_lr,
)
from orchestrator.train.engine.partitions import (
    adamw_state,
    check_overflow_by_norm,
    clear_gradients,
    limited_norm,
    partitions,
    push_masters,
    set_adamw_state,
)

BUCKET_ELEMENTS = 50_000_000  # gradients that are reduced together; a buffer of this size is held
PERSISTENT_ELEMENTS = 4_096  # stage 3 keeps parameters up to this size whole: norms and biases


class ZeroEngine:
    """A DeepSpeed engine with a sharded EMA beside its sharded masters and moments.

    Masters start from the module's float32 weights, not from their bf16 rounding.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        stage: int,
        precision: Precision,
        optim: Optim,
        accumulation: int,
        ema_decay: float,
        device: torch.device,
        lr_scale: LrScale,
    ) -> None:
        trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.num_params = sum(parameter.numel() for parameter in trainable.values())
        self._shapes = {name: tuple(parameter.shape) for name, parameter in trainable.items()}
        self.grad_clip = optim.grad_clip
        self._device = device
        self._accumulation = accumulation
        self._gathered = 0
        exact: dict[str, Tensor] = {}
        if precision == "bf16":  # DeepSpeed takes its masters from rounded weights
            exact = {name: p.detach().cpu().clone() for name, p in trainable.items()}
        self._engine = start_engine(
            module,
            optimizer=build_adamw(
                parameter_groups(module, weight_decay=optim.weight_decay, lr_scale=lr_scale),
                optim=optim,
            ),
            config=_config(
                stage=stage,
                precision=precision,
                accumulation=accumulation,
                grad_clip=optim.grad_clip,
                num_params=self.num_params,
            ),
            device=device,
        )
        self.module: nn.Module = self._engine.module
        check_overflow_by_norm(self._engine)
        self._partitions = partitions(self._engine)
        self._flats = [partition.flat for partition in self._partitions]
        for flat in self._flats:
            set_adamw_state(self._engine, flat, fresh_state(flat))
        if precision == "bf16":
            self._write_masters(exact)
        self._ema = Average(self._flats, decay=ema_decay, push=partial(push_masters, self._engine))

    def _write_masters(self, exact: dict[str, Tensor]) -> None:
        for partition in self._partitions:
            for part in partition.slices:
                whole = exact[part.name].view(-1)
                partition.flat.data.narrow(0, part.offset, part.numel).copy_(
                    whole.narrow(0, part.start, part.numel)
                )

    @property
    def applied_steps(self) -> int:
        """AdamW's step count."""
        return int(adamw_state(self._engine, self._flats[0])["step"].item())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See ``Engine``."""
        return self._engine(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """See ``Engine``."""
        self._engine.backward(loss)
        self._gathered += 1
        if self._gathered < self._accumulation:
            self._engine.step()  # only counts the micro-batch

    def step(self, *, lr: float, limit: float = math.inf) -> StepOutcome:
        """See ``Engine``; DeepSpeed's look at the gradient norm is the step's one host sync."""
        if self._gathered != self._accumulation:
            raise RuntimeError(
                f"step after {self._gathered} backward passes, wanted {self._accumulation}"
            )
        self._gathered = 0
        set_lr(self._engine.optimizer.param_groups, lr=lr)
        with limited_norm(self._engine, limit=limit) as look:
            self._engine.step()
        assert not math.isnan(look.norm), "DeepSpeed did not ask about the norm"
        clear_gradients(self._engine)
        applied = self._engine.was_step_applied()
        if applied:
            self._ema.follow()
        return StepOutcome(applied=applied, grad_norm=look.norm)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See ``Engine``."""
        return dict(self._shapes)

    def fragments(self) -> Iterator[Fragment]:
        """See ``Engine``."""
        for partition, ema in zip(self._partitions, self._ema.tensors, strict=True):
            moments = adamw_state(self._engine, partition.flat)
            for part in partition.slices:
                yield Fragment(
                    name=part.name,
                    shape=part.shape,
                    start=part.start,
                    numel=part.numel,
                    tensors={
                        "fp32": partition.flat.data.narrow(0, part.offset, part.numel),
                        "exp_avg": moments["exp_avg"].narrow(0, part.offset, part.numel),
                        "exp_avg_sq": moments["exp_avg_sq"].narrow(0, part.offset, part.numel),
                        "ema": ema.narrow(0, part.offset, part.numel),
                    },
                )

    def load(self, reader: StateReader, *, applied_steps: int) -> None:
        """See ``Engine``."""
        for fragment in self.fragments():
            for key, tensor in fragment.tensors.items():
                tensor.copy_(
                    reader.read(key, name=fragment.name, start=fragment.start, numel=fragment.numel)
                )
        for flat in self._flats:
            adamw_state(self._engine, flat)["step"].fill_(applied_steps)
        push_masters(self._engine)

    def save_stock(self, folder: Path, *, step: int, lr: float) -> None:
        """Writes DeepSpeed's own checkpoint, tagged ``global_stepN``; collective. Without the EMA.

        Args:
            folder: what ``engine.load_checkpoint`` will be given.
            step: optimizer steps done, skipped ones too.
            lr: learning rate of the next one.
        """
        set_lr(self._engine.optimizer.param_groups, lr=lr)
        save_stock(self._engine, folder, step=step, applied_steps=self.applied_steps)

    def ema_weights(self) -> AbstractContextManager[None]:
        """See ``Engine``."""
        return self._ema.in_force()

    def gather_ema(self) -> dict[str, Tensor]:
        """See ``Engine``."""
        return collect(self.fragments(), key="ema", device=self._device)


def _config(
    *,
    stage: int,
    precision: Precision,
    accumulation: int,
    grad_clip: float | None,
    num_params: int,
) -> dict[str, Any]:
    return {
        # DeepSpeed only multiplies this out; the trainer cuts its own micro-batches.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": grad_clip or 0.0,
        "bf16": {"enabled": precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": min(BUCKET_ELEMENTS, num_params),
            "allgather_bucket_size": BUCKET_ELEMENTS,
            # True replaces torch.nn.functional.linear for the whole process.
            "memory_efficient_linear": False,
            "stage3_param_persistence_threshold": PERSISTENT_ELEMENTS,
        },
        "steps_per_print": 10**9,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device at every step
    }
