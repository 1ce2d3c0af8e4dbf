"""Which n-grams a run's training texts have often enough. Knows prepared tables; knows no hash and no step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from unimir.config import Config, Task
from unimir.data.prepared import read_kind
from unimir.model.ngrams import NgramEmbedding
from unimir.model.tokens import TokenBatch
from unimir.train.batches import of_sources
from unimir.train.tables import Ragged

_TOKENS = 2**20
"""Counted at once: some hundred MB of hashes."""
_CROWDED = 0.5
"""Share of the filter's bits above which it leaves out less than half of what it should."""


def count_ngrams(ngrams: NgramEmbedding | None, config: Config, prepared: Path, device: torch.device) -> None:
    """Tells the table what is frequent in the texts and documents of all tasks, if it leaves out what is not.

    Every row of a kind counts once, however many tasks read it; hidden tokens make no n-grams. Collective: every worker
    counts its share, and all are told the same.
    """
    if ngrams is None or ngrams.known is None:
        return
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    counts = ngrams.count(texts_of_tasks(config, prepared, rank, workers)).to(device)
    if workers > 1:
        dist.all_reduce(counts)
    ngrams.keep(counts.cpu())
    share = float((counts >= ngrams.least).float().mean())
    if share > _CROWDED and rank == 0:
        warnings.warn(
            f"model.text.ngram_min_count is {ngrams.least}, but {share:.0%} of rare n-grams will pass for frequent: "
            f"the corpus has too many for model.text.ngram_buckets, {len(ngrams.table.weight)}",
            stacklevel=2,
        )


def texts_of_tasks(config: Config, prepared: Path, rank: int, workers: int) -> Iterator[TokenBatch]:
    """This worker's share of what the tasks read to train on."""
    tasks = [task for stage in config.stages for task in stage.tasks]
    for kind in sorted({task.kind for task in tasks}):
        yield from _of_kind([task for task in tasks if task.kind == kind], prepared, rank, workers)


def _of_kind(tasks: Sequence[Task], prepared: Path, rank: int, workers: int) -> Iterator[TokenBatch]:
    table = read_kind(prepared, tasks[0].kind, "train", ["source", "ids", "doc_ids"])
    rows = np.unique(np.concatenate([of_sources(table, task) for task in tasks]))
    share = pa.array(np.array_split(rows, workers)[rank])
    for name in {"ids", "doc_ids"}.intersection(table.column_names):
        column = Ragged(table[name].take(share).combine_chunks())
        there = np.flatnonzero(column.lengths)
        ends = np.cumsum(column.lengths[there])
        for part in np.split(there, np.searchsorted(ends, np.arange(_TOKENS, ends[-1], _TOKENS)) if len(ends) else []):
            if len(part):
                yield column.tokens(part)
