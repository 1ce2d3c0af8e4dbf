"""The door to Milvus for serving: the part of `Store` that answers requests, in one event loop.

Knows what `Store` knows, and no request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from pymilvus import AsyncMilvusClient

from unimir.index.connection import NotLoaded, is_lite, login, mapped, ranks_keywords, refuse_unsafe
from unimir.index.entities import Row
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
from unimir.index.store import DEADLINE_S, SLOW_S


class AsyncStore:
    """The part of `Store` that serving needs, for one event loop: make it inside the loop that uses it."""

    def __init__(self, uri: str, *, deadline_s: float = DEADLINE_S, index: IndexConfig | None = None) -> None:
        self._uri = uri
        self._keywords: bool | None = None  # until the server has told its version
        self._deadline_s = deadline_s
        self._index = index
        self._dims: dict[str, int] = {}
        with mapped():
            self._client = AsyncMilvusClient(uri, timeout=deadline_s, **login())

    async def close(self) -> None:
        """Gives the connection back."""
        await self._client.close()

    async def search(
        self,
        collection: str,
        queries_QD: NDArray[np.float32],
        **options: Unpack[SearchOptions],
    ) -> list[list[Hit]]:
        """As `Store.search`."""
        keywords = await self._ranks_keywords()
        assert self._index is not None
        request = SearchRequest(self._index, queries_QD, keywords, **options)
        if self._dims.get(collection) != queries_QD.shape[1]:
            self._dims[collection] = dim_of(await self._send("describe_collection", collection))
            same_dim(collection, self._dims[collection], queries_QD)
        return request.hits(await self._ask(request.method, collection, **request.arguments))

    async def upsert(self, collection: str, rows: Sequence[Row], vectors_ND: NDArray[np.float32]) -> None:
        """As `Store.upsert`."""
        data = entities(rows, vectors_ND, await self._ranks_keywords())
        if data:
            await self._ask("upsert", collection, data)

    async def delete(self, collection: str, keys: Sequence[str]) -> None:
        """As `Store.delete`."""
        if keys:
            await self._ask("delete", collection, ids=list(keys))

    async def get(self, collection: str, keys: Sequence[str], fields: Sequence[str]) -> dict[str, Row]:
        """As `Store.get`."""
        rows = await self._ask("get", collection, list(keys), output_fields=list(fields)) if keys else []
        return {row["key"]: row for row in rows}

    async def values(self, collection: str, tenant: str, fields: Sequence[str]) -> dict[str, set[str]]:
        """What a tenant's rows hold in each of these fields: texts, or all the tags. Reads every row's."""
        own = within(tenant, None)
        (row,) = await self._ask("query", collection, filter="", output_fields=["count(*)"])
        found: dict[str, set[str]] = {field: set() for field in fields}
        for between in key_ranges(int(row["count(*)"])):
            condition = f"{own} and {between}"
            for row in await self._ask(
                "query", collection, filter=condition, output_fields=list(fields), limit=MAX_WINDOW
            ):
                for field in fields:
                    found[field].update([row[field]] if isinstance(row[field], str) else row[field])
        return found

    async def _ask(self, method: str, collection: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return await self._send(method, collection, *args, **kwargs)
        except NotLoaded:
            await self._send("load_collection", collection, deadline_s=SLOW_S)
            return await self._send(method, collection, *args, **kwargs)

    async def _send(self, method: str, *args: Any, deadline_s: float | None = None, **kwargs: Any) -> Any:
        await self._ranks_keywords()
        with mapped():
            return await getattr(self._client, method)(*args, timeout=deadline_s or self._deadline_s, **kwargs)

    async def _ranks_keywords(self) -> bool:
        """What the server can do, asked before anything else: one that lets anyone in is refused."""
        if self._keywords is None:
            with mapped():
                version = await self._client.get_server_version(timeout=self._deadline_s)
            refuse_unsafe(self._uri, version)
            self._index = self._index or usual_index(lite=is_lite(version))
            self._keywords = ranks_keywords(version)
        return self._keywords
