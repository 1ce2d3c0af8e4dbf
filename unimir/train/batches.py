"""Which examples are in which step: a pure function of (seed, stage, step), the same on every worker.

Knows prepared tables and sampling; knows neither model nor loss.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unimir.config import Stage, Task
from unimir.data.prepared import read_kind
from unimir.schema import Split

WINDOW = 32
"""Batches whose examples are sorted by length together: enough for like lengths, few enough to stay well mixed."""


def of_sources(table: pa.Table, task: Task) -> NDArray[np.int64]:
    """Numbers of the table's rows that are of the task's sources."""
    if not task.sources:
        return np.arange(len(table))
    return np.flatnonzero(pc.is_in(table["source"], pa.array(task.sources)).to_numpy())


def read_examples(prepared: Path, task: Task, split: Split, columns: Sequence[str]) -> pa.Table:
    """The rows of one kind and split, of the task's sources. ValueError if there are none, or in training of one."""
    table = read_kind(prepared, task.kind, split, ["source", *columns])
    table = table.take(of_sources(table, task))
    there = set(pc.unique(table["source"]).to_pylist()) if split == "train" else set(task.sources)
    lacking = [source for source in task.sources if source not in there]
    if lacking or not len(table):
        wanted = ", ".join(lacking or task.sources) or "any source"
        raise ValueError(f"task {task.name}: {prepared} has no {task.kind} rows of {wanted} in split {split}")
    return table.combine_chunks()


def task_schedule(stage: Stage) -> list[int]:
    """The task of every step: smooth weighted round-robin, so that shares hold at every point of the stage."""
    weights = np.array([task.weight for task in stage.tasks], np.float64)
    shares = weights / weights.sum()
    credit = np.zeros(len(shares))
    schedule = []
    for _ in range(stage.steps):
        credit += shares
        schedule.append(int(credit.argmax()))
        credit[schedule[-1]] -= 1
    return schedule


def task_batches(schedule: Sequence[int]) -> list[tuple[int, int]]:
    """Per step, its task and the running number of the batch among that task's."""
    numbers: dict[int, int] = {}
    plan = []
    for task in schedule:
        plan.append((task, numbers.get(task, 0)))
        numbers[task] = plan[-1][1] + 1
    return plan


def rng_of(*key: int | str) -> np.random.Generator:
    """A generator that depends on nothing but its key."""
    return np.random.default_rng([k if isinstance(k, int) else zlib.crc32(k.encode()) for k in key])


class Order:
    """Draws batches of row numbers: languages balanced by temperature, each batch of like lengths or few pictures."""

    def __init__(
        self,
        langs: NDArray[np.int64],
        lengths: NDArray[np.int64],
        *,
        batch_size: int,
        temperature: float,
        seed: tuple[int | str, ...],
        pictures: NDArray[np.int64] | None = None,
        per_picture: int = 1,
    ) -> None:
        """From the language code, the number of tokens and, if rows of a picture stay together, its number per row."""
        self.langs = langs
        self.lengths = lengths
        self.batch_size = batch_size
        self.temperature = temperature
        self.seed = seed
        self.pictures = pictures
        self.per_picture = per_picture
        self._kept: tuple[int, list[NDArray[np.int64]]] | None = None

    @property
    def size(self) -> int:
        """Rows of a batch."""
        return min(self.batch_size, len(self.langs))

    @property
    def batches_per_epoch(self) -> int:
        """Full batches in one pass; a corpus smaller than a batch is drawn as one smaller batch."""
        return max(1, len(self.langs) // self.batch_size)

    def batch(self, number: int) -> NDArray[np.int64]:
        """Row numbers of the batch with this running number."""
        epoch, position = divmod(number, self.batches_per_epoch)
        return self.epoch(epoch)[position]

    def epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        """All batches of one epoch; the last epoch asked for is kept."""
        if self._kept is None or self._kept[0] != epoch:
            self._kept = (epoch, self._draw(epoch))
        return self._kept[1]

    def _draw(self, epoch: int) -> list[NDArray[np.int64]]:
        rng = rng_of(*self.seed, epoch)
        order = rng.permutation(np.concatenate(self._balanced(rng)))
        size = min(self.batch_size, len(order))
        order = order[: self.batches_per_epoch * size]
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(order), WINDOW * size):
            window = order[start : start + WINDOW * size]
            if self.pictures is not None and self.per_picture > 1:
                window = self._runs(window, self.pictures, rng)
            else:
                window = window[np.argsort(self.lengths[window], kind="stable")]
                # Shuffled within each batch, so that no worker's share holds all the long rows.
                window = rng.permuted(window.reshape(-1, size), axis=1).ravel()
            batches += np.split(window, len(window) // size)
        return [batches[i] for i in rng.permutation(len(batches))]

    def _runs(
        self, window: NDArray[np.int64], pictures: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """The window's rows in runs of at most `per_picture` rows of one picture, the runs in random order.

        A run stays whole within a batch and a worker's share, except at their ends.
        """
        window = window[np.argsort(pictures[window], kind="stable")]
        keys = pictures[window]
        first = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
        place = np.arange(len(keys)) - np.repeat(first, np.diff(first, append=len(keys)))
        starts = np.flatnonzero(place % self.per_picture == 0)
        order: NDArray[np.int64] = np.concatenate([window[s] for s in _slices(starts, len(window), rng)])
        return order

    def _balanced(self, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Row numbers by language: about n ** temperature of each, whole passes first, then a random rest."""
        codes, counts = np.unique(self.langs, return_counts=True)
        shares = counts.astype(np.float64) ** self.temperature
        # Rounding the running sum makes the quotas add up to an epoch exactly, and to the counts at temperature 1.
        bounds = np.rint(len(self.langs) * np.cumsum(shares) / shares.sum()).astype(np.int64)
        quotas = np.diff(bounds, prepend=0)
        drawn = []
        for code, count, quota in zip(codes, counts, quotas, strict=True):
            rows = np.flatnonzero(self.langs == code)
            passes, rest = divmod(int(quota), int(count))
            drawn += [rows] * passes + [rng.choice(rows, rest, replace=False)]
        return drawn


def _slices(starts: NDArray[np.int64], stop: int, rng: np.random.Generator) -> list[slice]:
    """The stretches between the starts, in random order."""
    stretches = [slice(*ends) for ends in zip(starts.tolist(), [*starts[1:].tolist(), stop], strict=True)]
    return [stretches[i] for i in rng.permutation(len(stretches))]


@dataclass(frozen=True)
class Partners:
    """For parallel text: another row of the same group, at random."""

    order: NDArray[np.int64]  # rows sorted by group
    place: NDArray[np.int64]  # where each row is in `order`
    first: NDArray[np.int64]  # per row, the first place of its group
    size: NDArray[np.int64]  # per row, the rows in its group

    @classmethod
    def of(cls, groups: NDArray[np.uint64]) -> Partners:
        """From the group of every row."""
        order = np.argsort(groups, kind="stable")
        _, first, inverse, counts = np.unique(groups[order], return_index=True, return_inverse=True, return_counts=True)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return cls(order, place, first[inverse][place], counts[inverse][place])

    def draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """A partner for every row; a row alone in its group is its own."""
        others = np.maximum(self.size[rows] - 1, 1)
        step = 1 + np.minimum((rng.random(len(rows)) * others).astype(np.int64), others - 1)
        offset = (self.place[rows] - self.first[rows] + step) % self.size[rows]
        partners: NDArray[np.int64] = self.order[self.first[rows] + offset]
        return partners


def share(batch: NDArray[np.int64], rank: int, workers: int) -> tuple[slice, Sequence[int]]:
    """This worker's slice of a global batch, and the sizes of all workers' slices."""
    sizes = [len(part) for part in np.array_split(np.arange(len(batch)), workers)]
    start = sum(sizes[:rank])
    return slice(start, start + sizes[rank]), sizes


def digest(rows: NDArray[np.int64]) -> int:
    """A number below 2**31 for a multiset of rows; those of parts of it add up to it, modulo 2**31."""
    mixed = rows.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)  # SplitMix64 (Steele et al., 2014)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((mixed ^ (mixed >> np.uint64(31))).sum(dtype=np.uint64) % np.uint64(2**31))
