"""What is asked of Milvus, as plain values: search requests checked and put together, answers taken apart.

Knows columns and limits; knows no client and no connection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Required, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from unimir.index.entities import FILTERABLE, MODALITIES, Row, key_of, problems
from unimir.index.filters import AllOf, Equals, Filter, expression

MAX_LIMIT = 1000
MAX_WINDOW = 16_384
"""offset + limit, as Milvus has it."""
Kind = Literal["HNSW", "FLAT", "IVF_FLAT", "IVF_SQ8"]
_DEFAULTS: Mapping[Kind, tuple[Mapping[str, int], Mapping[str, int]]] = {  # to build, to search
    "HNSW": ({"M": 16, "efConstruction": 200}, {"ef": 128}),
    "FLAT": ({}, {}),
    "IVF_FLAT": ({"nlist": 1024}, {"nprobe": 32}),
    "IVF_SQ8": ({"nlist": 1024}, {"nprobe": 32}),
}


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """How vectors are indexed; these kinds work on Milvus Lite and on a server alike. SQ8 keeps a byte a dimension."""

    kind: Kind = "HNSW"
    build: Mapping[str, int] = field(default_factory=dict)  # over the kind's defaults
    search: Mapping[str, int] = field(default_factory=dict)

    @property
    def build_params(self) -> dict[str, int]:
        """What the index is built with."""
        return {**_DEFAULTS[self.kind][0], **self.build}

    @property
    def search_params(self) -> dict[str, int]:
        """What it is searched with."""
        return {**_DEFAULTS[self.kind][1], **self.search}


@dataclass(frozen=True, slots=True)
class Hit:
    """A found row: cosine similarity, and its columns."""

    score: float
    fields: Mapping[str, Any]


def entities(rows: Sequence[Row], vectors_ND: NDArray[np.float32]) -> list[Row]:
    """Rows as they are stored: with vector and key, of equal keys the last. ValueError names one that cannot be.

    The key is made here, whatever the row says: no caller can write over another tenant's row.
    """
    for number, problem in sorted(problems(rows, vectors_ND).items()):
        raise ValueError(f"row {number} (id {rows[number]['id']!r:.80}): {problem}")
    keyed = {
        key_of(row["tenant"], row["id"], row["modality"]): {**row, "vector": vector}
        for row, vector in zip(rows, vectors_ND, strict=True)
    }
    return [{**row, "key": key} for key, row in keyed.items()]


class SearchOptions(TypedDict, total=False):
    """What a search is told beside its vectors. `tenant` and `limit` have no default."""

    tenant: Required[str]
    limit: Required[int]
    offset: int
    wanted: Filter | None
    fields: Sequence[str]
    by_item: bool  # of an item's rows only the best one


class SearchRequest:
    """A checked search: what the client is given, and how its answer is read.

    ValueError for what backends would answer differently.
    """

    def __init__(self, index: IndexConfig, queries_QD: NDArray[np.float32], **options: Unpack[SearchOptions]) -> None:
        self._limit, self._offset = options["limit"], options.get("offset", 0)
        self._by_item = options.get("by_item", False)
        limit, offset = self._limit, self._offset
        if not 0 < limit <= MAX_LIMIT or offset < 0 or offset + limit > MAX_WINDOW:
            raise ValueError(f"limit {limit}, offset {offset}; limit 1..{MAX_LIMIT}, together at most {MAX_WINDOW}")
        if not np.isfinite(queries_QD).all():
            raise ValueError("a query vector is not finite")
        # An item has at most one row per modality, so so many rows always hold the best items asked for.
        first = min(MAX_WINDOW, (offset + limit) * len(MODALITIES)) if self._by_item else limit
        skipped = 0 if self._by_item else offset
        params = index.search_params
        if "ef" in params:
            params["ef"] = max(params["ef"], first + skipped)  # a server refuses less
        self.arguments: dict[str, Any] = {
            "data": list(queries_QD),
            "filter": within(options["tenant"], options.get("wanted")),
            "limit": first,
            "output_fields": list(dict.fromkeys([*options.get("fields", ()), "id"])),
            "search_params": {"metric_type": "IP", "params": params, "offset": skipped},
            "consistency_level": "Bounded",
        }

    def hits(self, found: Any) -> list[list[Hit]]:
        """Hits per query from the client's answer."""
        ranked = [[Hit(hit["distance"], hit["entity"]) for hit in hits] for hits in found]
        if not self._by_item:
            return ranked
        firsts: list[dict[str, Hit]] = [{} for _ in ranked]
        for best, hits in zip(firsts, ranked, strict=True):
            for hit in hits:
                best.setdefault(hit.fields["id"], hit)
        return [list(best.values())[self._offset : self._offset + self._limit] for best in firsts]


def dim_of(described: Mapping[str, Any]) -> int:
    """Dimensions of a described collection's vectors."""
    return int(next(f["params"]["dim"] for f in described["fields"] if f["name"] == "vector"))


def same_dim(collection: str, dim: int, queries_QD: NDArray[np.float32]) -> None:
    """ValueError unless the queries have the collection's dimensions: Milvus Lite would answer with anything."""
    if queries_QD.shape[1] != dim:
        raise ValueError(f"query vectors have {queries_QD.shape[1]} dimensions, collection {collection} has {dim}")


def within(tenant: str, wanted: Filter | None) -> str:
    """The filter, always within the tenant."""
    own = expression(Equals("tenant", tenant), {"tenant": "text"})
    return own if wanted is None else f"{own} and ({expression(AllOf([wanted]), FILTERABLE)})"
