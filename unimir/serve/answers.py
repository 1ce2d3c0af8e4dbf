"""What answers hold, as JSON, and their way from typed values.

Knows no route and no model.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, Field

from unimir.index.entities import Modality
from unimir.index.filters import MISSING
from unimir.index.requests import Hit
from unimir.serve.constraints import Constraint
from unimir.serve.gateway import Answer, Meaning


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


def _known(value: float, missing: float) -> float | None:
    return None if value == missing else value
