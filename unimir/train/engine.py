"""DeepSpeed: the only room that knows it. Takes a module and learning rates, gives steps and whole weights.

Knows no objective beyond "a module that returns a loss first", and no stage.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unimir.config import EngineConfig


class Engine:
    """A DeepSpeed engine over a module, AdamW with one learning rate per part."""

    def __init__(self, module: nn.Module, parts: Iterable[tuple[nn.Module, float]], config: EngineConfig) -> None:
        """`parts` are submodules with their peak learning rates; rate 0 leaves a part out of the optimizer."""
        deepspeed = _deepspeed()
        self._module = module
        groups, self._rates = _parameter_groups(parts, config.weight_decay)
        optimizer = torch.optim.AdamW(groups, betas=config.betas, eps=1e-8, fused=True)
        self._engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=_settings(config), dist_init_required=False
        )
        self.device = torch.device(self._engine.device)

    def step(self, batch: Any, rate_factor: float) -> Mapping[str, Tensor]:
        """One optimizer step at this share of the peak learning rates; returns the batch's losses, detached."""
        for group, rate in zip(self._engine.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * rate_factor
        loss, losses = self._engine(batch)
        self._engine.backward(loss)
        self._engine.step()
        return {"loss": loss.detach(), **losses}

    def weights(self) -> dict[str, Tensor]:
        """Whole fp32 weights of the module on the CPU. Collective: every worker calls it, every worker gets them."""
        zero = _deepspeed().zero
        gathered = {}
        for name, value in self._module.state_dict(keep_vars=True).items():
            sharded = isinstance(value, nn.Parameter) and hasattr(value, "ds_id")
            with zero.GatheredParameters([value]) if sharded else contextlib.nullcontext():
                gathered[name] = value.detach().float().cpu().clone()
        return gathered

    def close(self) -> None:
        """Removes the engine's hooks from the module, so that the next stage can wrap it afresh."""
        self._engine.destroy()


def _deepspeed() -> Any:
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # The shared-memory all-reduce would be compiled at first use (a compiler, ninja and 55 s); gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _parameter_groups(
    parts: Iterable[tuple[nn.Module, float]], weight_decay: float
) -> tuple[list[dict[str, Any]], list[float]]:
    """Per part, matrices with weight decay and vectors (biases, norms, temperatures) without."""
    groups: list[dict[str, Any]] = []
    rates = []
    for module, rate in parts:
        parameters = [p for p in module.parameters() if p.requires_grad]
        for chosen, decay in (
            ([p for p in parameters if p.ndim > 1], weight_decay),
            ([p for p in parameters if p.ndim <= 1], 0.0),
        ):
            if rate > 0 and chosen:
                groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
                rates.append(rate)
    return groups, rates


def _settings(config: EngineConfig) -> dict[str, Any]:
    workers = int(os.environ.get("WORLD_SIZE", "1"))
    return {
        # Batches are cut by the plan, not by DeepSpeed: these three only have to agree with each other.
        "train_batch_size": workers,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.grad_clip,
        "zero_optimization": {"stage": config.zero},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": config.precision == "bf16"},
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }
