"""Who is turned away at the door, at once, and who is not?"""

import asyncio
from typing import Any

import pytest

from unimir.serve.door import Door
from unimir.serve.keys import Keys
from unimir.serve.settings import Limits
from unimir.serve.watch import watch
from unimir.serve.wire import SaidIn


async def asked(door: Door, receive: Any) -> int:
    """The status of one request."""
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {"type": "http", "method": "POST", "path": "/v1/search", "headers": [(b"content-length", b"100")]}
    await door(scope, receive, send)
    return statuses[0]


async def whole() -> Any:
    return {"type": "http.request", "body": b"{}", "more_body": False}


async def never() -> Any:
    await asyncio.Event().wait()


async def answered(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_a_full_service_waits_for_no_body(ray_cluster: None) -> None:
    door = Door(answered, Limits(in_flight=1, deadline_s=3.0), Keys(None), watch())

    async def run() -> None:
        slow = asyncio.create_task(asked(door, never))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(1):
            assert set(await asyncio.gather(*(asked(door, never) for _ in range(20)))) == {429}
        assert await slow == 408

    asyncio.run(run())


def test_a_quota_below_one_a_second_lets_one_in() -> None:
    door = Door(answered, Limits(tenant_requests_per_s={"*": 0.5}), Keys(None), watch())

    async def run() -> list[int]:
        return [await asked(door, whole) for _ in range(3)]

    assert asyncio.run(run()) == [200, 429, 429]


def test_a_moment_out_of_all_calendars_is_a_clear_error() -> None:
    said = SaidIn.model_validate({"now": "0001-01-01T00:00:00Z", "timezone": "America/New_York"})
    with pytest.raises(ValueError, match="before the year 1, or after 9999"):
        said.moment("UTC")
