"""The only door to Milvus: collections of items, filtered search, aliases that readers follow.

Everything a backend might judge differently is checked here first, so that Milvus Lite and a server give the same
outcome. Knows vectors and columns; knows no model, no file and no request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from pymilvus import DataType, Function, FunctionType, MilvusClient

from unimir.data.items import MAX_TAG_BYTES, MAX_TAGS
from unimir.index.connection import NotLoaded, is_lite, login, mapped, partition_keys, ranks_keywords, refuse_unsafe
from unimir.index.entities import KEY_BYTES, MAX_BYTES, Row
from unimir.index.keywords import MAX_KEYWORDS
from unimir.index.requests import (
    MAX_WINDOW,
    Hit,
    IndexConfig,
    SearchOptions,
    SearchRequest,
    dim_of,
    entities,
    key_ranges,
    same_dim,
    usual_index,
    within,
)

DEADLINE_S = 10.0
SLOW_S = 600.0
"""Deadline of what may have to wait for an index that is being built: load, flush, create, drop."""
_AFTER_WRITING = {"consistency_level": "Strong", "deadline_s": SLOW_S}
"""A job reads what it wrote a moment ago; never in a search, which it slows down fifty-fold."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")


class Store:
    """One Milvus, for jobs. Every call has a deadline; what cannot be reached raises IndexUnavailable."""

    def __init__(self, uri: str, *, deadline_s: float = DEADLINE_S, index: IndexConfig | None = None) -> None:
        self._deadline_s = deadline_s
        self._dims: dict[str, int] = {}
        with mapped():
            self._client = MilvusClient(uri, timeout=deadline_s, **login())
        self._version = self._send("get_server_version")
        self._asked_for = index
        self._index = index or usual_index(lite=is_lite(self._version))
        refuse_unsafe(uri, self._version)
        self._keywords = ranks_keywords(self._version)

    def close(self) -> None:
        """Gives the connection back."""
        self._client.close()

    def create(self, collection: str, dim: int) -> None:
        """Makes the collection if it is not there, and loads it. ValueError if it is there with another dimension."""
        _check_name(collection)
        if self.exists(collection):
            if self.dim(collection) != dim:
                raise ValueError(f"collection {collection} has {self.dim(collection)} dimensions, not {dim}")
            kind = self._send("describe_index", collection, "vector")["index_type"]
            if self._asked_for is not None and kind != self._asked_for.kind:
                raise ValueError(f"collection {collection} has an index of kind {kind}, not {self._asked_for.kind}")
        else:
            params = self._client.prepare_index_params()
            build = self._index.build_params
            params.add_index("vector", index_type=self._index.kind, metric_type="IP", params=build)
            if self._keywords:
                params.add_index("keyword_weights", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
            described = {
                "schema": _schema(self._client, dim, partition_keys(self._version), self._keywords),
                "index_params": params,
                "consistency_level": "Bounded",
            }
            self._send("create_collection", collection, deadline_s=SLOW_S, **described)
        self.load(collection)

    def exists(self, collection: str) -> bool:
        """Whether there is a collection or alias of this name."""
        return bool(self._send("has_collection", collection))

    def load(self, collection: str) -> None:
        """Makes the collection searchable; after a restart of Milvus nothing is."""
        self._send("load_collection", collection, deadline_s=SLOW_S)

    def dim(self, collection: str) -> int:
        """Dimensions of its vectors."""
        return dim_of(self._send("describe_collection", collection))

    def upsert(self, collection: str, rows: Sequence[Row], vectors_ND: NDArray[np.float32]) -> None:
        """Stores rows, replacing those of equal tenant, id and modality; of equal ones in the batch the last counts.

        ValueError names the first row that cannot be stored; then none is.
        """
        data = entities(rows, vectors_ND, self._keywords)
        if data:
            self._ask("upsert", collection, data)

    def delete(self, collection: str, keys: Sequence[str]) -> None:
        """Deletes by key; unknown keys are no error."""
        if keys:
            self._ask("delete", collection, ids=list(keys))

    def get(self, collection: str, keys: Sequence[str], fields: Sequence[str]) -> dict[str, Row]:
        """These columns of those of the keys that are stored, by key."""
        found: dict[str, Row] = {}
        for start in range(0, len(keys), 256):  # Milvus Lite compares every key with every row
            part = list(keys[start : start + 256])
            rows = self._ask("get", collection, part, output_fields=list(fields), consistency_level="Strong")
            found |= {row["key"]: row for row in rows}
        return found

    def search(
        self,
        collection: str,
        queries_QD: NDArray[np.float32],
        **options: Unpack[SearchOptions],
    ) -> list[list[Hit]]:
        """The most similar rows for each query, best first; all queries share the filter and one call."""
        request = SearchRequest(self._index, queries_QD, self._keywords, **options)
        if self._dims.get(collection) != queries_QD.shape[1]:  # not asked yet, or the alias has moved
            self._dims[collection] = self.dim(collection)
            same_dim(collection, self._dims[collection], queries_QD)
        return request.hits(self._ask(request.method, collection, **request.arguments))

    def flush(self, collection: str) -> None:
        """Lets Milvus Lite write what is in memory into its index: before that it is slow to search.

        A server does so by itself, and limits how often it may be told.
        """
        if is_lite(self._version):
            self._send("flush", collection, deadline_s=SLOW_S)

    def count(self, collection: str, *, tenant: str | None = None) -> int:
        """Rows now stored, of all tenants or of one."""
        whose = "" if tenant is None else within(tenant, None)
        (row,) = self._ask("query", collection, filter=whose, output_fields=["count(*)"], **_AFTER_WRITING)
        return int(row["count(*)"])

    def keys(self, collection: str, tenant: str) -> Iterator[str]:
        """The keys of all rows of a tenant, in calls of some thousand rows."""
        return (row["key"] for row in self._rows(collection, "key", f"{within(tenant, None)} and "))

    def tenants(self, collection: str) -> set[str]:
        """The tenants that have rows in the collection."""
        return {row["tenant"] for row in self._rows(collection, "tenant", "")}

    def _rows(self, collection: str, field: str, condition: str) -> Iterator[Row]:
        """One column of all rows, by ranges of the key: keys are hashes, so equal ranges hold about as many rows."""
        for between in key_ranges(self.count(collection)):
            asked = {"filter": f"{condition}{between}", "output_fields": [field], "limit": MAX_WINDOW}
            yield from self._ask("query", collection, **asked, **_AFTER_WRITING)

    def collections(self) -> list[str]:
        """Names of all collections."""
        return sorted(self._send("list_collections"))

    def drop(self, collection: str) -> None:
        """Deletes a collection. ValueError if readers follow an alias to it."""
        aliases = self.aliases(collection)
        if aliases:
            raise ValueError(f"collection {collection} is what readers of {', '.join(aliases)} see; it stays")
        self._send("drop_collection", collection, deadline_s=SLOW_S)

    def point(self, alias: str, collection: str) -> None:
        """Lets readers of the alias see this collection from now on, in one step."""
        _check_name(alias)
        self._send("create_alias" if self.target(alias) is None else "alter_alias", collection, alias)

    def unpoint(self, alias: str) -> None:
        """Removes an alias; the collection stays."""
        self._send("drop_alias", alias)

    def aliases(self, collection: str) -> list[str]:
        """The aliases that show this collection."""
        return sorted(self._send("list_aliases", collection)["aliases"])

    def target(self, alias: str) -> str | None:
        """The collection that readers of the alias see."""
        for collection in self.collections():
            if alias in self.aliases(collection):
                return collection
        return None

    def _ask(self, method: str, collection: str, *args: Any, **kwargs: Any) -> Any:
        """Sends; loads the collection first if a restart of Milvus has forgotten it."""
        try:
            return self._send(method, collection, *args, **kwargs)
        except NotLoaded:
            self.load(collection)
            return self._send(method, collection, *args, **kwargs)

    def _send(self, method: str, *args: Any, deadline_s: float | None = None, **kwargs: Any) -> Any:
        with mapped():
            return getattr(self._client, method)(*args, timeout=deadline_s or self._deadline_s, **kwargs)


def _schema(client: MilvusClient, dim: int, by_tenant: bool, keywords: bool) -> Any:
    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("key", DataType.VARCHAR, max_length=KEY_BYTES, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    for name, most in MAX_BYTES.items():
        schema.add_field(name, DataType.VARCHAR, max_length=most, is_partition_key=by_tenant and name == "tenant")
    schema.add_field("captured_at", DataType.INT64)
    schema.add_field("price", DataType.DOUBLE)
    tags = {"element_type": DataType.VARCHAR, "max_capacity": MAX_TAGS, "max_length": MAX_TAG_BYTES}
    schema.add_field("tags", DataType.ARRAY, **tags)
    if keywords:
        schema.add_field("keywords", DataType.VARCHAR, max_length=9 * MAX_KEYWORDS, enable_analyzer=True)
        schema.add_field("keyword_weights", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(Function("bm25", FunctionType.BM25, ["keywords"], ["keyword_weights"]))
    return schema


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"collection {name!r:.80}; letters, digits and underscores, at most 201")
