"""Losses of all tasks in one module, so that one engine wraps model and temperatures alike.

Knows batches as tensors; knows neither their order, nor the optimizer, nor a stage's name. Suffixes as in model/, with
N for the rows of all workers together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from unimir.model.tokens import TokenBatch
from unimir.model.unimir import TextFeatures, UniMIR

Scale = Literal["text", "image", "query"]
"""Text against text, text against pictures, fused queries against either: each has a temperature of its own."""

_MAX_SCALE = math.log(100.0)  # as in CLIP (arXiv 2103.00020)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """This worker's share of one global batch, all of one task.

    Every row has a text; a contrastive row also has a counterpart, which is a picture (`picture_of_B` >= 0 names a
    row of `pixels`) or the next row of `documents`. `sizes` are the rows of every worker, in order of rank.
    """

    losses: Mapping[str, float]
    sizes: Sequence[int]
    texts: TokenBatch
    groups_B: Tensor  # int64 hash: rows of one group are never each other's negatives
    texts_B: Tensor  # int64 hash of language-independent text: nor are rows of equal text
    scale: Scale = "text"  # the temperature of the plain texts; of the task, so that all workers take the same
    documents: TokenBatch | None = None
    pixels: Tensor | None = None
    picture_of_B: Tensor | None = None
    sets_B: Tensor | None = None
    intents_B: Tensor | None = None
    tags_T: Tensor | None = None


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


def contrastive(a_ND: Tensor, b_ND: Tensor, same_NN: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE (arXiv 1807.03748, 2103.00020): row i of one side against all rows of the other.

    Pairs that `same_NN` marks, other than i with i, are left out of the softmax: they are the same thing.
    """
    logits_NN = scale * a_ND @ b_ND.T
    identity_NN = torch.eye(len(a_ND), dtype=torch.bool, device=a_ND.device)
    logits_NN = logits_NN.masked_fill(same_NN & ~identity_NN, float("-inf"))
    targets_N = torch.arange(len(a_ND), device=a_ND.device)
    return (cross_entropy(logits_NN, targets_N) + cross_entropy(logits_NN.T, targets_N)) / 2


class Objective(nn.Module):
    """The model together with all its losses: one batch in, one loss out."""

    groups_K: Tensor

    def __init__(self, model: UniMIR, groups_K: Tensor | None = None) -> None:
        """`groups_K` are the groups, int64 and sorted, that the proxy loss gives a vector of their own."""
        super().__init__()
        self.model = model
        self.register_buffer("groups_K", torch.empty(0) if groups_K is None else groups_K, persistent=False)
        self.proxies = None if groups_K is None else nn.Embedding(len(groups_K), model.config.dim)
        # One element each, not scalars: DeepSpeed views parameters as bytes, which a scalar has no dimension for.
        self.log_scales = nn.ParameterDict(
            {name: nn.Parameter(torch.full((1,), math.log(1 / 0.07))) for name in get_args(Scale)}
        )
        self._anchor: Callable[[TokenBatch], Tensor] | None = None

    def set_anchor(self) -> None:
        """Keeps today's text tower, frozen, as the anchor against forgetting."""
        anchor = deepcopy(self.model.text).requires_grad_(False).eval()
        # A closure, so that its weights are neither parameters nor state of this module.
        self._anchor = lambda tokens: anchor(tokens).z_BD

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the batch's losses, and each loss of the global batch (detached)."""
        wanted = {name for name, weight in batch.losses.items() if weight}
        features = self.model.encode_text(batch.texts, understand=bool(wanted & {"fused", "intent", "slots"}))
        losses: dict[str, Tensor] = {}
        pairs_BD = self._counterparts(batch) if batch.pixels is not None or batch.documents is not None else None
        if wanted & {"contrastive", "fused"}:
            assert pairs_BD is not None
            losses.update(self._retrieval(batch, features, pairs_BD, wanted))
        if "proxy" in wanted:
            losses["proxy"] = self._proxy(batch, features.z_BD, pairs_BD)
        if wanted & {"intent", "slots"}:
            losses.update(self._understanding(batch, features))
        if "anchor" in wanted and self._anchor is not None:
            with torch.no_grad():
                anchored_BD = self._anchor(batch.texts)
            losses["anchor"] = self._mean_over_workers(1 - (anchored_BD * features.z_BD).sum(-1), batch.sizes)
        total = torch.stack([batch.losses[name] * loss for name, loss in losses.items() if name in wanted]).sum()
        return total, {name: loss.detach() for name, loss in losses.items()}

    def _retrieval(self, batch: Batch, features: TextFeatures, pairs_BD: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        """The texts, plain and fused, against the same counterparts."""
        b_ND = gather(pairs_BD, batch.sizes)
        groups_N, texts_N = gather(batch.groups_B, batch.sizes), gather(batch.texts_B, batch.sizes)
        same_NN = (groups_N[:, None] == groups_N) | (texts_N[:, None] == texts_N)
        losses = {}
        if "contrastive" in wanted:
            plain_ND = gather(features.z_BD, batch.sizes)
            losses["contrastive"] = self._contrastive(plain_ND, b_ND, same_NN, self.log_scales[batch.scale])
        if "fused" in wanted:
            fused_ND = gather(self.model.fuse(features, batch.texts), batch.sizes)
            losses["fused"] = self._contrastive(fused_ND, b_ND, same_NN, self.log_scales["query"])
        return losses

    def _proxy(self, batch: Batch, z_BD: Tensor, pairs_BD: Tensor | None) -> Tensor:
        """Texts and their counterparts against one learned vector for every group (Proxy-NCA, arXiv 1703.07464).

        What a batch sees of a group is a sample; the proxy remembers all its texts, so that rare words are learned
        from few examples. As in normalised softmax, with the temperature of the contrastive loss.
        """
        assert self.proxies is not None
        scale = self.log_scales[batch.scale].clamp(max=_MAX_SCALE).exp()
        targets_B = torch.searchsorted(self.groups_K, batch.groups_B)
        sides = [z_BD] if pairs_BD is None else [z_BD, pairs_BD]
        losses = []
        for width in (self.model.config.dim, *self.model.config.prefixes):
            proxies_Kd = normalize(self.proxies.weight[:, :width], dim=-1)
            for side_BD in sides:
                logits_BK = scale * normalize(side_BD[:, :width], dim=-1) @ proxies_Kd.T
                losses.append(cross_entropy(logits_BK, targets_B, reduction="none"))
        return self._mean_over_workers(torch.stack(losses).mean(0), batch.sizes)

    def _contrastive(self, a_ND: Tensor, b_ND: Tensor, same_NN: Tensor, log_scale: Tensor) -> Tensor:
        """Contrastive loss, mean over the whole vector and its Matryoshka prefixes (arXiv 2205.13147)."""
        scale = log_scale.clamp(max=_MAX_SCALE).exp()
        losses = [contrastive(a_ND, b_ND, same_NN, scale)]
        for prefix in self.model.config.prefixes:
            a_Nd, b_Nd = normalize(a_ND[:, :prefix], dim=-1), normalize(b_ND[:, :prefix], dim=-1)
            losses.append(contrastive(a_Nd, b_Nd, same_NN, scale))
        return torch.stack(losses).mean()

    def _counterparts(self, batch: Batch) -> Tensor:
        parts = []
        if batch.pixels is not None:
            assert batch.picture_of_B is not None
            parts.append(self.model.encode_image(batch.pixels)[batch.picture_of_B[batch.picture_of_B >= 0]])
        if batch.documents is not None:
            parts.append(self.model.encode_text(batch.documents).z_BD)
        if len(parts) == 1:
            return parts[0]
        assert batch.picture_of_B is not None
        is_text_B = batch.picture_of_B < 0
        return torch.cat(parts)[is_text_B.long().argsort(stable=True).argsort()]

    def _understanding(self, batch: Batch, features: TextFeatures) -> dict[str, Tensor]:
        assert batch.sets_B is not None and batch.intents_B is not None and batch.tags_T is not None
        assert features.understood is not None
        rows_T = batch.texts.rows_T
        intent_BI, tag_TG = self.model.nlu.within_sets(
            features.understood.intent_BI, features.understood.tag_TG, batch.sets_B, rows_T
        )
        intent_B = cross_entropy(intent_BI, batch.intents_B, reduction="none")
        tag_T = cross_entropy(tag_TG, batch.tags_T, reduction="none")
        # Each text counts alike, however long.
        slots_B = tag_T.new_zeros(len(intent_B)).index_add(0, rows_T, tag_T) / batch.texts.lengths_B
        return {
            "intent": self._mean_over_workers(intent_B, batch.sizes),
            "slots": self._mean_over_workers(slots_B, batch.sizes),
        }

    @staticmethod
    def _mean_over_workers(values_B: Tensor, sizes: Sequence[int]) -> Tensor:
        """This worker's part of the mean over the global batch, such that the average over workers is that mean."""
        return values_B.sum() * (len(sizes) / sum(sizes))
