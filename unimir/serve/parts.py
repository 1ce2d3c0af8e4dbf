"""The parts of the service: two towers and the index, each behind async methods that gather concurrent calls.

They are plain classes: the builder decides which become deployments and which live in the Gateway's replicas. Know no
HTTP and nothing of what a query means.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from unimir.index.async_store import AsyncStore
from unimir.index.connection import IndexTimeout, IndexUnavailable, NoCollection
from unimir.index.entities import KEY_BYTES, Row
from unimir.index.lite import find
from unimir.index.requests import Hit, SearchOptions
from unimir.schema import Understood
from unimir.serve.canary import Canary
from unimir.serve.constraints import Found
from unimir.serve.gather import Gather, Overloaded
from unimir.serve.served import Served
from unimir.serve.settings import Settings
from unimir.serve.vocabulary import Vocabulary
from unimir.serve.watch import watch

if TYPE_CHECKING:
    from unimir.infer import Encoded, Encoder

T = TypeVar("T")
Vector = NDArray[np.float32]
_PICTURES = 32  # of one forward pass
_SEARCHES = 64  # of one call to the index
_LISTING_S = 60.0  # for all names of a collection, in the background
_RETURN_S = 10.0  # a time-out so soon after it could not be reached is that of an index that is coming back
_SILENT_S = 1.0  # how long an index that let a deadline pass is left alone


class Texts(Protocol):
    """What the Gateway asks of the text tower."""

    async def understand(self, text: str) -> Understood:
        """Vectors and parse of a query. ValueError if nothing is left of it once normalised."""

    async def embed(self, texts: Sequence[str], dimensions: int | None) -> Vector:
        """Unit vectors [N, dimensions] of documents."""


class Pictures(Protocol):
    """What the Gateway asks of the image tower."""

    async def embed(self, picture: bytes, dimensions: int | None) -> Vector:
        """The unit vector of an encoded picture. ValueError says why it cannot be read."""


class Index(Protocol):
    """What the Gateway asks of the index."""

    async def search(self, vector_D: Vector, **options: Unpack[SearchOptions]) -> list[Hit]:
        """The most similar rows, best first."""

    async def get(self, keys: Sequence[str], fields: Sequence[str]) -> dict[str, Row]:
        """Rows by key."""

    async def upsert(self, rows: Sequence[Row], vectors_ND: Vector) -> None:
        """Stores rows, replacing those of equal tenant, id and modality."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Deletes rows by key."""

    async def check(self) -> None:
        """Raises what keeps a search from being answered now."""

    async def named(self, tenant: str, said: Sequence[tuple[str, str]]) -> Found:
        """Of fields and words those that name a value of the tenant's rows, with its spellings and how sure it is."""


class PartUnavailable(RuntimeError):
    """A part in a deployment of its own has no replica that answers; it may have one again in a moment."""


class Mismatch(RuntimeError):
    """The collection that is served is not there any more, or holds vectors of another bundle."""


@functools.lru_cache(maxsize=1)
def _model(bundle: Path, backend: str, device: str, threads: int) -> tuple[Encoder, ThreadPoolExecutor]:
    """The bundle, loaded once a process, and the one thread that runs it.

    The libraries are imported by a thread that waits for whoever else wants the processor: that takes seconds, and
    replicas start beside others that answer. Only imported: the threads that a model starts would stay as patient.
    """
    with ThreadPoolExecutor(1, initializer=_give_way) as patient:
        patient.submit(importlib.import_module, "unimir.infer").result()
    import torch

    from unimir.infer import Encoder

    torch.set_num_threads(threads)
    encoder = Encoder.from_bundle(bundle, backend=backend, device=device)
    return encoder, ThreadPoolExecutor(1, "model")


def _give_way() -> None:
    if sys.platform == "linux":  # where priority is a thread's own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


class TextEncoder:
    """The text tower with its heads. Queries that wait at the same moment share a forward pass."""

    def __init__(self, settings: Settings, served: Served) -> None:
        self._encoder, self._thread = _model(served.bundle, settings.backend, settings.device, settings.threads)
        self._canary = Canary()
        self._understand = Gather(
            self._run,
            name="text encoder",
            weigh=lambda encoded: len(encoded.ids),
            budget=self._encoder.token_budget,
            wait_s=settings.gather_s,
            most_waiting=settings.limits.waiting,
            seen=watch().lot,
        )

    async def understand(self, text: str) -> Understood:
        """As in Texts."""
        (encoded,) = self._encoder.tokenize([text])
        return await self._understand(encoded)

    async def embed(self, texts: Sequence[str], dimensions: int | None) -> Vector:
        """As in Texts."""
        if not texts:
            return np.empty((0, dimensions or self._encoder.dim), np.float32)
        call = functools.partial(self._encoder.embed_texts, texts, dimensions=dimensions)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def check_health(self) -> None:
        """Of a deployment of its own: Ray Serve replaces a replica for which this raises."""
        with contextlib.suppress(Overloaded):
            await self._canary.check(self)

    async def _run(self, encoded: Sequence[Encoded]) -> Sequence[Understood | Exception]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._encoder.understand, encoded)


class ImageEncoder:
    """The image tower. Pictures are decoded beside it, and those that wait at the same moment share a forward pass."""

    def __init__(self, settings: Settings, served: Served) -> None:
        self._encoder, self._thread = _model(served.bundle, settings.backend, settings.device, settings.threads)
        self._decoders = ThreadPoolExecutor(settings.threads, "decode")
        self._embed = Gather(
            self._run,
            name="image encoder",
            budget=_PICTURES,
            wait_s=settings.gather_s,
            most_waiting=settings.limits.waiting,
            seen=watch().lot,
        )

    async def embed(self, picture: bytes, dimensions: int | None) -> Vector:
        """As in Pictures."""
        loop = asyncio.get_running_loop()
        vector_D = await self._embed(await loop.run_in_executor(self._decoders, self._encoder.pixels, picture))
        prefix_D: Vector = self._encoder.prefix(vector_D[None], dimensions)[0]
        return prefix_D

    async def _run(self, pixels: Sequence[NDArray[np.uint8]]) -> Sequence[Vector | Exception]:
        call = functools.partial(self._encoder.embed_pixels, np.stack(pixels))
        return list(await asyncio.get_running_loop().run_in_executor(self._thread, call))


class Retriever:
    """The collection of the served bundle. Searches with the same options that wait at the same moment are one call.

    It stays with the collection that it began with, whatever the alias shows later: vectors of two bundles do not mix.
    """

    def __init__(self, settings: Settings, served: Served) -> None:
        self._settings, self._collection = settings, served.collection
        self._vocabulary = Vocabulary(self._values, settings.slots.values(), settings.vocabulary_s)
        self._store: AsyncStore | None = None
        self._closing: asyncio.Task[None] | None = None  # the last one
        self._silent_until = 0.0
        self._lost_at = -_RETURN_S
        self._search: Gather[tuple[Vector, SearchOptions], list[Hit]] = Gather(
            self._run,
            name="index",
            budget=_SEARCHES,
            wait_s=settings.gather_s,
            most_waiting=settings.limits.waiting,
            seen=watch().lot,
        )

    async def search(self, vector_D: Vector, **options: Unpack[SearchOptions]) -> list[Hit]:
        """As in Index."""
        return await self._search((vector_D, options))

    async def get(self, keys: Sequence[str], fields: Sequence[str]) -> dict[str, Row]:
        """As in Index."""
        return await self._ask(lambda store: store.get(self._collection, keys, fields))

    async def upsert(self, rows: Sequence[Row], vectors_ND: Vector) -> None:
        """As in Index."""
        await self._ask(lambda store: store.upsert(self._collection, rows, vectors_ND))
        for row in rows:
            held = {field: row[field] for field in self._vocabulary.fields}
            new = {field: {value} if isinstance(value, str) else set(value) for field, value in held.items()}
            self._vocabulary.added(row["tenant"], new)

    async def delete(self, keys: Sequence[str]) -> None:
        """As in Index."""
        await self._ask(lambda store: store.delete(self._collection, keys))

    async def check(self) -> None:
        """As in Index."""
        await self._ask(lambda store: store.get(self._collection, ["0" * KEY_BYTES], ["id"]))

    async def named(self, tenant: str, said: Sequence[tuple[str, str]]) -> Found:
        """As in Index."""
        found = await asyncio.gather(*(self._vocabulary.find(tenant, field, words) for field, words in said))
        return {one: value for one, value in zip(said, found, strict=True) if value is not None}

    async def _values(self, tenant: str) -> dict[str, set[str]]:
        fields = self._vocabulary.fields
        return await self._ask(lambda store: store.values(self._collection, tenant, fields), deadline_s=_LISTING_S)

    async def _ask(self, call: Callable[[AsyncStore], Awaitable[T]], deadline_s: float | None = None) -> T:
        """The call on a connection that is there. After a time-out nobody waits for Milvus again for a moment.

        Unless the call has a deadline of its own: that it takes long says nothing of others. Mismatch if the collection
        has gone.
        """
        if time.monotonic() < self._silent_until:
            raise IndexUnavailable("Milvus did not answer a moment ago")
        try:
            # One call may have to load first.
            async with asyncio.timeout(deadline_s or self._settings.limits.index_deadline_s):
                return await call(await self._connected())
        except (TimeoutError, IndexTimeout):
            if deadline_s is None:
                self._silent_until = time.monotonic() + _SILENT_S
            if self._address() is None or time.monotonic() - self._lost_at < _RETURN_S:
                raise IndexUnavailable("Milvus is not up again yet") from None
            raise IndexTimeout("Milvus did not answer in time") from None
        except IndexUnavailable:
            self._lost_at = time.monotonic()
            if self._store is not None:  # it may come back at another address
                self._closing = asyncio.create_task(self._store.close())
            self._store = None
            raise
        except NoCollection as error:
            raise Mismatch(f"collection {self._collection}, which this service was started with, is gone") from error

    def _address(self) -> str | None:
        return self._settings.milvus or find(Path(self._settings.data))

    async def _connected(self) -> AsyncStore:
        if self._store is None:
            uri = self._address()
            if uri is None:
                raise IndexUnavailable("the embedded Milvus is not up")
            self._store = AsyncStore(uri, deadline_s=self._settings.limits.index_deadline_s)
        return self._store

    async def _run(self, asked: Sequence[tuple[Vector, SearchOptions]]) -> Sequence[list[Hit] | Exception]:
        groups: dict[str, list[int]] = {}
        for at, (_, options) in enumerate(asked):
            alike = {name: value for name, value in options.items() if name != "words"}
            groups.setdefault(f"{sorted(alike.items())!r} {'words' in options}", []).append(at)
        results: list[list[Hit] | Exception] = [[] for _ in asked]
        found = await asyncio.gather(*(self._one(asked, group) for group in groups.values()), return_exceptions=True)
        for group, outcome in zip(groups.values(), found, strict=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
                raise outcome
            for place, at in enumerate(group):
                results[at] = outcome if isinstance(outcome, Exception) else outcome[place]
        return results

    async def _one(self, asked: Sequence[tuple[Vector, SearchOptions]], group: Sequence[int]) -> list[list[Hit]]:
        """One call for searches whose options differ in their words alone."""
        options: Any = dict(asked[group[0]][1])
        if "words" in options:
            options["words"] = [word for at in group for word in asked[at][1]["words"]]
        queries_QD = np.stack([asked[at][0] for at in group])
        return await self._ask(lambda store: store.search(self._collection, queries_QD, **options))
