"""What a serve config may say of the search service: which model and index, what is allowed, what intents mean.

Replicas, resources and autoscaling are not here: they are Ray Serve's, one block per deployment in the YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from unimir.config import BACKENDS
from unimir.index.entities import MODALITIES, Modality

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
    waiting: int = 128  # calls that may wait for a tower or the index before more are turned away
    deadline_s: float = 5.0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            _require(getattr(self, name) > 0, f"limits.{name} is {getattr(self, name)}; must be positive")


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
    keys: str | None = None  # file of API keys; without one every caller is the tenant ""
    modality_of_intent: Mapping[str, Modality] = field(
        default_factory=lambda: {"find_picture": "image", "find_text": "text"}
    )
    apart: tuple[Part, ...] = ()  # parts that are deployments of their own; the others live in the Gateway's replicas
    gather_s: float = 0.0  # how long an idle tower or index waits for company
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        _require(self.backend in BACKENDS, f"backend {self.backend!r}; one of {', '.join(BACKENDS)}")
        _require(self.threads > 0, f"threads is {self.threads}; must be positive")
        _require(0 <= self.gather_s <= 1, f"gather_s is {self.gather_s}; 0 to 1 seconds")
        for intent, modality in self.modality_of_intent.items():
            _require(
                modality in MODALITIES, f"modality_of_intent.{intent} is {modality!r}; one of {', '.join(MODALITIES)}"
            )
