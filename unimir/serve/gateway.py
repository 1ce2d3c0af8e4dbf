"""What a search means: vectors of composed queries, the modality an intent asks for, hits with what they show.

Meets the towers and the index behind their async interfaces, wherever they run. Knows no HTTP and no Milvus.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unimir.data.items import Item
from unimir.index.entities import MODALITIES, Modality, key_of, problems, rows_of
from unimir.index.filters import AllOf, Equals, Filter
from unimir.index.requests import Hit
from unimir.infer import Understood
from unimir.schema import Parse
from unimir.serve.parts import Index, Pictures, Served, Texts, Vector
from unimir.serve.settings import Settings

SHOWN = ("id", "modality", "lang", "title", "text", "place", "captured_at", "price", "tags", "extra")
"""Columns of a hit."""


class NotFound(LookupError):
    """An item that the caller's tenant does not have."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing a query is composed of; exactly one of text, picture and item. A negative weight is "not like this"."""

    text: str | None = None
    picture: bytes | None = None
    item: str | None = None
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Query:
    """A search of one tenant."""

    parts: Sequence[Part]
    tenant: str
    limit: int
    offset: int = 0
    modality: Modality | None = None
    filters: Sequence[Filter] = ()
    fusion: bool = True
    keywords: bool = False


@dataclass
class Answer:
    """Hits, and how they came about."""

    hits: list[Hit] = field(default_factory=list)
    parses: list[Parse] = field(default_factory=list)
    modality: Modality | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)


class Gateway:
    """Answers searches with the parts of the service."""

    def __init__(self, settings: Settings, served: Served, texts: Texts, pictures: Pictures, index: Index) -> None:
        self.settings, self.served = settings, served
        self.texts, self._pictures, self._index = texts, pictures, index

    async def search(self, query: Query) -> Answer:
        """The best items of the tenant. ValueError names what is wrong with the query, NotFound an item it names."""
        answer = Answer()
        with _timed(answer, "understand"):
            vector_D = await self._vector(query, answer)
        answer.modality = query.modality or self._asked_for(answer.parses)
        wanted = [*query.filters, *([Equals("modality", answer.modality)] if answer.modality else [])]
        words = " ".join(part.text for part in query.parts if part.text and part.weight > 0)
        options: dict[str, Any] = {"words": [words]} if query.keywords and words else {}
        with _timed(answer, "retrieve"):
            answer.hits = await self._index.search(
                vector_D,
                tenant=query.tenant,
                limit=query.limit,
                offset=query.offset,
                wanted=AllOf(wanted) if wanted else None,
                fields=SHOWN,
                by_item=True,
                **options,
            )
        return answer

    async def parse(self, text: str) -> Parse:
        """Intent and slots of a query."""
        return (await self.texts.understand(text)).parse

    async def pictures(self, encoded: Sequence[bytes]) -> Sequence[Vector]:
        """The unit vectors of encoded pictures."""
        return await asyncio.gather(*(self._pictures.embed(picture) for picture in encoded))

    async def put(self, items: Sequence[Item], tenant: str) -> None:
        """Embeds and stores items, whole or not at all: a row that an item no longer has goes."""
        rows = [row for item in items for row in rows_of(item, tenant, self.settings.backend)]
        said = [item.words for item in items if item.words]
        shown = [item.picture for item in items if item.picture is not None]
        text_ND, picture_ND = await asyncio.gather(self.texts.embed(said, None), self.pictures(shown))
        following: dict[str, Iterator[Vector]] = {"text": iter(text_ND), "image": iter(picture_ND)}
        vectors_ND = np.stack([next(following[row["modality"]]) for row in rows])
        for number, problem in sorted(problems(rows, vectors_ND).items()):
            raise ValueError(f"item {rows[number]['id']!r:.80}: {problem}")
        stored = {row["key"] for row in rows}
        possible = {key_of(tenant, item.id, modality) for item in items for modality in MODALITIES}
        await self._index.upsert(rows, vectors_ND)
        if possible - stored:
            await self._index.delete(sorted(possible - stored))

    async def remove(self, ids: Sequence[str], tenant: str) -> None:
        """Deletes the tenant's items; unknown ids are no error."""
        await self._index.delete([key_of(tenant, item, modality) for item in ids for modality in MODALITIES])

    async def _vector(self, query: Query, answer: Answer) -> Vector:
        """The weighted sum of the parts' vectors, of unit length. Adds the texts' parses to the answer."""
        found = await asyncio.gather(*(self._part(part, query) for part in query.parts))
        sum_D = np.zeros(1, np.float32)
        for part, vector in zip(query.parts, found, strict=True):
            if isinstance(vector, Understood):
                answer.parses.append(vector.parse)
                vector = vector.fused_D if query.fusion else vector.plain_D
            sum_D = sum_D + np.float32(part.weight) * vector
        length = float(np.linalg.norm(sum_D))
        if not length > 1e-6:
            raise ValueError("the weighted parts of the query cancel out")
        unit_D: Vector = (sum_D / length).astype(np.float32)
        return unit_D

    async def _part(self, part: Part, query: Query) -> Understood | Vector:
        if part.text is not None:
            return await self.texts.understand(part.text)
        if part.picture is not None:
            return await self._pictures.embed(part.picture)
        assert part.item is not None
        keys = [key_of(query.tenant, part.item, modality) for modality in MODALITIES]
        stored = await self._index.get(keys, ["vector"])
        if not stored:
            raise NotFound(part.item)
        vectors = [np.asarray(stored[key]["vector"], np.float32) for key in keys if key in stored]
        mean_D: Vector = np.mean(vectors, axis=0)
        return mean_D

    def _asked_for(self, parses: Sequence[Parse]) -> Modality | None:
        """What the only text of a query asks for; of several texts none decides."""
        return self.settings.modality_of_intent.get(parses[0].intent) if len(parses) == 1 else None


@contextmanager
def _timed(answer: Answer, name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    answer.timings_ms[name] = round(1000 * (time.perf_counter() - started), 2)
