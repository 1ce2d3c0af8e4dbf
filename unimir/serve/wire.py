"""What requests may say, as JSON, and their way to typed values.

Knows no route, no key and no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from unimir.data.items import Item, item_of
from unimir.index.entities import FILTERABLE, Modality
from unimir.index.filters import (
    AllOf,
    AnyOf,
    Between,
    Equals,
    Filter,
    HasTags,
    Not,
    OneOf,
    Value,
)
from unimir.serve.gateway import Part


class Wire(BaseModel):
    """Unknown keys and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


Scalar = str | float
Image = Annotated[str, Field(min_length=1, description="base64 of a picture, or its URL on a host that is allowed")]
Read = Callable[[str], Awaitable[bytes]]
"""From what a request gives as a picture to its bytes; ValueError if it cannot be had."""


class FilterIn(Wire):
    """One condition on a field, or conditions joined. Times are ISO 8601 with their zone."""

    field: str | None = None
    equals: Scalar | None = None
    one_of: list[Scalar] | None = None
    at_least: Scalar | None = None
    below: Scalar | None = None
    any_tag: list[str] | None = None
    every_tag: list[str] | None = None
    all_of: list[FilterIn] | None = None
    any_of: list[FilterIn] | None = None
    not_: FilterIn | None = Field(default=None, alias="not")

    def typed(self) -> Filter:
        """The filter; ValueError names what is wrong with it."""
        given = {name for name in type(self).model_fields if getattr(self, name) is not None}
        match sorted(given):
            case ["all_of"]:
                return AllOf([part.typed() for part in self.all_of or ()])
            case ["any_of"]:
                return AnyOf([part.typed() for part in self.any_of or ()])
            case ["not_"] if self.not_ is not None:
                return Not(self.not_.typed())
        if self.field is None:
            raise ValueError("a filter names a field, or joins others by all_of, any_of or not")
        match sorted(given - {"field"}):
            case ["equals"]:
                return Equals(self.field, _value(self.field, self.equals))
            case ["one_of"]:
                return OneOf(self.field, [_value(self.field, value) for value in self.one_of or ()])
            case ["at_least"] | ["below"] | ["at_least", "below"]:
                low, high = (None if b is None else _value(self.field, b) for b in (self.at_least, self.below))
                return Between(self.field, low, high)
            case ["any_tag"]:
                return HasTags(self.field, self.any_tag or ())
            case ["every_tag"]:
                return HasTags(self.field, self.every_tag or (), every=True)
        raise ValueError(
            f"filter on {self.field:.80}: give one of equals, one_of, at_least and below, any_tag, every_tag"
        )


class PartIn(Wire):
    """One thing of a composed query: a text, a picture or an item of the collection. Negative: not like this."""

    text: str | None = None
    image: Image | None = None
    id: str | None = None
    weight: float = Field(default=1.0, ge=-10, le=10)

    @model_validator(mode="after")
    def _one(self) -> PartIn:
        if sum(value is not None for value in (self.text, self.image, self.id)) != 1:
            raise ValueError("a part is one of text, image and id")
        return self

    async def typed(self, read: Read) -> Part:
        """The part."""
        picture = None if self.image is None else await read(self.image)
        return Part(text=self.text, picture=picture, item=self.id, weight=self.weight)


class SaidIn(Wire):
    """When and in which language something is said."""

    now: AwareDatetime | None = Field(default=None, description="what times such as last month are seen from")
    timezone: str | None = Field(default=None, description="IANA name; its days are meant", examples=["Europe/Berlin"])
    lang: str | None = Field(default=None, description="ISO 639-1; without one what all languages agree on counts")

    def moment(self, default_zone: str) -> datetime:
        """Now, in the caller's time zone. ValueError if there is no such zone."""
        name = self.timezone or default_zone
        try:
            zone = ZoneInfo(name)
        except (ValueError, OSError, ZoneInfoNotFoundError):
            raise ValueError(f"timezone {name!r:.80}; an IANA name such as Europe/Berlin") from None
        try:
            return (self.now or datetime.now(UTC)).astimezone(zone)
        except OverflowError:
            raise ValueError(f"now {self.now}; in {name} it is before the year 1, or after 9999") from None


class SearchIn(SaidIn):
    """A search: `query` is a text; `parts` composes one of several things."""

    query: str | None = None
    parts: list[PartIn] = Field(default_factory=list)
    filters: list[FilterIn] = Field(default_factory=list, max_length=32)
    limit: int = Field(default=10, ge=1)
    offset: int = Field(default=0, ge=0)
    modality: Modality | None = None
    fusion: bool = Field(default=True, description="suppress the noise of spoken queries")
    keywords: bool = Field(default=False, description="rank by words too, where the index can")
    infer: bool = Field(default=True, description="filter by what the query says of times, places, prices")
    ignore: list[str] = Field(default_factory=list, max_length=32, description="slots that shall filter nothing")
    explain: bool = Field(default=False, description="give each hit's cosine with and without fusion")
    previews: bool = Field(default=False, description="give small pictures of the hits that have one")

    async def typed_parts(self, read: Read) -> list[Part]:
        """The query as parts, at least one."""
        own = [Part(text=self.query)] if self.query is not None else []
        parts = own + await asyncio.gather(*(part.typed(read) for part in self.parts))
        if not parts:
            raise ValueError("nothing to search for: give query or parts")
        return parts


class ParseIn(SaidIn):
    """A query to parse."""

    query: str


class ImageIn(Wire):
    """A picture among texts."""

    image: Image


class EmbeddingsIn(Wire):
    """As OpenAI's embeddings; beside texts also pictures, as {"image": base64}."""

    input: str | list[str | ImageIn]
    model: str = ""
    dimensions: int | None = Field(default=None, ge=1)
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None


class ItemIn(Wire):
    """An item of the catalog."""

    id: str
    title: str = ""
    text: str = ""
    lang: str = ""
    image: Image | None = None
    captured_at: AwareDatetime | None = None
    place: str = ""
    price: float | None = None
    tags: list[str] = Field(default_factory=list)
    extra: dict[str, str] = Field(default_factory=dict)

    async def typed(self, read: Read) -> Item:
        """The item, cleaned as a catalog's rows are; ValueError says why it is none."""
        said = self.model_dump(exclude={"image"})
        return item_of({**said, "image": None if self.image is None else await read(self.image)})


class ItemsIn(Wire):
    """Items to put."""

    items: list[ItemIn] = Field(min_length=1)


class JudgementIn(Wire):
    """How well an item answers a query: 0 not at all, 3 exactly."""

    id: str = Field(min_length=1)
    relevance: int = Field(ge=0, le=3)


class FeedbackIn(Wire):
    """Judgements of a query's items."""

    query: str = Field(min_length=1)
    judgements: list[JudgementIn] = Field(min_length=1)


class IdsIn(Wire):
    """Items to delete."""

    ids: list[str] = Field(min_length=1)


def _value(field: str, value: Scalar | None) -> Value:
    if FILTERABLE.get(field) == "time" and isinstance(value, str):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"filter on {field}: {value!r:.80} is no ISO 8601 time") from None
    assert value is not None
    return value
