"""One worker's share of a batch as tensors, and the rows of all workers' shares together.

Knows no loss and no plan. Suffixes as in model/, with N for the rows of all workers together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from unimir.model.tokens import TokenBatch

Scale = Literal["text", "image", "query"]
"""Text against text, text against pictures, fused queries against either: each has a temperature of its own."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """This worker's share of one global batch, all of one task.

    Every row has a text; a contrastive row also has a counterpart, which is a picture (`picture_of_B` >= 0 names one of
    the batch's pictures) or the next row of `documents`. `sizes` are the rows of every worker, in order of rank.
    """

    losses: Mapping[str, float]
    sizes: Sequence[int]
    texts: TokenBatch
    groups_B: Tensor  # int64 hash: rows of one group are never each other's negatives
    texts_B: Tensor  # int64 hash of language-independent text: nor are rows of equal text
    answers_B: Tensor | None = None  # int64 hash of the counterpart: nor are rows that have the same one
    rows_B: Tensor | None = None  # int64, the examples' numbers in their task
    scale: Scale = "text"  # the temperature of the plain texts; of the task, so that all workers take the same
    cached: bool = False  # whether activations are computed again instead of kept
    documents: TokenBatch | None = None
    hard: TokenBatch | None = None  # mined documents, equally many for every row
    hard_groups_M: Tensor | None = None  # of the rows they are from, as are the next
    hard_texts_M: Tensor | None = None
    hard_answers_M: Tensor | None = None
    pixels: Tensor | None = None
    picture_of_B: Tensor | None = None
    kept_P: Tensor | None = None  # of a frozen image tower: the batch's pictures by row of the image table,
    fresh_F: Tensor | None = None  # and those among them that come with pixels, for the first time
    sets_B: Tensor | None = None
    intents_B: Tensor | None = None
    tags_T: Tensor | None = None
    teacher_BV: Tensor | None = None  # the teacher's unit vectors of the texts

    @property
    def keys_B3(self) -> Tensor:
        """Group, text and counterpart of every row: rows with any of them in common are never negatives."""
        answers_B = self.groups_B if self.answers_B is None else self.answers_B
        return torch.stack([self.groups_B, self.texts_B, answers_B], dim=1)

    @property
    def hard_keys_M3(self) -> Tensor:
        """The same of the rows that the mined documents are from."""
        assert self.hard_groups_M is not None and self.hard_texts_M is not None
        answers_M = self.hard_groups_M if self.hard_answers_M is None else self.hard_answers_M
        return torch.stack([self.hard_groups_M, self.hard_texts_M, answers_M], dim=1)

    @property
    def has_counterparts(self) -> bool:
        """Whether the texts are held against something."""
        return self.picture_of_B is not None or self.documents is not None

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same batch in page-locked memory, from which a GPU copies while it computes."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                changed[name] = change(value)
            elif isinstance(value, TokenBatch):
                changed[name] = value.each(change)
        return replace(self, **changed)


class _GatherOwn(torch.autograd.Function):
    """All workers' rows; the gradient flows to this worker's own rows only, times the number of workers.

    Every worker evaluates the same global loss, so its own rows' gradient is already complete; the engine then
    averages over workers, which the factor undoes.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        rank = dist.get_rank()
        ctx.start, ctx.size, ctx.workers = sum(sizes[:rank]), sizes[rank], len(sizes)  # type: ignore[attr-defined]
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        start, size, workers = ctx.start, ctx.size, ctx.workers  # type: ignore[attr-defined]
        return grad[start : start + size] * workers, None


def gather(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Rows of all workers [N, ...] in order of rank, differentiable in this worker's own."""
    if len(sizes) == 1:
        return rows
    return _GatherOwn.apply(rows, sizes)  # type: ignore[no-any-return, no-untyped-call]


def most(count: int, device: torch.device) -> int:
    """The largest of all workers' counts."""
    found = torch.tensor(count, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found)
