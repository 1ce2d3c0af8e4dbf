"""Canonical rows to finished examples: cleaned texts, checked spans, token ids; pictures decoded and stored small.

Knows one table of rows at a time: no file, no other row's content.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unimir.config import PrepareConfig
from unimir.data.clean import check_language, normalise, normalise_spans, slots_fit
from unimir.data.corpora import Source
from unimir.data.hashing import picture_sketch
from unimir.data.image import decode_image, store_image
from unimir.data.rows import Rejects
from unimir.data.text import TextTokenizer, align_slots
from unimir.schema import IDS, PREPARED, SLOTS

_EMPTY_IDS = pa.array([[]], IDS)


def cleaned(rows: pa.Table, source: Source, rules: PrepareConfig, rejects: Rejects) -> pa.Table:
    """Rows that meet the quality rules, their texts normalised."""
    annotated = source.kind in ("nlu", "intent_query")
    documents = "document" in (*source.columns, *(source.join.columns if source.join else ()))
    for name in ("text", "document") if documents else ("text",):
        long = pc.fill_null(pc.greater(pc.utf8_length(rows[name]), rules.max_chars), False)
        rows = rejects.drop(rows, long, "text too long")
        texts = _one(rows[name])
        if annotated and name == "text":
            rows = rejects.drop(rows, pc.equal(pc.fill_null(rows["intent"], ""), ""), "no intent")
            rows = rejects.drop(rows, pc.equal(pc.fill_null(rows["label_set"], ""), ""), "no label_set")
            rows = _spans(rows, rejects)
        else:
            rows = _set(rows, name, normalise(texts))
        optional = source.kind == "intent_query" and name == "document"
        empty = pc.equal(pc.fill_null(rows[name], "?" if optional else ""), "")
        rows = rejects.drop(rows, empty, "empty text")
        if rules.language_check == "script" and rows.num_rows:
            fits = check_language(_one(rows[name]), _one(rows["lang" if name == "text" else "doc_lang"]))
            rows = rejects.drop(rows, pc.invert(fits), "script does not match language", name)
    return rows


def _spans(rows: pa.Table, rejects: Rejects) -> pa.Table:
    inside, _ = slots_fit(_one(rows["text"]), _one(rows["slots"]))
    rows = rejects.drop(rows, ~inside, "slot outside the text")
    texts, slots = normalise_spans(_one(rows["text"]), _one(rows["slots"]))
    inside, apart = slots_fit(texts, slots)
    rows = _set(_set(rows, "text", texts), "slots", slots)
    # A text that is empty once cleaned is told so rather than that its spans have nowhere to go.
    lost = ~inside & pc.not_equal(texts, "").to_numpy(zero_copy_only=False)
    rows = _set(rows, "_apart", pa.array(apart))
    rows = rejects.drop(rows, lost, "slot outside the text")
    rows = rejects.drop(rows, pc.invert(rows["_apart"]), "slots overlap")
    return rows.drop_columns(["_apart"])


def prepared(rows: pa.Table, source: Source, tokenizer: TextTokenizer) -> pa.Table:
    """Rows in the prepared schema of the source's kind, followed by `_row` and `_split`."""
    columns: dict[str, Any] = {name: rows[name] for name in rows.column_names}
    columns["source"] = pa.repeat(source.name, rows.num_rows)
    columns["group"] = rows["_group"]
    texts = _one(rows["text"])
    if "slots" in columns:
        columns["ids"], columns["token_slots"] = _aligned(texts, _one(rows["slots"]), tokenizer)
    else:
        columns["ids"] = token_lists(tokenizer.encode(texts.to_pylist()))
    schema = PREPARED[source.kind]
    if "doc_ids" in schema.names:
        # One document may belong to many queries; it is encoded once.
        documents = _one(rows["document"]).dictionary_encode()
        encoded = token_lists(tokenizer.encode(documents.dictionary.to_pylist()))
        columns["doc_ids"] = encoded.take(documents.indices)
        columns["doc_text"] = columns["document"]
    arrays = [columns[name].cast(kind) for name, kind in zip(schema.names, schema.types, strict=True)]
    table = pa.table(arrays, schema=schema)
    return table.append_column("_row", rows["_row"]).append_column("_split", rows["_split"])


def token_lists(ids: Sequence[Sequence[int]]) -> pa.Array:
    """Lists of token ids as one Arrow array."""
    offsets = np.zeros(len(ids) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, ids), np.int32, len(ids)), out=offsets[1:])
    flat = np.fromiter(chain.from_iterable(ids), np.int32, int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), type=IDS)


def _aligned(texts: pa.Array, slots: pa.Array, tokenizer: TextTokenizer) -> tuple[pa.Array, pa.Array]:
    ids, spans = [], []
    for (tokens, offsets), row in zip(tokenizer.encode_with_offsets(texts.to_pylist()), slots.to_pylist(), strict=True):
        ids.append(tokens)
        found = align_slots(offsets, [(slot["start"], slot["end"], slot["label"]) for slot in row]) if row else []
        spans.append([{"start": start, "end": end, "label": label} for start, end, label in found])
    return token_lists(ids), pa.array(spans, SLOTS)


def pictures(rows: pa.Table, name: str, rules: PrepareConfig, rejects: Rejects) -> pa.Table:
    """Stored pictures: image_id, source, image, `_row`, `_sketch`; unreadable ones are rejected one by one."""
    kept, images, marks = [], [], []
    columns = (rows[name].to_pylist() for name in ("_row", "image_id", "image"))
    for i, (row, picture, data) in enumerate(zip(*columns, strict=True)):
        if picture is None or data is None:
            rejects.add(row, "no image_id" if picture is None else "no image")
            continue
        try:
            image = decode_image(data, rules, target=rules.image_size)
        except ValueError as error:
            rejects.add(row, str(error), picture)
            continue
        kept.append(i)
        images.append(store_image(image, rules.image_size))
        marks.append(picture_sketch(image).tobytes())
    rows = rows.take(pa.array(kept, pa.int64()))
    return pa.table(
        {
            "image_id": rows["image_id"].cast(pa.string()),
            "source": pa.repeat(name, rows.num_rows),
            "image": pa.array(images, pa.binary()),
            "_row": rows["_row"],
            "_sketch": pa.array(marks, pa.binary(44)),
        }
    )


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()


def _set(rows: pa.Table, name: str, column: pa.Array) -> pa.Table:
    at = rows.schema.get_field_index(name)
    return rows.append_column(name, column) if at < 0 else rows.set_column(at, name, column)
