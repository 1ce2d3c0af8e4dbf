"""Hashed n-grams of tokens: the part of the text tower that learns words by heart. Knows no tokenizer and no loss.

Suffixes as in text_encoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from unimir.model.rows import RowTable
from unimir.model.tokens import TokenBatch

_PRIME = 2**31 - 1  # products below stay within int64
_BITS_A_BUCKET = 32
"""Of the filter of frequent n-grams: with five n-grams a bucket, one of seven rare ones shares the bit of another."""


class NgramEmbedding(nn.Module):
    """One table for all n-grams of 1..longest tokens, found by hash as in fastText (arXiv 1607.04606).

    Beside an encoder as in wide and deep learning (arXiv 1606.07792): a row of the table is what few examples can
    teach about a word, while the encoder generalises. Two n-grams of one bucket share its vector.

    With `least` above 1, n-grams that the counted texts have less often have no vector, as with fastText's minCount:
    many are there but once, and crowd the buckets of the rest. Nor has one that training never saw, which would read
    what was learned of others. The frequent are known as in a Bloom filter of one hash function, so that some of the
    others pass for them: few as long as there are no more than some five n-grams a bucket. Until texts were counted,
    all are known.
    """

    known: Tensor | None

    def __init__(self, *, longest: int, buckets: int, dim: int, least: int = 1) -> None:
        super().__init__()
        self.longest = longest
        self.least = least
        self.table = RowTable(buckets, dim, std=0.02)
        size = buckets * _BITS_A_BUCKET // 8  # eight bits a byte
        self.register_buffer("known", torch.full((size,), 255, dtype=torch.uint8) if least > 1 else None)

    def forward(self, tokens: TokenBatch) -> Tensor:
        """[T, D]: for every token, the sum of the n-grams that end with it and begin in its own text."""
        within_Tn, hashes_Tn = self._grams(tokens)
        read_Tn = within_Tn & self.is_known(hashes_Tn)
        counts_T = read_Tn.sum(1)
        return self.table.sums(self.buckets(hashes_Tn)[read_Tn], counts_T.cumsum(0) - counts_T)

    def buckets(self, hashes_Xn: Tensor) -> Tensor:
        """Table rows [..., n] of the n-grams of these hashes (see `hashes_of`)."""
        return _scattered(hashes_Xn, 2_654_435_761) % len(self.table.weight)

    def is_known(self, hashes_Xn: Tensor) -> Tensor:
        """bool [..., n]: which n-grams are looked up."""
        if self.known is None:
            return torch.ones_like(hashes_Xn, dtype=torch.bool)
        bits_Xn = self._bits(hashes_Xn)
        return torch.bitwise_right_shift(self.known[bits_Xn // 8].long(), bits_Xn % 8) % 2 == 1

    def count(self, texts: Iterable[TokenBatch]) -> Tensor:
        """How often the texts, on the CPU, have the n-grams of each bit: int32, for `keep`, alone or in a sum.

        What is often enough is not counted further, so that no count is ever too large.
        """
        assert self.known is not None
        counts = torch.zeros(8 * len(self.known), dtype=torch.int32)
        for tokens in texts:
            within_Tn, hashes_Tn = self._grams(tokens)
            bits = self._bits(hashes_Tn)[within_Tn]
            counts.index_add_(0, bits, torch.ones(len(bits), dtype=torch.int32)).clamp_(max=self.least)
        return counts

    def keep(self, counts: Tensor) -> None:
        """From now on those n-grams are known of which these counts have enough."""
        assert self.known is not None
        self.known.copy_(torch.from_numpy(np.packbits(counts.numpy() >= self.least, bitorder="little")))

    def _grams(self, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
        """bool [T, n], whether the n-gram begins in the token's own text, and its hash, int64 [T, n]."""
        rows_T, ids_T = tokens.rows_T, tokens.ids_T
        places_T = torch.arange(len(ids_T), device=ids_T.device)
        before = [(places_T - back).clamp(min=0) for back in range(self.longest)]
        # Tokens before the batch's first one are cut to it, those of other rows are hashed too: neither is looked up.
        within_Tn = torch.stack([(places_T >= back) & (rows_T[at_T] == rows_T) for back, at_T in enumerate(before)], 1)
        return within_Tn, hashes_of([ids_T[at_T] for at_T in before])

    def _bits(self, hashes_Xn: Tensor) -> Tensor:
        assert self.known is not None
        return _scattered(hashes_Xn, 805_459_861) % (8 * len(self.known))


def hashes_of(before: Sequence[Tensor]) -> Tensor:
    """int64 [..., n], of the n-grams of 1, 2, ... tokens; `before[k]` holds for each token the one k places before."""
    found = []
    state = torch.zeros_like(before[0])
    for ids in before:
        state = (state * 1_000_003 + ids + 1) % _PRIME
        found.append(state)
    return torch.stack(found, -1)


def _scattered(hashes_Xn: Tensor, factor: int) -> Tensor:
    """The hashes by another function for each length of n-gram and each factor."""
    return (hashes_Xn * factor + torch.arange(hashes_Xn.shape[-1], device=hashes_Xn.device)) % _PRIME
