"""Is the store exact: what goes in comes out, filters mean what they say, bad input never reaches a backend?"""

import asyncio
import functools
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unimir.index.async_store import AsyncStore
from unimir.index.connection import IndexRefused, IndexUnavailable, ranks_keywords, refuse_unsafe
from unimir.index.entities import key_of, problems
from unimir.index.filters import MISSING, AllOf, AnyOf, Between, Equals, Filter, HasTags, Not, OneOf, milliseconds
from unimir.index.keywords import keywords_of
from unimir.index.requests import MAX_LIMIT, IndexConfig
from unimir.index.store import Store

DIM = 8
PLACES = ["Köln", 'a "b" \\ c', "東京", "😀 tab\t\r\n\x01\x1f", ""]
TENANTS = ["shop", "x' or id != '' or id == 'x"]


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"item-{number}",
        "tenant": TENANTS[number % 2],
        "modality": "text",
        "lang": "de",
        "title": "",
        "text": "",
        "place": PLACES[number % 5],
        "captured_at": 1000 * number if number % 3 else int(MISSING["time"]),
        "price": number / 4 if number % 7 else float(MISSING["number"]),
        "tags": [f"t{number % 2}", f"u{number % 3}"][: number % 4],
        "content_hash": str(number),
        "extra": {"brand": f'b{number % 4} "x"'} if number % 6 else {},
        "keywords": "",
        **changes,
    }


ROWS = [row(number) for number in range(60)]


def unit(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def found_of(store: Store, collection: str, tenant: str) -> int:
    return len(store.search(collection, unit(1), tenant=tenant, limit=100)[0])


@pytest.fixture(scope="module")
def items(store: Store) -> str:
    store.create("items", DIM)
    store.upsert("items", ROWS, unit(len(ROWS)))
    assert store.count("items") == len(ROWS)
    for tenant in TENANTS:
        until(len(ROWS) // 2, functools.partial(found_of, store, "items", tenant))
    return "items"


def until(expected: object, ask: Callable[[], object]) -> None:
    """Readers of a server may lag some seconds behind writers."""
    deadline = time.monotonic() + 20
    while (found := ask()) != expected and time.monotonic() < deadline:
        time.sleep(0.2)
    assert found == expected


def moment(thousands: int) -> datetime:
    return datetime.fromtimestamp(thousands, UTC)


leaves = st.one_of(
    st.builds(Equals, st.just("place"), st.sampled_from(PLACES)),
    st.builds(OneOf, st.just("place"), st.lists(st.sampled_from(PLACES), max_size=3)),
    st.builds(Equals, st.just("price"), st.sampled_from([1, 2.5, 3])),
    st.builds(Between, st.just("price"), st.integers(0, 8), st.none() | st.integers(4, 15)),
    st.builds(Between, st.just("price"), st.none(), st.integers(4, 15)),
    st.builds(Between, st.just("captured_at"), st.none(), st.integers(0, 60).map(moment)),
    st.builds(Equals, st.just("extra.brand"), st.sampled_from(['b1 "x"', "b2", 'b3 "x"'])),
    st.builds(OneOf, st.just("extra.brand"), st.lists(st.sampled_from(['b0 "x"', 'b2 "x"', ""]), max_size=2)),
    st.builds(HasTags, st.just("tags"), st.lists(st.sampled_from(["t0", "t1", "u2"]), max_size=2), st.booleans()),
)
filters = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(AllOf, st.lists(inner, max_size=3)),
        st.builds(AnyOf, st.lists(inner, max_size=3)),
        st.builds(Not, inner.filter(lambda one: "extra" not in repr(one))),
    ),
    max_leaves=6,
)


def holds(wanted: Filter, item: dict[str, Any]) -> bool:
    """What the filter means, in Python."""
    match wanted:
        case Equals("extra.brand", value):
            return item["extra"].get("brand") == value
        case OneOf("extra.brand", values):
            return item["extra"].get("brand") in values
        case Equals(field, value):
            return item[field] == value
        case OneOf(field, values):
            return item[field] in values
        case Between(field, low, high):
            value = item[field]
            low, high = (v.timestamp() * 1000 if isinstance(v, datetime) else v for v in (low, high))
            known = value > min(MISSING.values()) / 2 if field == "captured_at" else value > MISSING["number"]
            known = known and value != MISSING["time"]
            return known and (low is None or value >= low) and (high is None or value < high)
        case HasTags(field, tags, every):
            return (all if every else any)(tag in item[field] for tag in tags)
        case AllOf(inner):
            return all(holds(one, item) for one in inner)
        case AnyOf(inner):
            return any(holds(one, item) for one in inner)
        case Not(inner):
            return not holds(inner, item)


@given(filters, st.sampled_from(TENANTS))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_filters_mean_what_they_say_within_the_tenant(store: Store, items: str, wanted: Filter, tenant: str) -> None:
    (hits,) = store.search(items, unit(1, 5), tenant=tenant, limit=100, wanted=wanted)
    expected = {item["id"] for item in ROWS if item["tenant"] == tenant and holds(wanted, item)}
    assert {hit.fields["id"] for hit in hits} == expected


def test_search_ranks_by_cosine(store: Store, items: str) -> None:
    vectors, queries = unit(len(ROWS)), unit(3, 9)
    for query, hits in zip(queries, store.search(items, queries, tenant=TENANTS[0], limit=5), strict=True):
        scores = {item["id"]: float(vectors[n] @ query) for n, item in enumerate(ROWS) if item["tenant"] == TENANTS[0]}
        assert [hit.fields["id"] for hit in hits] == sorted(scores, key=scores.__getitem__, reverse=True)[:5]
        assert [hit.score for hit in hits] == pytest.approx(sorted(scores.values(), reverse=True)[:5], abs=1e-5)


def test_upsert_replaces_and_delete_forgets(store: Store) -> None:
    store.create("changing", DIM)
    store.upsert("changing", [row(1), row(1, content_hash="last")], unit(2))
    assert store.count("changing") == 1
    key = key_of(TENANTS[1], "item-1", "text")
    found = store.get("changing", [key, key_of(TENANTS[0], "item-1", "text")], ["content_hash", "extra"])
    assert {key: row["content_hash"] for key, row in found.items()} == {key: "last"}
    assert found[key]["extra"] == {"brand": 'b1 "x"'}
    store.delete("changing", [key, "0" * 32])
    assert store.count("changing") == 0


def test_the_same_id_of_two_tenants_is_two_items(store: Store) -> None:
    store.create("tenants", DIM)
    store.upsert("tenants", [row(1, tenant="a"), row(1, tenant="b")], unit(2))
    assert (store.count("tenants"), store.count("tenants", tenant="a")) == (2, 1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": ""}, "id is empty"),
        ({"id": "é" * 1025}, "id over 2048 bytes"),
        ({"modality": "日本語日本語"}, "modality over 16 bytes"),
        ({"tags": ["x"] * 65}, "more than 64 tags"),
        ({"tags": ["é" * 65]}, "a tag over 128 bytes"),
    ],
)
def test_rows_no_backend_would_agree_on_are_refused(store: Store, items: str, changes: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        store.upsert(items, [row(0), row(1, **changes)], unit(2))


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "not finite"), (np.inf, "not finite"), (0.0, "zero")])
def test_vectors_without_a_direction_are_refused(value: float, reason: str) -> None:
    vectors = unit(3)
    vectors[1] = value
    assert problems([row(0), row(1), row(2)], vectors) == {1: f"vector is {reason}"}


def test_ids_of_one_and_of_512_characters_are_kept_whole(store: Store) -> None:
    store.create("ids", DIM)
    ids = ["x", "語" * 512, "😀" * 512]
    store.upsert("ids", [row(0, id=one) for one in ids], unit(3))
    until(set(ids), lambda: {hit.fields["id"] for hit in store.search("ids", unit(1), tenant=TENANTS[0], limit=10)[0]})


def test_limits_are_the_same_on_every_backend(store: Store, items: str) -> None:
    for limit, offset in ((0, 0), (-1, 0), (MAX_LIMIT + 1, 0), (1, -1), (10, 16_380)):
        with pytest.raises(ValueError, match=f"limit {limit}, offset {offset}"):
            store.search(items, unit(1), tenant="a", limit=limit, offset=offset)
    with pytest.raises(ValueError, match="not finite"):
        store.search(items, np.full((1, DIM), np.nan, np.float32), tenant="a", limit=1)


def test_a_collection_of_another_dimension_is_refused(store: Store, items: str) -> None:
    with pytest.raises(ValueError, match="collection items has 8 dimensions, not 16"):
        store.create(items, 16)


def test_an_alias_moves_in_one_step(store: Store, items: str) -> None:
    assert store.target("readers") is None
    store.create("other", DIM)
    for collection in (items, "other", items):
        store.point("readers", collection)
        assert store.target("readers") == collection
    assert store.search("readers", unit(1), tenant=TENANTS[0], limit=1)[0]


def test_nobody_there_is_said_within_the_deadline() -> None:
    with pytest.raises(IndexUnavailable, match="Milvus does not answer"):
        Store("http://127.0.0.1:1", deadline_s=2)


def test_of_an_items_rows_only_the_best_one_is_shown(store: Store) -> None:
    store.create("modalities", DIM)
    rows = [row(number, tenant="t", modality=modality) for number in range(30) for modality in ("image", "text")]
    vectors = unit(60)
    store.upsert("modalities", rows, vectors)
    query = unit(1, 4)
    scores = (vectors @ query[0]).reshape(30, 2)
    best = np.argsort(-scores.max(1))
    until(60, lambda: len(store.search("modalities", query, tenant="t", limit=100)[0]))
    (hits,) = store.search("modalities", query, tenant="t", limit=10, fields=["modality"], by_item=True)
    assert [hit.fields["id"] for hit in hits] == [f"item-{at}" for at in best[:10]]
    assert [hit.fields["modality"] for hit in hits] == [("image", "text")[scores[at].argmax()] for at in best[:10]]
    (later,) = store.search("modalities", query, tenant="t", limit=5, offset=5, by_item=True)
    assert [hit.fields["id"] for hit in later] == [f"item-{at}" for at in best[5:10]]


def test_words_find_what_vectors_do_not(store: Store) -> None:
    """On a Milvus that ranks by BM25; one that cannot ranks by vectors alone."""
    store.create("worded", DIM)
    texts = ["a dog in the snow", "红色的狗", "लाल हिन्दी कुत्ता", "Straße 12", "a cat"]
    rows = [row(2 * number, text=text, keywords=keywords_of(text)) for number, text in enumerate(texts)]
    vectors = unit(len(rows))
    store.upsert("worded", rows, vectors)
    until(len(rows), functools.partial(found_of, store, "worded", TENANTS[0]))
    queries = vectors[[4, 4, 4, 4, 4]]
    words = ["DOG!", "狗", "हिन्दी", "STRASSE", "..."]
    found = store.search("worded", queries, tenant=TENANTS[0], limit=2, words=words)
    able = ranks_keywords(store._version)
    for number, hits in enumerate(found):
        scores = vectors @ vectors[4]
        assert hits[0].score == pytest.approx(scores[int(hits[0].fields["id"][5:]) // 2], abs=1e-5)
        assert set(hits[0].fields) == {"id"}
        second = np.argsort(-scores)[1]
        expected = {"item-8", f"item-{2 * number}" if able and number < 4 else f"item-{2 * second}"}
        assert {hit.fields["id"] for hit in hits} == expected
    (narrow,) = store.search(
        "worded", queries[:1], tenant=TENANTS[0], limit=5, words=["dog"], wanted=Equals("place", PLACES[1])
    )
    assert {hit.fields["id"] for hit in narrow} == {row["id"] for row in rows if row["place"] == PLACES[1]}
    (page,) = store.search("worded", queries[:1], tenant=TENANTS[0], limit=1, offset=1, words=["dog"])
    assert [hit.fields["id"] for hit in page] == [found[0][1].fields["id"]]
    if able:
        with pytest.raises(ValueError, match="2 texts of queries for 1 vectors"):
            store.search("worded", queries[:1], tenant=TENANTS[0], limit=1, words=["a", "b"])


def test_keys_and_tenants_are_listed_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unimir.index.requests._RANGE_ROWS", 4000)
    store.create("listed", DIM)
    rows = [row(number, tenant=f"t{number % 3}") for number in range(9000)]
    for start in range(0, 9000, 1000):
        store.upsert("listed", rows[start : start + 1000], unit(1000, start))
    for tenant in ("t0", "t2"):
        keys = list(store.keys("listed", tenant))
        assert len(keys) == 3000
        assert set(keys) == {key_of(tenant, one["id"], "text") for one in rows if one["tenant"] == tenant}
    assert store.tenants("listed") == {"t0", "t1", "t2"}
    assert list(store.keys("listed", "nobody")) == []


@pytest.mark.parametrize("kind", ["HNSW", "FLAT", "IVF_FLAT", "IVF_SQ8"])
def test_every_kind_of_index_finds_the_same(milvus_uri: str, kind: Any) -> None:
    other = Store(milvus_uri, index=IndexConfig(kind=kind, build={"nlist": 4} if "IVF" in kind else {}))
    other.create(f"kind_{kind}", DIM)
    other.upsert(f"kind_{kind}", [row(number, tenant="t") for number in range(200)], unit(200))
    assert other.count(f"kind_{kind}") == 200
    until(200, lambda: len(other.search(f"kind_{kind}", unit(1, 8), tenant="t", limit=1000)[0]))
    (hits,) = other.search(f"kind_{kind}", unit(1, 8), tenant="t", limit=5)
    nearest = np.argsort(-(unit(200) @ unit(1, 8)[0]))[:5]
    assert len({hit.fields["id"] for hit in hits} & {f"item-{at}" for at in nearest}) >= 4
    wanted = "FLAT" if kind == "HNSW" else "HNSW"
    with pytest.raises(ValueError, match=f"collection kind_{kind} has an index of kind {kind}, not {wanted}"):
        Store(milvus_uri, index=IndexConfig(kind=wanted)).create(f"kind_{kind}", DIM)
    other.close()


def test_a_selective_filter_finds_all_that_fit_it(store: Store) -> None:
    """Of 3,000 rows the filter leaves 30, none of them near the query: an approximate graph would not come by."""
    rows = [row(number, tenant="many", place="rare" if number % 100 == 0 else "common") for number in range(3000)]
    vectors = unit(3000, 3)
    store.create("selective", DIM)
    store.upsert("selective", rows, vectors)
    store.flush("selective")
    wanted, query = Equals("place", "rare"), vectors[[1]]
    until(30, lambda: len(store.search("selective", query, tenant="many", limit=100, wanted=wanted)[0]))
    (hits,) = store.search("selective", query, tenant="many", limit=10, wanted=wanted)
    rare = np.arange(0, 3000, 100)
    best = rare[np.argsort(-(vectors[rare] @ query[0]))[:10]]
    assert [hit.fields["id"] for hit in hits] == [f"item-{number}" for number in best]


def test_a_wide_search_is_allowed_on_every_backend(store: Store, items: str) -> None:
    (hits,) = store.search(items, unit(1), tenant=TENANTS[0], limit=MAX_LIMIT, offset=3)
    assert len(hits) == len(ROWS) // 2 - 3


def test_serving_sees_the_same_through_its_own_client(store: Store, items: str, milvus_uri: str) -> None:
    async def all_of_it() -> None:
        serving = AsyncStore(milvus_uri)
        try:
            found = await serving.search(items, unit(3, 9), tenant=TENANTS[0], limit=5, fields=["place"])
            assert found == store.search(items, unit(3, 9), tenant=TENANTS[0], limit=5, fields=["place"])
            await serving.upsert("async", [row(1)], unit(1))
            key = key_of(TENANTS[1], "item-1", "text")
            while not await serving.get("async", [key], ["id"]):
                await asyncio.sleep(0.2)
            await serving.delete("async", [key])
            while await serving.get("async", [key], ["id"]):
                await asyncio.sleep(0.2)
            with pytest.raises(ValueError, match="no such collection or alias"):
                await serving.search("absent", unit(1), tenant="a", limit=1)
        finally:
            await serving.close()

    store.create("async", DIM)
    asyncio.run(all_of_it())


def test_a_missing_alias_is_said_to_be_missing(store: Store) -> None:
    with pytest.raises(ValueError, match="no such collection or alias"):
        store.search("absent", unit(1), tenant="a", limit=1)


def test_a_query_of_another_dimension_is_refused(store: Store, items: str) -> None:
    with pytest.raises(ValueError, match="query vectors have 9 dimensions, collection items has 8"):
        store.search(items, np.ones((1, DIM + 1), np.float32), tenant="a", limit=1)


@pytest.mark.parametrize(
    ("uri", "version", "refused"),
    [
        ("http://127.0.0.1:19530", "v2.3.5", False),
        ("http://milvus.example:19530", "v2.3.5", True),
        ("http://milvus.example:19530", "2.4.23", True),
        ("http://milvus.example:19530", "v2.5.27", False),
        ("https://milvus.example", "v2.7.0", False),
        ("https://127.0.0.1.example", "v2.6.9", True),
        ("http://milvus.example", "milvus_lite-3.2.2", False),
    ],
)
def test_servers_that_let_anyone_in_are_used_on_this_machine_only(uri: str, version: str, refused: bool) -> None:
    if refused:
        with pytest.raises(IndexRefused, match="lets anyone in"):
            refuse_unsafe(uri, version)
    else:
        refuse_unsafe(uri, version)


def test_times_are_whole_milliseconds_for_every_year() -> None:
    assert milliseconds(datetime(1970, 1, 1, 0, 0, 1, 1000, UTC)) == 1001
    assert milliseconds(datetime(1, 1, 1, tzinfo=UTC)) == -62135596800000
    assert milliseconds(None) == MISSING["time"]
