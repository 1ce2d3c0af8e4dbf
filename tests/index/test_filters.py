"""Do filters compile to what they mean, and is everything else refused with a reason?"""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimir.index.filters import (
    MAX_DEPTH,
    AllOf,
    AnyOf,
    Between,
    Equals,
    Filter,
    HasTags,
    Not,
    OneOf,
    expression,
    milliseconds,
)

FIELDS = {"place": "text", "price": "number", "captured_at": "time", "tags": "tags", "extra": "texts"}
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Equals("place", "Köln"), 'place == "Köln"'),
        (Equals("place", 'a" or id != "'), 'place == "a\\" or id != \\""'),
        (Equals("price", 3), "price == 3.0"),
        (OneOf("place", ["a", "b"]), 'place in ["a", "b"]'),
        (OneOf("place", []), 'id == ""'),
        (Equals("extra.brand", "b"), 'extra["brand"] == "b"'),
        (OneOf("extra.brand", ["b"]), 'extra["brand"] == "b"'),
        (OneOf("extra.brand", ["b", "c"]), 'extra["brand"] == "b" or extra["brand"] == "c"'),
        (Between("price", 1, 2.5), "price >= 1.0 and price < 2.5"),
        (Between("captured_at", NOON), "captured_at >= 1767355200000"),
        (Between("captured_at", high=NOON), "captured_at > -4611686018427387904 and captured_at < 1767355200000"),
        (HasTags("tags", ["x", "y"]), 'array_contains(tags, "x") or array_contains(tags, "y")'),
        (HasTags("tags", ["x", "y"], every=True), 'array_contains(tags, "x") and array_contains(tags, "y")'),
        (AllOf([Equals("price", 1), Not(Equals("place", "a"))]), '(price == 1.0) and (not (place == "a"))'),
        (AnyOf([]), 'id == ""'),
        (AllOf([]), 'id != ""'),
    ],
)
def test_expressions(wanted: Filter, expected: str) -> None:
    assert expression(wanted, FIELDS) == expected


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_is_sought_as_it_is_stored(moment: datetime) -> None:
    assert expression(Equals("captured_at", moment), FIELDS) == f"captured_at == {milliseconds(moment)}"


def nested(depth: int) -> Filter:
    return Equals("price", 1) if depth == 1 else Not(nested(depth - 1))


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (Equals("colour", "red"), "unknown field 'colour'; fields are captured_at, extra.NAME, place, price, tags"),
        (Equals("extra", "red"), "unknown field 'extra'"),
        (Equals('extra.a"] == "', "red"), "unknown field"),
        (Equals("place.a", "red"), "unknown field"),
        (Between("extra.brand", 1), "it holds text"),
        (Not(AnyOf([Equals("extra.brand", "b")])), "cannot be negated"),
        (Equals("place", 3), "filter on place: 3; expected a string"),
        (Equals("price", "3"), "'3'; expected a finite number"),
        (Equals("price", True), "True; expected a finite number"),
        (Equals("price", float("nan")), "nan; expected a finite number"),
        (Equals("captured_at", datetime(2026, 1, 1)), "expected a time with its time zone"),
        (Equals("tags", "x"), "it holds tags, this filter is for text and number and time"),
        (Equals("place", "\0"), "no NUL"),
        (Equals("place", "é" * 513), "at most 1024 bytes"),
        (Equals("place", "\ud800"), "not valid Unicode"),
        (OneOf("place", "abc"), "'abc'; expected a list"),
        (OneOf("price", list(range(1001))), "filter lists 1001 values; at most 1000"),
        (
            AnyOf([HasTags("tags", ["a"] * 600), Not(AllOf([OneOf("place", ["a"] * 600)]))]),
            "filter lists 1200 values; at most 1000",
        ),
        (Between("price"), "needs a lower or an upper bound"),
        (Between("place", "a"), "it holds text, this filter is for number and time"),
        (HasTags("place", ["a"]), "it holds text, this filter is for tags"),
        (nested(MAX_DEPTH + 1), "nested more than 8 deep"),
        (AllOf([Equals("price", 1)] * 256), "257 terms; at most 256"),
    ],
)
def test_what_is_refused(wanted: Filter, reason: str) -> None:
    with pytest.raises(ValueError, match="filter") as error:
        expression(wanted, FIELDS)
    assert reason in str(error.value)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200))
def test_no_text_gets_out_of_its_quotes(text: str) -> None:
    compiled = expression(Equals("place", text), FIELDS).removeprefix("place == ")
    inside, escaped = compiled[1:-1], False
    for char in inside:
        assert escaped or char != '"'
        escaped = char == "\\" and not escaped
    assert compiled[0] == compiled[-1] == '"' and not escaped
