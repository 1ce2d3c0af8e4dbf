"""The small keys by which rows are compared over a whole corpus: one number per thing that may be equal.

Knows one table of rows at a time; the comparing is done in duplicates.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unimir.data.corpora import Source
from unimir.data.hashing import LONG, Hashes, combine, hash_strings, hash_text, near_hash, sketches

SKETCH_BYTES = pa.binary(64)
KEYS = pa.schema(
    [
        ("split", pa.uint8()),
        ("exact", pa.uint64()),  # everything of the row but its source
        ("context", pa.uint64()),  # what near duplicates must have in common exactly
        ("text", pa.uint64()),  # near hash of the text, 0 for none
        ("document", pa.uint64()),
        ("image", pa.uint64()),  # hash of the image id
        ("intent", pa.uint64()),  # label hashes, for unknown labels
        ("slots", pa.list_(pa.uint64())),
    ]
)
SKETCHES = pa.schema([("row", pa.int32()), ("field", pa.uint8()), ("sketch", SKETCH_BYTES)])
PICTURES = pa.schema([("image", pa.uint64()), ("sketch", pa.binary(44))])


def picture_keys(rows: pa.Table) -> pa.Table:
    """Keys of an image table's rows."""
    return pa.table([hash_strings(rows["image_id"].combine_chunks()), rows["_sketch"]], schema=PICTURES)


def text_keys(rows: pa.Table, source: Source) -> pa.Table:
    """Keys of prepared rows."""
    count = rows.num_rows
    zeros: Hashes = np.zeros(count, np.uint64)
    kind = np.full(count, hash_text(source.kind), np.uint64)
    text, near = _hash(rows, "text"), near_hash(rows["text"].combine_chunks())
    document = near_document = image = zeros
    context = combine(kind, _hash(rows, "lang"))
    if "doc_text" in rows.column_names:
        document, near_document = _documents(rows)
        context = combine(context, _hash(rows, "doc_lang"))
    if "image_id" in rows.column_names:
        present = pc.is_valid(rows["image_id"]).to_numpy()
        image = np.where(present, _hash(rows, "image_id"), zeros)
    if source.kind in ("parallel", "intent_query"):
        context = combine(context, rows["group"].to_numpy())
    exact = combine(context, text, document, image)
    intent, slots = zeros, pa.nulls(count, pa.list_(pa.uint64()))
    if "intent" in rows.column_names:
        intent, slots, order, spans = _labels(rows)
        context = combine(context, intent, order)
        exact = combine(exact, intent, spans)
    if "filters" in rows.column_names:
        context, exact = (combine(key, _hash(rows, "filters")) for key in (context, exact))
    return pa.table([rows["_split"], exact, context, near, near_document, image, intent, slots], schema=KEYS)


def long_sketches(rows: pa.Table, start: int) -> pa.Table:
    """Sketches of long texts and documents, by row counted from `start`."""
    parts = []
    for field, name in enumerate(("text", "doc_text")):
        if name not in rows.column_names:
            continue
        long = pc.fill_null(pc.greater_equal(pc.utf8_length(rows[name]), LONG), False).to_numpy()
        at = np.flatnonzero(long)
        if not len(at):
            continue
        coded = rows[name].combine_chunks().take(pa.array(at)).dictionary_encode()
        marks = sketches(coded.dictionary)[coded.indices.to_numpy()]
        buffer = pa.py_buffer(np.ascontiguousarray(marks).tobytes())
        fixed = pa.FixedSizeBinaryArray.from_buffers(SKETCH_BYTES, len(at), [None, buffer])
        parts.append(
            pa.table([(at + start).astype(np.int32), np.full(len(at), field, np.uint8), fixed], schema=SKETCHES)
        )
    return pa.concat_tables(parts) if parts else SKETCHES.empty_table()


def label_names(rows: pa.Table) -> set[tuple[str, str, str]]:
    """The (intents or slots, label set, label) of a table."""
    if "intent" not in rows.column_names:
        return set()
    owners, flat = _flat_slots(rows)
    sets = rows["label_set"].combine_chunks()
    found = set()
    for what, pair in (("intents", [sets, rows["intent"]]), ("slots", [sets.take(owners), flat.field(2)])):
        unique = pa.table(pair, names=["set", "name"]).group_by(["set", "name"]).aggregate([])
        found |= {(what, row["set"], row["name"]) for row in unique.to_pylist()}
    return found


def label_hash(what: str, sets: pa.Array, names: pa.Array) -> Hashes:
    """Hash of a label: intents and slots of different sets never meet."""
    return combine(hash_text(what), hash_strings(sets), hash_strings(names))


def _hash(rows: pa.Table, name: str) -> Hashes:
    return hash_strings(pc.fill_null(rows[name].combine_chunks(), ""))


def _documents(rows: pa.Table) -> tuple[Hashes, Hashes]:
    coded = rows["doc_text"].combine_chunks().dictionary_encode()
    if not len(coded.dictionary):
        none: Hashes = np.zeros(rows.num_rows, np.uint64)
        return none, none
    at = pc.fill_null(coded.indices, 0).to_numpy()
    present = pc.is_valid(coded.indices).to_numpy(zero_copy_only=False)
    exact, near = (function(coded.dictionary)[at] * present for function in (hash_strings, near_hash))
    return exact, near


def _flat_slots(rows: pa.Table) -> tuple[pa.Array, pa.Array]:
    slots = rows["slots"].combine_chunks()
    return pc.list_parent_indices(slots), slots.flatten()


def _labels(rows: pa.Table) -> tuple[Hashes, pa.Array, Hashes, Hashes]:
    """Intent hashes, lists of slot label hashes, and per row one hash of the labels and one of the spans too."""
    sets = rows["label_set"].combine_chunks()
    intents = label_hash("intents", sets, rows["intent"].combine_chunks())
    owners, flat = _flat_slots(rows)
    labels = label_hash("slots", sets.take(owners), flat.field(2)) if len(owners) else np.zeros(0, np.uint64)
    rows_of = owners.to_numpy()
    starts, ends = (flat.field(i).to_numpy().astype(np.uint64) for i in (0, 1))
    with np.errstate(over="ignore"):
        order: Hashes = np.zeros(rows.num_rows, np.uint64)
        spans: Hashes = np.zeros(rows.num_rows, np.uint64)
        # Sums do not see order; the rank within the row (order) and the place (spans) do.
        first = np.searchsorted(rows_of, rows_of, side="left")
        rank = (np.arange(len(rows_of)) - first).astype(np.uint64)
        np.add.at(order, rows_of, combine(labels, rank) if len(labels) else labels)
        np.add.at(spans, rows_of, combine(labels, starts, ends) if len(labels) else labels)
    lists = pa.ListArray.from_arrays(rebased(rows["slots"].combine_chunks()), pa.array(labels))
    return intents, lists, order, spans


def rebased(lists: pa.Array) -> pa.Array:
    """Offsets of a list array counted from 0."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
