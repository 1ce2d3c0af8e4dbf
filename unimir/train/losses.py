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
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, normalize
from torch.utils.checkpoint import checkpoint

from unimir.model.tokens import TokenBatch
from unimir.model.unimir import TextFeatures, UniMIR
from unimir.train.shares import Batch, Scale, gather

_MAX_LOG_SCALE = math.log(100.0)  # as in CLIP (arXiv 2103.00020)


def bounded(log_scale: Tensor) -> Tensor:
    """What logits are multiplied with, at most 100.

    Beyond that only a gradient that leads back is let through: a scale that is merely clamped has none, and stays where
    one long step has carried it.
    """
    over = (log_scale.detach() - _MAX_LOG_SCALE).clamp(min=0)
    within = log_scale - over
    if within.requires_grad:
        within.register_hook(lambda gradient: gradient.masked_fill((over > 0) & (gradient < 0), 0.0))
    return within.exp()


def contrastive(
    a_ND: Tensor,
    b_ND: Tensor,
    same_NN: Tensor,
    scale: Tensor,
    hard_MD: Tensor | None = None,
    same_NM: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE (arXiv 1807.03748, 2103.00020): row i of one side against all rows of the other, in fp32.

    Pairs that `same_NN` marks, other than i with i, are left out of the softmax: they are the same thing. Side a is
    also held against `hard_MD`, but where `same_NM` marks the same thing.
    """
    a_ND, b_ND = scale * a_ND.float(), b_ND.float()
    identity_NN = torch.eye(len(a_ND), dtype=torch.bool, device=a_ND.device)
    logits_NN = (a_ND @ b_ND.T).masked_fill(same_NN & ~identity_NN, float("-inf"))
    targets_N = torch.arange(len(a_ND), device=a_ND.device)
    back = cross_entropy(logits_NN.T, targets_N)
    if hard_MD is not None and same_NM is not None:
        logits_NM = (a_ND @ hard_MD.float().T).masked_fill(same_NM, float("-inf"))
        logits_NN = torch.cat([logits_NN, logits_NM], dim=1)
    return (cross_entropy(logits_NN, targets_N) + back) / 2


def _alike(a_N3: Tensor, b_M3: Tensor) -> Tensor:
    """Which rows have a key in common [N, M]; one key at a time, for all three at once would take more memory."""
    alike_NM = torch.zeros(len(a_N3), len(b_M3), dtype=torch.bool, device=a_N3.device)
    for a_N, b_M in zip(a_N3.T, b_M3.T, strict=True):
        alike_NM |= a_N[:, None] == b_M
    return alike_NM


@dataclass(frozen=True)
class Taught:
    """What the loss `distill` measures: the teacher's dimensions, and the distance between unit vectors."""

    dim: int
    distance: Literal["cosine", "mse"]


class Objective(nn.Module):
    """The model together with all its losses: one batch in, one loss out."""

    groups_K: Tensor

    def __init__(self, model: UniMIR, groups_K: Tensor | None = None, taught: Taught | None = None) -> None:
        """`groups_K` are the groups, int64 and sorted, that the proxy loss gives a vector of their own."""
        super().__init__()
        self.model = model
        self.register_buffer("groups_K", torch.empty(0) if groups_K is None else groups_K, persistent=False)
        self.proxies = None if groups_K is None else nn.Embedding(len(groups_K), model.config.dim)
        self.taught = taught
        self.pupil = None if taught is None else nn.Linear(model.config.dim, taught.dim, bias=False)
        # One element each, not scalars: DeepSpeed views parameters as bytes, which a scalar has no dimension for.
        self.log_scales = nn.ParameterDict(
            {name: nn.Parameter(torch.full((1,), math.log(1 / 0.07))) for name in get_args(Scale)}
        )
        # A closure and a list, so that their tensors are neither parameters nor state of this module.
        self._anchor: Callable[[TokenBatch], Tensor] | None = None
        self._pictures: list[Tensor] = []

    def set_anchor(self, weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
        """Keeps a text tower of these very weights, frozen, as the anchor against forgetting.

        They are taken, not copied, where they are on the model's device: a table of n-grams can be half a gigabyte.
        `dtype` is that of the parameters, tables aside: the engine, which rounds the model, does not see the anchor.
        """
        tower = self.model.text
        weights = {name: value.to(self.log_scales["text"].device) for name, value in weights.items()}
        tables = {id(value): weights[name] for name, value in tower.named_buffers() if name in weights}
        anchor = deepcopy(tower, tables)  # but for the tables, which would be copied only to be replaced
        anchor.load_state_dict(weights, assign=True)
        anchor.requires_grad_(False).eval()
        for parameter in anchor.parameters():
            parameter.data = parameter.data.to(dtype)
        self._anchor = lambda tokens: anchor(tokens).z_BD

    def keep_pictures(self, count: int) -> None:
        """Room for the vectors of so many pictures of a frozen image tower, each encoded once (`Batch.kept_P`)."""
        scale = self.log_scales["image"]
        self._pictures = [torch.zeros(count, self.model.config.dim, device=scale.device)]

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the batch's losses, and each loss of the global batch (detached)."""
        wanted = {name for name, weight in batch.losses.items() if weight}
        understand = bool(wanted & {"fused", "intent", "slots"})
        features = self.model.encode_text(batch.texts, understand=understand, cached=batch.cached)
        losses: dict[str, Tensor] = {}
        pairs_BD = self._counterparts(batch) if batch.has_counterparts else None
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
            cosine_B = (anchored_BD.float() * features.z_BD.float()).sum(-1)
            losses["anchor"] = self._mean_over_workers(1 - cosine_B, batch.sizes)
        if "distill" in wanted:
            losses["distill"] = self._distill(batch, features.z_BD)
        total = torch.stack([batch.losses[name] * loss for name, loss in losses.items() if name in wanted]).sum()
        return total, {name: loss.detach() for name, loss in losses.items()}

    def _retrieval(self, batch: Batch, features: TextFeatures, pairs_BD: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        """The texts, plain and fused, against the same counterparts."""
        b_ND = gather(pairs_BD, batch.sizes)
        keys_N3 = gather(batch.keys_B3, batch.sizes)
        same_NN = _alike(keys_N3, keys_N3)
        hard_MD, same_NM = None, None
        if batch.hard is not None:
            hard_keys_M3 = batch.hard_keys_M3
            sizes = [size * len(hard_keys_M3) // len(batch.groups_B) for size in batch.sizes]
            hard_MD = gather(self.model.encode_text(batch.hard, cached=batch.cached).z_BD, sizes)
            # What answers the same query in another row, or is the row's own answer there, is no wrong answer here.
            same_NM = _alike(keys_N3, gather(hard_keys_M3, sizes))

        def against(a_BD: Tensor, log_scale: Tensor) -> Tensor:
            a_ND = gather(a_BD, batch.sizes)
            if not batch.cached:
                return self._contrastive(a_ND, b_ND, same_NN, log_scale, hard_MD, same_NM)
            inputs = (a_ND, b_ND, same_NN, log_scale, hard_MD, same_NM)
            return checkpoint(self._contrastive, *inputs, use_reentrant=False)  # type: ignore[no-any-return]

        losses = {}
        if "contrastive" in wanted:
            losses["contrastive"] = against(features.z_BD, self.log_scales[batch.scale])
        if "fused" in wanted:
            losses["fused"] = against(self.model.fuse(features, batch.texts), self.log_scales["query"])
        return losses

    def _proxy(self, batch: Batch, z_BD: Tensor, pairs_BD: Tensor | None) -> Tensor:
        """Texts and their counterparts against one learned vector for every group (Proxy-NCA, arXiv 1703.07464).

        What a batch sees of a group is a sample; the proxy remembers all its texts, so that rare words are learned
        from few examples. As in normalised softmax, with the temperature of the contrastive loss.
        """
        assert self.proxies is not None
        scale = bounded(self.log_scales[batch.scale]).float()  # a bf16 logit near 100 is known to half a unit
        targets_B = torch.searchsorted(self.groups_K, batch.groups_B)
        sides = [z_BD] if pairs_BD is None else [z_BD, pairs_BD]
        losses = []
        for width in (self.model.config.dim, *self.model.config.prefixes):
            proxies_Kd = normalize(self.proxies.weight[:, :width].float(), dim=-1)
            for side_BD in sides:
                logits_BK = scale * normalize(side_BD[:, :width].float(), dim=-1) @ proxies_Kd.T
                losses.append(cross_entropy(logits_BK, targets_B, reduction="none"))
        return self._mean_over_workers(torch.stack(losses).mean(0), batch.sizes)

    def _distill(self, batch: Batch, z_BD: Tensor) -> Tensor:
        """Distance of the texts' vectors, mapped to the teacher's space, to the teacher's (arXiv 2004.09813)."""
        assert self.taught is not None and self.pupil is not None and batch.teacher_BV is not None
        pupil_BV = normalize(self.pupil(z_BD).float(), dim=-1)
        if self.taught.distance == "cosine":
            return self._mean_over_workers(1 - (pupil_BV * batch.teacher_BV).sum(-1), batch.sizes)
        return self._mean_over_workers(mse_loss(pupil_BV, batch.teacher_BV, reduction="none").mean(-1), batch.sizes)

    def _contrastive(
        self,
        a_ND: Tensor,
        b_ND: Tensor,
        same_NN: Tensor,
        log_scale: Tensor,
        hard_MD: Tensor | None,
        same_NM: Tensor | None,
    ) -> Tensor:
        """Contrastive loss, mean over the whole vector and its Matryoshka prefixes (arXiv 2205.13147)."""
        scale = bounded(log_scale)
        losses = [contrastive(a_ND, b_ND, same_NN, scale, hard_MD, same_NM)]
        for prefix in self.model.config.prefixes:
            a_Nd, b_Nd = normalize(a_ND[:, :prefix], dim=-1), normalize(b_ND[:, :prefix], dim=-1)
            hard_Md = None if hard_MD is None else normalize(hard_MD[:, :prefix], dim=-1)
            losses.append(contrastive(a_Nd, b_Nd, same_NN, scale, hard_Md, same_NM))
        return torch.stack(losses).mean()

    def _counterparts(self, batch: Batch) -> Tensor:
        parts = []
        if batch.pixels is not None or batch.kept_P is not None:
            assert batch.picture_of_B is not None
            parts.append(self._encode_pictures(batch)[batch.picture_of_B[batch.picture_of_B >= 0]])
        if batch.documents is not None:
            parts.append(self.model.encode_text(batch.documents, cached=batch.cached).z_BD)
        if len(parts) == 1:
            return parts[0]
        assert batch.picture_of_B is not None
        is_text_B = batch.picture_of_B < 0
        return torch.cat(parts)[is_text_B.long().argsort(stable=True).argsort()]

    def _encode_pictures(self, batch: Batch) -> Tensor:
        """Vectors of the batch's pictures; those of a frozen tower are computed once and kept."""
        if batch.kept_P is None:
            assert batch.pixels is not None
            return self.model.encode_image(batch.pixels, cached=batch.cached)
        (kept_ID,) = self._pictures
        if batch.pixels is not None and batch.fresh_F is not None:
            with torch.no_grad():
                kept_ID[batch.fresh_F] = self.model.encode_image(batch.pixels, cached=batch.cached).to(kept_ID.dtype)
        return kept_ID[batch.kept_P].to(self.log_scales["image"].dtype)  # documents, and other workers, have that

    def _understanding(self, batch: Batch, features: TextFeatures) -> dict[str, Tensor]:
        assert batch.sets_B is not None and batch.intents_B is not None and batch.tags_T is not None
        assert features.understood is not None
        rows_T = batch.texts.rows_T
        intent_BI, tag_TG = self.model.nlu.within_sets(
            features.understood.intent_BI, features.understood.tag_TG, batch.sets_B, rows_T
        )
        intent_B = cross_entropy(intent_BI.float(), batch.intents_B, reduction="none")
        tag_T = cross_entropy(tag_TG.float(), batch.tags_T, reduction="none")
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
