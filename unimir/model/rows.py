"""A table of vectors of which a batch reads few: its gradient is of the rows that were read, and of no other.

Knows neither what a row stands for, nor how it is learned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag


class RowTable(nn.Module):
    """[N, D] of normally distributed rows.

    The table is a buffer, not a parameter: an optimizer of parameters would pass over, and workers exchange, all of it
    in every step. Who trains it lets `weight` require a gradient, which is then a sparse tensor, and steps it by rows.
    """

    weight: Tensor

    def __init__(self, rows: int, dim: int, *, std: float) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(rows, dim).normal_(std=std))

    def forward(self, rows: Tensor) -> Tensor:
        """Vectors [..., D] of row numbers int64 [...]."""
        return embedding(rows, self.weight, sparse=self.weight.requires_grad)

    def sums(self, rows_R: Tensor, starts_S: Tensor) -> Tensor:
        """[S, D]: the sum of the vectors of each bag of row numbers; bag s begins at `starts_S[s]`."""
        return embedding_bag(rows_R, self.weight, starts_S, mode="sum", sparse=self.weight.requires_grad)
