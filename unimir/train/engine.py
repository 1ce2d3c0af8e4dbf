"""DeepSpeed: the only room that knows it. Takes a module and learning rates, gives steps, whole weights and moments.

Knows no objective beyond "a module that returns a loss first", and no stage.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unimir.config import EngineConfig
from unimir.model.rows import RowTable
from unimir.train.rows import NormalizedRowSGD

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, by torch's names, beside the number of steps."""


class Engine:
    """A DeepSpeed engine over a module, AdamW with one learning rate per part; beside it, descent of row tables.

    What goes in and out (weights, moments) is whole, in fp32 and by the names of the state: what one ZeRO stage, number
    of workers or precision saved, every other loads.
    """

    def __init__(self, module: nn.Module, parts: Iterable[tuple[nn.Module, float]], config: EngineConfig) -> None:
        """`parts` are submodules with their peak learning rates; rate 0 leaves a part out of the optimizers."""
        gc.collect()  # engines of stages before are cycles, and would lie beside this one until it happens by itself
        parts = list(parts)
        self._deepspeed = _deepspeed()
        self._module = module
        self._zero, self._rounds = config.zero, config.precision == "bf16"
        groups, self._rates = _parameter_groups(parts, config.weight_decay)
        moving = {id(parameter) for group in groups for parameter in group["params"]}
        self._names = {name: p for name, p in module.named_parameters() if id(p) in moving}
        exact = {name: p.detach().float().cpu().clone() for name, p in module.named_parameters() if self._rounds}
        tables = {f"{name}.weight": one for name, one in module.named_modules() if isinstance(one, RowTable)}
        self._tables = {name: one.weight.detach().float() for name, one in tables.items()}
        optimizer = torch.optim.AdamW(groups, betas=config.betas, eps=1e-8, fused=True)
        self._engine, *_ = self._deepspeed.initialize(
            model=module, optimizer=optimizer, config=_settings(config), dist_init_required=False
        )
        self.device = torch.device(self._engine.device)
        self._create_moments()
        self._rows = self._row_optimizer(parts, tables)
        # DeepSpeed rounds the module first and then makes its fp32 weights of that; what is frozen stays rounded.
        self._frozen = {name: value for name, value in exact.items() if name not in self._names}
        with torch.no_grad():
            for name in self._names if exact else ():
                self._put(self._names[name], exact[name], None)

    def step(self, batch: Any, rate_factor: float) -> Mapping[str, Tensor]:
        """One optimizer step at this share of the peak learning rates; returns the batch's losses, detached."""
        for group, rate in zip(self._engine.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * rate_factor
        loss, losses = self._engine(batch)
        self._engine.backward(loss)
        self._engine.step()
        self._rows.step(rate_factor)
        if self._zero == 3:
            # DeepSpeed overwrites a gradient where there is a new one: a part that the next task does not use would
            # move by this step's again.
            self._engine.optimizer.grad_partitions_flat_buffer.zero_()
        return {"loss": loss.detach(), **losses}

    def evaluate(self, batch: Any) -> Tensor:
        """The batch's loss, without a step. Collective, as a step is."""
        with _evaluating(self._module), torch.no_grad():
            loss: Tensor = self._engine(batch)[0]
        return loss

    def weights(self) -> dict[str, Tensor]:
        """The module's whole state on the CPU, weights in fp32. Collective: all workers call it, and get it.

        ValueError, on all of them, if a step has made something of it infinite or no number: nothing goes on from that.
        """
        whole = {}
        for name, value in self._module.state_dict(keep_vars=True).items():
            if self._rounds and name in self._names:
                whole[name] = self._deepspeed.utils.safe_get_full_fp32_param(value).cpu().clone()
                continue
            if not isinstance(value, nn.Parameter) and name not in self._tables and dist.get_world_size() > 1:
                dist.broadcast(value, 0)  # each worker has running statistics of its own share
            with self._gathered(value):
                kept = value.detach().float() if value.is_floating_point() else value
                whole[name] = self._frozen[name] if name in self._frozen else kept.cpu().clone()
        for name, value in whole.items():
            if not math.isfinite(float(value.sum())):
                raise ValueError(f"{name} is not finite after the last step; it is not saved (are rates too high?)")
        return whole

    def moments(self) -> dict[str, Tensor]:
        """AdamW's moments of all that it moves, on the CPU, as `exp_avg/NAME`. Collective, as `weights`."""
        whole = {}
        for name, parameter in self._names.items():
            for key in MOMENTS:
                whole[f"{key}/{name}"] = self._moment(parameter, key).float().cpu().clone()
        return whole

    @torch.no_grad()
    def resume(self, moments: Mapping[str, Tensor], step: int) -> None:
        """Goes on as an engine that has made `step` steps to these moments. ValueError if one is missing."""
        missing = [name for name in self._names if f"{MOMENTS[0]}/{name}" not in moments]
        if missing:
            raise ValueError(f"the checkpoint has no moments of {missing[0]}: it is of another stage")
        for state in self._inner().state.values():
            state["step"].fill_(step)
        for name, parameter in self._names.items():
            for key in MOMENTS:
                self._put(parameter, moments[f"{key}/{name}"], key)

    def close(self) -> None:
        """Lets go of what the engine holds. The module stays as ZeRO cut and rounded it: a next stage makes its own."""
        from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK
        from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

        self._engine.destroy()
        # A list and a cached method, both of the process: ZeRO 3 would keep every stage's weights and moments by them.
        FWD_MODULE_STACK.clear()
        for method in vars(PartitionedParameterCoordinator).values():
            for cell in getattr(method, "__closure__", None) or ():
                if hasattr(cell.cell_contents, "cache_clear"):
                    cell.cell_contents.cache_clear()
        del self._engine, self._module

    def _row_optimizer(
        self, parts: Iterable[tuple[nn.Module, float]], tables: Mapping[str, RowTable]
    ) -> NormalizedRowSGD:
        """Gives every table its fp32 back, which DeepSpeed has rounded with the module, and steps those with a rate.

        As new tensors, for a stage before may have trained what this one holds still.
        """
        rates = {id(one): rate for part, rate in parts for one in part.modules()}
        for name, one in tables.items():
            one.weight = self._tables[name] = self._tables[name].to(self.device)
            if dist.get_world_size() > 1:
                dist.broadcast(one.weight, 0)
        return NormalizedRowSGD((one, rates[id(one)]) for one in tables.values() if rates.get(id(one), 0.0) > 0)

    def _gathered(self, value: Tensor) -> contextlib.AbstractContextManager[Any]:
        if isinstance(value, nn.Parameter) and hasattr(value, "ds_id"):
            found: contextlib.AbstractContextManager[Any] = self._deepspeed.zero.GatheredParameters([value])
            return found
        return contextlib.nullcontext()

    def _inner(self) -> Any:
        """The AdamW that steps: over the parameters themselves, or over this worker's flat parts of them."""
        return self._engine.optimizer.optimizer if self._zero else self._engine.optimizer

    def _create_moments(self) -> None:
        """What AdamW makes in its first step, made now, so that moments can be loaded before it."""
        optimizer, inner = self._engine.optimizer, self._inner()
        flat: Iterable[Tensor] = self._names.values()
        if self._zero:
            name = "fp32_partitioned_groups_flat" if self._zero == 3 else "single_partition_of_fp32_groups"
            flat = getattr(optimizer, name)
        for tensor in flat:
            state = {key: torch.zeros_like(tensor, requires_grad=False) for key in MOMENTS}
            inner.state[tensor] = {"step": torch.zeros((), dtype=torch.float32, device=tensor.device), **state}
        if self._zero in (1, 2):
            # DeepSpeed ties parameters to these after its first step of the first group, when others have none yet.
            optimizer._lazy_init_hp_params_optimizer_state()

    def _moment(self, parameter: nn.Parameter, key: str) -> Tensor:
        found: Tensor
        if not self._zero:
            found = self._inner().state[parameter][key]
        else:
            found = self._deepspeed.utils.safe_get_full_optimizer_state(parameter, key)
        return found

    def _put(self, parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
        """Sets a moment, or (key None) the optimizer's fp32 weights, from a whole tensor."""
        utils = self._deepspeed.utils
        value = value.to(self.device)
        if not self._zero:
            self._inner().state[parameter][key].copy_(value)
        elif self._zero == 3:
            # Not DeepSpeed's own setter, which fails where a parameter does not divide by the number of workers.
            own = (
                utils.safe_get_local_fp32_param(parameter)
                if key is None
                else utils.safe_get_local_optimizer_state(parameter, key)
            )
            start = dist.get_rank() * own.numel()
            part = value.flatten()[start : start + own.numel()]
            own.view(-1)[: len(part)].copy_(part)
        elif key is None:
            utils.safe_set_full_fp32_param(parameter, value)
        else:
            utils.safe_set_full_optimizer_state(parameter, value, key)


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards every part in the mode it had."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _deepspeed() -> Any:
    # Its autotuner, which nothing here calls, imports MLflow where that is installed: two seconds of a worker's start.
    hidden = sys.modules.setdefault("mlflow", None) is None  # type: ignore[arg-type]
    try:
        import deepspeed
    finally:
        if hidden:
            del sys.modules["mlflow"]
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
