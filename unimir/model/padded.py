"""The text side of the model over padded batches, as one graph without loops over rows: what is exported.

The same arithmetic as text_encoder, ngrams and nlu do over ragged batches, with their weights. Knows no export format.
Suffixes as in tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, pad

from unimir.model.ngrams import NgramEmbedding, hashes_of
from unimir.model.nlu import DAMPING, REACH
from unimir.model.unimir import UniMIR


class PaddedText(nn.Module):
    """Text vectors [B, D], and with `understand` also query vectors [B, D], intents [B, I] and tags [B, L, G]."""

    def __init__(self, model: UniMIR, *, understand: bool) -> None:
        super().__init__()
        self.model = model
        self.understand = understand

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, ...]:
        """From token ids and a mask that is 1 for tokens and 0 for padding, both int64; padding comes last."""
        text = self.model.text
        h_BLH = text.backbone(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        mask_BL1 = mask_BL[..., None].to(h_BLH.dtype)
        counts_B1 = mask_BL1.sum(1)
        pooled_BH = h_BLH[:, 0] if text.pooling == "cls" else (h_BLH * mask_BL1).sum(1) / counts_B1
        z_BD = normalize(text.projection(pooled_BH), dim=-1)
        if text.ngrams is not None and text.widen is not None:
            grams_BLD = _grams(text.ngrams, ids_BL) * mask_BL1
            sums_BD = grams_BLD.sum(1)
            z_BD = normalize(z_BD + normalize(sums_BD, dim=-1), dim=-1)
            pooled_BH = pooled_BH + text.widen(sums_BD / counts_B1)
            h_BLH = h_BLH + text.widen(grams_BLD)
        if not self.understand:
            return (z_BD,)
        h_BLH = h_BLH * mask_BL1
        nlu = self.model.nlu
        intent_BI = nlu.intents(pooled_BH)
        tag_BLG = nlu.tags(h_BLH + gelu(nlu.context(_with_neighbours(h_BLH))))
        return z_BD, self._fused(z_BD, h_BLH, mask_BL1, intent_BI, tag_BLG), intent_BI, tag_BLG

    def _fused(self, z_BD: Tensor, h_BLH: Tensor, mask_BL1: Tensor, intent_BI: Tensor, tag_BLG: Tensor) -> Tensor:
        fusion = self.model.fusion
        intent_BI = intent_BI[:, slice(*fusion.intent_range)].softmax(-1)
        tag_BLG = tag_BLG[..., slice(*fusion.tag_range)].softmax(-1) * mask_BL1
        keep_BL = (tag_BLG * fusion.content_1G).sum(-1)
        slot_BL = mask_BL1[..., 0] - tag_BLG[..., 0] - keep_BL
        means = [_weighted_mean(h_BLH, keep_BL), fusion.intent_embedding(intent_BI), _weighted_mean(h_BLH, slot_BL)]
        understood_BF = torch.cat(means, dim=-1)
        update_BD = fusion.gate(understood_BF).sigmoid() * fusion.update(understood_BF)
        return normalize(z_BD + update_BD, dim=-1)


def _grams(ngrams: NgramEmbedding, ids_BL: Tensor) -> Tensor:
    """[B, L, D]: the sum of the n-grams that end with each token; tokens before the text count for none."""
    before = [pad(ids_BL, (back, 0))[:, : ids_BL.shape[1]] for back in range(ngrams.longest)]
    hashes_BLn = hashes_of(before)
    places_L1 = torch.arange(ids_BL.shape[1], device=ids_BL.device)[:, None]
    within_Ln = places_L1 >= torch.arange(ngrams.longest, device=ids_BL.device)
    read_BLn = within_Ln & ngrams.is_known(hashes_BLn)
    grams_BLnD: Tensor = ngrams.table(ngrams.buckets(hashes_BLn)) * read_BLn[..., None]
    return grams_BLnD.sum(-2)


def _weighted_mean(h_BLH: Tensor, weights_BL: Tensor) -> Tensor:
    return (weights_BL[..., None] * h_BLH).sum(1) / (weights_BL.sum(1) + DAMPING)[:, None]


def _with_neighbours(h_BLH: Tensor) -> Tensor:
    """[B, L, (2 * REACH + 1) * H]: every token's state between those of its neighbours, zero beyond the text."""
    padded = pad(h_BLH, (0, 0, REACH, REACH))
    length = h_BLH.shape[1]
    return torch.cat([padded[:, shift : shift + length] for shift in range(2 * REACH + 1)], dim=-1)
