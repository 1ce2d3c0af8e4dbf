"""What another model says of the examples, as artifacts: mined hard negatives, and a teacher's vectors.

Knows how they are stored; knows neither model nor how they were found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unimir import artifacts

NEGATIVES = pa.schema([("negatives", pa.list_(pa.int32()))])
"""Per training row of kind text_text, in the order of `read_kind`: rows whose documents it should be told from."""


class Negatives:
    """Mined negatives of a prepared corpus, hardest first."""

    def __init__(self, directory: Path, prepared: Path) -> None:
        """ValueError if the artifact is of another corpus."""
        mined_from = artifacts.read_manifest(directory, "negatives")["parents"]["prepared"]
        wanted = artifacts.read_manifest(prepared, "prepared")["id"]
        if mined_from != wanted:
            raise ValueError(f"{directory}: negatives of the corpus {mined_from}; this one is {wanted}")
        column = pq.read_table(directory / "negatives.parquet", schema=NEGATIVES)["negatives"].combine_chunks()
        self._lengths: NDArray[np.int64] = pc.list_value_length(column).to_numpy().astype(np.int64)
        self._starts: NDArray[np.int64] = np.cumsum(self._lengths) - self._lengths
        self._rows: NDArray[np.int64] = column.flatten().to_numpy().astype(np.int64)

    def draw(self, rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """[len(rows), count] of each row's negatives, drawn without repetition; -1 where it has too few."""
        if not len(self._rows):
            return np.full((len(rows), count), -1, np.int64)
        longest = max(count, int(self._lengths.max()))
        places = np.argsort(rng.random((len(rows), longest)) + (np.arange(longest) >= self._lengths[rows][:, None]))
        places = places[:, :count]
        found = self._rows[np.minimum(self._starts[rows][:, None] + places, len(self._rows) - 1)]
        drawn: NDArray[np.int64] = np.where(places < self._lengths[rows][:, None], found, -1)
        return drawn


def write_negatives(
    directory: Path, negatives: Iterator[NDArray[np.int32]], *, prepared: str, bundle: str, config: Mapping[str, Any]
) -> None:
    """Writes the artifact from every row's negatives, in order."""
    artifacts.start(directory)
    with pq.ParquetWriter(directory / "negatives.parquet", NEGATIVES) as writer:
        for part in _parts(negatives, 50_000):
            writer.write_table(pa.table({"negatives": pa.array(part, NEGATIVES.field(0).type)}))
    parents = {"prepared": prepared, "bundle": bundle}
    found = artifacts.files_id(directory, [directory / "negatives.parquet"])
    artifacts.finish(directory, kind="negatives", id=found, parents=parents, config=config)


class TeacherVectors:
    """A teacher's unit vectors of texts, mapped from disk."""

    def __init__(self, directory: Path) -> None:
        artifacts.read_manifest(directory, "teacher")
        texts = pq.read_table(directory / "texts.parquet")["text"]
        self._texts = texts.cast(pa.large_string()).combine_chunks()
        self._vectors: NDArray[np.float32] = np.load(directory / "vectors.npy", mmap_mode="r")
        self.dim = int(self._vectors.shape[1])

    def rows_of(self, texts: pa.ChunkedArray) -> NDArray[np.int64]:
        """Where each text's vector is; -1 for a text that the teacher has not seen."""
        found: NDArray[np.int64] = pc.index_in(texts, self._texts).fill_null(-1).to_numpy().astype(np.int64)
        return found

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """[len(rows), dim], float32."""
        return np.asarray(self._vectors[rows], np.float32)


def _parts(rows: Iterator[NDArray[np.int32]], size: int) -> Iterator[list[NDArray[np.int32]]]:
    part: list[NDArray[np.int32]] = []
    for row in rows:
        part.append(row)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
