"""Amounts to bounds: "under 50 euros", "zwischen 20 und 35 €", "5000日元以下", "at least three".

Knows the words of amounts.yaml and the currencies of ISO 4217; knows no field and no filter. What it does not know
ends in no amount.
"""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import regex
from babel.numbers import get_decimal_symbol, list_currencies

from unimir.data.corpora import parse_yaml
from unimir.values.agreement import language_of
from unimir.values.time_words import number_words, with_digits

_BOUNDS = ("below", "at_most", "above", "at_least")
_NUMBER = regex.compile(r"[1-9]\d{0,2}(?:([.,'’٬\s])\d{3})(?:\1\d{3})*(?:[.,٫]\d{1,2})?(?!\d)|\d+(?:[.,٫]\d+)?")


@dataclass(frozen=True)
class Amount:
    """low <= amount < high; None is open. An exact amount has low and the next number. `unit`: currency or the like."""

    low: float | None
    high: float | None
    unit: str | None


@dataclass(frozen=True)
class _Word:
    """A number, a unit, or all that another word may mean."""

    number: float | None = None
    unit: str | None = None
    kinds: frozenset[str] = frozenset()
    times: int = 1  # what the number has been multiplied by


def languages() -> tuple[str, ...]:
    """Whose amounts are known, as codes of ISO 639-1."""
    return tuple(_lexicons())


def read_amount(phrase: str, lang: str, units: Mapping[str, str], *, exact: bool) -> Amount | None:
    """The amount that the phrase says in this language (a tag of BCP 47), or None if that is not certain.

    `units` are words for units beside those of currencies, with what they are called in the answer. Without `exact` a
    number with no word of a bound ("50 euros") is no amount, because it may be meant roughly.
    """
    lexicon = _lexicons().get(language_of(lang))
    words = None if lexicon is None else lexicon.cut(_plain(phrase), units)
    if not words:
        return None
    places = [place for place, word in enumerate(words) if word.number is not None]
    named = {word.unit for word in words if word.unit is not None}
    said = [word.kinds for word in words if word.kinds]
    if len(named) > 1 or not 1 <= len(places) <= 2:
        return None
    unit = next(iter(named), None)
    numbers = [number for word in words if (number := word.number) is not None]
    if len(numbers) == 2:
        between = [word.kinds for word in words[places[0] + 1 : places[1]] if word.kinds]
        joined = sum("to" in kinds for kinds in between) == 1
        known = all(kinds & {"between", "to", "filler"} for kinds in said)
        known = known and all(word.kinds & {"between", "filler"} for word in words[: places[0]] if word.kinds)
        low, high = numbers
        times = words[places[1]].times
        if words[places[0]].times == 1 and low < high / times:  # 5-10k, two to three thousand
            low *= times
        return Amount(low, _next(high), unit) if joined and known and low < high else None
    return _one_sided(numbers[0], said, unit, exact)


def _one_sided(number: float, said: Sequence[frozenset[str]], unit: str | None, exact: bool) -> Amount | None:
    bounds = {kind for kinds in said for kind in kinds if kind in _BOUNDS and "filler" not in kinds}
    if not all(kinds & {*_BOUNDS, "filler"} for kinds in said) or len(bounds) > 1:
        return None
    match next(iter(bounds), None):
        case "below":
            return Amount(None, number, unit)
        case "at_most":
            return Amount(None, _next(number), unit)
        case "above":
            return Amount(_next(number), None, unit)
        case "at_least":
            return Amount(number, None, unit)
    return Amount(number, _next(number), unit) if exact else None


@functools.cache
def _lexicons() -> Mapping[str, _Lexicon]:
    raw = parse_yaml((files("unimir.values") / "amounts.yaml").read_text(encoding="utf-8"))
    shared = {**{code.casefold(): code for code in list_currencies()}, **raw["signs"]}
    return {lang: _Lexicon(lang, words, shared) for lang, words in raw["languages"].items()}


class _Lexicon:
    """A language's words around amounts, longest first."""

    def __init__(self, lang: str, raw: Mapping[str, Any], signs: Mapping[str, str]) -> None:
        self._units = {_plain(sign): code for sign, code in signs.items()}
        self._units |= {_plain(word): code for code, words in raw["currencies"].items() for word in words}
        self._numbers = {_plain(word): number for word, number in number_words(lang).items()}
        self._multipliers = {_plain(word): number for word, number in raw["multipliers"].items()}
        self._decimal = get_decimal_symbol(lang)
        self._kinds: dict[str, set[str]] = {}
        for kind in (*_BOUNDS, "between", "to", "filler"):
            for word in raw.get(kind, ()):
                self._kinds.setdefault(_plain(word), set()).add(kind)
        for dash in "-–—":
            self._kinds[dash] = {"to"}
        self._spaced = lang not in ("zh", "ja")

    def cut(self, text: str, units: Mapping[str, str]) -> list[_Word] | None:
        """The words of the text; None if one is not known."""
        own = {_plain(word): name for word, name in units.items()}
        words: list[_Word] = []
        at = 0
        while at < len(text):
            number = _NUMBER.match(text, at)
            if number is not None:
                if number[1] == self._decimal and number[0].count(self._decimal) == 1:
                    return None  # 1.234 in English: written as at home, or as elsewhere
                at = number.end()
                words.append(_Word(number=_value(number[0], number[1])))
                continue
            if text[at].isspace() or (text[at] in ",،.。" and not text[at + 1 : at + 2].isdecimal()):
                at += 1
                continue
            found = self._longest(text, at, own)
            if found is None:
                return None
            at += len(found)
            last = words[-1].number if words else None
            if found in self._multipliers and last is not None:
                times = self._multipliers[found]
                words[-1] = _Word(number=last * times, times=words[-1].times * times)
            elif found in own or found in self._units:
                words.append(_Word(unit=own.get(found) or self._units[found]))
            elif found in self._kinds:
                words.append(_Word(kinds=frozenset(self._kinds[found])))
            elif found in self._numbers:
                words.append(_Word(number=float(self._numbers[found])))
            else:
                return None
        return words

    def _longest(self, text: str, at: int, own: Mapping[str, str]) -> str | None:
        """The longest word that begins here; in languages with spaces, letters end at a word's edge."""
        for length in range(min(24, len(text) - at), 0, -1):
            word = text[at : at + length]
            after = text[at + length : at + length + 1]
            if self._spaced and word[-1].isalpha() and after.isalpha():
                continue
            if any(word in known for known in (own, self._units, self._kinds, self._multipliers, self._numbers)):
                return word
        return None


def _value(written: str, grouped: str | None) -> float:
    """A number as it is written: a separator between a first digit that is no zero and three more groups them."""
    if grouped is not None:
        written = written.replace(grouped, "")
    return float(written.replace(",", ".").replace("٫", "."))


def _next(number: float) -> float:
    return math.nextafter(number, math.inf)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", with_digits(text)).casefold().strip()
