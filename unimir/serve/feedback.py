"""Relevance judgements, kept as lines of JSON for the next training round: one file per replica and day.

Knows no route, and nothing of what is done with them.
"""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path


class Feedback:
    """Appends to a directory; ValueError if the service has none."""

    def __init__(self, directory: str | None) -> None:
        self._directory = None if directory is None else Path(directory)
        self._replica = uuid.uuid4().hex[:12]
        self._turn = threading.Lock()

    async def keep(self, tenant: str, bundle_id: str, query: str, judgements: Sequence[tuple[str, int]]) -> None:
        """Writes what a tenant says of items, 0 (not at all) to 3 (exactly), before it returns."""
        if self._directory is None:
            raise ValueError("this service keeps no feedback; its `feedback` setting names no directory")
        now = datetime.now(UTC)
        shared = {"at": now.isoformat(timespec="seconds"), "tenant": tenant, "bundle_id": bundle_id, "query": query}
        lines = [json.dumps({**shared, "id": item, "relevance": grade}) for item, grade in judgements]
        path = self._directory / f"{now:%Y-%m-%d}-{self._replica}.jsonl"
        await asyncio.to_thread(self._append, path, "".join(line + "\n" for line in lines))

    def _append(self, path: Path, text: str) -> None:
        with self._turn:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
