"""Raw tables to canonical rows: filters, joins, several texts per row, language tags, groups and splits.

Knows the manifest; knows no file, no quality rule and no token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from unimir.data.clean import standard_tags
from unimir.data.corpora import ImageTable, Join, Source, Where
from unimir.data.hashing import Hashes, combine, hash_strings, hash_text
from unimir.data.rows import Rejects
from unimir.schema import KINDS, SLOTS, SPLITS

# Columns every canonical table of texts has; `_row`, `_split` and `_group` are numbers, the rest as in the manifest.
_TEXT_COLUMNS = ("text", "lang", "document", "doc_lang", "image_id", "label_set", "intent", "filters")

# Columns in which an empty cell, which is how CSV writes nothing, is nothing.
_OPTIONAL = dict.fromkeys(KINDS, {"group_id", "image_id"}) | {
    "intent_query": {"group_id", "image_id", "document", "doc_lang", "filters"}
}


@dataclass
class Canon:
    """Turns raw tables of one source into canonical ones; counts what it read."""

    source: Source
    lookup: pa.Table | None  # the raw join table
    rejects: Rejects
    path: str
    read: int = 0

    def rows(self, raw: pa.Table) -> pa.Table:
        """Canonical rows: _TEXT_COLUMNS (null where the kind has none), slots, `_row`, `_group` and `_split`."""
        source = self.source
        raw = kept_by(raw, source.where)
        exploded = None
        if source.texts:
            raw, exploded = _explode(raw, source.texts)
        self.read += raw.num_rows
        columns = dict(zip(raw.column_names, map(_one, raw.columns), strict=True))
        named = {name: _joined(columns, raws) for name, raws in source.columns.items()}
        if len(raws := source.columns.get("group_id", ())) > 1:
            named["group_id"] = _keyed(columns, raws)
        if source.format == "conll":
            named = {name: columns[name] for name in ("text", "intent", "slots")} | named
        if source.join and self.lookup is not None:
            named |= self._joined_columns(source.join, columns[source.join.on])
        if "query" in named:
            named["text"] = named.pop("query")
        if exploded is not None:
            named["text"] = exploded.field(1)
        for name in _OPTIONAL[source.kind] & named.keys():
            named[name] = pc.if_else(pc.equal(named[name], ""), None, named[name])
        self._languages(named, exploded)
        named["_row"] = columns["_row"]
        group = named.get("group_id", _default_group(source, named))
        named["_group"] = combine(hash_text(source.namespace), hash_strings(pc.fill_null(group, "")))
        named["_split"] = _splits(source, {**columns, **named, "group_id": group, "query": named.get("text", group)})
        return self._checked(named, group)

    def _joined_columns(self, join: Join, keys: pa.Array) -> dict[str, Any]:
        assert self.lookup is not None
        lookup = kept_by(self.lookup, join.where)
        at = pc.index_in(keys, _one(lookup[join.on]), skip_nulls=True)
        raw = {name: _one(lookup[name]).take(at) for name in lookup.column_names}
        return {name: _joined(raw, raws) for name, raws in join.columns.items()} | {"_joined": pc.is_valid(at)}

    def _languages(self, named: dict[str, Any], exploded: Any) -> None:
        source = self.source
        count = len(named["text"])
        given = named.pop("query_lang", named.get("lang"))
        if exploded is not None and exploded.field(0).null_count < count:
            given = exploded.field(0)
        elif given is None and source.lang_from_path:
            found = re.search(source.lang_from_path, self.path)
            given = pa.array([found[1] if found else self.path] * count, pa.string())
        elif given is None:
            given = pa.array([source.lang] * count, pa.string())
        named["_lang"] = given
        named["lang"] = standard_tags(given)
        if "document" in named:
            document_lang = named.get("doc_lang", given)
            named["_doc_lang"] = document_lang
            named["doc_lang"] = standard_tags(document_lang)

    def _checked(self, named: dict[str, Any], group: pa.Array) -> pa.Table:
        source, rejects = self.source, self.rejects
        count = len(named["_row"])
        named["_has_group"] = pc.is_valid(group)
        if source.label_set:
            named["label_set"] = pa.array([source.label_set] * count, pa.string())
        if source.kind in ("nlu", "intent_query"):
            named["slots"] = _renamed(named.get("slots", pa.nulls(count, SLOTS)), source)
            named["intent"] = _mapped(named["intent"], source)
        if "image_id" in named and source.images:
            named["image_id"] = pc.binary_join_element_wise(source.images, named["image_id"], "/")
        nulls = pa.nulls(count, pa.string())
        wanted = {name: named.get(name, nulls) for name in _TEXT_COLUMNS} | {
            name: named[name] for name in ("slots", "_row", "_group", "_split") if name in named
        }
        extra = {name: named[name] for name in ("_lang", "_doc_lang", "_joined", "_has_group") if name in named}
        table = pa.table(wanted | extra)
        if "_joined" in extra:
            table = rejects.drop(table, pc.invert(table["_joined"]), "not in the join table")
        table = rejects.drop(table, pc.equal(table["_split"], 255), "split value not listed")
        table = rejects.drop(table, pc.is_null(table["text"]), "empty text")
        table = rejects.drop(table, pc.is_null(table["lang"]), "unknown language", "_lang")
        if "_doc_lang" in extra:
            absent = pc.and_(pc.is_null(table["doc_lang"]), pc.is_valid(table["document"]))
            table = rejects.drop(table, absent, "unknown language", "_doc_lang")
        table = rejects.drop(table, pc.invert(table["_has_group"]), "no group_id")
        if source.kind == "image_text":
            table = rejects.drop(table, pc.is_null(table["image_id"]), "no image_id")
        return table.drop_columns(list(extra))


def kept_by(raw: pa.Table, where: dict[str, Where] | Any) -> pa.Table:
    """The rows whose raw values the manifest keeps; the others are no rows of the source."""
    for column, rule in where.items():
        kept = pc.is_in(raw[column], pa.array(rule.values, pa.string()))
        raw = raw.filter(pc.invert(kept) if rule.exclude else kept)
    return raw


def image_rows(table: ImageTable, raw: pa.Table) -> pa.Table:
    """Canonical rows of an image table: image_id qualified by the table's name, image bytes, `_row`."""
    raw = kept_by(raw, table.where)
    columns = table.columns or {"image_id": ("image_id",), "image": ("image",)}
    image = pc.coalesce(*(raw[column] for column in columns["image"]))
    ids = _joined({name: _one(raw[name]) for name in columns["image_id"]}, columns["image_id"])
    qualified = pc.binary_join_element_wise(table.name, ids, "/")
    return pa.table({"image_id": qualified, "image": image, "_row": raw["_row"]})


def _one(column: Any) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _joined(columns: dict[str, Any], raws: tuple[str, ...]) -> pa.Array:
    if len(raws) == 1:
        return columns[raws[0]]
    # Nulls are filled first: null_handling="skip" of pyarrow 26 loses rows in which all are null.
    joined = pc.binary_join_element_wise(*(pc.fill_null(columns[raw], "") for raw in raws), "\n")
    return pc.utf8_trim(pc.replace_substring_regex(joined, r"\n\n+", "\n"), "\n")


def _keyed(columns: dict[str, Any], raws: tuple[str, ...]) -> pa.Array:
    """Several columns as one key, in which each keeps its place; null where all are empty."""
    joined = pc.binary_join_element_wise(*(pc.fill_null(columns[raw], "") for raw in raws), "\n")
    return pc.if_else(pc.equal(joined, "\n" * (len(raws) - 1)), None, joined)


def _explode(raw: pa.Table, column: str) -> tuple[pa.Table, Any]:
    """One row for each of a row's texts; a row without any stays one row, without text."""
    texts = _one(raw[column])
    counts = pc.fill_null(pc.list_value_length(texts), 0).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(counts)), np.maximum(counts, 1))
    filled = np.repeat(counts > 0, np.maximum(counts, 1))
    at = np.full(len(rows), -1)
    at[filled] = np.arange(counts.sum())
    flat = texts.flatten().take(pa.array(at, mask=~filled))
    fields = [pc.struct_field(flat, 0), pc.struct_field(flat, 1)]
    pairs = pa.StructArray.from_arrays(fields, names=["lang", "text"])
    return raw.drop_columns([column]).take(pa.array(rows)), pairs


def _default_group(source: Source, named: dict[str, Any]) -> pa.Array:
    name = {"image_text": "image_id", "text_text": "document"}.get(source.kind, "text")
    return pc.fill_null(named[name], "")


def _mapped(labels: pa.Array, source: Source) -> pa.Array:
    if not source.rename_labels:
        return labels
    coded = labels.dictionary_encode()
    names = [source.rename_labels.get(name, name) for name in coded.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(coded.indices)


def _renamed(slots: pa.Array, source: Source) -> pa.Array:
    """Slot lists with labels renamed, nulls made empty, starting at offset 0."""
    lengths = pc.fill_null(pc.list_value_length(slots), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    flat = slots.flatten()
    fields = [pc.struct_field(flat, i) for i in range(3)]
    fields[2] = _mapped(fields[2], source)
    spans = pa.StructArray.from_arrays(fields, fields=list(SLOTS.value_type))
    return pa.ListArray.from_arrays(offsets, spans, type=SLOTS)


def _labels(slots: pa.Array) -> pa.Array:
    """A row's distinct slot labels in order of the alphabet: what paraphrases of one template share."""
    return pa.array([" ".join(sorted({slot["label"] for slot in row or ()})) for row in slots.to_pylist()], pa.string())


def _splits(source: Source, columns: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """Positions in SPLITS; 255 where the manifest assigns none."""
    rule, count = source.split, len(columns["_row"])
    if rule.only:
        return np.full(count, SPLITS.index(rule.only), np.uint8)
    if rule.column:
        chosen = np.full(count, 255, np.uint8)
        for split, values in rule.values.items():
            inside = pc.is_in(columns[rule.column], pa.array(values, pa.string()))
            chosen[inside.to_numpy(zero_copy_only=False)] = SPLITS.index(split)
        return chosen
    mixed: Hashes = np.full(count, hash_text(rule.salt if rule.salt is not None else source.namespace), np.uint64)
    for name in rule.by:
        if name not in columns:
            raise ValueError(f"source {source.name}: split by {name!r}, which is no column of it")
        values = _labels(columns[name]) if columns[name].type == SLOTS else columns[name]
        mixed = combine(mixed, hash_strings(pc.fill_null(values, "")))
    share = (mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53)
    return np.where(share < rule.evaluation, 2, np.where(share < rule.evaluation + rule.validation, 1, 0)).astype(
        np.uint8
    )
