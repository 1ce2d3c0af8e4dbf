"""Calls that wait at the same moment, gathered into one: a model and an index do many at once for little more than one.

Knows no model and no index: what is done with the gathered items is given to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Overloaded(RuntimeError):
    """So many items wait already that one more would wait too long; `retry_after_s` from now it may be otherwise."""

    def __init__(self, what: str, waiting: int, retry_after_s: float) -> None:
        super().__init__(what, waiting, retry_after_s)  # all of them, so that it can travel between processes
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]} requests wait already"


class Gather(Generic[Item, Result]):
    """An async function of one item, made of one of many. Lives in one event loop, where it is first called.

    While one lot is being worked on, the next gathers by itself; `wait_s` only makes an idle worker wait for company. A
    lot ends before `budget`, by the items' weights. Items whose caller has gone are not worked on. `seen` is told of
    every lot: its name, items and weight, and how many wait after it.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        name: str,
        weigh: Callable[[Item], int] = lambda item: 1,
        budget: int,
        wait_s: float = 0.0,
        most_waiting: int,
        seen: Callable[[str, int, int, int], None] = lambda name, items, weight, waiting: None,
    ) -> None:
        self._seen = seen
        self._work, self._name, self._weigh = work, name, weigh
        self._budget, self._wait_s, self._most = budget, wait_s, most_waiting
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        """The item's result, or the error that the work gave for it; Overloaded at once if too many wait."""
        if len(self._waiting) >= self._most:
            raise Overloaded(self._name, len(self._waiting), retry_after_s=1.0)
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._run(), name=self._name)
        try:
            return await done
        finally:
            done.cancel()  # where the caller was cancelled: nobody waits for it any more

    async def _run(self) -> None:
        if self._wait_s:
            await asyncio.sleep(self._wait_s)
        while self._waiting:
            lot = self._next()
            if not lot:
                continue
            try:
                results: Sequence[Result | Exception] = await self._work([item for item, _ in lot])
                if len(results) != len(lot):
                    raise RuntimeError(f"{self._name}: {len(results)} results for {len(lot)} items")
            except Exception as error:
                results = [error] * len(lot)
            for (_, done), result in zip(lot, results, strict=True):
                if done.done():
                    continue
                if isinstance(result, Exception):
                    done.set_exception(result)
                else:
                    done.set_result(result)

    def _next(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        lot: list[tuple[Item, asyncio.Future[Result]]] = []
        weight = 0
        while self._waiting:
            item, done = self._waiting[0]
            if done.done():
                self._waiting.popleft()
                continue
            weight += self._weigh(item)
            if lot and weight > self._budget:
                weight -= self._weigh(item)
                break
            lot.append(self._waiting.popleft())
        if lot:
            self._seen(self._name, len(lot), weight, len(self._waiting))
        return lot
