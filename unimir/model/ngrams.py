"""Hashed n-grams of tokens: the part of the text tower that learns words by heart. Knows no tokenizer and no loss.

Suffixes as in text_encoder.
"""

from __future__ import annotations

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
        hash_T = torch.zeros_like(ids_T)
        buckets, within = [], []
        for back in range(self.longest):
            # Tokens before the batch's first one are cut to it, those of other rows are hashed too: neither counts.
            before_T = (places_T - back).clamp(min=0)
            hash_T = (hash_T * 1_000_003 + ids_T[before_T] + 1) % _PRIME
            buckets.append((hash_T * 2_654_435_761 + back) % _PRIME % self.table.num_embeddings)
            within.append((places_T >= back) & (rows_T[before_T] == rows_T))
        # One look-up for all lengths, because each has a backward pass over the whole table.
        grams_nTD: Tensor = self.table(torch.stack(buckets)) * torch.stack(within)[..., None]
        return grams_nTD.sum(0)
