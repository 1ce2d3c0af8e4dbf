"""NLU heads and the fusion of what they understood into the query vector.

Knows label sets as ranges of columns; knows no text, no tokenizer and no loss. Suffixes as in text_encoder, and
I intents of all label sets, G BIO tags of all label sets, S label sets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unimir.schema import LabelSet

REACH = 2
"""Neighbours on each side that the slot head sees."""
DAMPING = 0.1
"""Weight of nothing in a weighted mean of token states, so that a mean over hardly any token is near zero."""
EXCLUDED = -1e4  # logit of a label outside the row's set: exp underflows to 0, and half precision can hold it


class NluHeads(nn.Module):
    """Intent head on the pooled vector and BIO slot head on every token, over the labels of all label sets.

    The slot head sees a token's neighbours: where a span begins and ends is a local question, and a small encoder
    trained from scratch is slow to learn attention to the next token.
    """

    intent_allowed_SI: Tensor
    tag_allowed_SG: Tensor

    def __init__(self, label_sets: Sequence[LabelSet], *, hidden_size: int) -> None:
        super().__init__()
        self.intents = nn.Linear(hidden_size, sum(len(s.intents) for s in label_sets))
        self.context = nn.Linear((2 * REACH + 1) * hidden_size, hidden_size)
        self.tags = nn.Linear(hidden_size, sum(len(s.tags) for s in label_sets))
        self.intent_ranges = _ranges([len(s.intents) for s in label_sets])
        self.tag_ranges = _ranges([len(s.tags) for s in label_sets])
        self.register_buffer("intent_allowed_SI", _allowed(self.intent_ranges), persistent=False)
        self.register_buffer("tag_allowed_SG", _allowed(self.tag_ranges), persistent=False)

    def forward(self, pooled_BH: Tensor, states_TH: Tensor, rows_T: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of all label sets: intents [B, I] and tags [T, G]."""
        context_TH = nn.functional.gelu(self.context(_with_neighbours(states_TH, rows_T)))
        return self.intents(pooled_BH), self.tags(states_TH + context_TH)

    def within_sets(self, intent_BI: Tensor, tag_TG: Tensor, sets_B: Tensor, rows_T: Tensor) -> tuple[Tensor, Tensor]:
        """The logits with labels outside each row's own label set excluded."""
        intent_BI = intent_BI.masked_fill(~self.intent_allowed_SI[sets_B], EXCLUDED)
        return intent_BI, tag_TG.masked_fill(~self.tag_allowed_SG[sets_B[rows_T]], EXCLUDED)


class QueryFusion(nn.Module):
    """z_Q = norm(z_T + g * W[kept tokens; intent; slot tokens]), from the heads' soft labels in the query label set.

    W starts at zero, so fusion starts as z_T exactly. The probabilities stay soft: retrieval gradients reach the heads.
    """

    content_1G: Tensor

    def __init__(
        self, heads: NluHeads, label_sets: Sequence[LabelSet], *, query_set: int, content_slots: Sequence[str], dim: int
    ) -> None:
        super().__init__()
        hidden_size = heads.tags.in_features
        self.intent_range = heads.intent_ranges[query_set]
        self.tag_range = heads.tag_ranges[query_set]
        tags = label_sets[query_set].tags
        content = torch.tensor([float(tag[2:] in content_slots) for tag in tags])
        self.register_buffer("content_1G", content[None], persistent=False)
        self.intent_embedding = nn.Linear(len(label_sets[query_set].intents), hidden_size, bias=False)
        self.gate = nn.Linear(3 * hidden_size, 1)
        self.update = nn.Linear(3 * hidden_size, dim)
        for layer in (self.gate, self.update):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, z_BD: Tensor, states_TH: Tensor, rows_T: Tensor, intent_BI: Tensor, tag_TG: Tensor) -> Tensor:
        """Fused query vectors [B, D] of unit length, from unit vectors z_BD, token states and the heads' logits."""
        intent_BI = intent_BI[:, slice(*self.intent_range)].softmax(-1)
        tag_TG = tag_TG[:, slice(*self.tag_range)].softmax(-1)
        keep_T = (tag_TG * self.content_1G.to(tag_TG.dtype)).sum(-1)
        slot_T = 1 - tag_TG[:, 0] - keep_T
        understood_BF = torch.cat(
            [
                _weighted_mean(states_TH, keep_T, rows_T, len(z_BD)),
                self.intent_embedding(intent_BI),
                _weighted_mean(states_TH, slot_T, rows_T, len(z_BD)),
            ],
            dim=-1,
        )
        update_BD = self.gate(understood_BF).sigmoid() * self.update(understood_BF)
        return nn.functional.normalize(z_BD + update_BD, dim=-1)


def _weighted_mean(states_TH: Tensor, weights_T: Tensor, rows_T: Tensor, num_rows: int) -> Tensor:
    """Per row, the mean of its token states under the weights, damped towards zero where they sum to little."""
    sums_BH = states_TH.new_zeros(num_rows, states_TH.shape[1]).index_add(0, rows_T, weights_T[:, None] * states_TH)
    totals_B = weights_T.new_zeros(num_rows).index_add(0, rows_T, weights_T)
    return sums_BH / (totals_B + DAMPING)[:, None]


def _with_neighbours(states_TH: Tensor, rows_T: Tensor) -> Tensor:
    """[T, (2 * REACH + 1) * H]: every token's state between those of its neighbours, zero beyond its own text."""
    last = len(rows_T) - 1
    places_T = torch.arange(len(rows_T), device=rows_T.device)
    shifted = []
    for shift in range(-REACH, REACH + 1):
        beside_T = (places_T + shift).clamp(0, last)
        own_T1 = ((beside_T == places_T + shift) & (rows_T[beside_T] == rows_T))[:, None]
        shifted.append(states_TH[beside_T] * own_T1)
    return torch.cat(shifted, dim=-1)


def _ranges(sizes: Sequence[int]) -> list[tuple[int, int]]:
    stops = torch.tensor([0, *sizes]).cumsum(0).tolist()
    return list(zip(stops[:-1], stops[1:], strict=True))


def _allowed(ranges: Sequence[tuple[int, int]]) -> Tensor:
    """[S, columns] true where a column belongs to the set."""
    columns = torch.arange(ranges[-1][1])
    return torch.stack([(columns >= start) & (columns < stop) for start, stop in ranges])
