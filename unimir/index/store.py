"""The only door to Milvus: collections of items, filtered search, aliases that readers follow.

Everything a backend might judge differently is checked here first, so that Milvus Lite and a server give the same
outcome. Knows vectors and fields; knows no model, no file and no request.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import grpc
import numpy as np
from numpy.typing import NDArray
from pymilvus import DataType, MilvusClient, MilvusException

from unimir.index.filters import AllOf, Equals, FieldType, Filter, expression

FILTERABLE: Mapping[str, FieldType] = {
    "id": "text",
    "modality": "text",
    "lang": "text",
    "place": "text",
    "captured_at": "time",
    "price": "number",
    "tags": "tags",
}
"""What callers may filter by; `tenant` is not among them, because it is always part of the filter."""
MAX_BYTES: Mapping[str, int] = {
    "id": 2048,
    "tenant": 64,
    "modality": 16,
    "lang": 35,
    "title": 1024,
    "text": 16_384,
    "place": 512,
    "content_hash": 32,
}
"""UTF-8 bytes of the text fields: Milvus counts bytes, Milvus Lite characters."""
MAX_TAGS, MAX_TAG_BYTES = 64, 128
MAX_LIMIT = 1000
MAX_WINDOW = 16_384
"""offset + limit, as Milvus has it."""
DEADLINE_S = 10.0
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")


class IndexUnavailable(RuntimeError):
    """Milvus cannot be reached, or did not answer within the deadline."""


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """How vectors are indexed; these kinds work on Milvus Lite and on a server alike."""

    kind: Literal["HNSW", "FLAT", "IVF_FLAT", "IVF_SQ8"] = "HNSW"
    build: Mapping[str, int] = field(default_factory=lambda: {"M": 16, "efConstruction": 200})
    search: Mapping[str, int] = field(default_factory=lambda: {"ef": 128})


@dataclass(frozen=True, slots=True)
class Hit:
    """A found item: cosine similarity, and its fields."""

    score: float
    fields: Mapping[str, Any]


def key_of(tenant: str, item_id: str) -> str:
    """The primary key of an item: 128 bits over tenant and id, so that tenants never overwrite each other."""
    return hashlib.blake2b(f"{tenant}\0{item_id}".encode(), digest_size=16).hexdigest()


def problems(rows: Sequence[Mapping[str, Any]], vectors_ND: NDArray[np.float32]) -> dict[int, str]:
    """Why rows cannot be stored, by row number; the others can."""
    found: dict[int, str] = {}
    norms_N = np.linalg.norm(vectors_ND, axis=1)
    for row in np.flatnonzero(~np.isfinite(norms_N)):
        found[int(row)] = "vector is not finite"
    for row in np.flatnonzero(norms_N < 1e-6):
        found[int(row)] = "vector is zero"
    for number, row in enumerate(rows):
        for name, most in MAX_BYTES.items():
            value = row[name]
            # A character is at most four bytes: most texts need no encoding to be known as short enough.
            if 4 * len(value) > most and len(value.encode()) > most:
                found[number] = f"{name} over {most} bytes"
        if not row["id"]:
            found[number] = "id is empty"
        if len(row["tags"]) > MAX_TAGS or any(len(tag.encode()) > MAX_TAG_BYTES for tag in row["tags"]):
            found[number] = f"more than {MAX_TAGS} tags, or a tag over {MAX_TAG_BYTES} bytes"
    return found


class Store:
    """One Milvus. Every call has a deadline; what cannot be reached raises IndexUnavailable."""

    def __init__(self, uri: str, *, deadline_s: float = DEADLINE_S, index: IndexConfig | None = None) -> None:
        self._deadline_s = deadline_s
        self._index = index or IndexConfig()
        login = {name: os.environ.get(f"MILVUS_{name.upper()}", "") for name in ("user", "password", "token")}
        with _reachable():
            self._client = MilvusClient(uri, timeout=deadline_s, **login)

    def close(self) -> None:
        """Gives the connection back."""
        self._client.close()

    def create(self, collection: str, dim: int) -> None:
        """Makes the collection if it is not there, and loads it. ValueError if it is there with another dimension."""
        _check_name(collection)
        with _reachable():
            if self._client.has_collection(collection, timeout=self._deadline_s):
                if self.dim(collection) != dim:
                    raise ValueError(f"collection {collection} has {self.dim(collection)} dimensions, not {dim}")
            else:
                self._client.create_collection(
                    collection,
                    schema=_schema(self._client, dim),
                    index_params=self._index_params(),
                    consistency_level="Bounded",
                    timeout=self._deadline_s,
                )
            self._client.load_collection(collection, timeout=self._deadline_s)

    def dim(self, collection: str) -> int:
        """Dimensions of its vectors."""
        with _reachable():
            described = self._client.describe_collection(collection, timeout=self._deadline_s)
        return int(next(f["params"]["dim"] for f in described["fields"] if f["name"] == "vector"))

    def upsert(self, collection: str, rows: Sequence[Mapping[str, Any]], vectors_ND: NDArray[np.float32]) -> None:
        """Stores rows, replacing those of equal tenant and id; of equal ones in the batch the last counts.

        ValueError names the first row that cannot be stored; then none is.
        """
        for number, problem in sorted(problems(rows, vectors_ND).items()):
            raise ValueError(f"row {number} (id {rows[number]['id']!r:.80}): {problem}")
        keyed = {
            key_of(row["tenant"], row["id"]): {**row, "vector": vector}
            for row, vector in zip(rows, vectors_ND, strict=True)
        }
        with _reachable():
            self._client.upsert(
                collection, [{**row, "key": key} for key, row in keyed.items()], timeout=self._deadline_s
            )

    def delete(self, collection: str, keys: Sequence[str]) -> None:
        """Deletes by key; unknown keys are no error."""
        if keys:
            with _reachable():
                self._client.delete(collection, ids=list(keys), timeout=self._deadline_s)

    def hashes(self, collection: str, keys: Sequence[str]) -> dict[str, str]:
        """Content hashes of those of the keys that are stored."""
        if not keys:
            return {}
        with _reachable():
            found = self._client.get(
                collection, list(keys), output_fields=["content_hash"], timeout=self._deadline_s
            )
        return {row["key"]: row["content_hash"] for row in found}

    def search(
        self,
        collection: str,
        queries_QD: NDArray[np.float32],
        *,
        tenant: str,
        limit: int,
        offset: int = 0,
        wanted: Filter | None = None,
        fields: Sequence[str] = ("id",),
    ) -> list[list[Hit]]:
        """The most similar items for each query, best first; all queries share the filter and one call."""
        if not 0 < limit <= MAX_LIMIT or offset < 0 or offset + limit > MAX_WINDOW:
            raise ValueError(f"limit {limit}, offset {offset}; limit 1..{MAX_LIMIT}, together at most {MAX_WINDOW}")
        if not np.isfinite(queries_QD).all():
            raise ValueError("a query vector is not finite")
        with _reachable():
            found = self._client.search(
                collection,
                data=list(queries_QD),
                filter=_within(tenant, wanted),
                limit=limit,
                output_fields=list(fields),
                search_params={"metric_type": "IP", "params": dict(self._index.search), "offset": offset},
                consistency_level="Bounded",
                timeout=self._deadline_s,
            )
        return [[Hit(hit["distance"], hit["entity"]) for hit in hits] for hits in found]

    def count(self, collection: str, *, tenant: str | None = None) -> int:
        """Items now stored, of all tenants or of one."""
        with _reachable():
            self._client.flush(collection, timeout=self._deadline_s)
            (row,) = self._client.query(
                collection,
                filter="" if tenant is None else _within(tenant, None),
                output_fields=["count(*)"],
                consistency_level="Strong",  # right after writing, once per job; never in a search
                timeout=self._deadline_s,
            )
        return int(row["count(*)"])

    def point(self, alias: str, collection: str) -> None:
        """Lets readers of the alias see this collection from now on, in one step."""
        _check_name(alias)
        with _reachable():
            move = self._client.create_alias if self.target(alias) is None else self._client.alter_alias
            move(collection, alias, timeout=self._deadline_s)

    def target(self, alias: str) -> str | None:
        """The collection that readers of the alias see."""
        with _reachable():
            for collection in self._client.list_collections(timeout=self._deadline_s):
                if alias in self._client.list_aliases(collection, timeout=self._deadline_s)["aliases"]:
                    return str(collection)
        return None

    def _index_params(self) -> Any:
        params = self._client.prepare_index_params()
        params.add_index("vector", index_type=self._index.kind, metric_type="IP", params=dict(self._index.build))
        return params


def _within(tenant: str, wanted: Filter | None) -> str:
    """The filter, always within the tenant."""
    own = expression(Equals("tenant", tenant), {"tenant": "text"})
    return own if wanted is None else f"{own} and ({expression(AllOf([wanted]), FILTERABLE)})"


def _schema(client: MilvusClient, dim: int) -> Any:
    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("key", DataType.VARCHAR, max_length=32, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    for name, most in MAX_BYTES.items():
        schema.add_field(name, DataType.VARCHAR, max_length=most, is_partition_key=name == "tenant")
    schema.add_field("captured_at", DataType.INT64)
    schema.add_field("price", DataType.DOUBLE)
    schema.add_field(
        "tags", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=MAX_TAGS, max_length=MAX_TAG_BYTES
    )
    return schema


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"collection {name!r:.80}; letters, digits and underscores, at most 201")


class _reachable:
    """Turns what a dead or hung Milvus raises into IndexUnavailable: pymilvus lets raw gRPC errors through."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, grpc.RpcError):
            raise IndexUnavailable(f"Milvus does not answer ({error.code().name})") from error
        if isinstance(error, MilvusException) and error.code in (1, 2):
            raise IndexUnavailable(f"Milvus does not answer ({error.message})") from error
