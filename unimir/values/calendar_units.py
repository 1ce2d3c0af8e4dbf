"""Days, weeks, months and years of the Gregorian calendar, as half-open ranges of days; weeks begin on Monday.

Knows no phrase.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from dateutil.easter import easter

SHARES = ("early", "mid", "late")
_MONTHS = {"month": 1, "quarter": 3, "half": 6, "year": 12, "decade": 120}


@dataclass(frozen=True)
class Range:
    """Days from `start` to before `end`; None is open."""

    start: date | None
    end: date | None


def day(at: date) -> Range:
    """One day."""
    return Range(at, at + timedelta(1))


def shift(at: date, unit: str, number: int) -> date:
    """So many units later; the last day of a month that is too short."""
    if unit in ("day", "week", "weekend"):
        return at + timedelta(number * (1 if unit == "day" else 7))
    year, month = divmod(at.year * 12 + at.month - 1 + number * _MONTHS[unit], 12)
    year = min(max(year, date.min.year), date.max.year - 1)
    first = date(year, month + 1, 1)
    following = date(year + month // 11, (month + 1) % 12 + 1, 1)
    return date(year, month + 1, min(at.day, (following - first).days))


def whole(unit: str, today: date, step: int) -> Range:
    """The unit with today in it, or the one so many before or after."""
    monday = today - timedelta(today.weekday())
    first = {
        "day": today,
        "week": monday,
        "weekend": monday + timedelta(5),
        "month": today.replace(day=1),
        "quarter": today.replace(month=(today.month - 1) // 3 * 3 + 1, day=1),
        "half": today.replace(month=1 + 6 * (today.month > 6), day=1),
        "year": today.replace(month=1, day=1),
        "decade": today.replace(year=max(1, today.year // 10 * 10), month=1, day=1),
    }[unit]
    start = shift(first, unit, step)
    return Range(start, start + timedelta(2) if unit == "weekend" else shift(start, unit, 1))


def of(year: int, month: int, day_of_month: int, grain: str) -> Range | None:
    """The unit that begins on this date, if there is such a date."""
    try:
        start = date(year, month, day_of_month)
    except ValueError:
        return None
    return Range(start, shift(start, grain, 1))


def feast(year: int, days: int) -> date:
    """A feast: so many days from Easter, or month and day as MMDD where that is over 100."""
    return date(year, days // 100, days % 100) if days > 100 else easter(year) + timedelta(days)


def latest_day(day_of_month: int, weekday: int | None, today: date) -> Range | None:
    """The latest day of this number (and on this weekday, Monday being 0) that has begun."""
    for back in range(60):
        month = shift(today.replace(day=1), "month", -back)
        found = of(month.year, month.month, day_of_month, "day")
        if found is None or found.start is None or found.start > today:
            continue
        if weekday is None or found.start.weekday() == weekday:
            return found
    return None


def nth(within: Range, unit: str, number: int) -> Range | None:
    """The number-th unit of a range, -1 for the last; a week belongs to where its Thursday is (ISO 8601)."""
    if within.start is None or within.end is None or number == 0:
        return None
    if unit == "week":
        first = within.start + timedelta((3 - within.start.weekday()) % 7)
        last = within.end - timedelta(1)
        last -= timedelta((last.weekday() - 3) % 7)
        thursday = first + timedelta(7 * (number - 1)) if number > 0 else last + timedelta(7 * (number + 1))
        return Range(thursday - timedelta(3), thursday + timedelta(4)) if first <= thursday <= last else None
    if unit not in ("day", "month", "quarter", "half"):
        return None
    start = shift(within.start, unit, number - 1) if number > 0 else shift(within.end, unit, number)
    end = shift(start, unit, 1)
    return Range(start, end) if within.start <= start and end <= within.end else None


def nth_weekday(within: Range, weekday: int, number: int) -> Range | None:
    """The number-th Monday (0) of a month or a year, -1 for the last."""
    if within.start is None or within.end is None or not number or (within.end - within.start).days < 28:
        return None
    first = within.start + timedelta((weekday - within.start.weekday()) % 7)
    last = within.end - timedelta(1 + (within.end.weekday() - 1 - weekday) % 7)
    found = first + timedelta(7 * (number - 1)) if number > 0 else last + timedelta(7 * (number + 1))
    return day(found) if first <= found <= last else None


def share(within: Range, kind: str, *, thirds: bool) -> Range | None:
    """The early, middle or late part of a week, a month or a year; of a year its thirds, or halves and the middle."""
    if within.start is None or within.end is None:
        return None
    length = (within.end - within.start).days
    if length == 7:
        cuts = {"early": (0, 4), "mid": (1, 5), "late": (3, 7)}
    elif 28 <= length <= 31:
        cuts = {"early": (0, 15), "mid": (9, 20), "late": (15, length)}
    elif length >= 365:
        third, half, two = ((shift(within.start, "month", months) - within.start).days for months in (4, 6, 8))
        cuts = {"early": (0, third if thirds else half), "mid": (third, two), "late": (two if thirds else half, length)}
    else:
        return None
    first, last = cuts[kind]
    return Range(within.start + timedelta(first), within.start + timedelta(last))
