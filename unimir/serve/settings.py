"""What a serve config may say of the search service: which model and index, what is allowed, what intents mean.

Replicas, resources and autoscaling are not here: they are Ray Serve's, one block per deployment in the YAML.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from zoneinfo import available_timezones

from unimir.config import BACKENDS
from unimir.index.entities import FILTERABLE, MODALITIES, PREVIEW, Modality
from unimir.index.filters import FieldType, field_type

_HOST = re.compile(r"([a-z0-9-]+\.)+[a-z][a-z0-9-]*")  # no address of numbers
Part = Literal["TextEncoder", "ImageEncoder", "Retriever"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request, and all that wait at a moment, may ask for."""

    body_bytes: int = 16_000_000
    text_chars: int = 4000
    parts: int = 8  # texts, pictures and items of one composed query
    batch: int = 32  # inputs of one embedding request, items of one upsert
    hits: int = 100
    in_flight: int = 64  # requests of a replica that are answered at a time before more are turned away
    waiting: int = 128  # calls that may wait for a tower or the index before more are turned away
    # Of a tenant at one replica; "*" is every tenant that is not named. Without a number there is no limit.
    tenant_requests_per_s: Mapping[str, float] = dataclasses.field(default_factory=dict)
    deadline_s: float = 5.0
    index_deadline_s: float = 2.0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            for one in value.values() if isinstance(value, Mapping) else [value]:
                _require(one > 0, f"limits.{name} is {value}; must be positive")

    def requests_per_s(self, tenant: str) -> float | None:
        """The tenant's own quota; None if it has none."""
        quotas = self.tenant_requests_per_s
        return quotas.get(tenant, quotas.get("*"))


@dataclass(frozen=True, kw_only=True)
class SlotRule:
    """Which field a slot speaks of, and how its words become a filter on it.

    "time" takes a range of days, "amount" bounds of a number, "name" and "tag" a value that the collection holds.
    """

    field: str
    type: Literal["time", "amount", "name", "tag"]
    unit_field: str | None = None  # of an amount: the field that says its currency or unit
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)  # words for units, beside those of currencies
    exact: bool = False  # of an amount: "three" is a filter too, not only "at least three"
    synonyms: Mapping[str, tuple[str, ...]] = dataclasses.field(
        default_factory=dict
    )  # of a value, beside what CLDR calls it

    def __post_init__(self) -> None:
        held: Mapping[str, FieldType] = {"time": "time", "amount": "number", "name": "text", "tag": "tags"}
        _require(self.type in held, f"slot type {self.type!r}; one of {', '.join(held)}")
        kind = field_type(self.field, FILTERABLE)
        _require(kind == held[self.type], f"slot of type {self.type}: field {self.field!r} holds {kind or 'nothing'}")
        listed = self.type != "name" or "." not in self.field
        _require(listed, f"slot of type name: field {self.field!r}; names are looked up in columns of their own")
        if self.unit_field is not None:
            kind = field_type(self.unit_field, FILTERABLE)
            _require(kind == "text", f"unit_field {self.unit_field!r} holds {kind or 'nothing'}; a text field")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The search service. The defaults are those of a laptop after `jobs/embed_catalog.py`."""

    bundle: str = "var/bundles"  # a bundle, or a directory of bundles among which the collection's own is found
    milvus: str | None = None  # URI of a server; without one the embedded Milvus of `data`
    data: str = "var/milvus"
    collection: str = "catalog"  # the alias that the embedding job moves
    backend: str = "torch"
    device: str = "cpu"
    threads: int = 2
    keys: str | None = None  # file of API keys, or env:NAME; without them every caller is the tenant ""
    modality_of_intent: Mapping[str, Modality] = dataclasses.field(
        default_factory=lambda: {"find_picture": "image", "find_text": "text"}
    )
    slots: Mapping[str, SlotRule] = dataclasses.field(default_factory=dict)  # by label; other slots filter nothing
    preview: int = PREVIEW  # of live items, as the embedding job's
    timezone: str = "UTC"  # of callers that name none
    least_certainty: float = 0.5  # of what a query implies: less certain slots and intents filter nothing
    release: str = ""  # says nothing: another value makes `serve deploy` deploy anew what is else unchanged
    vocabulary_s: float = 600.0  # how old the list of names that the collection holds may become
    pictures_from: tuple[str, ...] = ()  # names of hosts that pictures may be fetched from by URL; none by default
    feedback: str | None = None  # directory of relevance judgements; without one none are taken
    log_queries: bool = False  # whether logs hold the words of queries
    apart: tuple[Part, ...] = ()  # parts that are deployments of their own; the others live in the Gateway's replicas
    gather_s: float = 0.0  # how long an idle tower or index waits for company
    limits: Limits = dataclasses.field(default_factory=Limits)

    def __post_init__(self) -> None:
        _require(self.backend in BACKENDS, f"backend {self.backend!r}; one of {', '.join(BACKENDS)}")
        _require(self.threads > 0, f"threads is {self.threads}; must be positive")
        _require(0 <= self.gather_s <= 1, f"gather_s is {self.gather_s}; 0 to 1 seconds")
        _require(
            self.timezone in available_timezones(), f"timezone {self.timezone!r}; an IANA name such as Europe/Rome"
        )
        for host in self.pictures_from:
            _require(bool(_HOST.fullmatch(host)), f"pictures_from has {host!r}; the name of a host, in lower case")
        _require(0 <= self.least_certainty <= 1, f"least_certainty is {self.least_certainty}; 0 to 1")
        _require(self.vocabulary_s > 0, f"vocabulary_s is {self.vocabulary_s}; must be positive")
        for intent, modality in self.modality_of_intent.items():
            _require(
                modality in MODALITIES, f"modality_of_intent.{intent} is {modality!r}; one of {', '.join(MODALITIES)}"
            )
