"""Say an item in a language: its content phrase, its constraints, and marked slots turned into offsets.

Knows the lexicon and the agreement rules of each language. Does not know files, pictures, rows or how items are chosen.
"""

import calendar
import datetime
import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import yaml

_LEXICON_PATH = Path(__file__).with_name("sample_lexicon.yaml")
_SLOT = re.compile("\ue000(\\w+)\ue001(.*?)\ue002")
_ARABIC_DIGITS = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
_GENDERS = "mfn"
_DAY = datetime.timedelta(days=1)

T = TypeVar("T")
Rng = np.random.Generator


class Content(NamedTuple):
    """What a picture shows; a quantity of 0 means "such things" without saying how many."""

    thing: str
    colour: str
    quantity: int
    pattern: str
    scene: str

    @property
    def group_id(self) -> str:
        return "|".join(str(field) for field in self)

    @property
    def composition(self) -> str:
        return f"{self.thing}|{self.colour}|{self.scene}"


class Slot(NamedTuple):
    """A labelled stretch of a text, in characters, end exclusive."""

    start: int
    end: int
    label: str


class Window(NamedTuple):
    """A time phrase's key, the days it covers (end exclusive) and the values its wording needs."""

    key: str
    start: datetime.date
    end: datetime.date
    values: dict[str, str | int]


Forms = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Speech:
    """One language's words; `raw` holds the templates as the YAML spells them."""

    code: str
    space: str
    numbers: tuple[tuple[Forms, ...], ...]
    nouns: dict[str, tuple[Forms, ...]]
    colours: dict[str, tuple[Forms, ...]]
    patterns: dict[str, tuple[Forms, ...]]
    scenes: dict[str, tuple[str, ...]]
    raw: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The sample catalog's vocabulary: the values of each attribute and how each language says them."""

    objects: tuple[str, ...]
    colours: tuple[str, ...]
    counts: tuple[int, ...]
    patterns: tuple[str, ...]
    scenes: tuple[str, ...]
    places: tuple[str, ...]
    languages: dict[str, Speech]


@functools.cache
def lexicon() -> Lexicon:
    """The vocabulary, read from the YAML beside this file on the first call."""
    raw = yaml.safe_load(_LEXICON_PATH.read_text(encoding="utf-8"))
    languages = {}
    for code, words in raw["languages"].items():
        words["names"] = raw["names"][words["script"]]
        tables = {
            key: {name: _forms(text) for name, text in words[key].items()} for key in ("nouns", "colours", "patterns")
        }
        scenes = {name: tuple(text.split("|")) for name, text in words["scenes"].items()}
        numbers = tuple(_forms(text) for text in words["numbers"])
        languages[code] = Speech(code, words["space"], numbers, scenes=scenes, raw=words, **tables)
    lists = {key: tuple(raw[key]) for key in ("objects", "colours", "counts", "patterns", "scenes", "places")}
    return Lexicon(**lists, languages=languages)


def _forms(text: str) -> tuple[Forms, ...]:
    return tuple(tuple(word.replace("_", " ") for word in option.split()) or ("",) for option in text.split("|"))


def pick(options: Sequence[T], rng: Rng) -> T:
    return options[int(rng.random() * len(options))]


def _form(forms: Forms, index: int) -> str:
    """One form; a word given only once never inflects."""
    return forms[index] if len(forms) > 1 else forms[0]


# Agreement: (gender, count, case) to the indices of the noun's, the adjectives' and the number's forms.
Agreement = Callable[[str, int, str], tuple[int, int, int]]


def _plural_only(gender: str, count: int, case: str) -> tuple[int, int, int]:
    return int(count != 1), 0, 0


def _german(gender: str, count: int, case: str) -> tuple[int, int, int]:
    index = _GENDERS.index(gender)
    if count != 1:
        return (2, 3, 0) if case == "dat" else (1, 1, 0)
    if case == "dat":
        return 0, 3, 5 if gender == "f" else 4
    return (0, 3, 3) if case == "acc" and gender == "m" else (0, index, index)


def _romance(gender: str, count: int, case: str) -> tuple[int, int, int]:
    index, plural = _GENDERS.index(gender), int(count != 1)
    return plural, index + 2 * plural, index


def _russian(gender: str, count: int, case: str) -> tuple[int, int, int]:
    index = _GENDERS.index(gender)
    if case == "gen" or count == 0:
        oblique = 4 if gender == "f" else 3
        return (1, oblique, oblique) if count == 1 else (2, 6, 3)
    return (0, index, index) if count == 1 else (3, 5 if gender == "f" else 6, index)


def _arabic(gender: str, count: int, case: str) -> tuple[int, int, int]:
    index = _GENDERS.index(gender)
    if count == 2:
        return (3, 4 + index, 0) if case == "obl" else (2, 2 + index, 0)
    # Plurals of things agree as feminine singular.
    return (0, index, index) if count == 1 else (1, 1, index)


def _uninflected(gender: str, count: int, case: str) -> tuple[int, int, int]:
    return 0, 0, 0


_AGREEMENTS: dict[str, Agreement] = {
    "en": _plural_only,
    "de": _german,
    "es": _romance,
    "fr": _romance,
    "ru": _russian,
    "ar": _arabic,
    "zh": _uninflected,
    "ja": _uninflected,
}


def _noun_forms(code: str, words: Forms) -> Forms:
    """The noun's forms with those a rule gives: Russian paucal, Arabic dual."""
    if code == "ru" and len(words) == 3:
        return (*words, words[1])
    if code == "ar" and len(words) == 2:
        stem = words[0][:-1] + "ت" if words[0].endswith("ة") else words[0]
        return (*words, stem + "ان", stem + "ين")
    return words


def content_phrase(code: str, content: Content, case: str, rng: Rng) -> str:
    """The content in one of its wordings; solid may go unsaid, everything else is always said.

    The case "title" is a nominative that stands alone and so may start with the scene.
    """
    speech = lexicon().languages[code]
    marker, *words = pick(speech.nouns[content.thing], rng)
    noun, adjective, number = _AGREEMENTS[code](marker, content.quantity, case)
    pattern = _form(pick(speech.patterns[content.pattern], rng), adjective)
    if content.pattern == "solid" and rng.random() < 0.5:
        pattern = ""
    after = pattern.startswith("+")
    counted = content.quantity > 0
    templates = speech.raw["phrases" if counted else "bare"]
    template = pick(templates + speech.raw["titles"] if case == "title" else templates, rng)
    text = template.format(
        num=_form(pick(speech.numbers[content.quantity - 1], rng), number) if counted else "",
        mark=marker,
        pat="" if after else pattern,
        post=pattern[1:] if after else "",
        col=_form(pick(speech.colours[content.colour], rng), adjective),
        noun=_form(_noun_forms(code, tuple(words)), noun),
        scene=pick(speech.scenes[content.scene], rng),
    )
    return " ".join(text.split())


def slot(label: str, text: str) -> str:
    """The text marked as a slot, for `unmark` to find once the sentence is whole."""
    return f"\ue000{label}\ue001{text}\ue002"


def bracketed(label: str, text: str) -> str:
    return text.replace("[", f"\ue000{label}\ue001").replace("]", "\ue002")


def unbracketed(text: str) -> str:
    return text.replace("[", "").replace("]", "")


def unmark(text: str) -> tuple[str, list[Slot]]:
    """The plain text, and where its marked slots lie in it."""
    plain, slots, done = "", [], 0
    for match in _SLOT.finditer(text):
        plain += text[done : match.start()]
        slots.append(Slot(len(plain), len(plain) + len(match[2]), match[1]))
        plain += match[2]
        done = match.end()
    return plain + text[done:], slots


def windows(day: datetime.date, today: datetime.date) -> list[Window]:
    """Every time phrase that covers the day, seen from today; month names mean their latest occurrence."""
    monday, first = today - today.weekday() * _DAY, today.replace(day=1)
    month_before = (first - _DAY).replace(day=1)
    tomorrow, year, age = today + _DAY, today.year, (today - day).days
    month_end = day.replace(day=calendar.monthrange(day.year, day.month)[1]) + _DAY
    found = [
        Window("today", today, tomorrow, {}),
        Window("yesterday", today - _DAY, today, {}),
        Window("this_week", monday, monday + 7 * _DAY, {}),
        Window("last_week", monday - 7 * _DAY, monday, {}),
        Window("two_weeks_ago", today - 14 * _DAY, today - 13 * _DAY, {}),
        Window("this_month", first, (first + 31 * _DAY).replace(day=1), {}),
        Window("last_month", month_before, first, {}),
        Window("this_year", datetime.date(year, 1, 1), datetime.date(year + 1, 1, 1), {}),
        Window("last_year", datetime.date(year - 1, 1, 1), datetime.date(year, 1, 1), {}),
        Window("year", datetime.date(day.year, 1, 1), datetime.date(day.year + 1, 1, 1), {"year": day.year}),
    ]
    if 3 <= age <= 9:
        found.append(Window("days_ago", day, day + _DAY, {"n": age}))
    if age <= 28:
        reach = max(3, age + 1 + age % 3)
        found.append(Window("past_days", today - reach * _DAY, tomorrow, {"n": reach}))
    if age < 330:
        values: dict[str, str | int] = {"month": day.month - 1, "n": day.day}
        found.append(Window("month", day.replace(day=1), month_end, values))
        found.append(Window("since_month", day.replace(day=1), tomorrow, values))
        found.append(Window("day", day, day + _DAY, values))
    return [window for window in found if window.start <= day < window.end]


def time_phrase(code: str, window: Window, rng: Rng) -> str:
    """The window in words, its slot in brackets."""
    raw = lexicon().languages[code].raw
    values = dict(window.values)
    if "month" in values:
        names = raw.get({"since_month": "months_since", "month": "months_in"}.get(window.key, ""), raw["months"])
        values |= {"month": names[int(values["month"])], "nth": _ordinal(int(values["n"]))}
    wording: str = pick(raw["times"][window.key].split("|"), rng)
    return wording.format(**values)


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number not in (11, 12, 13) else "th"
    return f"{number}{ending}"


def price_phrase(code: str, bounds: dict[str, int], currency: str, rng: Rng) -> str:
    """The bounds in words, their slot in brackets."""
    raw = lexicon().languages[code].raw
    money = pick(raw["currencies"][currency].split("|"), rng)
    kind = "range" if len(bounds) == 2 else next(iter(bounds))
    said = {"lo": money.format(n=bounds.get("min", "")), "hi": money.format(n=bounds.get("max", ""))}
    text: str = pick(raw["price"][kind].split("|"), rng).format(**said)
    return text.translate(_ARABIC_DIGITS) if code == "ar" and rng.random() < 0.3 else text
