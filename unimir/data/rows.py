"""Raw tables: the columns a source asks for, as text, slots, texts, JSON or image, whatever the file's own types.

Knows the shapes of values, not the formats of files nor what the columns mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from unimir.data.catalog import Catalog
from unimir.data.corpora import ImageTable, Join, Source
from unimir.schema import REJECTED, SLOTS

Role = Literal["text", "slots", "texts", "json", "image", "kept"]
TEXTS = pa.list_(pa.struct([("lang", pa.string()), ("text", pa.string())]))
"""A column that holds several texts of one thing: a mapping language -> text, or a list (languages null)."""


@dataclass
class Rejects:
    """Rejected rows of one file of one source."""

    source: str
    file: str
    rows: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, row: int, reason: str, detail: str = "") -> None:
        """Notes one rejected row; the detail is cut, cleaned of what UTF-8 cannot hold."""
        self.rows.append((row, reason, detail[:200].encode("utf-8", "replace").decode()))

    def drop(self, table: pa.Table, bad: Any, reason: str, detail: str | None = None) -> pa.Table:
        """The table without its bad rows (a boolean mask over rows with a column `_row`), which are noted."""
        mask = pc.fill_null(bad, True) if isinstance(bad, (pa.Array, pa.ChunkedArray)) else pa.array(bad)
        if not pc.any(mask).as_py():
            return table
        gone = table.filter(mask)
        details = gone[detail].to_pylist() if detail else [""] * gone.num_rows
        for row, text in zip(gone["_row"].to_pylist(), details, strict=True):
            self.add(row, reason, text or "")
        return table.filter(pc.invert(mask))

    def table(self) -> pa.Table:
        """The rejected rows in the prepared schema."""
        rows, reasons, details = zip(*self.rows, strict=True) if self.rows else ((), (), ())
        count = len(self.rows)
        return pa.table([[self.source] * count, [self.file] * count, rows, reasons, details], schema=REJECTED)


_CONLL: Mapping[str, Role] = {"text": "text", "intent": "text", "slots": "slots"}


def roles(table: ImageTable | Source | Join | Catalog) -> dict[str, Role]:
    """The raw columns a table of the manifest needs, and the shape each must have."""
    if isinstance(table, Catalog):
        needed: dict[str, Role] = dict.fromkeys(table.extra, "kept")
        needed |= dict.fromkeys(table.columns.values(), "text")
        return needed | ({table.columns["image"]: "image"} if "image" in table.columns else {})
    wanted: dict[str, Role] = {column: "text" for column in table.where}
    special: dict[str, Role] = {"slots": "slots", "image": "image", "filters": "json"}
    for canonical, columns in table.columns.items():
        wanted.update({column: special.get(canonical, "text") for column in columns})
    if isinstance(table, Join):
        wanted[table.on] = "text"
    elif isinstance(table, ImageTable):
        if table.format == "imagefolder" and not table.columns:
            wanted |= {"image_id": "text", "image": "image"}
    else:
        if table.format == "conll":
            wanted = {**_CONLL, **wanted}
        canonical_names = {*table.columns, *(table.join.columns if table.join else ()), "group_id", "lang", "doc_lang"}
        by = () if table.split.only or table.split.column else table.split.by
        wanted |= {column: "text" for column in by if column not in canonical_names and column not in wanted}
        if table.split.column:
            wanted.setdefault(table.split.column, "text")
        if table.join:
            wanted.setdefault(table.join.on, "text")
        if table.texts:
            wanted[table.texts] = "texts"
    return wanted


class BadValue(Exception):
    """A value that cannot play its role; `detail` shows it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


# ---- Arrow columns --------------------------------------------------------------------------------------------------


def allowed(kind: pa.DataType, role: Role) -> bool:
    """Whether a column of this Arrow type can play the role."""
    if pt.is_dictionary(kind):
        kind = kind.value_type
    text = pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind)
    listed = pt.is_list(kind) or pt.is_large_list(kind)
    if role == "text":
        simple = text or pt.is_integer(kind) or pt.is_boolean(kind) or pt.is_floating(kind) or pt.is_temporal(kind)
        simple = simple or pt.is_decimal(kind) or pt.is_null(kind)
        return bool(simple or (listed and allowed(kind.value_type, "text") and not pt.is_list(kind.value_type)))
    if role == "kept":
        return bool(allowed(kind, "text") or listed or pt.is_struct(kind) or pt.is_map(kind))
    if role == "json":
        return bool(text or pt.is_struct(kind) or pt.is_map(kind))
    if role == "image":
        return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind))
    if role == "slots":
        names = {f.name for f in kind.value_type} if listed and pt.is_struct(kind.value_type) else set()
        return {"start", "end", "label"} <= names
    return bool(pt.is_map(kind) or pt.is_struct(kind) or (listed and allowed(kind.value_type, "text")))


def arrow_column(column: pa.Array, role: Role) -> pa.Array:
    """The column in the role's own type; BadValue if one of its values cannot be."""
    if pt.is_dictionary(column.type):
        column = column.dictionary_decode()
    if role == "image":
        return column.cast(pa.large_binary())
    try:  # files may call bytes a string without checking; Arrow's kernels need real UTF-8
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise BadValue("invalid UTF-8", str(error)) from error
    try:
        return _cast(column, role)
    except pa.ArrowInvalid as error:
        raise BadValue("slot outside the text" if role == "slots" else "wrong type", str(error)) from error


def _cast(column: pa.Array, role: Role) -> pa.Array:
    if role == "slots":
        return column.cast(SLOTS)
    if role == "texts":
        return _texts(column)
    if role == "json" and not pt.is_string(column.type) or role == "kept" and not allowed(column.type, "text"):
        return pa.array([None if v is None else _dump(v) for v in column.to_pylist()], pa.string())
    if pt.is_list(column.type) or pt.is_large_list(column.type):
        return pc.binary_join(column.cast(pa.list_(pa.string())), "\n")
    return column.cast(pa.string())


def _texts(column: pa.Array) -> pa.Array:
    if pt.is_struct(column.type):
        return pa.array([None if v is None else _mapping_or_list(v) for v in column.to_pylist()], TEXTS)
    if not pt.is_map(column.type):
        column = column.cast(pa.list_(pa.string()))
    if column.null_count or column.offset:  # the buffers below are taken as they are
        return pa.array([None if v is None else _mapping_or_list(_plain(v)) for v in column.to_pylist()], TEXTS)
    is_map = pt.is_map(column.type)
    texts = (column.items if is_map else column.values).cast(pa.string())
    langs = column.keys.cast(pa.string()) if is_map else pa.nulls(len(texts), pa.string())
    pairs = pa.StructArray.from_arrays([langs, texts], fields=list(TEXTS.value_type))
    return pa.ListArray.from_arrays(column.offsets, pairs, type=TEXTS)


def _plain(value: Any) -> Any:
    """Arrow gives a map as a list of pairs."""
    return dict(value) if value and isinstance(value[0], tuple) else value


# ---- records (Python values) ----------------------------------------------------------------------------------------


def pick(record: Mapping[str, Any], path: str) -> Any:
    """A value of a record by its name, or by a dotted path into nested mappings."""
    if path in record:
        return record[path]
    head, dot, rest = path.partition(".")
    inner = record.get(head)
    return pick(inner, rest) if dot and isinstance(inner, Mapping) else None


def table_of(
    records: Iterable[tuple[int, Mapping[str, Any]]], wanted: Mapping[str, Role], rejects: Rejects
) -> pa.Table:
    """A raw table of records by row number; a value of the wrong shape rejects its row."""
    rows: list[int] = []
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    for row, record in records:
        try:
            values = [_CONVERT[role](pick(record, name)) for name, role in wanted.items()]
        except BadValue as error:
            rejects.add(row, error.reason, error.detail)
            continue
        rows.append(row)
        for name, value in zip(wanted, values, strict=True):
            columns[name].append(value)
    arrays = {name: pa.array(values, _TYPES[wanted[name]]) for name, values in columns.items()}
    return pa.table({"_row": pa.array(rows, pa.int64()), **arrays})


_TYPES: Mapping[Role, pa.DataType] = {
    "text": pa.string(),
    "json": pa.string(),
    "kept": pa.string(),
    "slots": SLOTS,
    "texts": TEXTS,
    "image": pa.large_binary(),
}


def _text(value: Any) -> str | None:
    if type(value) is str:
        if not value.isascii() and _lone_surrogate(value):
            raise BadValue("invalid UTF-8", repr(value))
        return value
    if value is None:
        return None
    if isinstance(value, bool):  # as JSON, Parquet and a manifest have them
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, list):
        parts = [_text(part) for part in value]
        return "\n".join(part for part in parts if part)
    raise BadValue("wrong type", repr(value))


def _lone_surrogate(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False


def _slots(value: Any) -> list[dict[str, Any]] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise BadValue("malformed slots", repr(value))
    slots = []
    for slot in value:
        parts = [slot.get(key) for key in ("start", "end", "label")] if isinstance(slot, Mapping) else slot
        if not (isinstance(parts, list) and [type(part) for part in parts] == [int, int, str]):
            raise BadValue("malformed slots", repr(value))
        if max(abs(parts[0]), abs(parts[1])) > 2**31 - 1:
            raise BadValue("slot outside the text", repr(value))
        slots.append({"start": parts[0], "end": parts[1], "label": _text(parts[2])})
    return slots


def _mapping_or_list(value: Any) -> list[dict[str, Any]] | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return [{"lang": _text(lang), "text": _text(text)} for lang, text in value.items() if text is not None]
    if isinstance(value, list):
        return [{"lang": None, "text": _text(text)} for text in value]
    raise BadValue("wrong type", repr(value))


def _json(value: Any) -> str | None:
    return _text(value) if isinstance(value, str) else None if value is None else _dump(value)


def _kept(value: Any) -> str | None:
    """What is text as text, what is nested as JSON."""
    parts = value if isinstance(value, list) else [value]
    nested = any(isinstance(part, (dict, list)) for part in parts)
    return _dump(value) if nested else _text(value)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _image(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    raise BadValue("wrong type", type(value).__name__)


_CONVERT: Mapping[Role, Any] = {
    "text": _text,
    "slots": _slots,
    "texts": _mapping_or_list,
    "json": _json,
    "kept": _kept,
    "image": _image,
}
