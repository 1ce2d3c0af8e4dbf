"""Ragged token batches: what crosses from the feed and the service to the text tower.

Knows no tokenizer and no module. Shape suffixes in model/: B rows, L padded length, T tokens of all rows laid end to
end, H hidden size, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenBatch:
    """Texts as one row of token ids laid end to end: `ids_T` int64 and `lengths_B` int64, which sum to T."""

    ids_T: Tensor
    lengths_B: Tensor
    lengths: list[int] | None = field(default=None, compare=False)  # the same on the host: see `row_lengths`

    @classmethod
    def from_lists(cls, ids: list[list[int]]) -> TokenBatch:
        """From token ids per text; every text has at least one token."""
        lengths = torch.tensor([len(row) for row in ids], dtype=torch.int64)
        return cls(torch.tensor([token for row in ids for token in row], dtype=torch.int64), lengths)

    def row_lengths(self) -> list[int]:
        """The lengths as Python numbers; a batch that was moved to a GPU need not wait for it to tell them."""
        return self.lengths_B.tolist() if self.lengths is None else self.lengths

    def each(self, change: Callable[[Tensor], Tensor]) -> TokenBatch:
        """The same batch after a change to both of its tensors."""
        return TokenBatch(change(self.ids_T), change(self.lengths_B), self.row_lengths())

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    @property
    def rows_T(self) -> Tensor:
        """The row each token belongs to, int64."""
        rows_B = torch.arange(len(self.lengths_B), device=self.lengths_B.device)
        return rows_B.repeat_interleave(self.lengths_B, output_size=len(self.ids_T))


def token_chunks(lengths: list[int], token_budget: int) -> Iterator[list[int]]:
    """Row numbers in chunks of similar length, the longest rows first; padded, a chunk stays within the budget.

    A thirty-second of it is the most that is padding: beyond that, computing it costs more than another chunk does. A
    single row longer than the budget is a chunk of its own.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    start, padding = 0, 0
    for stop, row in enumerate(order):
        longest = lengths[order[start]]
        padding += longest - lengths[row]
        if stop > start and ((stop + 1 - start) * longest > token_budget or padding > token_budget // 32):
            yield order[start:stop]
            start, padding = stop, 0
    if order:
        yield order[start:]
