"""Can nobody see, change or break what is not theirs, whatever they send?"""

import base64
import io
import socket
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from serve.conftest import LIMITED, OTHER, PORT, TENANT, Ask

PROTECTED = [
    ("POST", "/v1/search"),
    ("POST", "/v1/parse"),
    ("POST", "/v1/embeddings"),
    ("PUT", "/v1/items"),
    ("DELETE", "/v1/items"),
    ("POST", "/v1/feedback"),
    ("GET", "/v1/info"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/nothing"),
]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_without_a_valid_key_nothing_is_answered(ask: Ask, method: str, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic eA=="}, {"x_api_key": "wrong"}):
        status, given_back, problem = ask(method, path, {"query": "a"}, tenant=None, **headers)
        assert (status, problem["code"]) == (401, "unauthorized")
        assert given_back["www-authenticate"] == "Bearer"


def test_a_tenant_is_told_its_own_quota_and_nobody_elses(ask: Ask) -> None:
    status, _, info = ask("GET", "/v1/info", tenant=LIMITED)
    assert (status, info["limits"]["tenant_requests_per_s"]) == (200, 50.0)
    status, _, info = ask("GET", "/v1/info")
    assert (status, info["limits"]["tenant_requests_per_s"]) == (200, None)


def test_a_replicas_own_port_asks_for_the_key_too(ask: Ask) -> None:
    ports = [port for port in range(30_000, 30_020) if _open(port)]
    assert ports, "replicas listen on ports of their own behind HAProxy"
    for port in ports:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as direct:
            direct.sendall(b"GET /v1/info HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert b" 401 " in direct.recv(4096).split(b"\r\n")[0]


def _open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_tenants_do_not_meet(ask: Ask) -> None:
    everything = {"query": "anything", "ignore": ["intent"], "limit": 100}
    assert len(ask("POST", "/v1/search", everything)[2]["hits"]) == 100
    assert ask("POST", "/v1/search", everything, tenant=OTHER)[2]["hits"] == []
    assert ask("POST", "/v1/search", {"parts": [{"id": "item-000001"}]}, tenant=OTHER)[0] == 404
    item = {"id": "item-000001", "title": "of the other"}
    assert ask("PUT", "/v1/items", {"items": [item]}, tenant=OTHER)[0] == 200
    (hit,) = ask("POST", "/v1/search", {**everything, "filters": [{"field": "id", "equals": "item-000001"}]})[2]["hits"]
    assert hit["title"] != "of the other"
    assert ask("DELETE", "/v1/items", {"ids": ["item-000001", "item-000002"]}, tenant=OTHER)[0] == 200
    for number in (1, 2):
        assert ask("POST", "/v1/search", {"parts": [{"id": f"item-00000{number}"}]})[0] == 200
    assert ask("POST", "/v1/search", everything, tenant=OTHER)[2]["hits"] == []


KNOWN = [
    "x' or id != '' or id == 'x",
    '" or id != "',
    '") or (id != "',
    "\\",
    '\\"',
    "{x}",
    "日本",
    "a\tb\nc",
    "😀",
    "' || '1'=='1",
    'array_contains(tags, "a")',
]


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text(max_size=60) | st.sampled_from(KNOWN), min_size=4, max_size=4))
def test_a_thousand_strings_are_never_an_expression(ask: Ask, words: list[str]) -> None:
    """Each of 250 examples carries four strings: a filter's value, a tag, an item's id and the query itself."""
    value, tag, item, said = words
    filters = [{"field": "place", "equals": value}, {"field": "extra.currency", "one_of": [value]}]
    for wanted in (filters, [{"field": "tags", "any_tag": [tag]}], [{"field": "id", "equals": item}]):
        body = {"query": "anything", "filters": wanted, "ignore": ["intent"], "limit": 5}
        status, _, found = ask("POST", "/v1/search", body, tenant=OTHER)
        assert status in (200, 422), found
        assert status == 422 or found["hits"] == [], "another tenant's items"
    assert ask("POST", "/v1/search", {"query": f"cats in {said}"}, tenant=OTHER)[0] in (200, 422)
    assert ask("POST", "/v1/search", {"parts": [{"id": item}]}, tenant=OTHER)[0] in (404, 422)


def picture(form: str, size: tuple[int, int], mode: str = "RGB", **options: Any) -> str:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form, **options)
    return encoded(buffer.getvalue())


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("image", "status"),
    [
        (lambda: picture("PNG", (10_000, 10_000)), 422),
        (lambda: picture("PNG", (20_000, 20_000), "1"), 422),
        (lambda: encoded(base64.b64decode(picture("JPEG", (64, 64)))[:300]), 422),
        (lambda: encoded(bytes(range(256)) * 8), 422),
        (lambda: encoded(b"<html><body>hi</body></html>"), 422),
        (lambda: encoded(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 422),
        (lambda: encoded(b"%!PS-Adobe-3.0 EPSF-3.0"), 422),
        (lambda: encoded(b"%PDF-1.4"), 422),
        (lambda: picture("TIFF", (8, 8)), 422),
        (lambda: picture("PNG", (60_000, 1), "1"), 422),
        (lambda: picture("JPEG", (32, 32), "CMYK"), 200),
        (lambda: picture("PNG", (32, 32), "I;16"), 200),
        (lambda: picture("PNG", (32, 32), "RGBA"), 200),
        (lambda: picture("PNG", (32, 32), "P"), 200),
        (lambda: picture("PNG", (1, 1)), 200),
    ],
)
def test_pictures_are_read_or_refused(ask: Ask, image: Any, status: int) -> None:
    found, _, answer = ask("POST", "/v1/embeddings", {"input": [{"image": image()}], "model": "m"})
    assert found == status, answer
    if status == 200:
        vector = answer["data"][0]["embedding"]
        assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("said", [True, False])
def test_a_large_body_is_refused_and_not_kept(ask: Ask, said: bool) -> None:
    """60 MB against a limit of 2 MB, with its length said before and not."""
    with socket.create_connection(("127.0.0.1", PORT), timeout=20) as raw:
        how = b"content-length: 60000000" if said else b"transfer-encoding: chunked"
        key = b"authorization: Bearer key of the shop"
        raw.sendall(b"POST /v1/search HTTP/1.1\r\nhost: x\r\n" + how + b"\r\n" + key + b"\r\n\r\n")
        part = b"a" * 1_000_000
        answer = b""
        try:
            for _ in range(60):
                raw.sendall(part if said else b"%x\r\n%s\r\n" % (len(part), part))
            if not said:
                raw.sendall(b"0\r\n\r\n")
        except OSError:
            pass  # it has answered, and hung up
        try:
            answer = raw.recv(4096)
        except ConnectionResetError:
            assert not said
    assert b" 413 " in answer.split(b"\r\n")[0] or not answer
    assert ask("GET", "/v1/info")[0] == 200


def test_a_client_that_goes_away_frees_its_place(ask: Ask) -> None:
    for _ in range(80):  # more than may be answered at a time
        with socket.create_connection(("127.0.0.1", PORT), timeout=5) as raw:
            head = b"POST /v1/search HTTP/1.1\r\nhost: x\r\nauthorization: Bearer key of the shop\r\n"
            raw.sendall(head + b'content-type: application/json\r\ncontent-length: 14\r\n\r\n{"query": "a"}')
    time.sleep(1)
    assert ask("POST", "/v1/search", {"query": "a"})[0] == 200


def test_no_client_can_set_the_deadline(ask: Ask) -> None:
    status, _, _ = ask("POST", "/v1/search", {"query": "a"}, x_request_timeout_seconds="30")
    assert status == 200


def test_pages_of_other_origins_get_no_leave(ask: Ask) -> None:
    _, headers, _ = ask("POST", "/v1/search", {"query": "a"}, origin="https://example.org")
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_a_tenant_is_the_keys_and_not_the_bodys(ask: Ask) -> None:
    body = {"query": "a", "filters": [{"field": "tenant", "equals": TENANT}]}
    assert ask("POST", "/v1/search", body, tenant=OTHER)[0] == 422
    assert ask("POST", "/v1/search", {"query": "a", "tenant": TENANT}, tenant=OTHER)[0] == 422
