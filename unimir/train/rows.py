"""RMSprop by rows: steps of tables of which a batch reads few rows. Knows no model and no DeepSpeed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from unimir.model.rows import RowTable
from unimir.train.shares import gather

_EPS = 1e-10


class RowRMSprop:
    """RMSprop (Hinton, Coursera lecture 6e, 2012) with one mean square for each row, which decays when it is read.

    One number for a row as in DLRM's row-wise Adagrad (arXiv 1906.00091). A step costs what the batch has read, however
    large the table: no other row is touched. The mean squares begin at 0 and are not corrected for that, so that a row
    that is read seldom makes longer steps, the first 1 / sqrt(1 - decay) times as long as one that is read often. From
    stage to stage they are kept: else each would throw every row that far from what those before it have learned.
    Workers exchange the rows they have read, and hold the same table.
    """

    def __init__(self, tables: Mapping[str, tuple[RowTable, float]], *, decay: float) -> None:
        """Tables by name with their peak learning rates; `squares` keeps [N] in fp32 for each, to be saved."""
        self._tables, self._decay = tables, decay
        self.squares = {
            name: torch.zeros(len(table.weight), device=table.weight.device) for name, (table, _) in tables.items()
        }
        for table, _ in tables.values():
            table.weight.requires_grad_()

    @torch.no_grad()
    def step(self, rate_factor: float) -> None:
        """Moves the rows that this step has read at this share of the rates, and forgets the gradient. Collective."""
        for name, (table, rate) in self._tables.items():
            rows_U, grads_UD = _averaged(table.weight)
            table.weight.grad = None
            squares_U = torch.lerp(grads_UD.square().mean(1), self.squares[name][rows_U], self._decay)
            self.squares[name][rows_U] = squares_U
            lengths_U = -rate * rate_factor / (squares_U.sqrt() + _EPS)
            table.weight.index_add_(0, rows_U, lengths_U[:, None] * grads_UD)


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
