"""Dates as far as a phrase gives them, and what one end of a range of dates lends to the other.

Knows the meanings of words, not the words, and none of the forms that a whole expression has.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from unimir.values import calendar_units as calendar
from unimir.values.calendar_units import Range
from unimir.values.time_words import Meaning, Words, is_a, step_of, value_of, values_of


@dataclass
class Given:
    """The parts of a calendar date that a phrase names."""

    year: int | None = None
    half_year: int | None = None
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
        for name in ("year", "half_year", "quarter", "month", "weekday"):
            value = value_of(word, name)
            if value is not None and self._set(name, value):
                return True
        number = next((v for kind in ("ordinal", "number") if (v := value_of(word, kind)) is not None), None)
        if number is not None and 1 <= number <= 31 and self.day is None:
            return self._set("day", number)
        if number is not None and 1 <= number <= 12 and self.month is None:
            self.guessed = value_of(word, "ordinal") is None
            return self._set("month", number)
        if number is not None and self.month is not None and 32 <= number <= 99:
            return self._set("year", number + (1900 if number >= 50 else 2000))
        offset = value_of(word, "year_offset")
        if offset is not None:
            return self._set("year", this_year + offset)
        step = step_of(word)
        return step is not None and self._set("step", step)

    def range(self, today: date) -> Range | None:
        """The calendar range; of those that repeat every year the latest that has begun."""
        if self.quarter is not None or self.half_year is not None:
            if self.quarter and self.half_year or any((self.month, self.day, self.step, self.weekday is not None)):
                return None
            if self.quarter is not None:
                return calendar.of(self.year or today.year, 3 * self.quarter - 2, 1, "quarter")
            return calendar.of(self.year or today.year, 6 * (self.half_year or 1) - 5, 1, "half")
        if self.month is None and self.day is not None:
            alone = self.year is None and self.step is None
            return calendar.latest_day(self.day, self.weekday, today) if alone else None
        if self.month is None:
            return calendar.of(self.year, 1, 1, "year") if self.year is not None and self.step is None else None
        grain = "month" if self.day is None else "day"
        if self.guessed and self.year is None or self.weekday is not None and self.day is None:
            return None
        if self.weekday is not None and self.step is not None:  # "next Friday, the 12th of May": the year that it fits
            near = (calendar.of(today.year + years, self.month, self.day or 1, "day") for years in (0, 1, -1))
            return next((day for day in near if day and day.start and day.start.weekday() == self.weekday), None)
        if self.year is not None:
            found = calendar.of(self.year, self.month, self.day or 1, grain)
            return found if self.step is None and self._fits(found) else None
        if self.step is not None:
            return calendar.of(today.year + self.step, self.month, self.day or 1, grain)
        for year in range(today.year, today.year - 5, -1):  # the 29th of February has to be looked for
            found = calendar.of(year, self.month, self.day or 1, grain)
            if found is not None and found.start is not None and found.start <= today:
                return found if self._fits(found) else None
        return None

    def _fits(self, found: Range | None) -> bool:
        """Whether it is the weekday that was named, if one was."""
        if self.weekday is None:
            return True
        return found is not None and found.start is not None and found.start.weekday() == self.weekday

    def _set(self, name: str, value: int | None) -> bool:
        if value is None:
            return True
        if getattr(self, name) is not None:
            return False
        setattr(self, name, value)
        return True


def context(first: Words, second: Words) -> list[Meaning]:
    """The month and year words of the second that the first, which has less, has none of."""
    if any(is_a(word, "date") for word in first):
        return []
    months, years = values_of(first, "month"), values_of(first, "year")
    days = values_of(first, "ordinal") + values_of(first, "number")
    wanted = (["month"] if days and not months else []) + (["year"] if (days or months) and not years else [])
    return [word for word in second for kind in wanted if value_of(word, kind) is not None]


def after(low: Range, high: Range, second: Words, named: bool) -> Range:
    """The second as it comes first after the first: weekdays every week, dates without a year every year."""
    if not (low.start and high.start and high.end):
        return high
    if values_of(second, "weekday") and high.start <= low.start:
        return Range(high.start + timedelta(7), high.end + timedelta(7))
    for years in (-4, -3, -2, -1, 0, 1) if not named and (values_of(second, "month") or _dated(second)) else ():
        moved = calendar.shift(high.start, "year", years)
        if moved > low.start:
            return Range(moved, calendar.shift(high.end, "year", years))
    return high


def named_year(words: Words) -> bool:
    """Whether a year is given."""
    return bool(values_of(words, "year")) or any(
        t.extra[:1] > (0,) for word in words for t in word if t.kind == "date" and t.extra[0]
    )


def _dated(words: Words) -> bool:
    return any(is_a(word, "date") for word in words)
