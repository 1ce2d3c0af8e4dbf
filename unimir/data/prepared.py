"""Prepared rows and pictures as Arrow tables, for whoever trains, mines or judges. Knows no task and no tensor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from unimir.schema import IDS, IMAGES, PREPARED, Kind, Split

_LARGE = {pa.string(): pa.large_string(), IDS: pa.large_list(pa.int32())}


def read_kind(prepared: Path, kind: Kind, split: Split, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of one kind and split, in the order of their files; there may be none.

    Those columns that the kind has, by default all. Texts and ids are of the large types, which have no limit of 2 GiB.
    """
    files = sorted((prepared / kind / split).glob("*.parquet"))
    fields = [field for field in PREPARED[kind] if columns is None or field.name in columns]
    schema = pa.schema([field.with_type(_LARGE.get(field.type, field.type)) for field in fields])
    tables = [pq.read_table(path, columns=schema.names, schema=schema) for path in files]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def read_images(prepared: Path) -> pa.Table:
    """All pictures, encoded, by image_id: mapped from disk, so that the workers of a machine share one copy."""
    files = sorted((prepared / "images").glob("*.arrow"))
    tables = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in files]
    return pa.concat_tables(tables or [IMAGES.empty_table()])
