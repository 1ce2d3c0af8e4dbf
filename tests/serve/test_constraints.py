"""Do slots become exactly the filters that the queries mean, in every language, and nothing where that is not sure?"""

import json
import math
from collections import Counter
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from unimir.data.sample import REFERENCE_DATE, generate, lexicon
from unimir.index.filters import AllOf, Between, Equals, Filter, OneOf
from unimir.plain import from_dict
from unimir.schema import Parse, Slot
from unimir.serve.constraints import constraints_of, fields_of, names_said
from unimir.serve.settings import Settings, SlotRule
from unimir.values.names import Names

NOW = datetime.combine(REFERENCE_DATE, time(12), UTC)
CONFIG = yaml.safe_load((Path(__file__).parents[2] / "serve_configs" / "search.yaml").read_text())
RULES = from_dict(Settings, CONFIG["applications"][0]["args"]).slots
NAMES = Names(lexicon().places, RULES["place"].synonyms)


def parsed(text: str, slots: list[dict[str, Any]]) -> Parse:
    spans = tuple(Slot(**slot, text=text[slot["start"] : slot["end"]], score=1.0) for slot in slots)
    return Parse(text=text, label_set="search", intent="find_picture", intent_score=1.0, slots=spans)


def meant(filters: dict[str, Any]) -> dict[str, Any]:
    """The gold filters by field, as comparable values."""
    found: dict[str, Any] = {}
    if "captured_at" in filters:
        ends = (filters["captured_at"][name] for name in ("from", "to"))
        found["captured_at"] = tuple(datetime.combine(date.fromisoformat(end), time(), UTC) for end in ends)
    if "place" in filters:
        found["place"] = filters["place"]
    if "price" in filters:
        price = filters["price"]
        found["price"] = (price.get("min"), price.get("max"), price["currency"])
    return found


def said(wanted: Filter) -> Any:
    match wanted:
        case OneOf(_, [value]):
            return value
        case Between("captured_at", low, high):
            return (low, high)
        case AllOf([Between("price", low, high), Equals(_, unit)]):
            # An inclusive bound is the next number up: "at most 50" is below 50.000...1.
            ends = (None if end is None else round(float(end), 6) for end in (low, high))  # type: ignore[arg-type]
            return (*ends, unit)
    return wanted


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("sample")
    generate(out, items=1500, seed=1)
    rows: list[dict[str, Any]] = pq.read_table(out / "queries.parquet").to_pylist()
    return rows


def test_the_samples_queries_mean_their_filters(queries: list[dict[str, Any]]) -> None:
    asked: Counter[tuple[str, str]] = Counter()
    right: Counter[tuple[str, str]] = Counter()
    wrong: Counter[tuple[str, str]] = Counter()
    for row in queries:
        parse = parsed(row["text"], row["slots"])
        places = {one: match for one in names_said(parse, RULES) if (match := NAMES.find(one[1])) is not None}
        found = {one.field: said(one.wanted) for one in constraints_of(parse, RULES, places, now=NOW, lang=None)}
        for field, value in meant(json.loads(row["filters"])).items():
            cell = (row["lang"], field)
            asked[cell] += 1
            # A range up to now may end with today or be open.
            open_end = field == "captured_at" and field in found and found[field] == (value[0], None)
            good = found.get(field) == value or (open_end and value[1].date() > REFERENCE_DATE)
            right[cell] += good
            wrong[cell] += field in found and not good
    table = {cell: (right[cell] / asked[cell], wrong[cell]) for cell in sorted(asked)}
    langs = sorted({lang for lang, _ in asked})
    shares = [
        sum(right[c] for c in asked if c[0] == lang) / sum(asked[c] for c in asked if c[0] == lang) for lang in langs
    ]
    assert len(langs) == 8 and min(asked.values()) > 20
    assert sum(shares) / len(shares) >= 0.95, table
    assert sum(wrong.values()) / sum(asked.values()) <= 0.03, table


def test_several_names_of_a_field_are_joined_and_unsure_ones_filter_nothing() -> None:
    text = "in Berlin or Paris, not Atlantis"
    spans = [
        {"start": text.index(w), "end": text.index(w) + len(w), "label": "place"}
        for w in ("Berlin", "Paris", "Atlantis")
    ]
    parse = parsed(text, spans)
    found = {one: match for one in names_said(parse, RULES) if (match := NAMES.find(one[1])) is not None}
    (one,) = constraints_of(parse, RULES, found, now=NOW, lang="en")
    assert one.value == {"equals": "Berlin, Paris"}
    assert one.fields == {"place"}


def test_days_are_those_of_the_callers_time_zone() -> None:
    from zoneinfo import ZoneInfo

    parse = parsed("yesterday", [{"start": 0, "end": 9, "label": "time"}])
    now = datetime(2026, 3, 15, 23, 30, tzinfo=UTC).astimezone(ZoneInfo("Asia/Tokyo"))
    (one,) = constraints_of(parse, RULES, {}, now=now, lang="en")
    assert one.value == {"at_least": "2026-03-15T00:00:00+09:00", "below": "2026-03-16T00:00:00+09:00"}


def test_amounts_have_the_bounds_and_units_that_were_said() -> None:
    rules = {
        "count": SlotRule(
            field="price", type="amount", exact=True, units={"kg": "kg", "kilos": "kg"}, unit_field="extra.unit"
        )
    }
    for text, low, high, unit in (
        ("at least 3 kg", 3, None, "kg"),
        ("two kilos", 2, math.nextafter(2, 3), "kg"),
        ("between 1,500 and 2,000", 1500, math.nextafter(2000, 3000), None),
        ("less than 2.5 kg", None, 2.5, "kg"),
    ):
        parse = parsed(text, [{"start": 0, "end": len(text), "label": "count"}])
        (one,) = constraints_of(parse, rules, {}, now=NOW, lang="en")
        bounds = Between("price", low, high)
        assert one.wanted == (bounds if unit is None else AllOf([bounds, Equals("extra.unit", unit)])), text
        assert fields_of([one.wanted]) == {"price"} | ({"extra.unit"} if unit else set())


@pytest.mark.parametrize(
    "change",
    [
        {"field": "tenant", "type": "name"},
        {"field": "place", "type": "time"},
        {"field": "price", "type": "amount", "unit_field": "price"},
        {"field": "price", "type": "amuont"},
        {"field": "extra.brand", "type": "name"},
        {"field": "place", "type": "name", "synonym": {}},
    ],
)
def test_a_rule_that_does_not_fit_the_catalog_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="slot|unit_field|synonym|type"):
        from_dict(Settings, {"slots": {"x": change}})
