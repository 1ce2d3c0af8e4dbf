"""Steps of tables of which a batch reads few rows. Knows no model and no DeepSpeed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from unimir.model.rows import RowTable
from unimir.train.shares import gather

_EPS = 1e-10


class NormalizedRowSGD:
    """Gradient descent whose every row steps equally far: block-normalized (arXiv 1707.04822), with rows for blocks.

    A number of a row moves by the rate, in the root mean square over the row. A step costs what the batch has read,
    however large the table: no other row is touched. Workers exchange the rows they have read, and hold the same table.
    Nothing is remembered from step to step: on atlas, RMSprop with a mean square a row, by which rows that are seldom
    read step further, fitted emoji's words sooner, and found unseen texts worse.
    """

    def __init__(self, tables: Iterable[tuple[RowTable, float]]) -> None:
        """Tables with their peak learning rates."""
        self._tables = list(tables)
        for table, _ in self._tables:
            table.weight.requires_grad_()

    @torch.no_grad()
    def step(self, rate_factor: float) -> None:
        """Moves the rows that this step has read at this share of the rates, and forgets the gradient. Collective."""
        for table, rate in self._tables:
            rows_U, grads_UD = _averaged(table.weight)
            table.weight.grad = None
            lengths_U1 = grads_UD.square().mean(1, keepdim=True).sqrt() + _EPS
            table.weight.index_add_(0, rows_U, grads_UD / lengths_U1, alpha=-rate * rate_factor)


def _averaged(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The rows with a gradient, each once, and their gradients, averaged over the workers."""
    workers = dist.get_world_size() if dist.is_initialized() else 1
    if weight.grad is None:
        rows_U, grads_UD = torch.empty(0, dtype=torch.int64, device=weight.device), weight.new_empty(0, weight.shape[1])
    else:
        own = weight.grad.coalesce()
        rows_U, grads_UD = own.indices()[0], own.values()
    if workers == 1:
        return rows_U, grads_UD
    sizes_W = [torch.zeros((), dtype=torch.int64, device=weight.device) for _ in range(workers)]
    dist.all_gather(sizes_W, torch.tensor(len(rows_U), device=weight.device))
    sizes: list[int] = torch.stack(sizes_W).tolist()
    rows_N, grads_ND = gather(rows_U, sizes), gather(grads_UD, sizes)
    both = torch.sparse_coo_tensor(rows_N[None], grads_ND, weight.shape, check_invariants=False).coalesce()
    return both.indices()[0], both.values() / workers
