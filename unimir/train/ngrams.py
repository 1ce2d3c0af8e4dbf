"""Which n-grams a run's training texts have often enough. Knows prepared tables; knows no hash and no step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from unimir.config import Config
from unimir.data.prepared import read_kind
from unimir.model.ngrams import NgramEmbedding
from unimir.model.tokens import TokenBatch
from unimir.train.batches import of_sources
from unimir.train.tables import Ragged

_ROWS = 16_384
"""Texts counted at once."""


def count_ngrams(ngrams: NgramEmbedding, config: Config, prepared: Path, device: torch.device) -> None:
    """Tells the table what is frequent in the texts and documents of all tasks, each row once.

    Collective: every worker counts its share, and all are told the same.
    """
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    counts = ngrams.count(texts_of_tasks(config, prepared, rank, workers)).to(device)
    if workers > 1:
        dist.all_reduce(counts)
    ngrams.keep(counts.cpu())


def texts_of_tasks(config: Config, prepared: Path, rank: int, workers: int) -> Iterator[TokenBatch]:
    """This worker's share of what the tasks read to train on."""
    tasks = [task for stage in config.stages for task in stage.tasks]
    for kind in sorted({task.kind for task in tasks}):
        table = read_kind(prepared, kind, "train", ["source", "ids", "doc_ids"])
        used = [of_sources(table, task) for task in tasks if task.kind == kind]
        rows = np.unique(np.concatenate(used))[rank::workers]
        for name in {"ids", "doc_ids"}.intersection(table.column_names):
            column = Ragged(table[name].combine_chunks())
            there = rows[column.lengths[rows] > 0]
            for start in range(0, len(there), _ROWS):
                yield column.tokens(there[start : start + _ROWS])
