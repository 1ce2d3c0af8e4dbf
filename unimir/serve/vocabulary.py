"""The names that a tenant's items hold, so that what a query names can be found among them.

Read from the index at the first question, and again in the background once it is old. Knows no query.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from unimir.serve.settings import SlotRule
from unimir.values.names import Names

_TENANTS = 256  # whose names are kept in memory
_AGAIN_S = 30.0  # after a reading that failed, until the next
_WAIT_S = 1.0  # for the first reading: a query is answered without names rather than late
MAX_VALUES = 50_000
"""A field with more of them holds no names but texts, and is not looked into."""
_log = logging.getLogger(__name__)


@dataclass
class _Known:
    names: Mapping[str, Names]
    values: Mapping[str, set[str]]
    read_at: float


class Vocabulary:
    """Looks up names per tenant and field. Lives in one event loop."""

    def __init__(
        self,
        read: Callable[[str], Awaitable[Mapping[str, set[str]]]],
        rules: Iterable[SlotRule],
        fresh_s: float,
    ) -> None:
        self._read, self._fresh_s = read, fresh_s
        self._synonyms = {rule.field: rule.synonyms for rule in rules if rule.type in ("name", "tag")}
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, float] = {}  # when, by tenant

    @property
    def fields(self) -> list[str]:
        """Fields that names are looked up in."""
        return list(self._synonyms)

    async def find(self, tenant: str, field: str, said: str) -> tuple[Sequence[str], float] | None:
        """As `Names.find`; None also where the index does not tell."""
        known = self._known.get(tenant)
        now = time.monotonic()
        old = known is None or now - known.read_at > self._fresh_s
        if old and now - self._failed.get(tenant, -_AGAIN_S) >= _AGAIN_S:
            reading = self._reading.get(tenant)
            if reading is None:
                reading = self._reading[tenant] = asyncio.create_task(self._refresh(tenant))
            if known is None:
                await asyncio.wait([reading], timeout=_WAIT_S)
                known = self._known.get(tenant)
        return known.names[field].find(said) if known is not None and field in known.names else None

    def added(self, tenant: str, values: Mapping[str, set[str]]) -> None:
        """Notes what new rows hold: names not known yet are read with the next question."""
        known = self._known.get(tenant)
        if known is not None and any(new - known.values[field] for field, new in values.items()):
            known.read_at = -self._fresh_s

    async def _refresh(self, tenant: str) -> None:
        started = time.monotonic()
        try:
            values = await self._read(tenant)
            names = await asyncio.to_thread(self._named, values)
            self._known[tenant] = _Known(names, values, started)
            self._known.move_to_end(tenant)
            self._failed.pop(tenant, None)
            if len(self._known) > _TENANTS:
                self._known.popitem(last=False)
        except Exception as error:  # whatever it is, queries are answered without names
            self._failed[tenant] = time.monotonic()
            _log.warning("names cannot be read: %r", error)
        finally:
            del self._reading[tenant]

    def _named(self, values: Mapping[str, set[str]]) -> dict[str, Names]:
        few = {field: found for field, found in values.items() if len(found) <= MAX_VALUES}
        return {field: Names(sorted(found), self._synonyms[field]) for field, found in few.items()}
