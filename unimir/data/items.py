"""Catalog rows to items: cleaned, typed, with a hash of all that they say. Pictures stay encoded until they are needed.

Knows one chunk of rows at a time; knows no model and no index.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from unimir.config import PrepareConfig
from unimir.data.catalog import Catalog
from unimir.data.clean import normalise, standard_tag
from unimir.data.files import open_file
from unimir.data.readers import Unit, read_unit
from unimir.data.rows import Rejects

UNKNOWN = "und"
"""BCP-47 for a language that nobody named."""
MAX_BYTES: Mapping[str, int] = {"id": 2048, "title": 4096, "text": 60_000, "place": 512}
"""UTF-8 bytes that the index can hold; a server counts bytes where the embedded one counts characters."""
MAX_TAGS, MAX_TAG_BYTES, MAX_EXTRA_BYTES = 64, 128, 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One row of a catalog that can be embedded; `digest` changes with anything the row says."""

    row: int
    id: str
    title: str
    text: str
    lang: str
    place: str
    captured_at: datetime | None
    price: float | None
    tags: tuple[str, ...]
    extra: Mapping[str, str]
    picture: bytes | None
    digest: str

    @property
    def words(self) -> str:
        """What the text tower is given: the title first, because long texts are cut."""
        return f"{self.title}\n{self.text}" if self.title and self.text else self.title or self.text


class _Bad(Exception):
    """Why a row is no item."""


_ALONE = Catalog(name="item", format="jsonl", path=(), columns={})


def read_items(catalog: Catalog, unit: Unit, rejects: Rejects, chunk_rows: int) -> Iterator[list[Item]]:
    """The items of a unit in chunks of the file's order; what is no item is noted with its reason."""
    for raw in read_unit(catalog, unit, rejects, chunk_rows):
        yield items_of(catalog, raw, rejects)


def read_ids(catalog: Catalog, unit: Unit) -> tuple[list[int], list[str]]:
    """Row numbers and ids of a unit's rows, reading no other column; rows that cannot be read are not among them."""
    only = dataclasses.replace(catalog, columns={"id": catalog.columns["id"]}, extra=())
    rows: list[int] = []
    ids: list[str] = []
    for raw in read_unit(only, unit, Rejects("", ""), 100_000):
        rows += raw["_row"].to_pylist()
        ids += [found or "" for found in raw[catalog.columns["id"]].to_pylist()]
    return rows, ids


def items_of(catalog: Catalog, raw: pa.Table, rejects: Rejects) -> list[Item]:
    """The items of raw rows."""
    count = raw.num_rows

    def column(name: str, *, clean: bool = False) -> list[Any]:
        if name not in catalog.columns:
            return [None] * count
        values = raw[catalog.columns[name]].combine_chunks()
        listed: list[Any] = (normalise(values) if clean else values).to_pylist()
        return listed

    fields = {name: column(name) for name in ("id", "lang", "image", "image_path", "captured_at", "price", "tags")}
    fields |= {name: column(name, clean=True) for name in ("title", "text", "place")}
    extras = {name: raw[name].to_pylist() for name in catalog.extra}
    items = []
    for at, row in enumerate(raw["_row"].to_pylist()):
        values = {name: listed[at] for name, listed in fields.items()}
        extra = {name: listed[at] for name, listed in extras.items() if listed[at] is not None}
        try:
            items.append(_item(catalog, row, values, extra))
        except _Bad as error:
            rejects.add(row, str(error), str(values["id"] or ""))
    return items


def item_of(values: Mapping[str, Any]) -> Item:
    """One item given by itself, by the rules of a catalog's rows; ValueError says why it is none.

    `values` has id, title, text, lang, image (bytes), captured_at (with its zone), place, price, tags and extra.
    """
    texts = ("title", "text", "place")
    try:
        clean = normalise(pa.array([values[name] for name in texts], pa.string())).to_pylist()
    except UnicodeEncodeError as error:
        raise ValueError(f"item {values['id']!r:.80}: not valid Unicode ({error.reason})") from error
    moment, price = values["captured_at"], values["price"]
    raw = {
        **values,
        **dict(zip(texts, clean, strict=True)),
        "image_path": None,
        "captured_at": moment and moment.isoformat(),
        "price": None if price is None else repr(price),
        "tags": "\n".join(values["tags"]),
    }
    try:
        return _item(_ALONE, 0, raw, values["extra"])
    except _Bad as error:
        raise ValueError(f"item {values['id']!r:.80}: {error}") from error


def _item(catalog: Catalog, row: int, values: Mapping[str, Any], extra: dict[str, str]) -> Item:
    checked = {name: values[name] or "" for name in MAX_BYTES}
    for name, value in checked.items():
        if len(value.encode()) > MAX_BYTES[name]:
            raise _Bad(f"{name} over {MAX_BYTES[name]} bytes")
    if not checked["id"] or "\0" in checked["id"]:
        raise _Bad("no id" if not checked["id"] else "id with a NUL")
    if len(json.dumps(extra, ensure_ascii=False).encode()) > MAX_EXTRA_BYTES:
        raise _Bad(f"extra columns over {MAX_EXTRA_BYTES} bytes")
    typed: dict[str, Any] = {
        **checked,
        "lang": standard_tag(values["lang"] or catalog.lang or UNKNOWN) or UNKNOWN,
        "captured_at": _moment(values["captured_at"]),
        "price": _number(values["price"]),
        "tags": _tags(values["tags"], catalog.format in ("csv", "tsv")),
        "extra": extra,
    }
    picture = values["image"] or (_file(catalog.root, values["image_path"]) if values["image_path"] else None)
    if not (picture or checked["title"] or checked["text"]):
        raise _Bad("nothing to embed: no title, no text, no image")
    said = json.dumps(typed, sort_keys=True, ensure_ascii=False, default=str).encode()
    digest = hashlib.blake2b(said, digest_size=16)
    digest.update(picture or b"")
    return Item(row=row, picture=picture, digest=digest.hexdigest(), **typed)


def _moment(value: str | None) -> datetime | None:
    if not value:
        return None
    try:
        if value.isdecimal() and len(value) != len("YYYYMMDD"):
            raise ValueError  # seconds or milliseconds since 1970, of which Python would read a year and more
        found = datetime.fromisoformat(value)
    except ValueError:
        raise _Bad("captured_at is no ISO 8601 date or time") from None
    try:
        return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
    except OverflowError:
        raise _Bad(f"captured_at outside {date.min.year} to {date.max.year}") from None


def _number(value: str | None) -> float | None:
    if not value:
        return None
    try:
        found = float(value)
    except ValueError:
        raise _Bad("price is not a number") from None
    if not math.isfinite(found) or abs(found) >= 1e300:
        raise _Bad("price is not a finite number")
    return found


def _tags(value: str | None, with_commas: bool) -> tuple[str, ...]:
    """Tags of a list (whose members readers put on lines of their own), or of a cell of a table of text."""
    parts = (value or "").split("," if with_commas else "\n")
    tags = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if len(tags) > MAX_TAGS or any(len(tag.encode()) > MAX_TAG_BYTES for tag in tags):
        raise _Bad(f"more than {MAX_TAGS} tags, or a tag over {MAX_TAG_BYTES} bytes")
    return tags


def _file(root: str, path: str) -> bytes:
    """A picture beside the catalog; a catalog from elsewhere must not read this machine's other files."""
    inside = posixpath.normpath(path)
    if "://" in path or inside.startswith(("/", "..")):
        raise _Bad("image_path leaves the catalog's root")
    try:
        with open_file(posixpath.join(root, inside)) as handle:
            if handle.size() > PrepareConfig().max_image_bytes:
                raise _Bad("image over the byte limit")
            data: bytes = handle.read()
            return data
    except (ValueError, OSError):
        raise _Bad("no picture at image_path") from None
