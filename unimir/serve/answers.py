"""What answers hold, as JSON, and their way from typed values.

Knows no route and no model.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from unimir.index.entities import FILTERABLE, Modality
from unimir.index.filters import MISSING
from unimir.index.requests import Hit
from unimir.serve.constraints import Constraint
from unimir.serve.gateway import Answer, Gateway, Meaning
from unimir.values import time_words


class SlotOut(BaseModel):
    """A labelled span of the query."""

    label: str
    text: str
    start: int
    end: int
    score: float


class ConstraintOut(BaseModel):
    """A filter that the query's words mean: the slot, the field, and the range or value."""

    slot: str
    text: str
    field: str
    certainty: float
    value: dict[str, str | float]

    @classmethod
    def of(cls, one: Constraint) -> ConstraintOut:
        """As JSON has it."""
        certainty = round(one.certainty, 4)
        return cls(slot=one.label, text=one.text, field=one.field, certainty=certainty, value=dict(one.value))


class ParseOut(BaseModel):
    """What was understood of a query."""

    text: str
    intent: str
    intent_score: float
    slots: list[SlotOut]
    filters: list[ConstraintOut]

    @classmethod
    def of(cls, meaning: Meaning) -> ParseOut:
        """As JSON has it."""
        parse = meaning.parse
        return cls(
            text=parse.text,
            intent=parse.intent,
            intent_score=round(parse.intent_score, 4),
            slots=[SlotOut(**{**vars(slot), "score": round(slot.score, 4)}) for slot in parse.slots],
            filters=[ConstraintOut.of(one) for one in meaning.constraints],
        )


class ExplainOut(BaseModel):
    """Cosine of a hit with the query's vector, the noise suppressed and as it was said."""

    fused: float
    plain: float


class HitOut(BaseModel):
    """A found item: the better of its picture and its words."""

    id: str
    score: float
    modality: Modality
    lang: str
    title: str
    text: str
    place: str
    captured_at: datetime | None
    price: float | None
    tags: list[str]
    extra: dict[str, Any]
    preview: str | None = Field(default=None, description="a small WebP in base64")
    explain: ExplainOut | None = None

    @classmethod
    def of(cls, hit: Hit, preview: bytes | None, explained: Mapping[str, float] | None) -> HitOut:
        """As JSON has it: what is not known is null."""
        fields = dict(hit.fields)
        fields["captured_at"] = _known(fields["captured_at"], MISSING["time"])
        if fields["captured_at"] is not None:
            fields["captured_at"] = datetime.fromtimestamp(fields["captured_at"] / 1000, UTC)
        fields["price"] = _known(fields["price"], MISSING["number"])
        fields["tags"] = list(fields["tags"])
        fields["preview"] = None if preview is None else base64.b64encode(preview).decode()
        fields["explain"] = None if explained is None else ExplainOut(**explained)
        return cls(score=round(hit.score, 6), **{name: fields[name] for name in cls.model_fields if name in fields})


class SearchOut(BaseModel):
    """Hits, best first, and how the query was understood."""

    hits: list[HitOut]
    understanding: list[ParseOut]
    filters_applied: list[ConstraintOut] = Field(description="inferred filters that every hit fulfils")
    filters_relaxed: list[ConstraintOut] = Field(description="inferred filters given up because nothing was left")
    modality: Modality | None
    bundle_id: str
    collection: str
    timings_ms: dict[str, float]

    @classmethod
    def of(cls, answer: Answer, bundle_id: str, collection: str) -> SearchOut:
        """As JSON has it."""
        nothing: list[None] = [None] * len(answer.hits)
        shown = zip(answer.hits, answer.previews or nothing, answer.explained or nothing, strict=True)
        return cls(
            hits=[HitOut.of(hit, preview, explained) for hit, preview, explained in shown],
            understanding=[ParseOut.of(meaning) for meaning in answer.meanings],
            filters_applied=[ConstraintOut.of(one) for one in answer.applied],
            filters_relaxed=[ConstraintOut.of(one) for one in answer.relaxed],
            modality=answer.modality,
            bundle_id=bundle_id,
            collection=collection,
            timings_ms=answer.timings_ms,
        )


class EmbeddingOut(BaseModel):
    """A vector, as numbers or as base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class UsageOut(BaseModel):
    """Here for clients that expect it; nothing is charged by tokens."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class EmbeddingsOut(BaseModel):
    """As OpenAI's clients expect it."""

    object: Literal["list"] = "list"
    model: str
    data: list[EmbeddingOut]
    usage: UsageOut = UsageOut()

    @classmethod
    def of(cls, coded: Sequence[list[float] | str], model: str) -> EmbeddingsOut:
        """As JSON has it."""
        return cls(model=model, data=[EmbeddingOut(index=at, embedding=one) for at, one in enumerate(coded)])


class InfoOut(BaseModel):
    """What is served, and what may be asked."""

    bundle_id: str
    collection: str
    backend: str
    dimensions: list[int]
    slots: dict[str, str] = Field(description="slots that filter, and the field that each speaks of")
    languages: list[str] = Field(description="whose times are understood")
    fields: list[str] = Field(description="what can be filtered by")
    limits: dict[str, float | None]

    @classmethod
    def of(cls, gateway: Gateway, tenant: str) -> InfoOut:
        """As JSON has it; of quotas only the tenant's own."""
        settings, served = gateway.settings, gateway.served
        limits = dataclasses.asdict(settings.limits)
        limits["tenant_requests_per_s"] = settings.limits.requests_per_s(tenant)
        return cls(
            bundle_id=served.bundle_id,
            collection=served.collection,
            backend=settings.backend,
            dimensions=list(served.dimensions),
            slots={label: rule.field for label, rule in settings.slots.items()},
            languages=list(time_words.languages()),
            fields=[f"{name}.NAME" if kind == "texts" else name for name, kind in FILTERABLE.items()],
            limits=limits,
        )


class ProblemOut(BaseModel):
    """An error (RFC 9457); `code` is stable."""

    type: str
    title: str
    status: int
    code: str
    detail: str


def _known(value: float, missing: float) -> float | None:
    return None if value == missing else value
