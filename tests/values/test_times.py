"""Are time expressions the ranges that people mean by them, and is what is not certain no range at all?"""

from datetime import UTC, date, datetime

import pytest
from hypothesis import example, given, settings
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


SEEN_FROM = datetime(2026, 3, 18, 12, tzinfo=UTC)  # a Wednesday


def since(year: int, month: int, number: int) -> Range:
    return Range(date(year, month, number), None)


@pytest.mark.parametrize(
    ("lang", "phrase", "expected"),
    [
        # What has lasted for so long; a mere duration is no time.
        ("de", "seit zwei Wochen", since(2026, 3, 4)),
        ("fr", "depuis un an", since(2025, 3, 18)),
        ("it", "da due settimane", since(2026, 3, 4)),
        ("ja", "5日から", since(2026, 3, 5)),
        ("en", "two weeks", None),
        ("en", "one year", None),
        ("es", "un día", None),
        ("zh", "一周内", None),
        # Weeks and weekdays by number.
        ("en", "week 10 of last year", Range(date(2025, 3, 3), date(2025, 3, 10))),
        ("de", "Woche 10 des letzten Jahres", Range(date(2025, 3, 3), date(2025, 3, 10))),
        ("de", "zweite Woche im Januar", Range(date(2026, 1, 5), date(2026, 1, 12))),
        ("en", "first Monday of March", day(2026, 3, 2)),
        ("en", "3rd Thursday of November 2024", day(2024, 11, 21)),
        ("de", "erster Montag im März", day(2026, 3, 2)),
        ("es", "primer lunes de marzo", day(2026, 3, 2)),
        ("pt", "primeira sexta-feira de maio de 2025", day(2025, 5, 2)),
        ("en", "last friday of 2025", day(2025, 12, 26)),
        ("en", "the second sunday", None),
        ("en", "Sunday the 15th", day(2026, 3, 15)),
        ("en", "Tuesday 17 March", day(2026, 3, 17)),
        ("en", "Monday 17 March", None),
        # Comparisons and what is said roughly.
        ("en", "less than a week ago", None),
        ("en", "less than 2015", Range(None, date(2015, 1, 1))),
        ("de", "vor über einem Jahr", None),
        ("en", "about 2 weeks ago", None),
        ("en", "before last month", None),
        ("en", "the week before last", Range(date(2026, 3, 2), date(2026, 3, 9))),
        ("en", "before the month", None),
        ("ru", "до 2020 года", Range(None, date(2020, 1, 1))),
        ("ru", "с 2018 до 2020 года", Range(date(2018, 1, 1), date(2021, 1, 1))),
        # A mere number is one end of a range only beside another day of a month.
        ("en", "2-3 days ago", None),
        ("en", "2023-24", None),
        ("en", "from 3 to 5 May", Range(date(2025, 5, 3), date(2025, 5, 6))),
        ("es", "del 5 al 10", Range(date(2026, 3, 5), date(2026, 3, 11))),
        # Halves.
        ("en", "first half of March", None),
        ("en", "first half of 2025", Range(date(2025, 1, 1), date(2025, 7, 1))),
        ("zh", "上半年", Range(date(2026, 1, 1), date(2026, 7, 1))),
        ("zh", "2025年下半年", Range(date(2025, 7, 1), date(2026, 1, 1))),
        ("zh", "最近半年", None),
        # Days and months of Chinese, Japanese and Arabic.
        ("zh", "上个月3号", day(2026, 2, 3)),
        ("zh", "3月之后", since(2026, 4, 1)),
        ("zh", "前年", Range(date(2024, 1, 1), date(2025, 1, 1))),
        ("zh", "几天前", None),
        ("ja", "10日", day(2026, 3, 10)),
        ("ja", "十一月", Range(date(2025, 11, 1), date(2025, 12, 1))),
        ("ja", "昨日まで", Range(None, date(2026, 3, 18))),
        ("ar", "قبل شهر", day(2026, 2, 18)),
        ("ar", "منذ أسبوع", day(2026, 3, 11)),
        ("ar", "قبل أمس", day(2026, 3, 16)),
        # The region says whether the month comes first.
        ("en", "5/6/2025", day(2025, 5, 6)),
        ("en-US", "5/6/2025", day(2025, 5, 6)),
        ("en-GB", "5/6/2025", day(2025, 6, 5)),
    ],
)
def test_what_reads_alike_is_told_apart_or_no_range(lang: str, phrase: str, expected: Range | None) -> None:
    assert resolve(phrase, lang, SEEN_FROM) == expected


@settings(max_examples=300, deadline=None)
@example("\U00011bf0", "en", datetime(2026, 3, 18))  # a digit of Unicode 16
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
