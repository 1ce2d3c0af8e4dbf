"""The service at its limits, over HTTP: full, slow, over a quota, with half-sent requests, without its Milvus.

It has narrow limits of its own, and the same collection as the other tests; faults under load: slow/serve_faults.py.
First by its name: a machine has one HAProxy of Ray Serve, and the application of the session comes after it.
"""

import hashlib
import json
import socket
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from serve.conftest import ROOT, TENANT, running

PORT, DEADLINE_S, IN_FLIGHT, RATE = 8125, 3.0, 8, 50
TENANTS = (TENANT, "second", "third")
SEARCH = {"query": "a photo of two red cats", "ignore": ["time", "place", "price"]}
Asked = tuple[int, str, dict[str, str], float]
Ask = Callable[..., Asked]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ask(collection: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Sends a request; returns status, code of the problem, headers and seconds."""
    directory = tmp_path_factory.mktemp("limits")
    lines = (f"{hashlib.sha256(f'key of {tenant}'.encode()).hexdigest()} {tenant}" for tenant in TENANTS)
    (directory / "keys").write_text("\n".join(lines))
    config = yaml.safe_load((ROOT / "serve_configs" / "search.yaml").read_text())
    config["http_options"]["port"] = PORT
    args = config["applications"][0]["args"]
    args |= {"bundle": str(tiny_bundle.parent), "data": str(collection / "milvus"), "backend": "torch"}
    args |= {"keys": str(directory / "keys")}
    args["limits"] = {"in_flight": IN_FLIGHT, "deadline_s": DEADLINE_S, "tenant_requests_per_s": RATE}
    (directory / "search.yaml").write_text(yaml.safe_dump(config))

    def send(path: str, body: Any = None, tenant: str = TENANT, method: str | None = None) -> Asked:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer key of {tenant}"}
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data, headers, method=method)
        started = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                answer.read()
                return answer.status, "", dict(answer.headers), time.perf_counter() - started
        except urllib.error.HTTPError as error:
            with error:
                problem = json.loads(error.read())
            return error.code, problem["code"], dict(error.headers), time.perf_counter() - started

    with running(directory / "search.yaml", directory / "log", PORT):
        yield send


def half(path: str, *, headers_too: bool = False) -> socket.socket:
    """A connection that has sent only part of its request, and claims that it may take as long as it likes."""
    raw = socket.create_connection(("127.0.0.1", PORT), timeout=30)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer key of {TENANT}\r\n"
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
        asked = list(pool.map(lambda number: ask("/v1/search", SEARCH, TENANTS[number % 3]), range(150)))
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
        until(lambda: ask("/v1/search", SEARCH)[:2] == (429, "overloaded"), 2)
        started = time.monotonic()
        answers = [answer_of(raw) for raw in slow]
        assert time.monotonic() - started < DEADLINE_S + 2
    assert {answer.split(b"\r\n")[0].split()[1] for answer in answers} == {b"408"}
    assert all(b"deadline_exceeded" in answer for answer in answers)
    assert ask("/v1/search", SEARCH)[0] == 200


def test_a_tenant_over_its_quota_is_turned_away_alone(ask: Ask) -> None:
    time.sleep(1)
    with ThreadPoolExecutor(6) as pool:
        asked = list(pool.map(lambda _: ask("/v1/info", tenant="second"), range(250)))
    counted = Counter(code for _, code, _, _ in asked)
    assert counted["over_quota"] > 0, counted
    assert set(counted) == {"", "over_quota"}
    assert ask("/v1/info", tenant="third")[0] == 200


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


def test_nothing_that_callers_say_is_kept_or_echoed(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> None:
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
        head = f"POST /v1/search HTTP/1.1\r\nhost: x\r\nauthorization: Bearer key of {TENANT}\r\n"
        raw.sendall(f"{head}content-type: application/json\r\ncontent-length: {len(bad)}\r\n\r\n{bad}".encode())
        assert b"bad_json" in (answer := answer_of(raw))
    assert CANARY.encode() not in answer
    time.sleep(1)
    logs = [*tmp_path_factory.getbasetemp().glob("limits*/log"), *Path("/tmp/ray").glob("session_*/logs/**/*")]
    recent = [path for path in logs if path.is_file() and time.time() - path.stat().st_mtime < 600]
    assert len(recent) > 5
    assert [path for path in recent if CANARY.encode() in path.read_bytes()] == []
