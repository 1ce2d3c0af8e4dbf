"""What is seen of the service from outside: metrics on Ray's Prometheus endpoint, and one line of JSON a request.

Knows names and numbers; the words of queries only where the settings ask for them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, MutableMapping
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
_SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]


@functools.cache
def watch() -> Watch:
    """The one of this process."""
    return Watch()


class Watch:
    """The metrics of one process, and its log. Metrics of the same name add up over processes."""

    def __init__(self) -> None:
        self._requests = Counter("unimir_requests", "Requests answered", ("route", "status"))
        self._seconds = Histogram("unimir_seconds", "Time by stage; stage `request` is the whole", _SECONDS, ("stage",))
        self._searches = Counter(
            "unimir_searches", "Searches by what they gave", ("lang", "intent", "modality", "outcome")
        )
        self._hits = Histogram("unimir_hits", "Hits of a search", _SIZES, ("modality",))
        self._lot = Histogram("unimir_batch_items", "Items of one forward pass or call", _SIZES, ("part",))
        self._weight = Histogram("unimir_batch_weight", "Their tokens, or pictures, or searches", _SIZES, ("part",))
        self._waiting = Gauge("unimir_waiting", "Items that wait for their turn", ("part",))
        self._log = logging.getLogger("ray.serve")  # Serve writes, rotates and, as the config says, encodes it

    def request(self, scope: Mapping[str, Any], status: int, seconds: float) -> None:
        """One request is over. What the routes put into its state under `log` goes into its line."""
        state: MutableMapping[str, Any] = scope.get("state", {})
        route = getattr(scope.get("route"), "path", "none")
        self._requests.inc(1, {"route": route, "status": str(status)})
        self._seconds.observe(seconds, {"stage": "request"})
        if route in ("/healthz", "/readyz") or status == 429:  # counted; a line each would make overload worse
            return
        # `path`, because Serve writes its own prefix as `route`.
        line = {"request_id": state.get("id"), "tenant": state.get("tenant"), "method": scope["method"], "path": route}
        line |= {"status": status, "ms": round(1000 * seconds, 2), **state.get("log", {})}
        self._log.info("request", extra=line)

    def search(
        self, *, lang: str, intent: str, modality: str, relaxed: bool, hits: int, timings_ms: Mapping[str, float]
    ) -> None:
        """One search is over."""
        outcome = "empty" if not hits else "relaxed" if relaxed else "found"
        self._searches.inc(1, {"lang": lang, "intent": intent, "modality": modality, "outcome": outcome})
        self._hits.observe(hits, {"modality": modality})
        for stage, took_ms in timings_ms.items():
            self._seconds.observe(took_ms / 1000, {"stage": stage})

    def lot(self, part: str, items: int, weight: int, waiting: int) -> None:
        """A part has taken items that waited."""
        self._lot.observe(items, {"part": part})
        self._weight.observe(weight, {"part": part})
        self._waiting.set(waiting, {"part": part})
