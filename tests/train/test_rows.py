"""Do rows move as RMSprop says, those that were read and no others, alike on every worker?"""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from unimir.model.rows import RowTable
from unimir.train.rows import RowRMSprop

ROWS, DIM, RATE, DECAY = 6, 3, 0.1, 0.9


def table_of(dim: int = DIM) -> RowTable:
    torch.manual_seed(0)
    return RowTable(ROWS, dim, std=0.5)


def optimizer_of(table: RowTable) -> RowRMSprop:
    return RowRMSprop({"table": (table, RATE)}, decay=DECAY)


def backward(table: RowTable, rows: list[int]) -> None:
    """A loss whose gradient differs from row to row, and from step to step."""
    table(torch.tensor(rows)).square().mul(torch.arange(1, len(rows) + 1)[:, None]).sum().backward()


def test_rows_that_are_all_read_move_as_those_of_torch() -> None:
    """In one dimension, where a row's mean square is that of its only number."""
    table, dense = table_of(dim=1), table_of(dim=1)
    optimizer = optimizer_of(table)
    parameter = torch.nn.Parameter(dense.weight.clone())
    reference = torch.optim.RMSprop([parameter], lr=RATE, alpha=DECAY, eps=1e-10)
    for _ in range(5):
        backward(table, list(range(ROWS)))
        parameter.square().mul(torch.arange(1, ROWS + 1)[:, None]).sum().backward()
        optimizer.step(1.0)
        reference.step()
        reference.zero_grad()
    assert_close(table.weight.detach(), parameter.detach())
    assert_close(optimizer.squares["table"], reference.state[parameter]["square_avg"][:, 0])


def test_a_row_has_one_mean_square_over_its_dimensions() -> None:
    table = table_of()
    optimizer, before = optimizer_of(table), table.weight.clone()
    backward(table, [2])
    gradient_D = 2 * before[2].detach()
    optimizer.step(0.5)
    square = (1 - DECAY) * gradient_D.square().mean()
    assert_close(optimizer.squares["table"][2], square)
    assert_close(table.weight[2].detach(), before[2].detach() - 0.5 * RATE * gradient_D / square.sqrt())


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=9), min_size=1, max_size=4))
def test_only_rows_that_were_read_are_touched(batches: list[list[int]]) -> None:
    table = table_of()
    optimizer = optimizer_of(table)
    for rows in batches:
        before, squares = table.weight.detach().clone(), optimizer.squares["table"].clone()
        backward(table, rows)
        optimizer.step(1.0)
        moved = set(torch.nonzero((table.weight != before).any(1))[:, 0].tolist())
        decayed = set(torch.nonzero(optimizer.squares["table"] != squares)[:, 0].tolist())
        assert moved == decayed == set(rows)


def test_without_a_gradient_nothing_moves_and_no_gradient_is_used_twice() -> None:
    table = table_of()
    optimizer = optimizer_of(table)
    backward(table, [1])
    optimizer.step(1.0)
    after = table.weight.detach().clone()
    optimizer.step(1.0)
    assert torch.equal(table.weight, after)


def test_a_row_read_seldom_makes_longer_steps() -> None:
    table = table_of()
    optimizer = optimizer_of(table)
    lengths_LN = []
    for step in range(40):
        before = table.weight.detach().clone()
        table(torch.tensor([3, 5] if step % 13 == 0 else [3])).sum().backward()
        optimizer.step(1.0)
        lengths_LN.append((table.weight.detach() - before).abs().mean(1))
    assert lengths_LN[0].tolist() == pytest.approx([0, 0, 0, first := RATE / (1 - DECAY) ** 0.5, 0, first], rel=1e-3)
    often, seldom = lengths_LN[39][3], lengths_LN[39][5]
    assert often == pytest.approx(RATE, rel=0.02) and seldom > 1.5 * often


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
    torch.save([table.weight.detach(), optimizer.squares["table"]], f"{directory}/{rank}")
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
    for of_one, of_both, of_other in zip(
        (table.weight.detach(), optimizer.squares["table"]), first, second, strict=True
    ):
        assert torch.equal(of_both, of_other)
        assert_close(of_both, of_one)
