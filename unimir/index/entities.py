"""Entities: what the index stores of an item, one row for its picture and one for its words.

Knows the columns and their limits; knows no client, no model and no file.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unimir.data import items
from unimir.data.image import preview_image
from unimir.data.items import Item
from unimir.index.filters import MISSING, FieldType, milliseconds
from unimir.index.keywords import keywords_of

Modality = Literal["image", "text"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
FILTERABLE: Mapping[str, FieldType] = {
    "id": "text",
    "modality": "text",
    "lang": "text",
    "place": "text",
    "captured_at": "time",
    "price": "number",
    "tags": "tags",
    "extra": "texts",
}
"""What callers may filter by, `extra.NAME` being a column of the catalog's own.

`tenant` is not among them, because it is always part of the filter.
"""
MAX_BYTES: Mapping[str, int] = {**items.MAX_BYTES, "tenant": 64, "modality": 16, "lang": 35, "content_hash": 32}
"""UTF-8 bytes of the text columns."""
PREVIEW = 128
"""Pixels of the longer side of the pictures that are kept for people: some 3 kB each."""
MAX_PREVIEW_BYTES = 40_000
"""In base64. A Milvus server takes 64 KiB a row of what has no column of its own: this, and up to 16 KiB of `extra`."""
KEY_BYTES = 32
"""ASCII characters of a key."""

Row = dict[str, Any]


def key_of(tenant: str, item_id: str, modality: str) -> str:
    """The primary key: 128 bits over tenant, id and modality, so that tenants never overwrite each other."""
    return hashlib.blake2b(f"{tenant}\0{item_id}\0{modality}".encode(), digest_size=16).hexdigest()


def rows_of(item: Item, tenant: str, salt: str) -> list[Row]:
    """The item's rows, still without vectors. `salt`: what else decides the vectors, so that it counts as content."""
    shared = {
        "id": item.id,
        "tenant": tenant,
        "lang": item.lang,
        "title": item.title,
        "text": item.text,
        "place": item.place,
        "captured_at": milliseconds(item.captured_at),
        "price": MISSING["number"] if item.price is None else item.price,
        "tags": list(item.tags),
        "content_hash": hashlib.blake2b(f"{salt}\0{item.digest}".encode(), digest_size=16).hexdigest(),
        "extra": dict(item.extra),
        "keywords": keywords_of(item.words),
    }
    present = {"image": item.picture is not None, "text": bool(item.words)}
    own = [modality for modality in MODALITIES if present[modality]]
    return [{**shared, "key": key_of(tenant, item.id, modality), "modality": modality} for modality in own]


def salt_of(backend: str, preview: int) -> str:
    """What decides a row beside the item and the bundle."""
    return f"{backend}/{preview}"


def with_preview(rows: Sequence[Row], picture: bytes, side: int) -> None:
    """Gives the row of a picture a small one for people, in base64; none for a side of 0. ValueError if unreadable.

    One of so much detail that an index might not take it becomes smaller than `side`.
    """
    for row in rows if side else ():
        if row["modality"] == "image":
            while len(found := base64.b64encode(preview_image(picture, side))) > MAX_PREVIEW_BYTES:
                side = 3 * side // 4
            row["preview"] = found.decode()


def problems(rows: Sequence[Mapping[str, Any]], vectors_ND: NDArray[np.float32]) -> dict[int, str]:
    """Why rows cannot be stored, by row number; the others can. Every backend judges some of these differently."""
    found: dict[int, str] = {}
    norms_N = np.linalg.norm(vectors_ND, axis=1)
    found |= dict.fromkeys(np.flatnonzero(~np.isfinite(norms_N)).tolist(), "vector is not finite")
    found |= dict.fromkeys(np.flatnonzero(norms_N < 1e-6).tolist(), "vector is zero")
    for number, row in enumerate(rows):
        for name, most in MAX_BYTES.items():
            value = row[name]
            # A character is at most four bytes: most texts need no encoding to be known as short enough.
            if 4 * len(value) > most and len(value.encode()) > most:
                found[number] = f"{name} over {most} bytes"
        if not row["id"]:
            found[number] = "id is empty"
        too_long = any(len(tag.encode()) > items.MAX_TAG_BYTES for tag in row["tags"])
        if len(row["tags"]) > items.MAX_TAGS or too_long:
            found[number] = f"more than {items.MAX_TAGS} tags, or a tag over {items.MAX_TAG_BYTES} bytes"
    return found
