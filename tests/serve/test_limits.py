"""The service at its limits, over HTTP: full, slow, over a quota, with half-sent requests, without its Milvus.

Faults under a steady load are in slow/serve_faults.py.
"""

import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from serve import conftest
from serve.conftest import IN_FLIGHT, KEYS, LIMITED, PORT, TENANT

from unimir.serve.settings import Limits

DEADLINE_S = Limits().deadline_s
SEARCH = {"query": "a photo of two red cats", "ignore": ["time", "place", "price"]}
Asked = tuple[int, str, dict[str, str], float]
Ask = Callable[..., Asked]


@pytest.fixture
def ask(ask: conftest.Ask) -> Ask:
    """Sends a request; returns status, code of the problem, headers and seconds."""

    def send(path: str, body: Any = None, tenant: str = TENANT) -> Asked:
        started = time.perf_counter()
        status, headers, answer = ask("GET" if body is None else "POST", path, body, tenant=tenant)
        return status, answer.get("code", ""), headers, time.perf_counter() - started

    return send


def half(path: str, *, headers_too: bool = False) -> socket.socket:
    """A connection that has sent only part of its request, and claims that it may take as long as it likes."""
    raw = socket.create_connection(("127.0.0.1", PORT), timeout=30)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEYS[TENANT]}\r\n"
    if not headers_too:
        head += "content-type: application/json\r\nx-request-timeout-seconds: 30\r\n"
        head += 'content-length: 100\r\n\r\n{"query"'
    raw.sendall(head.encode())
    return raw


def answer_of(raw: socket.socket) -> bytes:
    """The problem that comes back."""
    answer = b""
    while b"}" not in answer and (part := raw.recv(4096)):
        answer += part
    return answer


def until(answered: Callable[[], bool], seconds: float) -> float:
    """Seconds until it is so."""
    started = time.monotonic()
    while not answered():
        assert time.monotonic() - started < seconds, f"not so within {seconds} s"
        time.sleep(0.1)
    return time.monotonic() - started


def test_what_is_too_much_is_turned_away_at_once(ask: Ask) -> None:
    """150 requests at a time where 8 may be answered: nothing but 200 and 429."""
    with ThreadPoolExecutor(150) as pool:
        asked = list(pool.map(lambda number: ask("/v1/search", SEARCH, list(KEYS)[number % 3]), range(150)))
    counted = Counter((status, code) for status, code, _, _ in asked)
    assert set(counted) <= {(200, ""), (429, "overloaded")}, counted
    assert counted[200, ""] >= IN_FLIGHT
    assert counted[429, "overloaded"] > 0
    assert all(int(headers["retry-after"]) >= 1 for status, _, headers, _ in asked if status == 429)


def test_a_request_that_is_too_slow_is_given_up_and_frees_its_place(ask: Ask) -> None:
    """Whatever deadline its headers ask for."""
    time.sleep(1)
    with ExitStack() as stack:
        slow = [stack.enter_context(half("/v1/search")) for _ in range(IN_FLIGHT)]
        started = time.monotonic()
        while ask("/v1/search", SEARCH)[:2] != (429, "overloaded"):
            assert time.monotonic() - started < DEADLINE_S - 1, "not full"
            slow.append(stack.enter_context(half("/v1/search")))  # the search may have had the place of one of them
        answers = [answer_of(raw) for raw in slow]
        assert time.monotonic() - started < DEADLINE_S + 2
    counted = Counter(answer.split(b"\r\n")[0].split()[1] for answer in answers)
    assert counted[b"408"] >= IN_FLIGHT, counted
    assert set(counted) <= {b"408", b"429"}, counted
    assert sum(b"deadline_exceeded" in answer for answer in answers) == counted[b"408"]
    assert ask("/v1/search", SEARCH)[0] == 200


def test_a_tenant_over_its_quota_is_turned_away_alone(ask: Ask) -> None:
    time.sleep(1)
    with ThreadPoolExecutor(6) as pool:
        asked = list(pool.map(lambda _: ask("/v1/info", tenant=LIMITED), range(250)))
    counted = Counter(code for _, code, _, _ in asked)
    assert counted["over_quota"] > 0, counted
    assert set(counted) == {"", "over_quota"}
    assert ask("/v1/info")[0] == 200


def test_requests_that_never_end_keep_nobody_out(ask: Ask) -> None:
    """500 connections that stop in the middle of their headers are hung up on; meanwhile others are answered."""
    with ExitStack() as stack:
        started = time.monotonic()
        held = [stack.enter_context(half("/v1/search", headers_too=True)) for _ in range(500)]
        status, _, _, seconds = ask("/v1/search", SEARCH)
        assert (status, seconds < 1) == (200, True)
        for raw in held:
            raw.settimeout(max(0.1, started + 15 - time.monotonic()))
            assert b"200" not in raw.recv(4096).split(b"\r\n")[0]


@pytest.fixture
def milvus(collection: Path) -> psutil.Process:
    """The embedded Milvus of the collection."""
    listed = [(process, process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    (found,) = (process for process, line in listed if str(collection / "milvus" / "data") in line)
    return found


def checked_without_index(ask: Ask) -> None:
    """What needs no index is answered, and those who ask after the service's health are told."""
    assert ask("/v1/embeddings", {"input": "a"})[0] == 200
    assert ask("/v1/parse", {"query": "two red cats"})[0] == 200
    assert ask("/healthz")[0] == 200
    assert ask("/readyz")[0] in (503, 504)


def test_a_milvus_that_hangs_is_waited_for_once(ask: Ask, milvus: psutil.Process) -> None:
    milvus.suspend()
    try:
        status, code, _, seconds = ask("/v1/search", SEARCH)
        assert (status, code) == (504, "index_timeout")
        assert 1.5 < seconds < DEADLINE_S
        status, code, _, seconds = ask("/v1/search", SEARCH)
        assert (status, code) == (503, "index_unavailable")
        assert seconds < 0.5
        checked_without_index(ask)
    finally:
        milvus.resume()
    until(lambda: ask("/v1/search", SEARCH)[0] == 200, 15)


def test_without_milvus_searches_say_so_and_come_back(ask: Ask, milvus: psutil.Process) -> None:
    assert ask("/readyz")[0] == 200
    milvus.kill()
    status, code, headers, seconds = ask("/v1/search", SEARCH)
    assert (status, code) == (503, "index_unavailable")
    assert int(headers["retry-after"]) >= 1
    assert seconds < 1
    checked_without_index(ask)
    until(lambda: ask("/v1/search", SEARCH)[0] == 200, 30)
    assert ask("/readyz")[0] == 200


CANARY = "xylographic canary"


def test_nothing_that_callers_say_is_kept_or_echoed(ask: Ask, application: conftest.running) -> None:
    """In no log of the service or of Ray, and in no answer that is an error."""
    asked = [
        {"query": CANARY},
        {"query": "a", "filters": [{"field": "place", "equals": CANARY}]},
        {"query": "a", "unknown": CANARY},
        {"query": "a", "modality": CANARY},
        {"parts": [{"image": CANARY}]},
    ]
    for body in asked:
        ask("/v1/search", body)
    with socket.create_connection(("127.0.0.1", PORT), timeout=30) as raw:
        bad = f'{{"query": "{CANARY}'
        head = f"POST /v1/search HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEYS[TENANT]}\r\n"
        raw.sendall(f"{head}content-type: application/json\r\ncontent-length: {len(bad)}\r\n\r\n{bad}".encode())
        assert b"bad_json" in (answer := answer_of(raw))
    assert CANARY.encode() not in answer
    time.sleep(1)
    logs = [application.log, *Path("/tmp/ray").glob("session_*/logs/**/*")]
    recent = [path for path in logs if path.is_file() and time.time() - path.stat().st_mtime < 600]
    assert len(recent) > 5
    assert [path for path in recent if CANARY.encode() in path.read_bytes()] == []
