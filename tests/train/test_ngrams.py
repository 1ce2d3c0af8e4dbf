"""Are n-grams counted in all that a run's tasks read, each text once, and alike by any number of workers?"""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch

from unimir.config import Config
from unimir.data.prepared import read_kind
from unimir.model.ngrams import NgramEmbedding, hashes_of
from unimir.train.batches import of_sources
from unimir.train.ngrams import count_ngrams, texts_of_tasks


@pytest.fixture(scope="module")
def config(tiny_config: Config) -> Config:
    """Two kinds, with documents and without; one of them is read in both stages."""
    text, _, joint = tiny_config.stages
    stages = (text, dataclasses.replace(joint, tasks=tuple(task for task in joint.tasks if task.kind == "parallel")))
    return dataclasses.replace(tiny_config, stages=stages)


def counted(config: Config, prepared: Path) -> Counter[tuple[int, ...]]:
    """Every n-gram of up to two tokens, from the prepared tables themselves."""
    rows = []
    for kind in {task.kind for stage in config.stages for task in stage.tasks}:
        table = read_kind(prepared, kind, "train")
        rows += [row for name in ("ids", "doc_ids") if name in table.column_names for row in table[name].to_pylist()]
    texts = [row for row in rows if row]
    return Counter(gram for row in texts for gram in [*((token,) for token in row), *zip(row, row[1:], strict=False)])


def test_every_text_and_document_of_the_tasks_is_counted_once(config: Config, tiny_prepared: Path) -> None:
    ngrams = NgramEmbedding(longest=2, buckets=16_384, dim=1, least=3)
    count_ngrams(ngrams, config, tiny_prepared, torch.device("cpu"))
    found = counted(config, tiny_prepared)
    wrong = 0
    for gram, count in found.items():
        known = ngrams.is_known(hashes_of([torch.tensor([token]) for token in reversed(gram)]))[0, -1]
        assert known or count < 3, gram
        wrong += bool(known) and count < 3
    rare = sum(count < 3 for count in found.values())
    assert rare > 500 and wrong < 0.05 * rare


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_count_a_share_each(workers: int, config: Config, tiny_prepared: Path) -> None:
    ngrams = NgramEmbedding(longest=2, buckets=16_384, dim=1, least=2)
    whole = ngrams.count(texts_of_tasks(config, tiny_prepared, 0, 1))
    shares = [ngrams.count(texts_of_tasks(config, tiny_prepared, rank, workers)) for rank in range(workers)]
    assert torch.equal(sum(shares) >= 2, whole >= 2)
    sizes = [
        sum(len(part.ids_T) for part in texts_of_tasks(config, tiny_prepared, rank, workers)) for rank in range(workers)
    ]
    assert max(sizes) < 1.5 * min(sizes)


def test_a_filter_too_small_for_the_corpus_says_so(config: Config, tiny_prepared: Path) -> None:
    ngrams = NgramEmbedding(longest=2, buckets=8, dim=1, least=2)
    with pytest.warns(UserWarning, match=r"\d+% of rare n-grams will pass .* too many for .*ngram_buckets, 8"):
        count_ngrams(ngrams, config, tiny_prepared, torch.device("cpu"))


def test_other_sources_than_the_tasks_are_not_counted(config: Config, tiny_prepared: Path) -> None:
    task = next(task for task in config.stages[0].tasks if task.kind == "text_text")
    table = read_kind(tiny_prepared, task.kind, "train")
    source = table["source"][0].as_py()
    one = dataclasses.replace(task, sources=(source,))
    stage = dataclasses.replace(config.stages[0], tasks=(one,))
    texts = list(texts_of_tasks(dataclasses.replace(config, stages=(stage,)), tiny_prepared, 0, 1))
    assert sum(len(part.lengths_B) for part in texts) == 2 * len(of_sources(table, one))
