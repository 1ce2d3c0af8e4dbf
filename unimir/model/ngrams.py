"""Hashed n-grams of tokens: the part of the text tower that learns words by heart. Knows no tokenizer and no loss.

Suffixes as in text_encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

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
        self.table = nn.Embedding(buckets, dim)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, tokens: TokenBatch) -> Tensor:
        """[T, D]: for every token, the sum of the n-grams that end with it and begin in its own text."""
        rows_T, ids_T = tokens.rows_T, tokens.ids_T
        places_T = torch.arange(len(ids_T), device=ids_T.device)
        before = [(places_T - back).clamp(min=0) for back in range(self.longest)]
        # Tokens before the batch's first one are cut to it, those of other rows are hashed too: neither counts.
        within = [(places_T >= back) & (rows_T[at_T] == rows_T) for back, at_T in enumerate(before)]
        buckets = buckets_of([ids_T[at_T] for at_T in before], self.table.num_embeddings)
        # One look-up for all lengths, because each has a backward pass over the whole table.
        grams_nTD: Tensor = self.table(torch.stack(buckets)) * torch.stack(within)[..., None]
        return grams_nTD.sum(0)


def buckets_of(before: Sequence[Tensor], buckets: int) -> list[Tensor]:
    """Table rows of the n-grams of 1, 2, ... tokens; `before[k]` holds for each token the one k places before it."""
    found = []
    state = torch.zeros_like(before[0])
    for back, ids in enumerate(before):
        state = (state * 1_000_003 + ids + 1) % _PRIME
        found.append((state * 2_654_435_761 + back) % _PRIME % buckets)
    return found
