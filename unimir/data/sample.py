"""The embedded default corpus: a deterministic generated catalog of pictures, texts and spoken queries.

Knows how items are chosen and which Parquet files they become. Does not know grammar, drawing, models or indexes.
"""

import contextlib
import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unimir.data import drawing, spoken
from unimir.data.phrasing import Content, Lexicon, Rng, lexicon, pick

__all__ = ["REFERENCE_DATE", "SCHEMAS", "Item", "generate", "item", "lexicon"]

REFERENCE_DATE = datetime.date(2026, 3, 15)
_EARLIEST = datetime.date(2024, 1, 1)
_CHUNK = 1000
_QUERIES_PER_ITEM = 4
_LABEL_SET = "search"
# Forty chances, so that shares are whole numbers.
_INTENTS = ("find_picture",) * 16 + ("find_text",) * 10 + ("find_offer",) * 7 + ("show_recent",) * 7
_COMMAND_CYCLE = ("count_items", "greeting", "count_items", "help", "out_of_scope")
_CURRENCIES = ("EUR", "EUR", "EUR", "USD", "USD", "GBP", "JPY")

Row = dict[str, Any]


def _schema(names: str, **others: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, others.get(name, pa.string())) for name in names.split()])


_SLOTS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("label", pa.string())]))
SCHEMAS: dict[str, pa.Schema] = {
    "images": _schema("image_id image group_id composition", image=pa.binary()),
    "captions": _schema("image_id text lang group_id composition"),
    "descriptions": _schema("query query_lang document doc_lang group_id composition"),
    "queries": _schema(
        "text lang intent slots label_set group_id composition image_id document doc_lang filters", slots=_SLOTS
    ),
    "commands": _schema("text lang intent slots label_set group_id composition", slots=_SLOTS),
    "catalog": _schema(
        "id image_id image title description lang captured_at place price currency tags group_id",
        image=pa.binary(),
        price=pa.float64(),
        tags=pa.list_(pa.string()),
    ),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One catalog item: what its picture shows and its facts."""

    number: int
    content: Content
    facts: spoken.Facts

    @property
    def image_id(self) -> str:
        return f"item-{self.number + 1:06d}"


def generate(out_dir: Path, *, items: int = 5000, seed: int = 0) -> None:
    """Write the sample catalog as Parquet files; the same seed and size give the same bytes."""
    if items < 1:
        raise ValueError(f"items is {items}; allowed is 1 or more")
    if seed < 0:
        raise ValueError(f"seed is {seed}; allowed is 0 or more")
    out_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        writers = {
            name: stack.enter_context(pq.ParquetWriter(out_dir / f"{name}.parquet", schema))
            for name, schema in SCHEMAS.items()
        }
        for first in range(0, items, _CHUNK):
            rows: dict[str, list[Row]] = {name: [] for name in SCHEMAS}
            last = min(first + _CHUNK, items)
            for number in range(first, last):
                for name, row in _item_rows(item(seed, number), seed):
                    rows[name].append(row)
            rows["commands"] = [_command_row(seed, k) for k in range(first * 2 // 5, last * 2 // 5)]
            for name, writer in writers.items():
                writer.write_table(pa.Table.from_pylist(rows[name], schema=SCHEMAS[name]))


def _rng(seed: int, number: int, stream: int) -> Rng:
    """Randomness of one item or command alone, so that none depends on how many came before."""
    return np.random.default_rng((seed << 64) + (number << 8) + stream)


def item(seed: int, number: int) -> Item:
    """The item with this number in the catalog of this seed."""
    rng = _rng(seed, number, 0)
    words = lexicon()
    span = pick((30, 30, 364, 364, (REFERENCE_DATE - _EARLIEST).days), rng)
    currency = pick(_CURRENCIES, rng)
    if currency == "JPY":
        price = float(rng.integers(50, 2000) * 10)
    else:
        price = float(rng.integers(5, 200)) + pick((0.0, 0.5, 0.9, 0.99), rng)
    facts = spoken.Facts(
        captured_at=REFERENCE_DATE - datetime.timedelta(days=int(rng.integers(0, span + 1))),
        place=pick(words.places, rng),
        price=price,
        currency=currency,
    )
    return Item(number, _content(words, rng), facts)


def _content(words: Lexicon, rng: Rng) -> Content:
    return Content(
        pick(words.objects, rng),
        pick(words.colours, rng),
        pick(words.counts, rng),
        pick(words.patterns, rng),
        pick(words.scenes, rng),
    )


def _item_rows(one: Item, seed: int) -> Iterator[tuple[str, Row]]:
    """Every row of the item, with the file it belongs in."""
    group: Row = {"group_id": one.content.group_id, "composition": one.content.composition}
    picture = drawing.draw(*one.content, _rng(seed, one.number, 1))
    yield "images", {"image_id": one.image_id, "image": picture, **group}
    rng = _rng(seed, one.number, 2)
    codes = tuple(lexicon().languages)
    for code in codes:
        text = spoken.title(code, one.content, rng)
        yield "captions", {"image_id": one.image_id, "text": text, "lang": code, **group}
    documents: list[Row] = []
    for _ in range(2):
        doc_lang = pick(codes, rng)
        query_lang = doc_lang if rng.random() < 0.5 else pick([code for code in codes if code != doc_lang], rng)
        document = spoken.document(doc_lang, one.content, one.facts, rng)
        documents.append({"document": document, "doc_lang": doc_lang})
        wanted = spoken.title(query_lang, one.content, rng)
        yield "descriptions", {"query": wanted, "query_lang": query_lang, **documents[-1], **group}
    for _ in range(_QUERIES_PER_ITEM):
        yield "queries", {**_query_row(one, pick(codes, rng), documents, rng), **group}
    yield "catalog", {**_catalog_row(one, documents[0], rng), "image": picture}


def _query_row(one: Item, code: str, documents: list[Row], rng: Rng) -> Row:
    intent = pick(_INTENTS, rng)
    said = spoken.query(code, intent, one.content, one.facts, REFERENCE_DATE, rng)
    target = pick(documents, rng) if intent == "find_text" else {"image_id": one.image_id}
    filters = json.dumps(said.filters, ensure_ascii=False)
    return {**_utterance_row(said, code, intent), **target, "filters": filters}


def _utterance_row(said: spoken.Utterance, code: str, intent: str) -> Row:
    slots = [slot._asdict() for slot in said.slots]
    return {"text": said.text, "lang": code, "intent": intent, "slots": slots, "label_set": _LABEL_SET}


def _catalog_row(one: Item, description: Row, rng: Rng) -> Row:
    facts = one.facts
    return {
        "id": one.image_id,
        "image_id": one.image_id,
        "title": spoken.title(description["doc_lang"], one.content, rng),
        "description": description["document"],
        "lang": description["doc_lang"],
        "captured_at": facts.captured_at.isoformat(),
        "place": facts.place,
        "price": facts.price,
        "currency": facts.currency,
        "tags": [one.content.thing, one.content.colour, one.content.pattern, one.content.scene],
        "group_id": one.content.group_id,
    }


def _command_row(seed: int, number: int) -> Row:
    """Languages and intents take turns, so that even small catalogs hold each pair."""
    codes = tuple(lexicon().languages)
    code = codes[number % len(codes)]
    intent = _COMMAND_CYCLE[number // len(codes) % len(_COMMAND_CYCLE)]
    rng = _rng(seed, number, 3)
    said = spoken.command(code, intent, _content(lexicon(), rng), rng)
    name = f"command-{number + 1:06d}"
    return {**_utterance_row(said, code, intent), "group_id": name, "composition": name}
