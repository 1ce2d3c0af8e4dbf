"""Work units over the files of a manifest, planned from footers and sizes, and the raw rows of one unit.

Knows the container formats; what the columns mean, and which rows are good, is decided after it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unimir.data import archives, records
from unimir.data.catalog import Catalog
from unimir.data.corpora import Corpora, ImageTable, Join, Source
from unimir.data.files import File, find, open_file
from unimir.data.rows import BadValue, Rejects, Role, allowed, arrow_column, roles

Table = ImageTable | Source | Join | Catalog

_IMAGE_ROWS = 128  # rows of pictures held at once
_ROW_GROUP_PARTS = 8  # a huge row group is re-read by at most this many units


@dataclass(frozen=True)
class Unit:
    """A part of one file: rows [start, stop), or bytes for line formats, whose first row is `row`."""

    index: int
    table: int  # position in corpora.tables
    file: File
    start: int
    stop: int
    row: int


def plan(corpora: Corpora | Catalog, unit_rows: int) -> list[Unit]:
    """Units of about `unit_rows` rows over all tables; ValueError for files or columns that do not fit."""
    units: list[Unit] = []
    for index, table in enumerate(corpora.tables):
        rows = max(1, unit_rows // 16) if isinstance(table, ImageTable) else unit_rows
        for file in table_files(corpora, table):
            units += [Unit(len(units) + i, index, file, *part) for i, part in enumerate(_parts(table, file, rows))]
    return units


def table_files(corpora: Corpora | Catalog, table: Table) -> list[File]:
    """The table's files in order."""
    where = f"{corpora.name}: {getattr(table, 'name', 'join')}" if table is not corpora else f"catalog {corpora.name}"
    if table.format == "imagefolder":
        return [archives.folder_file(corpora.root, path, where) for path in table.path]
    files = find(corpora.root, table.path, where)
    if table.format == "hf_dataset":
        if any(posixpath.basename(file.uri) == "dataset_dict.json" for file in files):
            raise ValueError(f"{where}: {table.path[0]} is a dict of datasets; give the directory of one split")
        # What `map` and `filter` of a saved dataset leave beside it is no part of it.
        files = [f for f in files if f.uri.endswith(".arrow") and not posixpath.basename(f.uri).startswith("cache-")]
        if not files:
            raise ValueError(f"{where}: {table.path[0]} holds no .arrow file; expected a dataset of save_to_disk")
    return files


def column_names(table: Table, file: File) -> list[str]:
    """The columns that a file has: as its schema says, or as its first rows show."""
    if table.format == "parquet":
        with _parquet(file) as parquet:
            return list(parquet.schema_arrow.names)
    if table.format == "hf_dataset":
        return list(next(_stream(file)).schema.names)
    return records.column_names(table.format, file)


def _parts(table: Table, file: File, rows: int) -> Iterator[tuple[int, int, int]]:
    wanted = roles(table)
    if table.format == "parquet":
        with _parquet(file) as parquet:
            _check(parquet.schema_arrow, wanted, file)
            start = 0
            for group in range(parquet.num_row_groups):
                count = parquet.metadata.row_group(group).num_rows
                step = max(rows, -(-count // _ROW_GROUP_PARTS))
                pieces = max(1, -(-count // step))
                bounds = np.linspace(start, start + count, pieces + 1).astype(int).tolist()
                yield from ((a, b, a) for a, b in zip(bounds[:-1], bounds[1:], strict=True) if b > a)
                start += count
    elif table.format == "hf_dataset":
        count = 0
        for number, batch in enumerate(_stream(file)):
            if number == 0:
                _check(batch.schema, wanted, file)
            count += batch.num_rows
        yield from ((a, min(a + rows, count), a) for a in range(0, count, rows))
    else:
        yield from records.parts(table.format, file, wanted, rows)


def read_unit(table: Table, unit: Unit, rejects: Rejects, chunk_rows: int) -> Iterator[pa.Table]:
    """Raw tables of at most `chunk_rows` rows: the wanted columns in their roles' types, and `_row`."""
    wanted = roles(table)
    if isinstance(table, ImageTable):
        chunk_rows = min(chunk_rows, _IMAGE_ROWS)
    if table.format == "parquet":
        yield from _rows_of(_parquet_batches(unit, wanted, chunk_rows), unit.row, wanted, rejects)
    elif table.format == "hf_dataset":
        yield from _rows_of(_stream_batches(unit, chunk_rows), unit.row, wanted, rejects)
    else:
        rename = table.rename_labels if isinstance(table, Source) else {}
        found = records.read(table.format, unit.file, unit.start, unit.stop, unit.row, wanted, rejects, rename)
        yield from records.chunks(found, wanted, rejects, chunk_rows)


def read_join(corpora: Corpora, join: Join) -> pa.Table:
    """The whole lookup table, in the manifest's order."""
    tables = []
    for file in table_files(corpora, join):
        for start, stop, row in _parts(join, file, 1_000_000):
            unit = Unit(0, 0, file, start, stop, row)
            tables += list(read_unit(join, unit, Rejects("", file.label), 100_000))
    if not tables:
        raise ValueError(f"{corpora.name}: join {', '.join(join.path)} has no row")
    return pa.concat_tables(tables).combine_chunks()


# ---- Parquet and Arrow streams --------------------------------------------------------------------------------------


def _parquet(file: File) -> pq.ParquetFile:
    try:
        # In pieces: a column of pictures is not read whole for the first of them.
        return pq.ParquetFile(open_file(file.uri), pre_buffer=False, buffer_size=1 << 23)
    except pa.ArrowException as error:
        raise ValueError(f"{file.label}: not a Parquet file ({' '.join(str(error).split())[:200]})") from error


def _parquet_batches(unit: Unit, wanted: dict[str, Role], chunk_rows: int) -> Iterator[pa.RecordBatch]:
    with _parquet(unit.file) as parquet:
        groups: list[int] = []
        first, seen = 0, 0
        for group in range(parquet.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            if seen + count > unit.start and seen < unit.stop:
                first = first if groups else seen
                groups.append(group)
            seen += count
        batches = parquet.iter_batches(chunk_rows, row_groups=groups, columns=_leaves(wanted, parquet.schema_arrow))
        yield from _between(batches, unit.start - first, unit.stop - first)


def _leaves(wanted: dict[str, Role], schema: pa.Schema) -> list[str]:
    return [name if name in schema.names else name.split(".")[0] for name in wanted]


def _between(batches: Iterator[pa.RecordBatch], start: int, stop: int) -> Iterator[pa.RecordBatch]:
    seen = 0
    for batch in batches:
        left, right = max(start - seen, 0), min(stop - seen, batch.num_rows)
        seen += batch.num_rows
        if left < right:
            yield batch.slice(left, right - left)
        if seen >= stop:
            return


def _stream(file: File) -> Iterator[pa.RecordBatch]:
    source = pa.memory_map(file.uri) if "://" not in file.uri else open_file(file.uri)
    try:
        with source, pa.ipc.open_stream(source) as reader:
            yield from reader
    except pa.ArrowException as error:
        raise ValueError(f"{file.label}: not an Arrow stream ({' '.join(str(error).split())[:200]})") from error


def _stream_batches(unit: Unit, chunk_rows: int) -> Iterator[pa.RecordBatch]:
    for batch in _between(_stream(unit.file), unit.start, unit.stop):
        for start in range(0, batch.num_rows, chunk_rows):
            yield batch.slice(start, chunk_rows)


def _check(schema: pa.Schema, wanted: dict[str, Role], file: File) -> None:
    for name, role in wanted.items():
        kind = _kind(schema, name)
        if kind is None:
            raise ValueError(f"{file.label}: no column {name!r}; available columns: {', '.join(schema.names)}")
        if not allowed(kind, role):
            raise ValueError(f"{file.label}: column {name!r} has type {kind}, which cannot be read as {role}")


def _kind(schema: pa.Schema, name: str) -> pa.DataType | None:
    if name in schema.names:
        return schema.field(name).type
    head, *rest = name.split(".")
    kind = schema.field(head).type if rest and head in schema.names else None
    for part in rest:
        if not isinstance(kind, pa.StructType) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    return kind


def _rows_of(
    batches: Iterator[pa.RecordBatch], row: int, wanted: dict[str, Role], rejects: Rejects
) -> Iterator[pa.Table]:
    for batch in batches:
        raw = pa.record_batch([_column(batch, name) for name in wanted], names=list(wanted))
        try:
            yield _table(raw, row, wanted)
        except BadValue:
            # Taken, not sliced: a slice is checked with all of what it was cut from.
            if tables := list(_good(raw.take(pa.array(np.arange(raw.num_rows))), row, wanted, rejects)):
                yield pa.concat_tables(tables).combine_chunks()
        row += batch.num_rows


def _table(raw: pa.RecordBatch, row: int, wanted: dict[str, Role]) -> pa.Table:
    columns = [arrow_column(column, role) for column, role in zip(raw.columns, wanted.values(), strict=True)]
    return pa.table([pa.array(np.arange(row, row + raw.num_rows)), *columns], names=["_row", *wanted])


def _good(raw: pa.RecordBatch, row: int, wanted: dict[str, Role], rejects: Rejects) -> Iterator[pa.Table]:
    """The rows whose values can all be had; a batch with a bad one is halved until that row stands alone."""
    try:
        yield _table(raw, row, wanted)
    except BadValue as error:
        if raw.num_rows == 1:
            rejects.add(row, error.reason, error.detail)
            return
        for half in np.array_split(np.arange(raw.num_rows), 2):
            yield from _good(raw.take(pa.array(half)), row + int(half[0]), wanted, rejects)


def _column(batch: pa.RecordBatch, name: str) -> Any:
    if name in batch.schema.names:
        return batch.column(name)
    head, *rest = name.split(".")
    column = batch.column(head)
    for part in rest:
        column = pc.struct_field(column, part)
    return column
