"""Examples of requests, shown in the API's documentation and executed by a test: they work on the sample's catalog.

Knows the API as its callers do.
"""

from __future__ import annotations

from typing import Any

_PIXEL = (  # the smallest PNG that is red
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)


def _named(**examples: dict[str, Any]) -> dict[str, Any]:
    return {name: {"summary": name.replace("_", " "), "value": value} for name, value in examples.items()}


SEARCH = _named(
    a_spoken_query={
        "query": "ähm, kannst du mir bitte ein Foto von zwei roten Katzen vom letzten Monat heraussuchen",
        "now": "2026-03-15T12:00:00+01:00",
        "timezone": "Europe/Berlin",
        "limit": 5,
    },
    with_filters={
        "query": "a blue boat",
        "filters": [
            {"field": "place", "one_of": ["Berlin", "Paris"]},
            {"field": "price", "below": 100},
            {"field": "extra.currency", "equals": "EUR"},
            {"field": "captured_at", "at_least": "2025-01-01T00:00:00+00:00"},
            {"not": {"field": "tags", "any_tag": ["striped"]}},
        ],
    },
    by_a_picture={"parts": [{"image": _PIXEL}], "modality": "image"},
    composed={"parts": [{"text": "a red cat"}, {"text": "snow", "weight": -0.5}, {"id": "item-000001", "weight": 0.5}]},
    more_like_this={"parts": [{"id": "item-000001"}], "previews": True},
    explained={"query": "please help me find three green fish", "explain": True, "ignore": ["intent"]},
)
PARSE = _named(
    a_query={"query": "请帮我找一下上个月的照片", "now": "2026-03-15T12:00:00+08:00", "timezone": "Asia/Shanghai"}
)
EMBEDDINGS = _named(
    texts={"model": "unimir", "input": ["a red cat", "un chat rouge"]},
    texts_and_pictures={"model": "unimir", "input": ["a red cat", {"image": _PIXEL}], "encoding_format": "base64"},
)
ITEMS = _named(
    an_item={
        "items": [
            {
                "id": "example-1",
                "title": "a red square",
                "text": "It is one pixel wide.",
                "lang": "en",
                "image": _PIXEL,
                "captured_at": "2026-03-01T09:30:00+00:00",
                "place": "Rome",
                "price": 12.5,
                "tags": ["square", "red"],
                "extra": {"currency": "EUR"},
            }
        ]
    }
)
IDS = _named(an_item={"ids": ["example-1"]})
FEEDBACK = _named(
    judgements={
        "query": "a red cat",
        "judgements": [{"id": "item-000001", "relevance": 3}, {"id": "item-000002", "relevance": 0}],
    }
)
