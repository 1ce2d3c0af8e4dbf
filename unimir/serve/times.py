"""Time expressions to ranges: "last month", "vor 8 Tagen", "10月24日", seen from a moment in the caller's time zone.

A small grammar of meanings, the same for all languages, makes a range of what a phrase's words mean. What it does not
know ends in no range, never in a wrong one. Knows no word of any language, no query and no filter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from unimir.serve import calendar_units as calendar
from unimir.serve.calendar_units import Range
from unimir.serve.time_words import UNITS, Meaning, Token, Words, cut

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
    if words is None or not 0 < len(words) <= MAX_WORDS:
        return None
    try:
        return _Grammar(now.date(), inclusive).range(words)
    except OverflowError:  # before the year 1, or after 9999
        return None


class _Grammar:
    """The forms that time expressions have, tried in turn on all of a phrase's words."""

    def __init__(self, today: date, inclusive: bool) -> None:
        self._today, self._inclusive = today, inclusive
        self._known: dict[tuple[Meaning, ...], Range | None] = {}

    def range(self, words: Words) -> Range | None:
        """The first form that takes every word."""
        for form in (self._point, self._bounded, self._one_sided):
            found = form(words)
            if found is not None:
                return found
        return None

    def _bounded(self, words: Words) -> Range | None:
        """From one expression to another; what the first leaves out (a month, a year) is taken from the second."""
        body = words[1:] if words and _is(words[0], "between") else words
        for place in range(1, len(body) - 1):
            if not _is(body[place], "to") and not (body is not words and _is(body[place], "and")):
                continue
            first, second = body[:place], body[place + 1 :]
            high = self._point([*second, *_context(second, first)]) or self._point(second)
            low = self._point([*first, *_context(first, second)]) or self._point(first)
            if high is None or low is None:
                continue
            high = _after(low, high, second, _named(second))
            end = high.end if self._inclusive or any(_is(word, "late") for word in second) else high.start
            named = _named(body)
            if low.start and end and low.start < end and (named or (end - low.start).days <= 366):
                return Range(low.start, end)
        return None

    def _one_sided(self, words: Words) -> Range | None:
        """Since, until, before or after an expression."""
        if len(words) > 2 and _is(words[0], "since") and _is(words[-1], "since_behind"):
            words = words[1:]
        for side, rest in ((words[0], words[1:]), (words[-1], words[:-1])) if len(words) > 1 else ():
            behind = rest is not words[1:] and rest == words[:-1]
            for kind, (start, end) in _SIDES.items():
                if not _is(side, f"{kind}_behind" if behind and not kind.startswith("and_") else kind):
                    continue
                found = self._point(rest)
                if found is None:
                    continue
                if any(_is(word, "late") for word in rest):
                    end = end and "end"
                elif kind == "until" and not self._inclusive:
                    end = "start"
                return Range(getattr(found, start) if start else None, getattr(found, end) if end else None)
        return None

    def _point(self, words: Words) -> Range | None:
        """A day, week, month or year by its name or by its place beside today or another day."""
        asked = tuple(words)
        if asked not in self._known:
            self._known[asked] = None  # no form asks for what it was asked itself
            self._known[asked] = self._first_of(asked)
        return self._known[asked]

    def _first_of(self, words: Words) -> Range | None:
        forms: Sequence[Callable[[Words], Range | None]] = (
            self._offset,
            self._unit,
            self._span,
            self._weekday,
            self._dated,
            self._shifted,
            self._share,
            self._week_of,
            self._nth,
        )
        for all_of_it in (False, True):
            lean = [_without_filler(word, all_of_it=all_of_it) for word in words]
            core = [word for word in lean if word is not None]
            for form in forms if core else ():
                found = form(core)
                if found is not None:
                    return found
        return None

    def _offset(self, core: Words) -> Range | None:
        """Today, yesterday, last year as one word."""
        if len(core) != 1:
            return None
        days, years = _value(core[0], "day_offset"), _value(core[0], "year_offset")
        if days is not None:
            return calendar.day(self._today + timedelta(days))
        return None if years is None else calendar.whole("year", self._today, years)

    def _unit(self, core: Words) -> Range | None:
        """The month, last month, this week, next year."""
        units = _values(core, "unit")
        steps = [step for word in core if (step := _step(word)) is not None]
        if len(units) != 1 or len(core) > 2 or len(core) - 1 != len(steps) or (len(core) == 1 and units[0] == 0):
            return None
        return calendar.whole(UNITS[units[0]], self._today, steps[0] if steps else 0)

    def _span(self, core: Words) -> Range | None:
        """The last or next so many units, and so many units ago or from now."""
        numbers, units = _values(core, "number"), _values(core, "unit")
        rest = [word for word in core if _value(word, "number") is None and _value(word, "unit") is None]
        if len(numbers) != 1 or len(units) != 1 or len(rest) != 1:
            return None
        unit, number = UNITS[units[0]], numbers[0]
        word, at_end = rest[0], core[-1] is rest[0]
        if _is(word, "ago") and (at_end or not _is(word, "last")):
            return calendar.day(calendar.shift(self._today, unit, -number))
        if unit in ("quarter", "decade"):  # in common use these are counted whole
            current = calendar.whole(unit, self._today, 0)
            ends = (-number, 0) if _is(word, "last") else (1, number + 1) if _is(word, "next") else None
            return (
                ends and Range(*(calendar.shift(current.start, unit, step) for step in ends)) if current.start else None
            )
        if _is(word, "last"):
            return Range(calendar.shift(self._today, unit, -number), self._today + timedelta(int(self._inclusive)))
        if _is(word, "within"):
            return Range(self._today, calendar.shift(self._today, unit, number))
        if _is(word, "from_now") and at_end or _is(word, "in"):
            return calendar.day(calendar.shift(self._today, unit, number))
        if _is(word, "next"):
            tomorrow = self._today + timedelta(1)
            return Range(tomorrow, calendar.shift(tomorrow, unit, number))
        return None

    def _weekday(self, core: Words) -> Range | None:
        """Monday, last Monday, Monday of next week."""
        days = _values(core, "weekday")
        rest = [word for word in core if _value(word, "weekday") is None]
        if len(days) != 1:
            return None
        if not rest:
            return calendar.day(self._today - timedelta((self._today.weekday() - days[0]) % 7))
        steps = [step for word in rest if (step := _step(word)) is not None]
        weeks = [word for word in rest if _value(word, "unit") == UNITS.index("week")]
        if len(steps) != 1 or len(weeks) + 1 != len(rest):
            return None
        monday = self._today - timedelta(self._today.weekday())
        return calendar.day(monday + timedelta(days[0] + 7 * steps[0]))

    def _dated(self, core: Words) -> Range | None:
        """A date as far as it is given: a year, a quarter, a month, a day of a month; a weekday beside it is noise."""
        given = _Given()
        for place in range(len(core) - 1):  # the 21st of this month, May of last year
            pair = core[place : place + 2]
            steps, units = [step for word in pair if (step := _step(word)) is not None], _values(pair, "unit")
            if len(steps) == len(units) == 1 and len(core) > 2 and UNITS[units[0]] in ("month", "year"):
                whole = calendar.whole(UNITS[units[0]], self._today, steps[0])
                given.year = whole.start and whole.start.year
                given.month = whole.start.month if whole.start and UNITS[units[0]] == "month" else None
                core = [*core[:place], *core[place + 2 :]]
                break
        for word in core:
            if not given.take(word, self._today.year):
                return None
        return given.range(self._today)

    def _shifted(self, core: Words) -> Range | None:
        """So many units before or after another day."""
        if len(core) > 2 and _is(core[1], "starting") and _value(core[0], "unit") is not None:
            core = [frozenset([Token("number", 1)]), *core]
        numbers, units = _values(core[:2], "number"), _values(core[:2], "unit")
        if len(core) < 4 or len(numbers) != 1 or len(units) != 1 or _values(core[3:], "weekday"):
            return None
        other, unit = self._point(core[3:]), UNITS[units[0]]
        if other is None or other.start is None:
            return None
        if _is(core[2], "starting"):
            return Range(other.start, calendar.shift(other.start, unit, numbers[0]))
        sign = 1 if _is(core[2], "after") or _is(core[2], "since") else -1 if _is(core[2], "before") else 0
        return calendar.day(calendar.shift(other.start, unit, sign * numbers[0])) if sign else None

    def _share(self, core: Words) -> Range | None:
        """The beginning, middle or end of a week, month or year."""
        for place in (0, len(core) - 1):
            kind = next((kind for kind in calendar.SHARES if _is(core[place], kind)), None)
            whole = self._point([*core[:place], *core[place + 1 :]]) if kind and len(core) > 1 else None
            if kind is None or whole is None or whole.start is None or whole.end is None:
                continue
            if _is(core[place], "rest_of") and whole.start <= self._today < whole.end:
                return Range(self._today, whole.end)
            long = (whole.end - whole.start).days > 31
            if _is(core[place], "so_far") and long and whole.start < self._today < whole.end:
                return Range(whole.start, self._today)
            return calendar.share(whole, kind)
        return None

    def _week_of(self, core: Words) -> Range | None:
        """The week of a day; the nineties."""
        units = _values(core, "unit")
        rest = [word for word in core if _value(word, "unit") is None]
        if len(units) != 1 or len(rest) + 1 != len(core) or not rest:
            return None
        if UNITS[units[0]] == "decade" and len(rest) == 1:
            year = next(
                iter(_values(rest, "year") + [1900 + tens for tens in _values(rest, "number") if tens >= 20]), 1
            )
            return calendar.of(year, 1, 1, "decade") if year % 10 == 0 else None
        plain = len(rest) == 1 and _value(rest[0], "number") is not None  # "week 10" is another thing
        found = self._point(rest) if UNITS[units[0]] == "week" and _is(core[0], "unit") and not plain else None
        if found is None or found.start is None or found.end != found.start + timedelta(1):
            return None
        return calendar.whole("week", found.start, 0)

    def _nth(self, core: Words) -> Range | None:
        """The first week of January, the last week of 2019, the third quarter of last year, week 10."""
        if (
            len(core) > 2 and _is(core[-1], "unit") and _values(core[-2:-1], "number") + _values(core[-2:-1], "ordinal")
        ):  # as Chinese has it: of 2021 the second week
            core = [*core[-2:], *core[:-2]] if not _is(core[-3], "last") else [*core[-3:], *core[:-3]]
        if len(core) > 3:
            numbers, units = _values(core[:3], "number"), _values(core[:3], "unit")
            whole, first = self._point(core[3:]), 1 in _values(core[:3], "ordinal")
            if (
                len(numbers) == len(units) == 1
                and whole is not None
                and (first or any(_is(w, "last") for w in core[:3]))
            ):
                ends = (1, numbers[0]) if first else (-numbers[0], -1)
                low, high = (calendar.nth(whole, UNITS[units[0]], number) for number in ends)
                return Range(low.start, high.end) if low and high else None
        for place in (0, 1):
            if len(core) < place + 2:
                continue
            pair, rest = core[place : place + 2] if not place else core[:2], core[2:]
            units = _values(pair, "unit")
            number = next(iter(_values(pair, "ordinal") + _values(pair, "number")), None)
            if number is None and any(_is(word, "last") for word in pair):
                number = -1
            whole = self._point(rest) if rest else calendar.whole("year", self._today, 0)
            if not rest and UNITS.index("week") not in units:
                continue
            if len(units) == 1 and number is not None and whole is not None:
                return calendar.nth(whole, UNITS[units[0]], number)
        return None


@dataclass
class _Given:
    """The parts of a calendar date that a phrase names."""

    year: int | None = None
    quarter: int | None = None
    month: int | None = None
    day: int | None = None
    step: int | None = None
    weekday: int | None = None
    guessed: bool = False  # the month may be the day: certain only beside a year

    def take(self, word: Meaning, this_year: int) -> bool:
        """Whether the word is one of the parts that are not given yet; notes it."""
        dated = next((token for token in word if token.kind == "date"), None)
        if dated is not None:
            return all(
                self._set(name, value) for name, value in zip(("year", "month", "day"), dated.extra, strict=True)
            )
        for name in ("year", "quarter", "month", "weekday"):
            value = _value(word, name)
            if value is not None and self._set(name, value):
                return True
        number = next((v for kind in ("ordinal", "number") if (v := _value(word, kind)) is not None), None)
        if number is not None and 1 <= number <= 31 and self.day is None:
            return self._set("day", number)
        if number is not None and 1 <= number <= 12 and self.month is None:
            self.guessed = _value(word, "ordinal") is None
            return self._set("month", number)
        if number is not None and self.month is not None and 32 <= number <= 99:
            return self._set("year", number + (1900 if number >= 50 else 2000))
        offset = _value(word, "year_offset")
        if offset is not None:
            return self._set("year", this_year + offset)
        step = _step(word)
        return step is not None and self._set("step", step)

    def range(self, today: date) -> Range | None:
        """The calendar range; of those that repeat every year the latest that has begun."""
        if self.quarter is not None:
            alone = self.month is None and self.day is None and self.step is None
            first = calendar.of(self.year or today.year, 3 * self.quarter - 2, 1, "quarter")
            return first if alone else None
        if self.month is None and self.day is not None:
            alone = self.year is None and self.step is None
            return calendar.latest_day(self.day, self.weekday, today) if alone else None
        if self.month is None:
            return calendar.of(self.year, 1, 1, "year") if self.year is not None and self.step is None else None
        grain = "month" if self.day is None else "day"
        if self.guessed and self.year is None:
            return None
        if self.year is not None:
            return calendar.of(self.year, self.month, self.day or 1, grain) if self.step is None else None
        if self.step is not None:
            return calendar.of(today.year + self.step, self.month, self.day or 1, grain)
        for year in range(today.year, today.year - 5, -1):  # the 29th of February has to be looked for
            found = calendar.of(year, self.month, self.day or 1, grain)
            if found is not None and found.start is not None and found.start <= today:
                return found
        return None

    def _set(self, name: str, value: int | None) -> bool:
        if value is None:
            return True
        if getattr(self, name) is not None:
            return False
        setattr(self, name, value)
        return True


def _context(first: Words, second: Words) -> list[Meaning]:
    """The month and year words of the second that the first, which has less, has none of."""
    if any(_is(word, "date") for word in first):
        return []
    months, years = _values(first, "month"), _values(first, "year")
    days = _values(first, "ordinal") + _values(first, "number")
    wanted = (["month"] if days and not months else []) + (["year"] if (days or months) and not years else [])
    return [word for word in second for kind in wanted if _value(word, kind) is not None]


def _after(low: Range, high: Range, second: Words, named: bool) -> Range:
    """The second as it comes first after the first: weekdays every week, dates without a year every year."""
    if not (low.start and high.start and high.end):
        return high
    if _values(second, "weekday") and high.start <= low.start:
        return Range(high.start + timedelta(7), high.end + timedelta(7))
    for years in (-4, -3, -2, -1, 0, 1) if not named and (_values(second, "month") or _dates(second)) else ():
        moved = calendar.shift(high.start, "year", years)
        if moved > low.start:
            return Range(moved, calendar.shift(high.end, "year", years))
    return high


def _named(words: Words) -> bool:
    """Whether a year is given."""
    return bool(_values(words, "year")) or any(
        t.extra[:1] > (0,) for word in words for t in word if t.kind == "date" and t.extra[0]
    )


def _dates(words: Words) -> bool:
    return any(_is(word, "date") for word in words)


def _is(word: Meaning, kind: str) -> bool:
    return any(token.kind == kind for token in word)


def _value(word: Meaning, kind: str) -> int | None:
    return next((token.value for token in word if token.kind == kind), None)


def _values(words: Words, kind: str) -> list[int]:
    return [value for word in words if (value := _value(word, kind)) is not None]


def _step(word: Meaning) -> int | None:
    steps = {"last": -1, "this": 0, "next": 1, "last_but_one": -2, "next_but_one": 2}
    return next((steps[token.kind] for token in word if token.kind in steps), None)


def _without_filler(word: Meaning, *, all_of_it: bool) -> Meaning | None:
    """None for a word that says nothing in a point: filler alone, or with `all_of_it` whatever can be filler."""
    if _is(word, "filler") and (all_of_it or not _useful(word)):
        return None
    return _useful(word) or word


def _useful(word: Meaning) -> Meaning:
    unused = ("filler", "between", "to", "until", "and")
    return frozenset(token for token in word if token.kind not in unused)
