"""What a search means: vectors of composed queries, the modality an intent asks for, hits with what they show.

Meets the towers and the index behind their async interfaces, wherever they run. Knows no HTTP and no Milvus.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from unimir.data.items import Item
from unimir.index.connection import IndexUnavailable
from unimir.index.entities import MODALITIES, Modality, Row, key_of, problems, rows_of, salt_of, with_preview
from unimir.index.filters import AllOf, Equals, Filter, Not, OneOf
from unimir.index.requests import Hit
from unimir.schema import Parse, Slot, Understood
from unimir.serve.canary import QUERY, Canary, white
from unimir.serve.constraints import Constraint, constraints_of, fields_of, names_said
from unimir.serve.parts import Index, PartUnavailable, Pictures, Texts, Vector
from unimir.serve.served import Served
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
    now: datetime  # in the caller's time zone
    lang: str | None = None
    infer: bool = True  # filters from what the texts say
    ignored: Sequence[str] = ()  # labels of slots (or "intent") that shall filter nothing
    explain: bool = False
    previews: bool = False


@dataclass(frozen=True)
class Meaning:
    """What a text was understood to say, and what of it can be filtered by."""

    parse: Parse
    constraints: Sequence[Constraint]


@dataclass
class Answer:
    """Hits, and how they came about."""

    hits: list[Hit] = field(default_factory=list)
    meanings: list[Meaning] = field(default_factory=list)
    applied: list[Constraint] = field(default_factory=list)  # inferred filters that every hit fulfils
    relaxed: list[Constraint] = field(default_factory=list)  # and those given up because nothing was left
    modality: Modality | None = None
    explained: list[dict[str, float]] = field(default_factory=list)  # per hit: cosine with and without fusion
    previews: list[bytes | None] = field(default_factory=list)  # per hit
    timings_ms: dict[str, float] = field(default_factory=dict)


class Gateway:
    """Answers searches with the parts of the service."""

    def __init__(self, settings: Settings, served: Served, texts: Texts, pictures: Pictures, index: Index) -> None:
        self.settings, self.served = settings, served
        self._canary = Canary()
        self._checking: asyncio.Future[None] | None = None
        self.texts, self._pictures, self._index = texts, pictures, index

    async def search(self, query: Query) -> Answer:
        """The best items of the tenant. ValueError names what is wrong with the query, NotFound an item it names."""
        answer = Answer()
        with _timed(answer, "understand"):
            parts = await asyncio.gather(*(self._part(part, query) for part in query.parts))
            vector_D = _weighted(query, parts, fused=query.fusion)
        with _timed(answer, "resolve"):
            pairs = zip(query.parts, parts, strict=True)
            read = [one.parse for part, one in pairs if isinstance(one, Understood) and part.weight > 0]
            answer.meanings = [await self.meaning(parse, query.tenant, query.now, query.lang) for parse in read]
            answer.applied = self._inferred(query, answer.meanings) if query.infer else []
        with _timed(answer, "retrieve"):
            await self._retrieve(query, vector_D, answer)
            if query.explain:
                answer.explained = await self._explained(query, parts, answer.hits)
            if query.previews:
                answer.previews = await self._previews(query, answer.hits)
        return answer

    async def parse(self, text: str, tenant: str, now: datetime, lang: str | None) -> Meaning:
        """Intent and slots of a query, and the filters they mean."""
        return await self.meaning((await self.texts.understand(text)).parse, tenant, now, lang)

    async def meaning(self, parse: Parse, tenant: str, now: datetime, lang: str | None) -> Meaning:
        """The filters that a parsed query means."""
        rules = self.settings.slots
        said = names_said(parse, rules)
        found = await self._index.named(tenant, said) if said else {}
        return Meaning(parse, constraints_of(parse, rules, found, now=now, lang=lang))

    async def pictures(self, encoded: Sequence[bytes], dimensions: int | None = None) -> Sequence[Vector]:
        """The unit vectors of encoded pictures."""
        return await asyncio.gather(*(self._pictures.embed(picture, dimensions) for picture in encoded))

    async def check(self) -> None:
        """Raises what keeps a search from being answered now. Asked by many at a time, it asks model and index once."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.ensure_future(self._check())
        await asyncio.shield(self._checking)

    async def _check(self) -> None:
        await self.check_model()
        await self._index.check()

    async def check_model(self) -> None:
        """RuntimeError if the text tower's answer to a canary is no unit vector, or not the one it gave first."""
        await self._canary.check(self.texts)

    async def warm(self) -> None:
        """Does once what the first request would wait for: models, words of times and amounts, the index."""
        with contextlib.suppress(PartUnavailable):  # as with the index below
            await self.check_model()
            await self.pictures([white()])
        now = datetime.now(UTC)
        said = [Slot(start=0, end=1, label=label, text="1", score=1.0) for label in self.settings.slots]
        parse = Parse(text="1", label_set="", intent="", intent_score=0.0, slots=tuple(said))
        await asyncio.to_thread(constraints_of, parse, self.settings.slots, {}, now=now, lang=None)
        with contextlib.suppress(IndexUnavailable, PartUnavailable):  # it may come up later; /readyz says when
            await self.search(Query(parts=[Part(text=QUERY)], tenant="", limit=1, now=now))

    async def put(self, items: Sequence[Item], tenant: str) -> None:
        """Embeds and stores items, whole or not at all: a row that an item no longer has goes."""
        rows = await asyncio.to_thread(self._rows, items, tenant)  # previews take a picture's decoding
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

    def _rows(self, items: Sequence[Item], tenant: str) -> list[Row]:
        listed: list[Row] = []
        for item in items:
            rows = rows_of(item, tenant, salt_of(self.settings.backend, self.settings.preview))
            if item.picture is not None:
                with_preview(rows, item.picture, self.settings.preview)
            listed += rows
        return listed

    async def remove(self, ids: Sequence[str], tenant: str) -> None:
        """Deletes the tenant's items; unknown ids are no error."""
        await self._index.delete([key_of(tenant, item, modality) for item in ids for modality in MODALITIES])

    def _inferred(self, query: Query, meanings: Sequence[Meaning]) -> list[Constraint]:
        """What the texts ask for, but for what the request says itself: that is never overruled."""
        given = fields_of(query.filters) | ({"modality"} if query.modality else set())
        listed = [one for meaning in meanings for one in meaning.constraints]
        if len(meanings) == 1:  # of several texts none decides what kind of thing is wanted
            listed += self._asked_for(meanings[0].parse)
        sure = [one for one in listed if one.certainty >= self.settings.least_certainty]
        return [one for one in sure if one.label not in query.ignored and not one.fields & given]

    def _asked_for(self, parse: Parse) -> list[Constraint]:
        wanted = self.settings.modality_of_intent.get(parse.intent)
        if wanted is None:
            return []
        asked = Constraint(
            label="intent",
            text="",
            field="modality",
            wanted=Equals("modality", wanted),
            certainty=parse.intent_score,
            value={"equals": wanted},
        )
        return [asked]

    async def _retrieve(self, query: Query, vector_D: Vector, answer: Answer) -> None:
        """Searches; while nothing is found, the inferred filter that is least certain is given up."""
        own = [*query.filters, *([Equals("modality", query.modality)] if query.modality else [])]
        like = [part.item for part in query.parts if part.item is not None]
        own += [Not(OneOf("id", like))] if like else []  # more like this: not this itself
        words = " ".join(part.text for part in query.parts if part.text and part.weight > 0)
        options: dict[str, Any] = {"words": [words]} if query.keywords and words else {}
        options |= {"tenant": query.tenant, "fields": SHOWN}
        while True:
            wanted = [*own, *(one.wanted for one in answer.applied)]
            options["wanted"] = AllOf(wanted) if wanted else None
            # Of one modality an item has one row: nothing to look for twice as many rows for.
            options["by_item"] = not any(isinstance(one, Equals) and one.field == "modality" for one in wanted)
            answer.hits = await self._index.search(vector_D, limit=query.limit, offset=query.offset, **options)
            if answer.hits or not answer.applied:
                break
            if query.offset and await self._index.search(vector_D, limit=1, **options):
                break  # only this page is empty
            least = min(answer.applied, key=lambda one: one.certainty)
            answer.applied.remove(least)
            answer.relaxed.append(least)
        asked = {
            one.wanted.value for one in answer.applied if one.field == "modality" and isinstance(one.wanted, Equals)
        }
        answer.modality = query.modality or next((one for one in MODALITIES if one in asked), None)

    async def _explained(
        self, query: Query, parts: Sequence[Understood | Vector], hits: Sequence[Hit]
    ) -> list[dict[str, float]]:
        """Cosine of each hit with the query as it would be with fusion and without."""
        keys = [key_of(query.tenant, hit.fields["id"], hit.fields["modality"]) for hit in hits]
        stored = await self._index.get(keys, ["vector"])
        queries = {"fused": _weighted(query, parts, fused=True), "plain": _weighted(query, parts, fused=False)}
        found = []
        for key, hit in zip(keys, hits, strict=True):
            row = stored.get(key)  # deleted a moment ago, if not there
            vector_D = None if row is None else np.asarray(row["vector"], np.float32)
            scores = {name: hit.score if vector_D is None else float(one @ vector_D) for name, one in queries.items()}
            found.append(scores)
        return found

    async def _previews(self, query: Query, hits: Sequence[Hit]) -> list[bytes | None]:
        """The small pictures of hits that have one."""
        keys = [key_of(query.tenant, hit.fields["id"], "image") for hit in hits]
        stored = await self._index.get(keys, ["preview"])
        coded = [stored.get(key, {}).get("preview") for key in keys]
        return [base64.b64decode(one) if one else None for one in coded]

    async def _part(self, part: Part, query: Query) -> Understood | Vector:
        if part.text is not None:
            return await self.texts.understand(part.text)
        if part.picture is not None:
            return await self._pictures.embed(part.picture, None)
        assert part.item is not None
        keys = [key_of(query.tenant, part.item, modality) for modality in MODALITIES]
        stored = await self._index.get(keys, ["vector"])
        if not stored:
            raise NotFound(part.item)
        vectors = [np.asarray(stored[key]["vector"], np.float32) for key in keys if key in stored]
        mean_D: Vector = np.mean(vectors, axis=0)
        return mean_D


def _weighted(query: Query, parts: Sequence[Understood | Vector], *, fused: bool) -> Vector:
    """The weighted sum of the parts' vectors, of unit length."""
    sum_D = np.zeros(1, np.float32)
    for part, found in zip(query.parts, parts, strict=True):
        vector_D = (found.fused_D if fused else found.plain_D) if isinstance(found, Understood) else found
        sum_D = sum_D + np.float32(part.weight) * vector_D
    length = float(np.linalg.norm(sum_D))
    if not length > 1e-6:
        raise ValueError("the weighted parts of the query cancel out")
    unit_D: Vector = (sum_D / length).astype(np.float32)
    return unit_D


@contextmanager
def _timed(answer: Answer, name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    answer.timings_ms[name] = round(1000 * (time.perf_counter() - started), 2)
