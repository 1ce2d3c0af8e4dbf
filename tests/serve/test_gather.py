"""Are gathered calls answered each with its own result, in lots within the budget, and never for callers who left?"""

import asyncio
from collections.abc import Sequence

import pytest

from unimir.serve.gather import Gather, Overloaded


class Doubler:
    """Doubles numbers, noting its lots; refuses 1300; fails whole lots with a 99."""

    def __init__(self, pause_s: float = 0.01) -> None:
        self.lots: list[list[int]] = []
        self._pause_s = pause_s

    async def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.lots.append(list(items))
        await asyncio.sleep(self._pause_s)
        if 99 in items:
            raise RuntimeError("broken")
        return [ValueError("unlucky") if item == 1300 else 2 * item for item in items]


def test_calls_are_gathered_while_one_lot_is_worked_on() -> None:
    work = Doubler()

    async def run() -> list[int]:
        double = Gather(work, name="double", budget=10, most_waiting=100)
        return list(await asyncio.gather(*(double(number) for number in range(25))))

    assert asyncio.run(run()) == [2 * number for number in range(25)]
    assert [len(lot) for lot in work.lots] == [10, 10, 5]


def test_lots_end_before_the_budget_but_a_heavy_item_still_goes() -> None:
    work = Doubler()

    async def run() -> list[int]:
        double = Gather(work, name="double", weigh=lambda item: item, budget=10, most_waiting=100)
        return list(await asyncio.gather(*(double(number) for number in (4, 5, 6, 50, 1))))

    assert asyncio.run(run()) == [8, 10, 12, 100, 2]
    assert work.lots == [[4, 5], [6], [50], [1]]


def test_an_item_that_fails_takes_no_other_along() -> None:
    async def run() -> list[int | BaseException]:
        double = Gather(Doubler(), name="double", budget=10, most_waiting=100)
        found = await asyncio.gather(*(double(number) for number in (1, 1300, 3)), return_exceptions=True)
        with pytest.raises(RuntimeError, match="broken"):
            await double(99)
        return [*found, await double(4)]

    first, second, third, fourth = asyncio.run(run())
    assert (first, third, fourth) == (2, 6, 8)
    assert isinstance(second, ValueError)


def test_too_many_waiting_are_refused_at_once() -> None:
    async def run() -> list[int | BaseException]:
        double = Gather(Doubler(), name="double", budget=1, most_waiting=3)
        return await asyncio.gather(*(double(number) for number in range(5)), return_exceptions=True)

    found = asyncio.run(run())
    assert found[:3] == [0, 2, 4]
    assert all(isinstance(one, Overloaded) and one.retry_after_s > 0 for one in found[3:])


def test_nothing_is_done_for_callers_who_left() -> None:
    work = Doubler(pause_s=0.05)

    async def run() -> int:
        double = Gather(work, name="double", budget=1, most_waiting=10)
        calls = [asyncio.create_task(double(number)) for number in range(4)]
        await asyncio.sleep(0.01)
        calls[1].cancel()
        calls[2].cancel()
        return await calls[3]

    assert asyncio.run(run()) == 6
    assert work.lots == [[0], [3]]


def test_an_idle_worker_waits_for_company() -> None:
    work = Doubler()

    async def run() -> None:
        double = Gather(work, name="double", budget=10, wait_s=0.05, most_waiting=10)
        first = asyncio.create_task(double(1))
        await asyncio.sleep(0.01)
        await asyncio.gather(first, double(2))

    asyncio.run(run())
    assert work.lots == [[1, 2]]
