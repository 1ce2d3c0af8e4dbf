"""What a stage moves: learning rates per part as data, and the schedule. Knows neither loss nor engine."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn

from unimir.config import Stage
from unimir.train.losses import Objective


def parts(objective: Objective) -> Iterator[tuple[str, nn.Module]]:
    """Every parameter of the objective once: the model's parts, the proxies and the temperatures."""
    yield from objective.model.parts()
    if objective.proxies is not None:
        yield "proxies", objective.proxies
    yield "scale", objective.log_scales


def rate_of(part: str, stage: Stage) -> float:
    """The peak learning rate of a part; temperatures move with the fastest part that is trained contrastively."""
    if part == "scale":
        contrastive = any(task.losses.get(n) for task in stage.tasks for n in ("contrastive", "fused", "proxy"))
        return max(stage.rates.values()) if contrastive else 0.0
    return stage.rates.get(part, 0.0)


def freeze(objective: Objective, stage: Stage) -> None:
    """Parts of rate 0 take no gradient, so that they stay bit-identical."""
    for part, module in parts(objective):
        module.requires_grad_(rate_of(part, stage) > 0)


def rate_factor(step: int, stage: Stage) -> float:
    """Share of the peak rate at a step: linear warm-up, then half a cosine down to a twentieth."""
    if step < stage.warmup_steps:
        return (step + 1) / stage.warmup_steps
    progress = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    return 0.05 + 0.95 * (1 + math.cos(math.pi * min(1.0, progress))) / 2
