"""The door of the service: who may come in, how many, with how much, for how long. Every request passes it once.

ASGI, without a framework: a request that is turned away costs next to nothing. Knows no search and no model.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from unimir.serve.keys import Keys
from unimir.serve.problems import Problem, problem_of, respond
from unimir.serve.settings import Limits
from unimir.serve.watch import Watch

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN = re.compile(r"/|/healthz|/readyz|/web/[a-z.]+")
"""Paths that need no key: they hold nobody's data."""
_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")
_SMALL = 16_384
_ARRIVED_S = 0.1  # for the body of a request that is turned away
_DRAINED = 8  # of a body over the limit so many times the limit is read and thrown away, for the client to hear why


class _Gone(Exception):
    """The client does not wait any more."""


class Door:
    """Wraps an ASGI application."""

    def __init__(self, app: App, limits: Limits, keys: Keys, watch: Watch) -> None:
        self._app, self._limits, self._keys, self._watch = app, limits, keys, watch
        self._inside = 0
        self._quotas: dict[str, tuple[float, float]] = {}  # tenant: requests left, and when that was counted

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request, whatever happens inside: answered, or given up because the client has gone."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        given = _ID.fullmatch(headers.get(b"x-request-id", b""))  # Serve gives one, and sends it back
        state = scope.setdefault("state", {})
        state["id"] = given[0].decode() if given else uuid.uuid4().hex
        status = 499

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._let_in(scope, headers, receive, sent)
        except Problem as problem:
            if status == 499:
                await respond(problem)(scope, receive, sent)
        except _Gone:
            pass
        except Exception as error:  # FastAPI has answered it already, unless it came before
            if status == 499:
                await respond(problem_of(error, state["id"]))(scope, receive, sent)
        self._watch.request(scope, status, time.perf_counter() - started)

    async def _let_in(
        self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        if OPEN.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        tenant = self._tenant(headers)
        scope["state"]["tenant"] = tenant
        if self._inside >= self._limits.in_flight:
            if _length(headers) <= _SMALL:
                with contextlib.suppress(TimeoutError):  # what has arrived anyway: unread, it costs the connection
                    async with asyncio.timeout(_ARRIVED_S):
                        await receive()
            raise Problem(429, "overloaded", f"{self._inside} requests are being answered already", 1.0)
        self._charge(tenant)
        self._inside += 1
        try:
            async with asyncio.timeout(self._limits.deadline_s):
                body = await self._body(headers, receive)
                await self._run(scope, body, receive, send)
        except TimeoutError:
            limit_s = self._limits.deadline_s
            raise Problem(408, "deadline_exceeded", f"no answer within {limit_s} s", 1.0) from None
        finally:
            self._inside -= 1

    def _tenant(self, headers: dict[bytes, bytes]) -> str:
        scheme, _, bearer = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        own = headers.get(b"x-api-key", b"").decode("latin-1")
        tenant = self._keys.tenant_of(bearer.strip() if scheme.lower() == "bearer" else own)
        if tenant is None:
            raise Problem(401, "unauthorized", "no valid API key; send Authorization: Bearer KEY or X-API-Key: KEY")
        return tenant

    def _charge(self, tenant: str) -> None:
        """Takes one of the tenant's requests; a second's worth may be saved up, and one at least."""
        rate = self._limits.requests_per_s(tenant)
        if rate is None:
            return
        now = time.monotonic()
        most = max(1.0, rate)
        left, counted = self._quotas.get(tenant, (most, now))
        left = min(most, left + rate * (now - counted))
        if left < 1:
            raise Problem(429, "over_quota", f"more than {rate} requests a second", (1 - left) / rate)
        self._quotas[tenant] = (left - 1, now)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The whole body; of one over the limit nothing is kept."""
        most = self._limits.body_bytes
        size = _length(headers)
        parts: list[bytes] = []
        read = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            part = message.get("body", b"")
            read += len(part)
            if max(size, read) > most:
                parts = []
            else:
                parts.append(part)
            if not message.get("more_body", False) or read > _DRAINED * most:
                break
        if max(size, read) > most:
            raise Problem(413, "too_large", f"a body of more than {most} bytes")
        return b"".join(parts)

    async def _run(self, scope: MutableMapping[str, Any], body: bytes, receive: Receive, send: Send) -> None:
        """The application on a body that is there; cancelled if the client goes away."""
        following = asyncio.Event()
        first: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def given() -> Message:
            nonlocal first
            if first is not None:
                message, first = first, None
                return message
            await following.wait()  # never: that the client has gone is seen here, not inside
            raise _Gone

        work = asyncio.ensure_future(self._app(scope, given, send))
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise _Gone
            work.result()
        finally:
            gone.cancel()
            work.cancel()


def _length(headers: dict[bytes, bytes]) -> int:
    """What a request says of its body's size."""
    said = headers.get(b"content-length", b"0")
    return int(said) if said.isdigit() else 0
