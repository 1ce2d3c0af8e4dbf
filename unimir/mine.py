"""Hard negatives of a prepared corpus: documents that a trained bundle takes for a query's own, and are not.

Two passes of Ray Data: all texts to vectors, all queries against all documents, exactly. Knows no loss and no step.
"""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from unimir import artifacts
from unimir.data.passes import Actors, each
from unimir.data.prepared import read_kind
from unimir.infer import Encoder
from unimir.train.hints import write_negatives

UNIT_TEXTS, UNIT_QUERIES, BLOCK_DOCUMENTS = 4096, 2048, 65_536


@dataclass(frozen=True, kw_only=True)
class Mining:
    """How negatives are chosen."""

    count: int = 16  # for each query, the hardest first
    margin: float = 0.95  # share of the own document's cosine that a negative stays below (arXiv 2407.15831)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"--count {self.count}; at least 1")
        if not 0 < self.margin <= 1:
            raise ValueError(f"--margin {self.margin}; above 0, at most 1")

    def limit(self, own_Q: Tensor) -> Tensor:
        """What the cosine of a negative stays below, by that of the own document, which may be negative itself."""
        return own_Q - (1 - self.margin) * own_Q.abs()


def mine(bundle: Path, prepared: Path, out: Path, mining: Mining, actors: Actors) -> Path:
    """Writes the artifact `out/negatives/ID`, for `Config.negatives`; one that is there already is returned as it is.

    For every training row of kind text_text: documents of other groups, as rows that have them. What is closer than the
    margin allows is left out, because it may well be an answer. Ray must be initialised. ValueError without such rows.
    """
    bundle, out = bundle.resolve(), out.resolve()  # workers have other working directories
    prepared_id = artifacts.read_manifest(prepared, "prepared")["id"]
    bundle_id = artifacts.read_manifest(bundle, "bundle")["id"]
    key = artifacts.canonical_json(vars(mining))
    directory = out / "negatives" / artifacts.content_id(prepared_id, bundle_id, key)
    if artifacts.exists(directory):
        return directory
    table = read_kind(prepared, "text_text", "train", ["group", "text", "doc_text"])
    if not len(table):
        raise ValueError(f"{prepared}: no training rows of kind text_text to mine negatives for")
    work = artifacts.start(directory.with_name(f".{directory.name}"))
    pairs = _Pairs.of(table)
    for name, texts in (("queries", pairs.queries), ("documents", pairs.documents)):
        _embed(texts, work / f"{name}.npy", bundle, actors)
    pairs.save(work)
    blocks = [(start, start + UNIT_QUERIES) for start in range(0, len(table), UNIT_QUERIES)]
    found: list[list[NDArray[np.int32]]] = [[] for _ in blocks]
    with tqdm(total=len(table), desc="queries", unit="row", file=sys.stderr) as bar:
        search = functools.partial(_searcher, work, mining)
        for at, rows in each(blocks, search, actors=replace(actors, num_gpus=0.0)):  # a product of matrices: on CPUs
            found[at] = rows
            bar.update(len(rows))
    config = dict(vars(mining))
    write_negatives(directory, _chained(found), prepared=prepared_id, bundle=bundle_id, config=config)
    shutil.rmtree(work)
    return directory


@dataclass(frozen=True)
class _Pairs:
    """Rows as numbers: which query, which document, which group."""

    queries: list[str]
    documents: list[str]
    query_of: NDArray[np.int64]
    document_of: NDArray[np.int64]
    row_of: NDArray[np.int64]  # per document, the first row that has it
    groups: NDArray[np.uint64]

    @classmethod
    def of(cls, table: pa.Table) -> _Pairs:
        """From rows of kind text_text."""
        query = table["text"].combine_chunks().dictionary_encode()
        document = table["doc_text"].combine_chunks().dictionary_encode()
        document_of = document.indices.to_numpy().astype(np.int64)
        return cls(
            query.dictionary.to_pylist(),
            document.dictionary.to_pylist(),
            query.indices.to_numpy().astype(np.int64),
            document_of,
            np.unique(document_of, return_index=True)[1],
            table["group"].combine_chunks().to_numpy(),
        )

    def save(self, directory: Path) -> None:
        """The numbers, for workers to map from disk."""
        for name in ("query_of", "document_of", "row_of", "groups"):
            np.save(directory / f"{name}.npy", getattr(self, name))


def _embed(texts: Sequence[str], path: Path, bundle: Path, actors: Actors) -> None:
    units = [(texts[start : start + UNIT_TEXTS],) for start in range(0, len(texts), UNIT_TEXTS)]
    vectors: NDArray[np.float32] | None = None
    with tqdm(total=len(texts), desc=path.stem, unit="text", file=sys.stderr) as bar:
        for at, part in each(units, functools.partial(_embedder, bundle, bool(actors.num_gpus)), actors=actors):
            if vectors is None:
                shape = (len(texts), part.shape[1])
                vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            vectors[at * UNIT_TEXTS : at * UNIT_TEXTS + len(part)] = part
            bar.update(len(part))
    vectors.flush()  # type: ignore[union-attr]  # there is at least one text


def _embedder(bundle: Path, gpu: bool) -> Callable[[list[str]], NDArray[np.float32]]:
    """Plain vectors, as the contrastive loss of text_text compares them."""
    return Encoder.from_bundle(bundle, device="cuda" if gpu else "cpu").embed_texts


def _searcher(work: Path, mining: Mining) -> Callable[[int, int], list[NDArray[np.int32]]]:
    def load(name: str) -> NDArray[Any]:
        found: NDArray[Any] = np.load(work / f"{name}.npy", mmap_mode="r")
        return found

    queries, documents, groups = load("queries"), load("documents"), load("groups")
    query_of, document_of, row_of = load("query_of"), load("document_of"), load("row_of")
    of_group, of_query = _Rows(groups), _Rows(query_of)

    @functools.lru_cache(maxsize=1024)
    def own(query: int) -> NDArray[np.int64]:
        """Documents of the groups of all rows that ask this."""
        same = of_query.equal(query)
        rows = np.concatenate([of_group.equal(group) for group in np.unique(groups[same])])
        answers: NDArray[np.int64] = np.unique(document_of[rows])
        return answers

    @torch.inference_mode()
    def search(start: int, stop: int) -> list[NDArray[np.int32]]:
        rows = np.arange(start, min(stop, len(query_of)))
        texts_QD = torch.from_numpy(queries[query_of[rows]])
        limit_Q = mining.limit((texts_QD * torch.from_numpy(documents[document_of[rows]])).sum(1))
        owned = [own(query) for query in query_of[rows].tolist()]
        mine = torch.from_numpy(np.repeat(np.arange(len(rows)), [len(each) for each in owned]))
        theirs = torch.from_numpy(np.concatenate(owned))
        best = torch.empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.int64)
        for first in range(0, len(documents), BLOCK_DOCUMENTS):
            block = torch.from_numpy(np.array(documents[first : first + BLOCK_DOCUMENTS]))
            scores = texts_QD @ block.T
            here = (theirs >= first) & (theirs < first + len(block))
            scores[mine[here], theirs[here] - first] = -torch.inf
            scores[scores >= limit_Q[:, None]] = -torch.inf
            top = scores.topk(min(mining.count, len(block)))
            together = torch.cat([best[0], top.values], 1), torch.cat([best[1], top.indices + first], 1)
            chosen = together[0].topk(min(mining.count, together[0].shape[1]))
            best = chosen.values, together[1].gather(1, chosen.indices)
        kept = torch.isfinite(best[0])
        return [row_of[one[keep].numpy()].astype(np.int32) for one, keep in zip(best[1], kept, strict=True)]

    return search


class _Rows:
    """Rows by the value they have."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._order = np.argsort(values, kind="stable")
        self._sorted = values[self._order]

    def equal(self, value: Any) -> NDArray[np.int64]:
        """The rows of this value."""
        first, last = (np.searchsorted(self._sorted, value, side) for side in ("left", "right"))
        rows: NDArray[np.int64] = self._order[first:last]
        return rows


def _chained(blocks: Sequence[Sequence[NDArray[np.int32]]]) -> Iterator[NDArray[np.int32]]:
    for block in blocks:
        yield from block
