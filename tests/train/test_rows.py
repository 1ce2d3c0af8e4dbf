"""Do rows step as far as they should, those that were read and no others, alike on every worker?"""

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity
from torch.testing import assert_close

from unimir.model.rows import RowTable
from unimir.train.rows import NormalizedRowSGD

ROWS, DIM, RATE = 6, 3, 0.1


def table_of() -> RowTable:
    torch.manual_seed(0)
    return RowTable(ROWS, DIM, std=0.5)


def optimizer_of(table: RowTable) -> NormalizedRowSGD:
    return NormalizedRowSGD([(table, RATE)])


def backward(table: RowTable, rows: list[int]) -> None:
    """A loss whose gradient differs from row to row, and from step to step."""
    table(torch.tensor(rows)).square().mul(torch.arange(1, len(rows) + 1)[:, None]).sum().backward()


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=5), st.floats(0.1, 1.0))
def test_every_read_row_steps_equally_far_down_its_gradient(scales: list[float], factor: float) -> None:
    """However large the gradient, and however often the row was read before."""
    table = table_of()
    optimizer = optimizer_of(table)
    for step, scale in enumerate(scales):
        before = table.weight.detach().clone()
        rows = [2, 4] if step == len(scales) - 1 else [2]
        (table(torch.tensor(rows)).square().sum() * scale).backward()
        optimizer.step(factor)
        moved_UD = (table.weight.detach() - before)[rows]
        assert_close(moved_UD.square().mean(1).sqrt(), torch.full((len(rows),), RATE * factor), rtol=1e-3, atol=0)
        assert_close(cosine_similarity(moved_UD, -before[rows]), torch.ones(len(rows)))


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=9), min_size=1, max_size=4))
def test_only_rows_that_were_read_are_touched(batches: list[list[int]]) -> None:
    table = table_of()
    optimizer = optimizer_of(table)
    for rows in batches:
        before = table.weight.detach().clone()
        backward(table, rows)
        optimizer.step(1.0)
        assert set(torch.nonzero((table.weight != before).any(1))[:, 0].tolist()) == set(rows)


def test_without_a_gradient_nothing_moves_and_no_gradient_is_used_twice() -> None:
    table = table_of()
    optimizer = optimizer_of(table)
    backward(table, [1])
    optimizer.step(1.0)
    after = table.weight.detach().clone()
    optimizer.step(1.0)
    assert torch.equal(table.weight, after)


def test_a_read_row_with_a_gradient_of_zero_stays() -> None:
    table = table_of()
    optimizer, before = optimizer_of(table), table.weight.detach().clone()
    table(torch.tensor([2, 4])).mul(torch.tensor([[0.0], [1.0]])).sum().backward()
    optimizer.step(1.0)
    assert torch.nonzero((table.weight != before).any(1))[:, 0].tolist() == [4]


def test_bags_are_sums_with_the_gradient_of_rows() -> None:
    table = table_of()
    optimizer_of(table)
    sums_SD = table.sums(torch.tensor([1, 1, 4, 0]), torch.tensor([0, 3, 3]))
    weight = table.weight.detach()
    assert_close(sums_SD.detach(), torch.stack([2 * weight[1] + weight[4], torch.zeros(DIM), weight[0]]))
    sums_SD.sum().backward()
    gradient = table.weight.grad
    assert gradient is not None
    assert gradient.is_sparse and gradient.coalesce().indices().tolist() == [[0, 1, 4]]


def _worker(rank: int, directory: str, batches: list[list[list[int]]]) -> None:
    torch.set_num_threads(1)  # forked: OpenMP threads of the parent are gone
    dist.init_process_group(
        "gloo", init_method=f"file://{directory}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    table = table_of()
    optimizer = optimizer_of(table)
    for shares in batches:
        if shares[rank]:
            table(torch.tensor(shares[rank])).square().sum().mul(2).backward()
        optimizer.step(1.0)
    torch.save(table.weight.detach(), f"{directory}/{rank}")
    dist.destroy_process_group()


def test_two_workers_hold_the_table_of_one(tmp_path: Path) -> None:
    """Also where both have read the same row, where one has read none, and where neither has."""
    batches = [[[0, 1, 1], [1, 2]], [[], [3, 0]], [[], []], [[4], []]]
    mp.start_processes(_worker, (str(tmp_path), batches), nprocs=2, start_method="fork")
    table = table_of()
    optimizer = optimizer_of(table)
    for shares in batches:
        if rows := [row for share in shares for row in share]:
            table(torch.tensor(rows)).square().sum().backward()
        optimizer.step(1.0)
    first, second = (torch.load(tmp_path / str(rank), weights_only=True) for rank in range(2))
    assert torch.equal(first, second)
    assert_close(first, table.weight.detach())
