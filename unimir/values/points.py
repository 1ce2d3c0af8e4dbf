"""Days, weeks, months and years by their names, or by their place beside today or another day.

Knows the meanings of words and the forms they are put together in; knows no word, and no range between two expressions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from itertools import pairwise

from unimir.values import calendar_units as calendar
from unimir.values.calendar_units import Range
from unimir.values.given import Given, named_year
from unimir.values.time_words import (
    UNITS,
    Meaning,
    Token,
    Words,
    is_a,
    step_of,
    value_of,
    values_of,
    without_filler,
)


class Points:
    """The forms that a point in time has, tried in turn on all of a phrase's words."""

    def __init__(self, today: date, inclusive: bool) -> None:
        self._today, self._inclusive = today, inclusive
        self._known: dict[tuple[Meaning, ...], Range | None] = {}

    def point(self, words: Words) -> Range | None:
        """A day, week, month or year by its name or by its place beside today or another day."""
        asked = tuple(words)
        if asked not in self._known:
            self._known[asked] = None  # no form asks for what it was asked itself
            self._known[asked] = self._first_of(asked)
        return self._known[asked]

    def lasting(self, words: Words) -> date | None:
        """The day that lies so many units back: "two weeks", of what has lasted since then."""
        core = [word for word in words if is_a(word, "number") or not is_a(word, "filler") or is_a(word, "unit")]
        if len(core) != 2 or not is_a(core[0], "number") or (unit := value_of(core[1], "unit")) is None:
            return None
        if is_a(core[1], "filler") and any(token.kind == "number" and token.extra for token in core[0]):
            return None  # the 5th, as Japanese writes it
        return calendar.shift(self._today, UNITS[unit], -(value_of(core[0], "number") or 0))

    def _first_of(self, words: Words) -> Range | None:
        forms: Sequence[Callable[[Words], Range | None]] = (
            self._offset,
            self._unit,
            self._span,
            self._nth_weekday,
            self._weekday,
            self._dated,
            self._feast,
            self._shifted,
            self._share,
            self._week_of,
            self._nth,
        )
        if any(is_a(word, f"{side}_but_one_behind") for word in words[:1] for side in ("last", "next")):
            return None  # "before last month" is no month before the last
        if any(is_a(word, "roughly") for word in words) and any(is_a(word, "ago") for word in words):
            return None
        counted = _counted(words)
        for all_of_it in (False, True):
            lean = [
                without_filler(word, all_of_it=all_of_it and place not in counted) for place, word in enumerate(words)
            ]
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
        days, years = value_of(core[0], "day_offset"), value_of(core[0], "year_offset")
        if days is not None:
            return calendar.day(self._today + timedelta(days))
        return None if years is None else calendar.whole("year", self._today, years)

    def _unit(self, core: Words) -> Range | None:
        """The month, last month, this week, next year."""
        units = values_of(core, "unit")
        steps = [step for word in core if (step := step_of(word)) is not None]
        if len(units) != 1 or len(core) > 2 or len(core) - 1 != len(steps) or (len(core) == 1 and units[0] == 0):
            return None
        return calendar.whole(UNITS[units[0]], self._today, steps[0] if steps else 0)

    def _span(self, core: Words) -> Range | None:
        """The last or next so many units, and so many units ago or from now."""
        numbers, units = values_of(core, "number"), values_of(core, "unit")
        rest = [word for word in core if value_of(word, "number") is None and value_of(word, "unit") is None]
        if numbers and not _before_unit(core, "number"):
            return None  # the third of last month, as Chinese has it
        if not numbers and len(core) == 2 and is_a(core[0], "ago") and not is_a(core[0], "early"):  # Arabic: a week
            numbers = [1]
        if len(numbers) != 1 or len(units) != 1 or len(rest) != 1:
            return None
        unit, number = UNITS[units[0]], numbers[0]
        word, at_end = rest[0], core[-1] is rest[0]
        if is_a(word, "ago") and (at_end or not is_a(word, "last")):
            return calendar.day(calendar.shift(self._today, unit, -number))
        if unit in ("quarter", "decade"):  # in common use these are counted whole
            current = calendar.whole(unit, self._today, 0)
            ends = (-number, 0) if is_a(word, "last") else (1, number + 1) if is_a(word, "next") else None
            return (
                ends and Range(*(calendar.shift(current.start, unit, step) for step in ends)) if current.start else None
            )
        if is_a(word, "last"):
            return Range(calendar.shift(self._today, unit, -number), self._today + timedelta(int(self._inclusive)))
        if is_a(word, "within"):
            return Range(self._today, calendar.shift(self._today, unit, number))
        if is_a(word, "from_now") and at_end or is_a(word, "in"):
            return calendar.day(calendar.shift(self._today, unit, number))
        if is_a(word, "next"):
            tomorrow = self._today + timedelta(1)
            return Range(tomorrow, calendar.shift(tomorrow, unit, number))
        return None

    def _nth_weekday(self, core: Words) -> Range | None:
        """The second Monday of March; the last Friday of 2024."""
        weekday = value_of(core[1], "weekday") if len(core) > 2 else None
        number = -1 if is_a(core[0], "last") else value_of(core[0], "ordinal")
        whole = self.point(core[2:]) if weekday is not None and number is not None else None
        return calendar.nth_weekday(whole, weekday or 0, number or 0) if whole else None

    def _weekday(self, core: Words) -> Range | None:
        """Monday, last Monday, Monday of next week."""
        days = values_of(core, "weekday")
        rest = [word for word in core if value_of(word, "weekday") is None]
        if len(days) != 1:
            return None
        if not rest:
            return calendar.day(self._today - timedelta((self._today.weekday() - days[0]) % 7))
        steps = [step for word in rest if (step := step_of(word)) is not None]
        weeks = [word for word in rest if value_of(word, "unit") == UNITS.index("week")]
        if len(steps) != 1 or len(weeks) + 1 != len(rest):
            return None
        monday = self._today - timedelta(self._today.weekday())
        return calendar.day(monday + timedelta(days[0] + 7 * steps[0]))

    def _dated(self, core: Words) -> Range | None:
        """A date as far as it is given: a year, half, quarter, month or day of a month; a weekday has to fit."""
        if any(value_of(a, "ordinal") and is_a(b, "weekday") for a, b in pairwise(core)):
            return None  # the second Sunday is no Sunday the second
        given = Given()
        for place in range(len(core) - 1):  # the 21st of this month, May of last year
            pair = core[place : place + 2]
            steps, units = [step for word in pair if (step := step_of(word)) is not None], values_of(pair, "unit")
            if len(steps) == len(units) == 1 and len(core) > 2 and UNITS[units[0]] in ("month", "year"):
                whole = calendar.whole(UNITS[units[0]], self._today, steps[0])
                given.year = whole.start.year if whole.start else None
                given.month = whole.start.month if whole.start and UNITS[units[0]] == "month" else None
                core = [*core[:place], *core[place + 2 :]]
                break
        for word in core:
            if not given.take(word, self._today.year):
                return None
        return given.range(self._today)

    def _feast(self, core: Words) -> Range | None:
        """Christmas, last Easter, Pentecost 2022, Christmas of last year: without a year the latest that has been."""
        feasts, years = values_of(core, "feast"), values_of(core, "year") + values_of(core, "year_offset")
        if len(feasts) != 1 or len(core) > 3:
            return None
        rest = [word for word in core if value_of(word, "feast") is None]
        this = self._today.year
        past = [year for year in (this - 1, this) if calendar.feast(year, feasts[0]) <= self._today][-1]
        match [step_of(word) for word in rest], [value_of(word, "unit") for word in rest]:
            case [], _:
                year = past
            case [None], _ if len(years) == 1:
                year = years[0] if value_of(rest[0], "year") is not None else this + years[0]
            case [int(step)], [None] if step in (-1, 1):
                year = past + max(step, 0)
            case ([int(step), None], [None, unit]) | ([None, int(step)], [unit, None]) if unit == UNITS.index("year"):
                year = this + step
            case _:
                return None
        return calendar.day(calendar.feast(year, feasts[0]))

    def _shifted(self, core: Words) -> Range | None:
        """So many units before or after another day."""
        if len(core) > 2 and is_a(core[1], "starting") and value_of(core[0], "unit") is not None:
            core = [(Token("number", 1),), *core]
        numbers, units = values_of(core[:2], "number"), values_of(core[:2], "unit")
        if len(core) < 4 or len(numbers) != 1 or len(units) != 1 or values_of(core[3:], "weekday"):
            return None
        vague = (values_of(core[3:], "month") or values_of(core[3:], "feast")) and not named_year(core[3:])
        other, unit = self.point(core[3:]), UNITS[units[0]]
        if vague or other is None or other.start is None:
            return None
        if is_a(core[2], "starting"):
            return Range(other.start, calendar.shift(other.start, unit, numbers[0]))
        sign = 1 if is_a(core[2], "after") or is_a(core[2], "since") else -1 if is_a(core[2], "before") else 0
        return calendar.day(calendar.shift(other.start, unit, sign * numbers[0])) if sign else None

    def _share(self, core: Words) -> Range | None:
        """The beginning, middle or end of a week, month or year."""
        for place in (0, len(core) - 1):
            kind = next((kind for kind in calendar.SHARES if is_a(core[place], kind)), None)
            whole = self.point([*core[:place], *core[place + 1 :]]) if kind and len(core) > 1 else None
            if kind is None or whole is None or whole.start is None or whole.end is None:
                continue
            if is_a(core[place], "rest_of") and whole.start <= self._today < whole.end:
                return Range(self._today, whole.end)
            long = (whole.end - whole.start).days > 31
            if is_a(core[place], "so_far") and long and whole.start < self._today < whole.end:
                return Range(whole.start, self._today)
            return calendar.share(whole, kind, thirds=named_year(core))
        return None

    def _week_of(self, core: Words) -> Range | None:
        """The week of a day; the nineties."""
        units = values_of(core, "unit")
        rest = [word for word in core if value_of(word, "unit") is None]
        if len(units) != 1 or len(rest) + 1 != len(core) or not rest:
            return None
        if UNITS[units[0]] == "decade" and len(rest) == 1:
            year = next(
                iter(values_of(rest, "year") + [1900 + tens for tens in values_of(rest, "number") if tens >= 20]), 1
            )
            return calendar.of(year, 1, 1, "decade") if year % 10 == 0 else None
        plain = len(rest) == 1 and value_of(rest[0], "number") is not None  # "week 10" is another thing
        found = self.point(rest) if UNITS[units[0]] == "week" and is_a(core[0], "unit") and not plain else None
        if found is None or found.start is None or found.end != found.start + timedelta(1):
            return None
        return calendar.whole("week", found.start, 0)

    def _nth(self, core: Words) -> Range | None:
        """The first week of January, the last week of 2019, the third quarter of last year, week 10."""
        counted = bool(values_of(core[-2:-1], "number") + values_of(core[-2:-1], "ordinal"))
        if len(core) > 2 and counted and is_a(core[-1], "unit"):  # as Chinese has it: of 2021 the second week
            core = [*core[-2:], *core[:-2]] if not is_a(core[-3], "last") else [*core[-3:], *core[:-3]]
        if len(core) > 3:
            numbers, units = values_of(core[:3], "number"), values_of(core[:3], "unit")
            whole, first = self.point(core[3:]), 1 in values_of(core[:3], "ordinal")
            if len(numbers) == len(units) == 1 and whole is not None and (first or _before_unit(core[:3], "last")):
                ends = (1, numbers[0]) if first else (-numbers[0], -1)
                low, high = (calendar.nth(whole, UNITS[units[0]], number) for number in ends)
                return Range(low.start, high.end) if low and high else None
        pair, rest = core[:2], core[2:]
        units = values_of(pair, "unit")
        if len(units) != 1 or (not rest and UNITS[units[0]] != "week"):
            return None
        numbers = values_of(pair, "ordinal") + values_of(pair[1:], "number")  # two weeks are not the second one
        number = next(iter(numbers), -1 if any(is_a(word, "last") for word in pair) else None)
        whole = self.point(rest) if rest else calendar.whole("year", self._today, 0)
        half_of_none = UNITS[units[0]] == "half" and all(is_a(word, "unit") for word in rest)  # the last half year
        if number is None or whole is None or (half_of_none and number < 0):
            return None
        return calendar.nth(whole, UNITS[units[0]], number)


def _counted(words: Words) -> set[int]:
    """Where units are counted: the year of "one year" is no filler. But the day of "10日" is one of a month."""
    places: set[int] = set()
    for place, (number, unit) in enumerate(pairwise(words)):
        if not is_a(number, "number") or (of := value_of(unit, "unit")) is None:
            continue
        if of != UNITS.index("day") or not is_a(unit, "filler") or value_of(number, "number") == 1:
            places |= {place, place + 1}
    return places


def _before_unit(core: Words, kind: str) -> bool:
    """Whether there is such a word, and before the last unit."""
    kinds = [place for place, word in enumerate(core) if is_a(word, kind)]
    units = [place for place, word in enumerate(core) if value_of(word, "unit") is not None]
    return bool(kinds and units) and kinds[0] < units[-1]
