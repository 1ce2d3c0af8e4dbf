"""Does the service answer over HTTP what the encoder and the store say, and every mistake with its code?"""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from serve.conftest import ITEMS, Ask

from unimir.infer import Encoder
from unimir.serve.problems import CODES

QUERY = "please help me find a photo of two red cats, thank you"


@pytest.fixture(scope="module")
def rows(collection: Path) -> list[dict[str, Any]]:
    (path,) = collection.rglob("catalog.parquet")
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


@pytest.fixture(scope="module")
def encoder(tiny_bundle: Path) -> Encoder:
    return Encoder.from_bundle(tiny_bundle)


def test_hits_are_the_best_of_an_exact_search(ask: Ask, encoder: Encoder, rows: list[dict[str, Any]]) -> None:
    status, headers, found = ask("POST", "/v1/search", {"query": QUERY, "modality": "image", "limit": 5})
    assert status == 200
    assert found["bundle_id"] == encoder.id
    assert set(found["timings_ms"]) == {"understand", "resolve", "retrieve"}
    assert len(headers["x-request-id"]) > 16
    pictures = encoder.embed_images([row["image"] for row in rows])
    scores = pictures @ encoder.encode_queries([QUERY])[0][0]
    best = np.argsort(-scores)[:5]
    assert [hit["id"] for hit in found["hits"]] == [rows[at]["id"] for at in best]
    assert [hit["score"] for hit in found["hits"]] == pytest.approx(scores[best].tolist(), abs=1e-5)
    assert {hit["modality"] for hit in found["hits"]} == {"image"}
    hit, row = found["hits"][0], rows[best[0]]
    assert (hit["title"], hit["place"], hit["price"]) == (row["title"], row["place"], row["price"])


def test_without_fusion_the_plain_vector_is_searched(ask: Ask, encoder: Encoder) -> None:
    body = {"query": QUERY, "modality": "text", "limit": 1}
    fused, plain = (ask("POST", "/v1/search", {**body, "fusion": on})[2]["hits"][0] for on in (True, False))
    vector = encoder.embed_texts([QUERY])[0]
    for hit, query in ((plain, vector), (fused, encoder.encode_queries([QUERY])[0][0])):
        words = "\n".join(part for part in (hit["title"], hit["text"]) if part)
        assert hit["score"] == pytest.approx(float(encoder.embed_texts([words])[0] @ query), abs=1e-5)


def test_filters_hold_for_every_hit(ask: Ask, rows: list[dict[str, Any]]) -> None:
    place, price = rows[0]["place"], sorted(row["price"] for row in rows)[ITEMS // 2]
    wanted = [{"field": "place", "equals": place}, {"field": "price", "below": price}]
    _, _, found = ask("POST", "/v1/search", {"query": "anything", "filters": wanted, "limit": 100})
    expected = {row["id"] for row in rows if row["place"] == place and row["price"] < price}
    assert {hit["id"] for hit in found["hits"]} == expected
    day = rows[0]["captured_at"]
    wanted = [{"field": "captured_at", "at_least": f"{day}T00:00:00+00:00"}]
    _, _, found = ask("POST", "/v1/search", {"query": "anything", "filters": wanted, "limit": 100})
    assert {hit["id"] for hit in found["hits"]} <= {row["id"] for row in rows if row["captured_at"] >= day}


def test_more_like_this_and_not_like_that(ask: Ask, rows: list[dict[str, Any]]) -> None:
    picture = base64.b64encode(rows[3]["image"]).decode()
    _, _, by_picture = ask("POST", "/v1/search", {"parts": [{"image": picture}], "modality": "image"})
    assert by_picture["hits"][0]["id"] == rows[3]["id"]
    assert by_picture["hits"][0]["score"] == pytest.approx(1, abs=1e-4)
    _, _, by_id = ask("POST", "/v1/search", {"parts": [{"id": rows[3]["id"]}]})
    assert rows[3]["id"] not in [hit["id"] for hit in by_id["hits"]]
    both = [{"text": "a red cat"}, {"id": rows[3]["id"], "weight": -2}]
    _, _, against = ask("POST", "/v1/search", {"parts": both, "limit": 20})
    assert rows[3]["id"] not in [hit["id"] for hit in against["hits"]]


def test_embeddings_are_the_encoders(ask: Ask, encoder: Encoder, rows: list[dict[str, Any]]) -> None:
    picture = base64.b64encode(rows[0]["image"]).decode()
    status, _, found = ask("POST", "/v1/embeddings", {"input": ["a cat", {"image": picture}, "ein Hund"], "model": "m"})
    assert status == 200
    vectors = np.array([one["embedding"] for one in found["data"]], np.float32)
    assert np.abs(vectors[[0, 2]] - encoder.embed_texts(["a cat", "ein Hund"])).max() < 1e-5
    assert np.abs(vectors[1] - encoder.embed_images([rows[0]["image"]])[0]).max() < 1e-5
    coded = {"input": "a cat", "model": "m", "encoding_format": "base64", "dimensions": 16}
    _, _, found = ask("POST", "/v1/embeddings", coded)
    vector = np.frombuffer(base64.b64decode(found["data"][0]["embedding"]), "<f4")
    assert np.abs(vector - encoder.embed_texts(["a cat"], dimensions=16)[0]).max() < 1e-5


def test_parses_are_the_encoders(ask: Ask, encoder: Encoder) -> None:
    status, _, found = ask("POST", "/v1/parse", {"query": QUERY})
    (parse,) = encoder.parse([QUERY])
    assert status == 200
    assert (found["intent"], len(found["slots"])) == (parse.intent, len(parse.slots))


def test_a_filter_that_leaves_nothing_is_given_up_and_said(ask: Ask, rows: list[dict[str, Any]]) -> None:
    """Every intent means pictures here, and an item that has only words is no picture."""
    item = {"id": "only words", "title": "a violet submarine"}
    assert ask("PUT", "/v1/items", {"items": [item]})[0] == 200
    body = {"query": "a violet submarine", "filters": [{"field": "id", "equals": item["id"]}], "limit": 3}
    _, _, found = ask("POST", "/v1/search", body)
    assert [hit["id"] for hit in found["hits"]] == [item["id"]]
    assert "intent" in [one["slot"] for one in found["filters_relaxed"]]
    assert found["filters_applied"] == []
    for kept in ({"ignore": ["intent", "time", "place", "price"]}, {"infer": False}):
        _, _, found = ask("POST", "/v1/search", {**body, **kept})
        assert ([hit["id"] for hit in found["hits"]], found["filters_relaxed"]) == ([item["id"]], [])
    _, _, found = ask("POST", "/v1/search", {**body, "modality": "image"})
    assert found["hits"] == [], "what the request asks for is never given up"
    assert ask("DELETE", "/v1/items", {"ids": [item["id"]]})[0] == 200


def test_scores_are_explained_with_and_without_fusion(ask: Ask, encoder: Encoder, rows: list[dict[str, Any]]) -> None:
    body = {"query": QUERY, "modality": "image", "infer": False, "limit": 3, "explain": True, "previews": True}
    _, _, found = ask("POST", "/v1/search", body)
    queries = {"fused": encoder.encode_queries([QUERY])[0][0], "plain": encoder.embed_texts([QUERY])[0]}
    pictures = {row["id"]: row["image"] for row in rows}
    assert len(found["hits"]) == 3
    for hit in found["hits"]:
        (vector,) = encoder.embed_images([pictures[hit["id"]]])
        expected = {name: float(query @ vector) for name, query in queries.items()}
        assert hit["explain"] == pytest.approx(expected, abs=1e-5)
        assert base64.b64decode(hit["preview"])[8:12] == b"WEBP"


def test_times_are_the_callers(ask: Ask) -> None:
    assert ask("POST", "/v1/parse", {"query": QUERY, "timezone": "Mars/Base"})[0] == 422
    for zone, now in (("Europe/Berlin", "2026-03-15T12:00:00+01:00"), ("Asia/Tokyo", "2026-03-15T12:00:00Z")):
        assert ask("POST", "/v1/parse", {"query": QUERY, "timezone": zone, "now": now})[0] == 200
    assert ask("POST", "/v1/parse", {"query": QUERY, "now": "2026-03-15T12:00:00"})[0] == 422, "a time without a zone"


def test_items_can_be_put_found_and_deleted(ask: Ask, encoder: Encoder) -> None:
    item = {"id": 'new "one" 😀', "title": "a violet submarine", "place": "Köln", "tags": ["x"], "price": 2.5}
    assert ask("PUT", "/v1/items", {"items": [item]})[0] == 200
    _, _, found = ask(
        "POST", "/v1/search", {"query": "a violet submarine", "fusion": False, "limit": 3, "ignore": ["intent"]}
    )
    (hit,) = [hit for hit in found["hits"] if hit["id"] == item["id"]]
    assert (hit["place"], hit["tags"], hit["price"], hit["captured_at"]) == ("Köln", ["x"], 2.5, None)
    assert hit["score"] == pytest.approx(1, abs=1e-4)
    assert ask("DELETE", "/v1/items", {"ids": [item["id"]]})[0] == 200
    _, _, found = ask("POST", "/v1/search", {"query": "a violet submarine", "limit": 100, "ignore": ["intent"]})
    assert item["id"] not in [hit["id"] for hit in found["hits"]]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/search", b"{bad", 400, "bad_json"),
        ("/v1/search", b'{"query": "\xff"}', 400, "bad_json"),
        ("/v1/search", b'{"query": "\\ud800"}', 422, "invalid_request"),
        ("/v1/search", b'{"query": "a", "limit": NaN}', 422, "invalid_request"),
        ("/v1/search", b'{"parts": [{"text": "a", "weight": 1e999}]}', 422, "invalid_request"),
        ("/v1/search", {"query": " \u200b"}, 422, "invalid_request"),
        ("/v1/search", {}, 422, "invalid_request"),
        ("/v1/search", {"query": "a" * 4001}, 422, "invalid_request"),
        ("/v1/search", {"query": "a", "limit": 0}, 422, "invalid_request"),
        ("/v1/search", {"query": "a", "limit": 101}, 422, "invalid_request"),
        ("/v1/search", {"query": "a", "offset": 20_000}, 422, "invalid_request"),
        ("/v1/search", {"query": "a", "qeury": "b"}, 422, "invalid_request"),
        ("/v1/search", {"query": "a", "filters": [{"field": "tenant", "equals": "b"}]}, 422, "invalid_request"),
        ("/v1/search", {"query": "a", "filters": [{"field": "place"}]}, 422, "invalid_request"),
        ("/v1/search", {"query": "a", "filters": [{"field": "place", "equals": 3}]}, 422, "invalid_request"),
        ("/v1/search", {"parts": [{"image": "!!"}]}, 422, "invalid_request"),
        ("/v1/search", {"parts": [{"image": "aGVsbG8="}]}, 422, "invalid_request"),
        ("/v1/search", {"parts": [{"id": "nobody"}]}, 404, "item_not_found"),
        ("/v1/search", {"parts": [{"text": "a"}, {"text": "a", "weight": -1}]}, 422, "invalid_request"),
        ("/v1/embeddings", {"input": ["a"] * 33}, 422, "invalid_request"),
        ("/v1/embeddings", {"input": "a", "dimensions": 17}, 422, "invalid_request"),
        ("/v1/nothing", {}, 404, "not_found"),
    ],
)
def test_mistakes_have_their_codes(ask: Ask, path: str, body: Any, status: int, code: str) -> None:
    given = {"raw": body} if isinstance(body, bytes) else {"body": body}
    found, headers, problem = ask("POST", path, **given)
    assert (found, problem["code"], problem["status"]) == (status, code, status)
    assert code in CODES
    assert headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "image/png"]
)
def test_a_body_of_another_type_is_refused(ask: Ask, kind: str) -> None:
    assert ask("POST", "/v1/search", {"query": "a"}, content_type=kind)[0] in (415, 422)


def test_a_body_over_the_limit_is_refused(ask: Ask) -> None:
    status, _, problem = ask("POST", "/v1/search", raw=b'{"query": "' + b"a" * 17_000_000 + b'"}')
    assert (status, problem["code"]) == (413, "too_large")


def test_deep_nesting_is_refused_fast(ask: Ask) -> None:
    status, _, _ = ask("POST", "/v1/search", raw=b"[" * 100_000)
    assert status in (400, 422)
    nested = {"field": "place", "equals": "x"}
    for _ in range(50):
        nested = {"not": nested}
    assert ask("POST", "/v1/search", {"query": "a", "filters": [nested]})[0] == 422
