"""What is asked of Milvus, as plain values: search requests checked and put together, answers taken apart.

Knows columns and limits; knows no client and no connection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Required, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray
from pymilvus import AnnSearchRequest, RRFRanker

from unimir.index.entities import FILTERABLE, MODALITIES, Row, key_of, problems
from unimir.index.filters import AllOf, Equals, Filter, expression
from unimir.index.keywords import NONE, keywords_of

MAX_LIMIT = 1000
MAX_WINDOW = 16_384
"""offset + limit, as Milvus has it."""
_RANGE_ROWS = 8000  # rows of one listing call; the ranges are even enough to stay under MAX_WINDOW
_SPACE = 1 << 32
RANK_OFFSET = 60
"""What reciprocal rank fusion adds to a rank, as its authors have it."""
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


def usual_index(*, lite: bool) -> IndexConfig:
    """What suits a backend. Milvus Lite's HNSW loses most hits of a selective filter, and is no faster at its sizes."""
    return IndexConfig(kind="FLAT" if lite else "HNSW")


@dataclass(frozen=True, slots=True)
class Hit:
    """A found row: cosine similarity, and its columns. In a search by words too, the order is not the scores'."""

    score: float
    fields: Mapping[str, Any]


def entities(rows: Sequence[Row], vectors_ND: NDArray[np.float32], keywords: bool) -> list[Row]:
    """Rows as they are stored: with vector and key, of equal keys the last. ValueError names one that cannot be.

    The key is made here, whatever the row says: no caller can write over another tenant's row.
    """
    for number, problem in sorted(problems(rows, vectors_ND).items()):
        raise ValueError(f"row {number} (id {rows[number]['id']!r:.80}): {problem}")
    keyed = {
        key_of(row["tenant"], row["id"], row["modality"]): {**row, "vector": vector}
        for row, vector in zip(rows, vectors_ND, strict=True)
    }
    # Milvus weighs keywords itself; where it cannot, a column outside the schema would be kept as plain text.
    without = {"keyword_weights"} if keywords else {"keyword_weights", "keywords"}
    return [{**{name: row[name] for name in row if name not in without}, "key": key} for key, row in keyed.items()]


class SearchOptions(TypedDict, total=False):
    """What a search is told beside its vectors. `tenant` and `limit` have no default."""

    tenant: Required[str]
    limit: Required[int]
    offset: int
    wanted: Filter | None
    fields: Sequence[str]
    by_item: bool  # of an item's rows only the best one
    words: Sequence[str]  # the queries' texts: ranks by BM25 too, where the server can


class SearchRequest:
    """A checked search: what the client is given, and how its answer is read.

    With `words`, and where the collection has `keywords`, it asks for the best by cosine and the best by BM25, and
    joins both by reciprocal rank (Cormack, Clarke and Buettcher, SIGIR 2009). ValueError for what backends would answer
    differently.
    """

    def __init__(
        self, index: IndexConfig, queries_QD: NDArray[np.float32], keywords: bool, **options: Unpack[SearchOptions]
    ) -> None:
        limit, offset = options["limit"], options.get("offset", 0)
        most = MAX_WINDOW // (len(MODALITIES) if options.get("by_item") else 1)  # an item may have a row of each
        if not 0 < limit <= MAX_LIMIT or offset < 0 or offset + limit > most:
            raise ValueError(f"limit {limit}, offset {offset}; limit 1..{MAX_LIMIT}, together at most {most}")
        if not np.isfinite(queries_QD).all():
            raise ValueError("a query vector is not finite")
        words = options.get("words") if keywords else None
        if words is not None and len(words) != len(queries_QD):
            raise ValueError(f"{len(words)} texts of queries for {len(queries_QD)} vectors")
        self._queries_QD = queries_QD
        self._by_item = options.get("by_item", False)
        self._fields = dict.fromkeys([*options.get("fields", ()), "id"])
        condition = within(options["tenant"], options.get("wanted"))
        if words is None and not self._by_item:
            most, skipped = limit, offset
        else:
            # An item has at most one row per modality, so so many rows always hold the best items asked for.
            most, skipped = (offset + limit) * (len(MODALITIES) if self._by_item else 1), 0
        self._window = slice(offset - skipped, offset - skipped + limit)
        params = index.search_params
        if "ef" in params:
            params["ef"] = max(params["ef"], most + skipped)  # a server refuses less
        by_cosine = {"metric_type": "IP", "params": params, "offset": skipped}
        self.method = "search" if words is None else "hybrid_search"
        self.arguments: dict[str, Any] = {"limit": most, "consistency_level": "Bounded"}
        if words is None:
            self.arguments |= {"data": list(queries_QD), "anns_field": "vector", "search_params": by_cosine}
            self.arguments |= {"filter": condition, "output_fields": list(self._fields)}
            return
        texts = [keywords_of(text) or NONE for text in words]
        by_words = {"metric_type": "BM25"}
        self.arguments |= {
            "reqs": [
                AnnSearchRequest(list(queries_QD), "vector", by_cosine, most, expr=condition),
                AnnSearchRequest(texts, "keyword_weights", by_words, most, expr=condition),
            ],
            "ranker": RRFRanker(RANK_OFFSET),
            "output_fields": [*self._fields, "vector"],  # the answer's scores are of ranks
        }

    def hits(self, found: Any) -> list[list[Hit]]:
        """Hits per query from the client's answer."""
        return [self._hits(query_D, hits) for query_D, hits in zip(self._queries_QD, found, strict=True)]

    def _hits(self, query_D: NDArray[np.float32], found: Any) -> list[Hit]:
        if self.method == "search":
            ranked = [Hit(hit["distance"], hit["entity"]) for hit in found]
        else:
            ranked = [Hit(_cosine(query_D, hit["entity"]), self._shown(hit["entity"])) for hit in found]
        if self._by_item:
            firsts: dict[str, Hit] = {}
            for hit in ranked:
                firsts.setdefault(hit.fields["id"], hit)
            ranked = list(firsts.values())
        return ranked[self._window]

    def _shown(self, entity: Mapping[str, Any]) -> dict[str, Any]:
        return {name: entity[name] for name in entity if name != "vector" or name in self._fields}


def _cosine(query_D: NDArray[np.float32], entity: Mapping[str, Any]) -> float:
    return float(query_D @ np.asarray(entity["vector"], np.float32))


def key_ranges(rows: int) -> list[str]:
    """Conditions that divide so many rows into calls of about equal size: keys are hashes."""
    parts = max(1, rows // _RANGE_ROWS)
    bounds = [f"{bound:08x}" for bound in np.linspace(0, _SPACE, parts + 1).astype(int)[:-1].tolist()]
    return [f'key >= "{low}" and key < "{high}"' for low, high in zip(bounds, [*bounds[1:], "g"], strict=True)]


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
