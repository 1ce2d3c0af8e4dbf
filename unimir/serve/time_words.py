"""The words of time expressions: a phrase cut into what each of its words may mean.

Words come from times.yaml, names of months and weekdays from CLDR (babel). Knows no date and no grammar.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import regex
from babel import Locale, UnknownLocaleError

from unimir.data.corpora import parse_yaml

UNITS = ("day", "week", "weekend", "month", "quarter", "half", "year", "decade")
_KINDS = ("last", "this", "next", "ago", "in", "from_now", "since", "until", "before", "after", "between", "to", "and",
          "since_behind", "before_behind", "after_behind", "and_after", "and_before", "early", "mid", "late",
          "rest_of", "so_far", "within", "last_but_one", "next_but_one", "starting", "filler")  # fmt: skip
_DAYS = {"today": 0, "yesterday": -1, "tomorrow": 1, "before_yesterday": -2, "after_tomorrow": 2}
_YEARS = {"last_year": -1, "this_year": 0, "next_year": 1}
_NUMERIC = (
    r"(?P<y>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})(?!\d)",
    r"(?P<a>\d{1,2})[-/. ](?P<b>\d{1,2})[-/. ](?P<y>\d{4}|\d{2})(?!\d)",
    r"(?P<y>\d{4})[-/.](?P<m>0?[1-9]|1[0-2])(?![-/.]?\d)",
    r"(?P<m>0?[1-9]|1[0-2])[-/.](?P<y>\d{4})(?!\d)",
    r"(?P<a>\d{1,2})(?:[/.]|\. )(?P<b>\d{1,2})(?!\d)\.?",
    r"(?P<y>\d{4})\s*年(?:\s*(?P<m>\d{1,2})\s*月(?:\s*(?P<d>\d{1,2})\s*[日号號])?)?",
    r"(?P<y>0\d)\s*年",
    r"(?P<y>\d\d)\s*年(?:\s*(?P<m>\d{1,2})\s*月(?:\s*(?P<d>\d{1,2})\s*[日号號])?)",
    r"(?P<m>\d{1,2})\s*月\s*(?P<d>\d{1,2})\s*[日号號]",
    r"(?P<m>\d{1,2})\s*月(?:份)?(?!间)",
)


@dataclass(frozen=True)
class Token:
    """One meaning a word may have, with its number where it has one."""

    kind: str
    value: int = 0
    extra: tuple[int | None, ...] = ()


Meaning = frozenset[Token]
"""All that one word may mean."""
Words = Sequence[Meaning]


def cut(phrase: str, lang: str) -> list[frozenset[Token]] | None:
    """What the phrase's words may mean, in order; None if the language or a word is not known."""
    lexicon = _lexicons().get(lang.split("-")[0].lower())
    return (
        None if lexicon is None else _cut(regex.sub(r"(?<!\d)\.+$", "", phrase.casefold().strip(" ,;:!?،。")), lexicon)
    )


@functools.cache
def _lexicons() -> Mapping[str, _Lexicon]:
    raw = parse_yaml((files("unimir.serve") / "times.yaml").read_text(encoding="utf-8"))
    return {lang: _Lexicon(lang, words) for lang, words in raw.items()}


class _Lexicon:
    """A language's words, by length, with all that each may mean."""

    def __init__(self, lang: str, raw: Mapping[str, Any]) -> None:
        self.month_first = bool(raw.get("month_first"))
        self.spaced = lang not in ("zh", "ja", "th")
        self.meanings: dict[str, set[Token]] = {}
        for unit in UNITS:
            self._add(raw.get(unit, ()), Token("unit", UNITS.index(unit)))
        for kind in _KINDS:
            self._add(raw.get(kind, ()), Token(kind))
        for kind, days in _DAYS.items():
            self._add(raw.get(kind, ()), Token("day_offset", days))
        for kind, years in _YEARS.items():
            self._add(raw.get(kind, ()), Token("year_offset", years))
        for word, number in raw.get("numbers", {}).items():
            self._add([word], Token("number", number))
        for word, number in raw.get("months", {}).items():
            self._add([word], Token("month", number))
        for word, number in raw.get("weekdays", {}).items():
            self._add([word], Token("weekday", number))
        for word, number in raw.get("ordinals", {}).items():
            self._add([word], Token("ordinal", number))
        self._add_names(lang)
        self.suffixes = "|".join(map(regex.escape, raw.get("ordinal_suffix", ()))) or "(?!)"
        listed = "|".join(regex.escape(word) for word in sorted(self.meanings, key=len, reverse=True))
        edge = r"(?![\p{L}\p{M}])" if self.spaced else ""
        self.pattern = regex.compile(
            rf"(?P<number>\d+)(?:(?P<suffix>{self.suffixes})(?!\p{{L}}))?|(?:(?P<word>{listed}))(?:(?<=['’])|{edge})"
        )

    def _add(self, words: Sequence[str], token: Token) -> None:
        for word in words:
            self.meanings.setdefault(word.casefold(), set()).add(token)

    def _add_names(self, lang: str) -> None:
        try:
            locale = Locale.parse(lang)
        except UnknownLocaleError:
            return
        for context in ("format", "stand-alone"):
            for width in ("wide", "abbreviated"):
                for number, name in locale.months[context][width].items():
                    self._add([name, name.rstrip(".")], Token("month", int(number)))
                for number, name in locale.days[context][width].items():
                    self._add([name, name.rstrip(".")], Token("weekday", int(number)))


def _cut(text: str, lexicon: _Lexicon) -> list[frozenset[Token]] | None:
    tokens: list[frozenset[Token]] = []
    at = 0
    while at < len(text):
        if text[at].isspace() or text[at] in ",./":
            at += 1
            continue
        numeric = _numeric(text, at, lexicon.month_first)
        if numeric is not None:
            token, at = numeric
            tokens.append(frozenset([token]))
            continue
        if text[at] == "-" and tokens and any(t.kind == "number" and t.value >= 20 for t in tokens[-1]):
            if text[at + 1 : at + 2].isalpha():  # vingt-neuf
                at += 1
                continue
        if text[at] in "-–—~":
            tokens.append(frozenset([Token("to"), Token("filler")]))
            at += 1
            continue
        quarter = regex.compile(r"[qt]([1-4])(?!\w)").match(text, at)
        if quarter is not None:
            tokens.append(frozenset([Token("quarter", int(quarter[1]))]))
            at = quarter.end()
            continue
        found = lexicon.pattern.match(text, at)
        if found is None:
            return None
        at = found.end()
        if found["number"] is None:
            tokens.append(frozenset(lexicon.meanings[found["word"]]))
        else:
            tokens.append(frozenset(_number(int(found["number"]), len(found["number"]), found["suffix"])))
        _join_tens(tokens)
    return tokens


def _join_tens(tokens: list[frozenset[Token]]) -> None:
    """Twenty and nine are twenty-nine."""
    if len(tokens) > 2 and any(t.kind in ("and", "to") for t in tokens[-2]):
        pair = [tokens[-3], tokens[-1]]
        if all(any(t.kind == "number" and not t.extra for t in token) for token in pair):
            _join_tens(pair)
            if len(pair) == 1:
                tokens[-3:] = pair
                return
    if len(tokens) < 2:
        return
    tens = next((t.value for t in tokens[-2] if t.kind == "number" and t.value in (20, 30, 40, 50)), None)
    ones = next((t for t in tokens[-1] if t.kind in ("number", "ordinal") and 1 <= t.value <= 9), None)
    if tens is not None and ones is not None:
        tokens[-2:] = [frozenset([Token(ones.kind, tens + ones.value)])]


def _number(value: int, digits: int, suffix: str | None) -> list[Token]:
    if suffix is not None:
        return [Token("ordinal", value)]
    if digits == 4 and 1500 <= value < 2200:
        return [Token("year", value)]
    return [Token("number", value, (1,))] if digits <= 4 else []


def _numeric(text: str, at: int, month_first: bool) -> tuple[Token, int] | None:
    for pattern in _NUMERIC:
        found = regex.compile(pattern).match(text, at)
        if found is None:
            continue
        parts = {name: int(value) for name, value in found.groupdict().items() if value is not None}
        if "a" in parts:
            one, two = parts.pop("a"), parts.pop("b")
            first = (month_first or two > 12) and one <= 12
            parts["m"], parts["d"] = (one, two) if first else (two, one)
        year = parts.get("y")
        if year is not None and year < 100:
            year += 1900 if year >= 50 else 2000
        return Token("date", extra=(year, parts.get("m"), parts.get("d"))), found.end()
    return None
