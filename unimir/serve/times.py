"""Time expressions to ranges: "last month", "vor 8 Tagen", "10月24日", seen from a moment in the caller's time zone.

A small grammar of meanings, the same for all languages, makes a range of what a phrase's words mean. What it does not
know ends in no range, never in a wrong one. Knows no word of any language, no query and no filter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from unimir.serve.time_words import UNITS, Token, Tokens, cut


@dataclass(frozen=True)
class Range:
    """Days from `start` to before `end`; None is open."""

    start: date | None
    end: date | None


def resolve(phrase: str, lang: str, now: datetime) -> Range | None:
    """The days that the phrase means, or None if that is not certain.

    A span up to now, such as "the last 3 days", ends with today. A month or day without a year is the latest one that
    has begun.
    """
    tokens = cut(phrase, lang)
    return None if tokens is None else _Grammar(tokens, now.date()).range()


class _Grammar:
    """One phrase's meanings, tried against the forms that time expressions have."""

    def __init__(self, tokens: Tokens, today: date) -> None:
        self._tokens, self._today = tokens, today

    def range(self) -> Range | None:
        """The first form that takes every word."""
        forms: Sequence[Callable[[Tokens], Range | None]] = (self._bounded, self._span, self._one_sided, self._simple)
        for form in forms:
            found = form(self._tokens)
            if found is not None:
                return found
        return None

    def _bounded(self, tokens: Tokens) -> Range | None:
        """From one simple expression to another."""
        body = tokens[1:] if tokens and _is(tokens[0], "between") else tokens
        for place in range(1, len(body) - 1):
            if not _is(body[place], "to"):
                continue
            low, high = self._simple(body[:place]), self._simple(body[place + 1 :])
            if low and high and low.start and high.end and low.start < high.end:
                return Range(low.start, high.end)
        return None

    def _span(self, tokens: Tokens) -> Range | None:
        """The last or next so many units, and so many units ago or from now."""
        kinds = [_without_filler(token) for token in tokens]
        core = [token for token in kinds if token]
        numbers = [number for token in core if (number := _value(token, "number")) is not None]
        units = [UNITS[unit] for token in core if (unit := _value(token, "unit")) is not None]
        if len(numbers) != 1 or len(units) != 1:
            return None
        rest = [t for t in core if _value(t, "number") is None and _value(t, "unit") is None]
        if len(rest) != 1:
            return None
        (word,) = rest
        unit, number = units[0], numbers[0]
        placed = core.index(word)
        if _is(word, "last") and not (_is(word, "ago") and placed == len(core) - 1):
            return Range(_shift(self._today, unit, -number), self._today + timedelta(1))
        if _is(word, "ago"):
            return self._day(_shift(self._today, unit, -number))
        if _is(word, "next") and placed < len(core) - 1:
            return Range(self._today + timedelta(1), _shift(self._today, unit, number) + timedelta(1))
        if _is(word, "in") or _is(word, "from_now") or _is(word, "next"):
            return self._day(_shift(self._today, unit, number))
        return None

    def _one_sided(self, tokens: Tokens) -> Range | None:
        """Since, until, before or after a simple expression."""
        if len(tokens) < 2:
            return None
        found = self._simple(tokens[1:])
        if found is not None:
            if _is(tokens[0], "since"):
                return Range(found.start, None)
            if _is(tokens[0], "after"):
                return Range(found.end, None)
            if _is(tokens[0], "until"):
                return Range(None, found.end)
            if _is(tokens[0], "before"):
                return Range(None, found.start)
        found = self._simple(tokens[:-1])
        if found is not None:
            if _is(tokens[-1], "since_behind"):
                return Range(found.start, None)
            if _is(tokens[-1], "after_behind"):
                return Range(found.end, None)
            if _is(tokens[-1], "before_behind"):
                return Range(None, found.start)
        return None

    def _simple(self, tokens: Tokens) -> Range | None:
        """A day, week, month or year by its name or its place beside today."""
        core = [token for token in (_without_filler(t) for t in tokens) if token]
        for form in (self._offset, self._named_unit, self._weekday, self._dated):
            found = form(core)
            if found is not None:
                return found
        return None

    def _offset(self, core: Tokens) -> Range | None:
        if len(core) != 1:
            return None
        days, years = _value(core[0], "day_offset"), _value(core[0], "year_offset")
        if days is not None:
            return self._day(self._today + timedelta(days))
        if years is not None:
            return _whole("year", self._today.replace(day=1), years)
        return None

    def _named_unit(self, core: Tokens) -> Range | None:
        """Last month, this week, next year."""
        if len(core) != 2:
            return None
        units = [UNITS[unit] for token in core if (unit := _value(token, "unit")) is not None]
        steps = [step for token in core if (step := _step(token)) is not None]
        return _whole(units[0], self._today, steps[0]) if len(units) == len(steps) == 1 else None

    def _weekday(self, core: Tokens) -> Range | None:
        """Monday, last Monday, next Monday."""
        days = [day for token in core if (day := _value(token, "weekday")) is not None]
        rest = [token for token in core if _value(token, "weekday") is None]
        if len(days) != 1 or len(rest) > 1 or (rest and _step(rest[0]) is None):
            return None
        monday = self._today - timedelta(self._today.weekday())
        if rest:
            return self._day(monday + timedelta(days[0] + 7 * (_step(rest[0]) or 0)))
        return self._day(self._today - timedelta((self._today.weekday() - days[0]) % 7))

    def _dated(self, core: Tokens) -> Range | None:
        """A date as far as it is given: a year, a month, a day of a month."""
        year = month = day = None
        step = None
        for token in core:
            if (dated := next((t for t in token if t.kind == "date"), None)) is not None:
                given = dated.extra
                if any(a is not None and b is not None for a, b in zip(given, (year, month, day), strict=True)):
                    return None
                year, month, day = (a if a is not None else b for a, b in zip(given, (year, month, day), strict=True))
            elif month is None and (found := _value(token, "month")) is not None:
                month = found
            elif year is None and (found := _value(token, "year")) is not None:
                year = found
            elif day is None and (found := _day_number(token)) is not None:
                day = found
            elif step is None and _step(token) is not None:
                step = _step(token)
            elif year is None and (found := _value(token, "year_offset")) is not None:
                year = self._today.year + found
            else:
                return None
        return self._calendar(year, month, day, step)

    def _calendar(self, year: int | None, month: int | None, day: int | None, step: int | None) -> Range | None:
        if month is None:
            return _range_of(year, 1, 1, "year") if year is not None and day is None and step is None else None
        grain = "month" if day is None else "day"
        if year is not None:
            return _range_of(year, month, day or 1, grain) if step is None else None
        # The latest that has begun: people look for what there is.
        begun = _range_of(self._today.year, month, day or 1, grain)
        if begun is None or begun.start is None:
            return None
        latest = self._today.year if begun.start <= self._today else self._today.year - 1
        if step is None:
            return _range_of(latest, month, day or 1, grain)
        return _range_of(self._today.year + step, month, day or 1, grain)

    def _day(self, day: date) -> Range:
        return Range(day, day + timedelta(1))


def _is(token: frozenset[Token], kind: str) -> bool:
    return any(meaning.kind == kind for meaning in token)


def _value(token: frozenset[Token], kind: str) -> int | None:
    return next((meaning.value for meaning in token if meaning.kind == kind), None)


def _step(token: frozenset[Token]) -> int | None:
    steps = {"last": -1, "this": 0, "next": 1}
    return next((steps[meaning.kind] for meaning in token if meaning.kind in steps), None)


def _day_number(token: frozenset[Token]) -> int | None:
    found = _value(token, "ordinal")
    found = found if found is not None else _value(token, "number")
    return found if found is not None and 1 <= found <= 31 else None


def _without_filler(token: frozenset[Token]) -> frozenset[Token]:
    """Nothing of a word that is filler alone, or filler where the grammar has no use for its other meanings."""
    others = {meaning for meaning in token if meaning.kind not in ("filler", "since", "between", "to", "until")}
    return frozenset(others) if others or not _is(token, "filler") else frozenset()


def _shift(day: date, unit: str, number: int) -> date:
    if unit in ("day", "week", "weekend"):
        return day + timedelta(number * (1 if unit == "day" else 7))
    months = number * {"month": 1, "quarter": 3, "year": 12, "decade": 120}[unit]
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    length = (date(year + (month == 11), (month + 1) % 12 + 1, 1) - date(year, month + 1, 1)).days
    return date(year, month + 1, min(day.day, length))


def _whole(unit: str, today: date, step: int) -> Range:
    """The calendar unit with today in it, or the one before or after."""
    first = {
        "day": today,
        "week": today - timedelta(today.weekday()),
        "weekend": today - timedelta(today.weekday()) + timedelta(5),
        "month": today.replace(day=1),
        "quarter": today.replace(month=(today.month - 1) // 3 * 3 + 1, day=1),
        "year": today.replace(month=1, day=1),
        "decade": today.replace(year=today.year // 10 * 10, month=1, day=1),
    }[unit]
    start = _shift(first, unit, step)
    return Range(start, start + timedelta(2) if unit == "weekend" else _shift(start, unit, 1))


def _range_of(year: int, month: int, day: int, grain: str) -> Range | None:
    try:
        start = date(year, month, day)
    except ValueError:
        return None
    return Range(start, _shift(start, grain, 1))
