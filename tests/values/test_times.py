"""Are time expressions the ranges that people mean by them, and is what is not certain no range at all?"""

from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimir.values.calendar_units import Range
from unimir.values.times import resolve

WORDS = (
    "last", "next", "3", "12", "2020", "week", "month", "year", "of", "since", "to", "may", "monday", "31st",
    "ago", "in", "end",
)  # fmt: skip
NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)  # a Sunday


def day(year: int, month: int, number: int) -> Range:
    start = date(year, month, number)
    return Range(start, date.fromordinal(start.toordinal() + 1))


@pytest.mark.parametrize(
    ("lang", "phrase", "expected"),
    [
        ("en", "last month", Range(date(2026, 2, 1), date(2026, 3, 1))),
        ("en", "in February", Range(date(2026, 2, 1), date(2026, 3, 1))),
        ("en", "in September", Range(date(2025, 9, 1), date(2025, 10, 1))),
        ("en", "the last 17 days", Range(date(2026, 2, 26), date(2026, 3, 16))),
        ("en", "7 days ago", day(2026, 3, 8)),
        ("en", "since February", Range(date(2026, 2, 1), None)),
        ("en", "between March 3 and 9, 2024", Range(date(2024, 3, 3), date(2024, 3, 10))),
        ("en", "from November to February", Range(date(2025, 11, 1), date(2026, 3, 1))),
        ("en", "the first week of January 2015", Range(date(2014, 12, 29), date(2015, 1, 5))),
        ("en", "february 29", day(2024, 2, 29)),
        ("de", "vor 8 Tagen", day(2026, 3, 7)),
        ("de", "am 10. August", day(2025, 8, 10)),
        ("de", "letzten Jahr", Range(date(2025, 1, 1), date(2026, 1, 1))),
        ("de", "Montag", day(2026, 3, 9)),
        ("fr", "il y a deux jours", day(2026, 3, 13)),
        ("fr", "17 derniers jours", Range(date(2026, 2, 26), date(2026, 3, 16))),
        ("es", "10 de junio", day(2025, 6, 10)),
        ("it", "la settimana scorsa", Range(date(2026, 3, 2), date(2026, 3, 9))),
        ("pt", "ontem", day(2026, 3, 14)),
        ("zh", "10月23日", day(2025, 10, 23)),
        ("zh", "2024年", Range(date(2024, 1, 1), date(2025, 1, 1))),
        ("en", "before 2020", Range(None, date(2020, 1, 1))),
        ("en", "2026-02-30", None),
        ("en", "last purple", None),
        ("en", "", None),
        ("xx", "last month", None),
    ],
)
def test_phrases_are_the_ranges_people_mean(lang: str, phrase: str, expected: Range | None) -> None:
    assert resolve(phrase, lang, NOW) == expected


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40), st.sampled_from(["en", "de", "zh"]), st.datetimes(datetime(1, 6, 1), datetime(9998, 1, 1)))
def test_any_text_ends_in_a_range_or_in_none(text: str, lang: str, now: datetime) -> None:
    found = resolve(text, lang, now)
    assert found is None or found.start is None or found.end is None or found.start < found.end


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "last",
                "next",
                "3",
                "12",
                "2020",
                "week",
                "month",
                "year",
                "of",
                "since",
                "to",
                "may",
                "monday",
                "31st",
                "ago",
                "in",
                "end",
            ]
        )
    ),
    st.datetimes(datetime(1, 6, 1), datetime(9998, 1, 1)),
)
def test_any_words_end_in_a_range_or_in_none(words: list[str], now: datetime) -> None:
    found = resolve(" ".join(words), "en", now)
    assert found is None or found.start is None or found.end is None or found.start < found.end
