"""Hashed n-grams of tokens: the part of the text tower that learns words by heart. Knows no tokenizer and no loss.

Suffixes as in text_encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unimir.model.rows import RowTable
from unimir.model.tokens import TokenBatch

_PRIME = 2**31 - 1  # products below stay within int64


class NgramEmbedding(nn.Module):
    """One table for all n-grams of 1..longest tokens, found by hash as in fastText (arXiv 1607.04606).

    Beside an encoder as in wide and deep learning (arXiv 1606.07792): a row of the table is what few examples can
    teach about a word, while the encoder generalises. Two n-grams of one bucket share its vector.
    """

    def __init__(self, *, longest: int, buckets: int, dim: int) -> None:
        super().__init__()
        self.longest = longest
        self.table = RowTable(buckets, dim, std=0.02)

    def forward(self, tokens: TokenBatch) -> Tensor:
        """[T, D]: for every token, the sum of the n-grams that end with it and begin in its own text."""
        rows_T, ids_T = tokens.rows_T, tokens.ids_T
        places_T = torch.arange(len(ids_T), device=ids_T.device)
        before = [(places_T - back).clamp(min=0) for back in range(self.longest)]
        # Tokens before the batch's first one are cut to it, those of other rows are hashed too: neither is looked up.
        within_Tn = torch.stack([(places_T >= back) & (rows_T[at_T] == rows_T) for back, at_T in enumerate(before)], 1)
        buckets_Tn = torch.stack(buckets_of([ids_T[at_T] for at_T in before], len(self.table.weight)), 1)
        counts_T = within_Tn.sum(1)
        return self.table.sums(buckets_Tn[within_Tn], counts_T.cumsum(0) - counts_T)


def buckets_of(before: Sequence[Tensor], buckets: int) -> list[Tensor]:
    """Table rows of the n-grams of 1, 2, ... tokens; `before[k]` holds for each token the one k places before it."""
    found = []
    state = torch.zeros_like(before[0])
    for back, ids in enumerate(before):
        state = (state * 1_000_003 + ids + 1) % _PRIME
        found.append((state * 2_654_435_761 + back) % _PRIME % buckets)
    return found
