"""One worker's work: a unit of a catalog to rows with vectors in the index, skipping what is there already.

Knows an encoder, the store and one unit at a time; which rows repeat an id of elsewhere is told to it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from unimir.data.catalog import Catalog
from unimir.data.items import Item, read_items
from unimir.data.readers import Unit
from unimir.data.rows import Rejects
from unimir.index.connection import IndexUnavailable
from unimir.index.entities import MODALITIES, Row, key_of, problems, rows_of, salt_of, with_preview
from unimir.index.store import Store

if TYPE_CHECKING:
    from unimir.infer import Encoder

T = TypeVar("T")
WINDOW_ROWS = 256
"""Items that are embedded together: enough to sort by length, little enough to hold their pictures' pixels."""
UPSERT_ROWS = 256
_OF_MACHINES = ("OutOfMemoryError", "AcceleratorError")
"""Errors of torch (named, for it is not imported here) that say nothing about the item at hand."""
_MANY = 32
"""Items that do not all fail by their own faults."""
PATIENCE_S = 120.0
"""How long a worker waits for a Milvus that does not answer before it gives up."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every worker of one job is told."""

    catalog: Catalog
    bundle: str
    backend: str
    device: str
    uri: str
    collection: str
    tenant: str
    fresh: bool  # nothing was stored when the job began, so nothing needs to be compared
    preview: int  # pixels of the longer side of pictures kept for people; 0 keeps none
    dry: bool  # compare, but neither embed nor write

    @property
    def salt(self) -> str:
        """What decides a row beside the item and the bundle (whose id is in the collection's name)."""
        return salt_of(self.backend, self.preview)


@dataclass
class Done:
    """What a worker tells of a unit."""

    embedded: int = 0
    unchanged: int = 0
    rejected: list[tuple[int, str, str]] = field(default_factory=list)
    keys: bytearray = field(default_factory=bytearray)  # KEY_BYTES for every row that must be stored now
    model_s: float = 0.0
    began: float = 0.0  # Unix time; the loading of the encoder lies before it
    ended: float = 0.0

    @property
    def read(self) -> int:
        """Items read: each is embedded, unchanged or rejected."""
        return self.embedded + self.unchanged + len(self.rejected)


@dataclass(frozen=True)
class _Wanted:
    """An item to embed, and the rows that its vectors go to."""

    item: Item
    rows: list[Row]
    pixels: NDArray[np.uint8] | None


@dataclass
class _Window:
    """Items on their way, and keys of rows that they no longer have."""

    wanted: list[_Wanted] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)


class Embedder:
    """Does units one after the other. Reading ahead and writing behind, so that the model never waits for either."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._store = _patiently(Store, task.uri)  # a worker may be started again just when Milvus is
        self._ready = 0.0

    @functools.cached_property
    def _encoder(self) -> Encoder:
        """Loaded when the first item needs it: where nothing changed, none does."""
        from unimir.infer import Encoder

        task = self._task
        try:
            encoder = Encoder.from_bundle(task.bundle, backend=task.backend, device=task.device)
        except (RuntimeError, AssertionError, OSError) as error:  # as torch has it: no such device, no memory left
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{task.bundle}: cannot be loaded on {task.device} ({reason})") from error
        self._ready = time.time()
        return encoder

    def __call__(self, unit: Unit, repeated: frozenset[int]) -> Done:
        """Rows `repeated` carry an id that an earlier row of the catalog has."""
        done = Done(began=time.time())
        rejects = Rejects(self._task.catalog.name, unit.file.label)
        chunks = read_items(self._task.catalog, unit, rejects, WINDOW_ROWS)
        with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:

            def ahead() -> _Window | None:
                items = next(chunks, None)
                return None if items is None else self._window(items, repeated, rejects, done)

            coming = reader.submit(ahead)
            writing: Future[None] | None = None
            while (window := coming.result()) is not None:
                coming = reader.submit(ahead)
                rows, vectors_ND = self._embedded(window, rejects, done)
                if writing is not None:
                    writing.result()  # one at a time: a slow index must not fill the memory
                writing = writer.submit(self._write, rows, vectors_ND, window.stale)
            if writing is not None:
                writing.result()
        done.rejected = rejects.rows
        done.began, done.ended = max(done.began, self._ready), time.time()
        return done

    def compare(self, unit: Unit, repeated: frozenset[int], limit: int) -> float:
        """Least cosine between stored vectors of a unit's first good items and fresh ones.

        It is -1 if any is not stored, or none could be made to compare with.
        """
        rejects = Rejects("", "")
        rows: list[Row] = []
        for chunk in read_items(self._task.catalog, unit, rejects, limit):
            window = _Window()
            for item in chunk:
                if item.row not in repeated:
                    self._add(item, self._rows(item), window, rejects)
            rows, vectors_ND = self._embedded(window, rejects, Done())
            if rows:
                break
        keys = [row["key"] for row in rows]
        stored = self._store.get(self._task.collection, keys, ["vector"])
        if not keys or len(stored) < len(keys):
            return -1.0
        found_ND = np.asarray([stored[key]["vector"] for key in keys], np.float32)
        return float((found_ND * vectors_ND).sum(-1).min())

    def _rows(self, item: Item) -> list[Row]:
        return rows_of(item, self._task.tenant, self._task.salt)

    def _window(self, items: Sequence[Item], repeated: frozenset[int], rejects: Rejects, done: Done) -> _Window:
        """What of a chunk has to be embedded: new or changed items whose pictures can be read."""
        window = _Window()
        kept = [item for item in items if item.row not in repeated]
        for item in items:
            if item.row in repeated:
                rejects.add(item.row, "duplicate id", item.id)
        keys = [[key_of(self._task.tenant, item.id, modality) for modality in MODALITIES] for item in kept]
        stored: dict[str, Row] = {}
        if not self._task.fresh:
            asked = [key for pair in keys for key in pair]
            stored = _patiently(self._store.get, self._task.collection, asked, ["content_hash"])
        for item, pair in zip(kept, keys, strict=True):
            rows = self._rows(item)
            needed = {row["key"]: row["content_hash"] for row in rows}
            found = {key: stored[key]["content_hash"] for key in pair if key in stored}
            if found == needed:
                done.unchanged += 1
                done.keys += "".join(needed).encode()
            elif self._add(item, rows, window, rejects):
                window.stale += [key for key in found if key not in needed]
        return window

    def _add(self, item: Item, rows: list[Row], window: _Window, rejects: Rejects) -> bool:
        """Whether the item is good so far: its picture, if any, could be decoded."""
        pixels = None
        if item.picture is not None:
            encoder = self._encoder  # one that cannot be loaded is no fault of the row
            try:
                pixels = encoder.pixels(item.picture)
                with_preview(rows, item.picture, self._task.preview)
            except ValueError as error:
                rejects.add(item.row, str(error), item.id)
                return False
        window.wanted.append(_Wanted(replace(item, picture=None), rows, pixels))  # as pixels only: files can be large
        return True

    def _embedded(self, window: _Window, rejects: Rejects, done: Done) -> tuple[list[Row], NDArray[np.float32]]:
        """Rows and vectors of the window's items; an item that fails takes no other along."""
        if self._task.dry:
            done.embedded += len(window.wanted)
            return [], np.empty((0, 0), np.float32)
        started = time.perf_counter()
        rows: list[Row] = []
        parts: list[NDArray[np.float32]] = []
        for wanted, vectors_ND in self._divided(self._encoder, window.wanted, rejects) if window.wanted else ():
            flat = [row for one in wanted for row in one.rows]
            bad = problems(flat, vectors_ND)
            lost = {flat[at]["id"]: reason for at, reason in bad.items()}
            for one in wanted:
                if one.item.id in lost:
                    rejects.add(one.item.row, lost[one.item.id], one.item.id)
                else:
                    done.embedded += 1
            good = [at for at, row in enumerate(flat) if row["id"] not in lost]
            rows += [flat[at] for at in good]
            parts.append(vectors_ND[good])
        if not rows and len(window.wanted) >= _MANY:
            raise RuntimeError(f"none of {len(window.wanted)} items could be embedded; the last: {rejects.rows[-1]}")
        done.keys += "".join(row["key"] for row in rows).encode()
        done.model_s += time.perf_counter() - started
        return rows, np.concatenate(parts) if parts else np.empty((0, 0), np.float32)

    def _divided(
        self, encoder: Encoder, wanted: Sequence[_Wanted], rejects: Rejects
    ) -> list[tuple[Sequence[_Wanted], NDArray[np.float32]]]:
        """The items' vectors in the order of their rows; halves where the whole fails, down to the one that does."""
        try:
            return [(wanted, self._vectors(encoder, wanted))]
        except Exception as error:  # whatever a model raises for one item must not stop the others
            if len(wanted) == 1:
                if isinstance(error, MemoryError) or type(error).__name__ in _OF_MACHINES:
                    raise
                (item,) = (one.item for one in wanted)
                rejects.add(item.row, "cannot be embedded", f"{item.id}: {type(error).__name__}: {error}")
                return []
        half = len(wanted) // 2
        return self._divided(encoder, wanted[:half], rejects) + self._divided(encoder, wanted[half:], rejects)

    def _vectors(self, encoder: Encoder, wanted: Sequence[_Wanted]) -> NDArray[np.float32]:
        shown = [one.pixels for one in wanted if one.pixels is not None]
        said = [one.item.words for one in wanted if one.item.words]
        towers: dict[str, NDArray[np.float32]] = {}
        if shown:
            towers["image"] = encoder.embed_pixels(np.stack(shown))
        if said:
            towers["text"] = encoder.embed_texts(said)
        following = {modality: iter(vectors_ND) for modality, vectors_ND in towers.items()}
        return np.stack([next(following[row["modality"]]) for one in wanted for row in one.rows])

    def _write(self, rows: list[Row], vectors_ND: NDArray[np.float32], stale: list[str]) -> None:
        for start in range(0, len(rows), UPSERT_ROWS):
            part = slice(start, start + UPSERT_ROWS)
            _patiently(self._store.upsert, self._task.collection, rows[part], vectors_ND[part])
        if stale and not self._task.dry:
            _patiently(self._store.delete, self._task.collection, stale)


def _patiently(call: Callable[..., T], *args: Any) -> T:
    """The call, made again while Milvus does not answer: it may be starting again. Upserts and deletes can repeat."""
    deadline, pause = time.monotonic() + PATIENCE_S, 0.2
    while True:
        try:
            return call(*args)
        except IndexUnavailable:
            if time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 5.0)
