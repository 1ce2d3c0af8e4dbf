"""The work of one task: a unit of raw rows to a candidate shard and its keys; candidate shards to final ones.

Knows one task's rows at a time; which rows are duplicates or leaks is told to it as one code per row.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unimir.config import PrepareConfig
from unimir.data.canonical import Canon, image_rows
from unimir.data.corpora import Corpora, ImageTable, Join, Source
from unimir.data.duplicates import REASONS
from unimir.data.examples import cleaned, pictures, prepared
from unimir.data.keys import KEYS, PICTURES, SKETCHES, label_names, long_sketches, picture_keys, text_keys
from unimir.data.readers import Unit, read_join, read_unit
from unimir.data.rows import Rejects
from unimir.data.text import TextTokenizer
from unimir.schema import IMAGES, PREPARED, REJECTED, SPLITS

_WORDS = ["source", "lang", "doc_lang", "label_set", "intent"]  # columns of few values


@dataclass
class Found:
    """What a unit's task tells the driver."""

    unit: int
    read: int = 0
    rejected: int = 0
    keys: pa.Table | None = None
    sketches: pa.Table | None = None
    labels: set[tuple[str, str, str]] = field(default_factory=set)


@dataclass
class Part:
    """What a final part's task tells the driver."""

    rejected: dict[tuple[str, str], int] = field(default_factory=dict)  # (source, reason) -> rows
    kept: dict[tuple[str, str], int] = field(default_factory=dict)  # (source, split) -> rows
    statistics: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Shards:
    """Where one prepare run works, and by which rules; travels to every task."""

    corpora: Corpora
    rules: PrepareConfig
    directory: str

    def texts(self, unit: Unit, budget: int) -> list[str]:
        """At most `budget` cleaned training texts of a unit, evenly spread over it."""
        found: list[pa.Array] = []
        for rows in self._cleaned(unit, Rejects("", unit.file.label), Found(unit.index)):
            train = rows.filter(pc.equal(rows["_split"], 0))
            found += [train["text"].combine_chunks(), train["document"].combine_chunks().unique().drop_null()]
        texts = pa.concat_arrays(found) if found else pa.array([], pa.string())
        at = np.unique(np.linspace(0, max(len(texts) - 1, 0), min(budget, len(texts))).astype(np.int64))
        spread: list[str] = texts.take(pa.array(at)).to_pylist()
        return spread

    def work(self, unit: Unit) -> Found:
        """Writes a unit's candidate and rejected rows; returns its counts and keys."""
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every core has a task of its own already
        table = self.corpora.tables[unit.table]
        rejects = Rejects(label_of(table), unit.file.label)
        found = Found(unit.index)
        keys: list[pa.Table] = []
        sketches: list[pa.Table] = []
        written = 0
        writer: pa.RecordBatchFileWriter | None = None
        batches = self._pictures if isinstance(table, ImageTable) else self._rows
        for rows in batches(unit, rejects, found):
            if isinstance(table, ImageTable):
                keys.append(picture_keys(rows))
                rows = rows.drop_columns(["_sketch"])
            else:
                keys.append(text_keys(rows, table))
                sketches.append(long_sketches(rows, written))
                found.labels |= label_names(rows)
            writer = writer or _writer(self._candidate(unit.index, "rows"), rows.schema)
            writer.write_table(rows)
            written += rows.num_rows
        if writer is not None:
            writer.close()
        if rejects.rows:
            with _writer(self._candidate(unit.index, "rejected"), REJECTED) as out:
                out.write_table(rejects.table())
        found.rejected = len(rejects.rows)
        found.keys = pa.concat_tables(keys or [(PICTURES if isinstance(table, ImageTable) else KEYS).empty_table()])
        found.sketches = pa.concat_tables(sketches or [SKETCHES.empty_table()])
        return found

    def _rows(self, unit: Unit, rejects: Rejects, found: Found) -> Iterator[pa.Table]:
        tokenizer = _tokenizer(str(Path(self.directory) / "tokenizer.json"), self.rules.max_tokens)
        source = self.corpora.tables[unit.table]
        assert isinstance(source, Source)
        for rows in self._cleaned(unit, rejects, found):
            if rows.num_rows:
                yield prepared(rows, source, tokenizer)

    def _cleaned(self, unit: Unit, rejects: Rejects, found: Found) -> Iterator[pa.Table]:
        source = self.corpora.tables[unit.table]
        assert not isinstance(source, ImageTable)
        canon = Canon(source, _lookup(self.corpora, source.join) if source.join else None, rejects, unit.file.label)
        for raw in _counted(read_unit(source, unit, rejects, self.rules.unit_rows), rejects, found):
            rows = canon.rows(raw)
            found.read += canon.read
            canon.read = 0
            yield cleaned(rows, source, self.rules, rejects)

    def _pictures(self, unit: Unit, rejects: Rejects, found: Found) -> Iterator[pa.Table]:
        table = self.corpora.tables[unit.table]
        assert isinstance(table, ImageTable)
        for raw in _counted(read_unit(table, unit, rejects, self.rules.unit_rows), rejects, found):
            rows = image_rows(table, raw)
            found.read += rows.num_rows
            kept = pictures(rows, table.name, self.rules, rejects)
            if kept.num_rows:
                yield kept

    def finish(self, number: int, units: Sequence[Unit], drops: Sequence[bytes]) -> Part:
        """Writes one part of the final directories from candidate shards; a non-zero code drops its row."""
        part = Part()
        rejected: list[pa.Table] = []
        kept: dict[str, list[pa.Table]] = {}
        for unit, codes in zip(units, drops, strict=True):
            table = self.corpora.tables[unit.table]
            if self._candidate(unit.index, "rejected").exists():
                rejected.append(_read(self._candidate(unit.index, "rejected")))
            if not self._candidate(unit.index, "rows").exists():
                continue
            rows = _read(self._candidate(unit.index, "rows"))
            code = np.frombuffer(codes, np.uint8)
            if code.any():
                rejected.append(_dropped(rows, code, label_of(table), unit.file.label))
                rows = rows.filter(pa.array(code == 0))
            if isinstance(table, ImageTable):
                kept.setdefault("images", []).append(rows.select(IMAGES.names))
                continue
            for index, split in enumerate(SPLITS):
                chosen = rows.filter(pc.equal(rows["_split"], index)).select(PREPARED[table.kind].names)
                kept.setdefault(f"{table.kind}/{split}", []).append(chosen)
        for folder, tables in kept.items():
            rows = pa.concat_tables(tables)
            form = "arrow" if folder == "images" else "parquet"
            _write(rows, Path(self.directory) / folder / f"part-{number:05d}.{form}")
            named = folder.partition("/")[2]
            for count in rows.group_by("source").aggregate([([], "count_all")]).to_pylist():
                name = f"images/{count['source']}" if folder == "images" else count["source"]
                part.kept[name, named] = count["count_all"]
            if named:
                part.statistics += [{**row, "split": named} for row in _statistics(rows)]
        everything = pa.concat_tables(rejected or [REJECTED.empty_table()])
        _write(everything, Path(self.directory) / "rejected" / f"part-{number:05d}.parquet")
        counts = everything.group_by(["source", "reason"]).aggregate([([], "count_all")])
        part.rejected = {(row["source"], row["reason"]): row["count_all"] for row in counts.to_pylist()}
        return part

    def _candidate(self, unit: int, what: str) -> Path:
        return Path(self.directory) / "candidates" / f"{unit:06d}-{what}.arrow"


def label_of(table: ImageTable | Source) -> str:
    """The name of a table in counts and among the rejected rows; image tables and sources may share one."""
    return f"images/{table.name}" if isinstance(table, ImageTable) else table.name


def _counted(raws: Iterator[pa.Table], rejects: Rejects, found: Found) -> Iterator[pa.Table]:
    """Rows the reader itself rejects were read too; later rejections are counted with their table."""
    before = len(rejects.rows)
    for raw in raws:
        found.read += len(rejects.rows) - before
        yield raw
        before = len(rejects.rows)
    found.read += len(rejects.rows) - before


@lru_cache(maxsize=2)
def _tokenizer(path: str, max_tokens: int) -> TextTokenizer:
    return TextTokenizer.from_file(Path(path), max_tokens)


_lookups: dict[str, pa.Table] = {}


def _lookup(corpora: Corpora, join: Join) -> pa.Table:
    """Join tables are read once per worker process; the newest is kept."""
    key = repr((corpora.root, join))
    if key not in _lookups:
        _lookups.clear()
        _lookups[key] = read_join(corpora, join)
    return _lookups[key]


def _writer(path: Path, schema: pa.Schema) -> pa.RecordBatchFileWriter:
    return pa.ipc.new_file(str(path), schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))


def _read(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as handle:
        return pa.ipc.open_file(handle).read_all()


def _write(rows: pa.Table, path: Path) -> None:
    if not rows.num_rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".arrow":
        with pa.ipc.new_file(str(path), rows.schema) as out:
            out.write_table(rows, max_chunksize=10_000)
        return
    words = [name for name in _WORDS if name in rows.column_names]
    pq.write_table(rows, path, compression="zstd", compression_level=1, use_dictionary=words, row_group_size=20_000)


def _dropped(rows: pa.Table, code: Any, source: str, file: str) -> pa.Table:
    gone = rows["_row"].filter(pa.array(code != 0))
    reasons = pa.array(REASONS, pa.string()).take(pa.array(code[code != 0]))
    constant = [pa.repeat(value, len(gone)) for value in (source, file)]
    return pa.table([*constant, gone, reasons, pa.repeat("", len(gone))], schema=REJECTED)


def _statistics(rows: pa.Table) -> list[dict[str, Any]]:
    chars, tokens = pc.utf8_length(rows["text"]), pc.list_value_length(rows["ids"])
    if "doc_text" in rows.column_names:
        chars = pc.add(chars, pc.fill_null(pc.utf8_length(rows["doc_text"]), 0))
        tokens = pc.add(tokens, pc.fill_null(pc.list_value_length(rows["doc_ids"]), 0))
    table = pa.table({"source": rows["source"], "lang": rows["lang"], "chars": chars, "tokens": tokens})
    sums = table.group_by(["source", "lang"]).aggregate([([], "count_all"), ("chars", "sum"), ("tokens", "sum")])
    listed: list[dict[str, Any]] = sums.rename_columns(["source", "lang", "rows", "chars", "tokens"]).to_pylist()
    return listed
