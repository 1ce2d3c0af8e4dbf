"""Time expressions to ranges: "last month", "vor 8 Tagen", "10月24日", seen from a moment in the caller's time zone.

A small grammar of meanings, the same for all languages, makes a range of what a phrase's words mean. What it does not
know ends in no range, never in a wrong one. Knows no word of any language, no query and no filter.
"""

from __future__ import annotations

from datetime import date, datetime

from unimir.values.calendar_units import Range
from unimir.values.given import after, context, named_year
from unimir.values.points import Points
from unimir.values.time_words import UNITS, Words, cut, is_a, value_of, values_of

_SIDES = {  # of an expression: which of its ends the open range begins or ends with
    "since": ("start", None),
    "and_after": ("start", None),
    "after": ("end", None),
    "until": (None, "end"),
    "and_before": (None, "end"),
    "before": (None, "start"),
}

MAX_WORDS = 12
"""More are no time expression, and the grammar tries every way to divide them."""


def resolve(phrase: str, lang: str, now: datetime, *, inclusive: bool = True) -> Range | None:
    """The days that the phrase means, or None if that is not certain.

    A month or day without a year is the latest one that has begun. With `inclusive`, what "from A to B" and "until B"
    name last belongs to them, and a span up to now, such as "the last 3 days", ends with today; without, they end
    where B or today begins.
    """
    words = cut(phrase, lang)
    if words is None or not 0 < len(words) <= MAX_WORDS or (len(words) == 1 and value_of(words[0], "number")):
        return None  # a mere number may count anything
    try:
        return _Ranges(now.date(), inclusive).range(words)
    except OverflowError:  # before the year 1, or after 9999
        return None


class _Ranges:
    """One expression, from one to another, or all before or after one."""

    def __init__(self, today: date, inclusive: bool) -> None:
        self._inclusive = inclusive
        self._points = Points(today, inclusive)

    def range(self, words: Words) -> Range | None:
        """The first form that takes every word."""
        for form in (self._points.point, self._bounded, self._one_sided):
            found = form(words)
            if found is not None:
                return found
        return None

    def _bounded(self, words: Words) -> Range | None:
        """From one expression to another; what the first leaves out (a month, a year) is taken from the second."""
        body = words[1:] if words and is_a(words[0], "between") else words
        for place in range(1, len(body) - 1):
            if not is_a(body[place], "to") and not (body is not words and is_a(body[place], "and")):
                continue
            first, second = body[:place], body[place + 1 :]
            if _bare(first) and not _days(second) or _bare(second) and not _days(first):
                continue  # 2 to 3 days ago, 2023-24
            if _shared(first, "early", "mid", "late") or _shared(second, "early", "mid"):
                continue  # nobody agrees where the end of March begins
            high = self._points.point([*second, *context(second, first)]) or self._points.point(second)
            low = self._points.point([*first, *context(first, second)]) or self._points.point(first)
            if high is None or low is None:
                continue
            high = after(low, high, second, named_year(second))
            end = high.end if self._inclusive or any(is_a(word, "late") for word in second) else high.start
            named = named_year(body)
            if low.start and end and low.start < end and (named or (end - low.start).days <= 366):
                return Range(low.start, end)
        return None

    def _one_sided(self, words: Words) -> Range | None:
        """Since, until, before or after an expression."""
        if len(words) > 2 and is_a(words[0], "since") and is_a(words[-1], "since_behind"):
            words = words[1:]
        for side, rest in ((words[0], words[1:]), (words[-1], words[:-1])) if len(words) > 1 else ():
            behind = rest is not words[1:] and rest == words[:-1]
            for kind, (start, end) in _SIDES.items():
                if not is_a(side, f"{kind}_behind" if behind and not kind.startswith("and_") else kind):
                    continue
                if is_a(side, "roughly") and any(is_a(word, "unit") for word in rest):
                    continue  # less than a week ago is not before then
                if kind == "since" and (begun := self._points.lasting(rest)) is not None:
                    return Range(begun, None)
                if all(is_a(word, "filler") or is_a(word, "unit") for word in rest) and not _weekends(rest):
                    continue  # before a week: which?
                found = self._points.point(rest)
                if found is None:
                    continue
                if any(is_a(word, "late") for word in rest):
                    end = end and "end"
                elif kind == "until" and not self._inclusive:
                    end = "start"
                return Range(getattr(found, start) if start else None, getattr(found, end) if end else None)
        return None


def _bare(words: Words) -> bool:
    """Whether they are a number that may count anything."""
    return all(is_a(word, "number") or is_a(word, "filler") for word in words) and bool(values_of(words, "number"))


def _days(words: Words) -> bool:
    """Whether they are, or have in them, a day of a month by its number."""
    return _bare(words) or any(is_a(word, kind) for word in words for kind in ("month", "date", "ordinal"))


def _weekends(words: Words) -> bool:
    return UNITS.index("weekend") in values_of(words, "unit")


def _shared(words: Words, *shares: str) -> bool:
    """Whether only a part of something is meant."""
    return any(is_a(word, share) for word in words for share in shares)
