"""Which rows of a corpus are dropped because of other rows: duplicates, leaks into evaluation, missing partners.

Knows the keys of all rows, as arrays on one machine, and no row's content. The first row in manifest order stays,
evaluation before validation before train.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from unimir.data.corpora import Source
from unimir.data.hashing import SKETCH, Hashes, combine

Codes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

REASONS = (
    "",
    "duplicate image id",
    "image not found",
    "duplicate",
    "near duplicate",
    "also in evaluation",
    "unknown label",
)
_CODE = {reason: number for number, reason in enumerate(REASONS)}
_NEIGHBOURS = 4  # rows of one band compared with their next few, not with all
_AGREE = 12  # of SKETCH values, for a Jaccard similarity of about three quarters
_BITS = 16  # of 256 brightness differences that may differ
_COLOUR = 8  # levels by which a quarter's colour may differ


@dataclass
class Keys:
    """Keys of all text rows in manifest order; `rules` gives each row's source."""

    split: Codes
    exact: Hashes
    context: Hashes
    text: Hashes
    document: Hashes
    image: Hashes
    intent: Hashes
    slots: pa.ListArray
    source: npt.NDArray[np.int32]


def keys_of(tables: Sequence[pa.Table], sketches: Sequence[pa.Table], sources: Sequence[int]) -> Keys:
    """Joins the key tables of all units; long texts of one cluster get the key of its first."""
    table = pa.concat_tables(tables).combine_chunks()
    source = np.repeat(np.asarray(sources, np.int32), [t.num_rows for t in tables])
    columns = {name: table[name].to_numpy().copy() for name in table.column_names if name != "slots"}
    starts = np.cumsum([0, *(t.num_rows for t in tables)])[:-1]
    marked = pa.concat_tables(sketches)
    at = marked["row"].to_numpy() + np.repeat(starts, [t.num_rows for t in sketches])
    if len(at):
        field = marked["field"].to_numpy()
        marks = np.frombuffer(b"".join(marked["sketch"].to_pylist()), np.uint32).reshape(-1, SKETCH)
        keys = np.where(field == 0, columns["text"][at], columns["document"][at])[_first_alike(marks)]
        columns["text"][at[field == 0]] = keys[field == 0]
        columns["document"][at[field == 1]] = keys[field == 1]
    slots = table["slots"].combine_chunks() if table.num_rows else pa.array([], table["slots"].type)
    return Keys(**columns, slots=slots, source=source)


def _first_alike(marks: npt.NDArray[np.uint32]) -> Rows:
    bands = [
        combine(marks[:, i].astype(np.uint64), marks[:, i + 1].astype(np.uint64), marks[:, i + 2].astype(np.uint64))
        for i in range(0, SKETCH - 2, 3)
    ]
    return _linked(bands, lambda a, b: (marks[a] == marks[b]).sum(1) >= _AGREE)


def alike_pictures(marks: npt.NDArray[np.uint8]) -> Rows:
    """For each picture's 44-byte sketch the first picture that looks the same (itself, if none)."""
    words = np.ascontiguousarray(marks[:, :32]).view(np.uint32).astype(np.uint64)
    colours = marks[:, 32:].astype(np.int16)

    def same(a: Rows, b: Rows) -> Mask:
        bits = np.bitwise_count(marks[a, :32] ^ marks[b, :32]).sum(1)
        fits: Mask = (bits <= _BITS) & (np.abs(colours[a] - colours[b]).max(1) <= _COLOUR)
        return fits

    return _linked([words[:, i] for i in range(words.shape[1])], same)


def _linked(bands: Sequence[Hashes], same: Callable[[Rows, Rows], Mask]) -> Rows:
    """First member of each row's cluster, rows linked when they share a band and `same` agrees."""
    count = len(bands[0])
    left: list[Rows] = []
    right: list[Rows] = []
    for band in bands:
        order = np.argsort(band, kind="stable")
        for lag in range(1, _NEIGHBOURS + 1):
            a, b = order[:-lag], order[lag:]
            shared = band[a] == band[b]
            a, b = a[shared], b[shared]
            agreed = same(a, b)
            left.append(a[agreed])
            right.append(b[agreed])
    a, b = np.concatenate(left), np.concatenate(right)
    first = np.arange(count)
    while True:
        least = np.minimum(first[a], first[b])
        known = first.copy()
        np.minimum.at(first, a, least)
        np.minimum.at(first, b, least)
        first = first[first]
        if (first == known).all():
            return first


def drop_images(images: Hashes) -> Codes:
    """Codes per picture: an id that came before."""
    codes = np.zeros(len(images), np.uint8)
    codes[_repeated(images)] = _CODE["duplicate image id"]
    return codes


def drop_rows(keys: Keys, sources: Sequence[Source], images: Hashes, marks: npt.NDArray[np.uint8]) -> Codes:
    """Codes per text row; `images` and their sketches are those that were kept."""
    codes = np.zeros(len(keys.split), np.uint8)
    picture = keys.image.copy()
    if len(images):
        order = np.argsort(images)
        at = order[np.minimum(np.searchsorted(images, keys.image, sorter=order), len(images) - 1)]
        found = images[at] == keys.image
        picture[found] = images[alike_pictures(marks)][at[found]]
    else:
        found = np.zeros(len(codes), bool)
    # Only a source that names an image table promises that its pictures are there.
    promised = np.array([source.images is not None for source in sources])[keys.source]
    codes[promised & (keys.image != 0) & ~found] = _CODE["image not found"]
    precedence = np.argsort(-keys.split.astype(np.int8), kind="stable")
    _mark_repeated(codes, keys.exact, precedence, "duplicate")
    near = combine(keys.context, keys.text, keys.document, picture)
    _mark_repeated(codes, near, precedence, "near duplicate")
    _mark_leaks(codes, keys, sources, picture)
    _mark_labels(codes, keys)
    return codes


def _mark_repeated(codes: Codes, key: Hashes, precedence: Rows, reason: str) -> None:
    alive = precedence[codes[precedence] == 0]
    codes[alive[_repeated(key[alive])]] = _CODE[reason]


def _repeated(key: Hashes) -> Mask:
    again = np.ones(len(key), bool)
    again[np.unique(key, return_index=True)[1]] = False
    return again


def _mark_leaks(codes: Codes, keys: Keys, sources: Sequence[Source], picture: Hashes) -> None:
    """Training rows that share a text or a picture with an evaluation row whose source guards it."""
    held, other = (codes == 0) & (keys.split == 2), (codes == 0) & (keys.split != 2)
    guards = {
        what: held & np.array([what in source.leak for source in sources])[keys.source]
        for what in ("text", "document", "image")
    }
    texts = np.concatenate([keys.text[guards["text"]], keys.document[guards["document"]]])
    leaked = np.isin(keys.text, texts[texts != 0]) | np.isin(keys.document, texts[texts != 0])
    shown = picture[guards["image"]]
    leaked |= np.isin(picture, shown[shown != 0])
    codes[other & leaked] = _CODE["also in evaluation"]


def _mark_labels(codes: Codes, keys: Keys) -> None:
    """Rows outside train with a label that no training row has."""
    owners = pc.list_parent_indices(keys.slots).to_numpy()
    labels = keys.slots.flatten().to_numpy()
    train = (codes == 0) & (keys.split == 0)
    known = np.concatenate([keys.intent[train], labels[train[owners]]])
    unknown = (keys.intent != 0) & ~np.isin(keys.intent, known)
    unknown[owners[~np.isin(labels, known)]] = True
    codes[unknown & (codes == 0) & (keys.split != 0)] = _CODE["unknown label"]


def trained_labels(codes: Codes, keys: Keys) -> Hashes:
    """Hashes of the labels of the training rows that stay."""
    train = (codes == 0) & (keys.split == 0)
    owners = pc.list_parent_indices(keys.slots).to_numpy()
    found: Hashes = np.unique(np.concatenate([keys.intent[train], keys.slots.flatten().to_numpy()[train[owners]]]))
    return found
