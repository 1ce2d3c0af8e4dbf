"""One pass of Ray Data over a list of work items: a task or an actor call for each, results as they come.

Knows Ray Data and how errors travel; knows no row and no file.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Work = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Actors:
    """A pool of actors that grows and shrinks between `least` and `most`, each with so many CPUs and GPUs."""

    least: int
    most: int
    num_cpus: float = 1.0
    num_gpus: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.most:
            raise ValueError(f"workers {self.least},{self.most}; expected MIN,MAX with 1 <= MIN <= MAX")


def each(
    items: Sequence[tuple[Any, ...]],
    work: Work,
    *,
    actors: Actors | None = None,
    carry: tuple[type[Exception], ...] = (),
) -> Iterator[tuple[int, Any]]:
    """Positions and results of `work(*item)`, in the order in which they are done. Ray must be initialised.

    With `actors`, `work` is called once in each of them, without arguments, for the function that does the work there.
    A ValueError of the work, or an error of the kinds in `carry`, ends the pass and is raised here as it was.
    """
    import ray.data

    rows = [{"at": at, "item": pickle.dumps(item)} for at, item in enumerate(items)]
    dataset: Any = ray.data.from_items(rows, override_num_blocks=max(1, len(rows)))
    if actors is None:

        def task(row: dict[str, Any]) -> dict[str, Any]:
            return _done(row, work, carry)

        task.__name__ = work.__name__  # what the progress bar shows
        dataset = dataset.map(task)
    else:
        dataset.context.enable_progress_bars = False  # a caller with actors shows rows itself, not tasks
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns of being disabled
        dataset = dataset.map(
            _Actor,
            fn_constructor_args=(work, carry),
            compute=ray.data.ActorPoolStrategy(min_size=actors.least, max_size=actors.most),
            num_cpus=actors.num_cpus,
            num_gpus=actors.num_gpus,
        )
    for row in dataset.iter_rows():
        result = pickle.loads(row["result"])
        if isinstance(result, Exception):
            raise result
        yield row["at"], result


class _Actor:
    def __init__(self, make: Callable[[], Work], carry: tuple[type[Exception], ...]) -> None:
        self._carry = carry
        self._work: Work | Exception
        try:
            self._work = make()
        except Exception as error:  # an actor that cannot start would be started again for ever
            self._work = error

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if isinstance(self._work, Exception):
            return {"at": row["at"], "result": pickle.dumps(self._work)}
        return _done(row, self._work, self._carry)


def _done(row: dict[str, Any], work: Work, carry: tuple[type[Exception], ...]) -> dict[str, Any]:
    try:
        result = work(*pickle.loads(row["item"]))
    except Exception as error:
        # Of ValueErrors only the plain ones are users' mistakes; Arrow's and others' own are bugs, and keep their
        # traceback. Ray wraps what a task raises and loses its cause on the way, so these travel as values.
        if type(error) is not ValueError and not isinstance(error, carry):
            raise
        result = error
    return {"at": row["at"], "result": pickle.dumps(result)}
