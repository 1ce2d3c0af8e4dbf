"""What a stage moves: learning rates per part as data, and the schedule. Knows neither loss nor engine."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn

from unimir.config import Stage
from unimir.train.losses import Objective

REACHED = {
    "contrastive": {"text", "ngrams", "image", "scale"},
    "fused": {"text", "ngrams", "image", "nlu", "fusion", "scale"},
    "proxy": {"text", "ngrams", "image", "proxies", "scale"},
    "intent": {"text", "ngrams", "nlu"},
    "slots": {"text", "ngrams", "nlu"},
    "anchor": {"text", "ngrams"},
    "distill": {"text", "ngrams", "pupil"},
}
"""Parts that a loss has a gradient for; `image` where texts are held against pictures."""


def parts(objective: Objective) -> Iterator[tuple[str, nn.Module]]:
    """Every parameter and table once: the model's parts, proxies, the map to a teacher's space, temperatures."""
    yield from objective.model.parts()
    if objective.proxies is not None:
        yield "proxies", objective.proxies
    if objective.pupil is not None:
        yield "pupil", objective.pupil
    yield "scale", objective.log_scales


def rate_of(part: str, stage: Stage) -> float:
    """The peak learning rate of a part; temperatures move, if not said otherwise, with the fastest part that AdamW
    steps, and only where something is contrasted; the map to a teacher's space moves with the text tower."""
    if part == "scale":
        contrastive = any(task.losses.get(n) for task in stage.tasks for n in ("contrastive", "fused", "proxy"))
        fastest = max((rate for part, rate in stage.rates.items() if part != "ngrams"), default=0.0)
        return stage.rates.get("scale", fastest) if contrastive else 0.0
    if part == "pupil":
        return stage.rates.get("text", 0.0) if any(task.losses.get("distill") for task in stage.tasks) else 0.0
    return stage.rates.get(part, 0.0)


def freeze(objective: Objective, stage: Stage) -> None:
    """Parts of rate 0 take no gradient and drop nothing out: they stay bit-identical, and so do their outputs."""
    for part, module in parts(objective):
        moves = rate_of(part, stage) > 0
        module.requires_grad_(moves).train(moves)


def rate_factor(step: int, stage: Stage) -> float:
    """Share of the peak rate at a step: linear warm-up, then half a cosine down to a twentieth."""
    if step < stage.warmup_steps:
        return (step + 1) / stage.warmup_steps
    progress = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    return 0.05 + 0.95 * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def anchored(stage: Stage) -> bool:
    """Whether its texts are held to what the first stage has made of them."""
    return any(task.losses.get("anchor") for task in stage.tasks)
