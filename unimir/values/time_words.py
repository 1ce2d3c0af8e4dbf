"""The words of time expressions: a phrase cut into what each of its words may mean.

Words come from times.yaml, names of months and weekdays from CLDR (babel). Knows no date and no grammar.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import regex
from babel import Locale, UnknownLocaleError

from unimir.data.corpora import parse_yaml
from unimir.values.agreement import language_of

UNITS = ("day", "week", "weekend", "month", "quarter", "half", "year", "decade")
_KINDS = (
    "last", "this", "next", "ago", "in", "from_now", "since", "until", "before", "after", "between", "to",
    "and", "since_behind", "until_behind", "before_behind", "after_behind", "and_after", "and_before", "early",
    "mid", "late", "rest_of", "so_far", "within", "last_but_one", "next_but_one", "last_but_one_behind",
    "next_but_one_behind", "starting", "roughly", "filler",
)  # fmt: skip
_DAYS = {"today": 0, "yesterday": -1, "tomorrow": 1, "before_yesterday": -2, "after_tomorrow": 2}
_YEARS = {"year_before_last": -2, "last_year": -1, "this_year": 0, "next_year": 1}
_NUMERIC = (
    r"(?P<y>\d{4})[-/. ](?P<m>\d{1,2})[-/. ](?P<d>\d{1,2})(?!\d)",
    r"(?P<y>(?:19|20)\d\d)(?P<m>\d\d)(?P<d>\d\d)(?!\d)",
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


_QUARTER = regex.compile(r"[qt]([1-4])(?!\w)")


@dataclass(frozen=True)
class Token:
    """One meaning a word may have, with its number where it has one."""

    kind: str
    value: int = 0
    extra: tuple[int | None, ...] = ()


Meaning = tuple[Token, ...]
"""All that one word may mean."""
Words = Sequence[Meaning]


def cut(phrase: str, lang: str) -> list[Meaning] | None:
    """What the phrase's words may mean, in order; None if the language (of a tag of BCP 47) or a word is not known."""
    lexicon = _lexicons().get(language_of(lang))
    if lexicon is None:
        return None
    region = next((part for part in lang.upper().replace("_", "-").split("-")[1:] if len(part) == 2), None)
    month_first = lexicon.month_first and (region is None or region in lexicon.month_first_in)
    text = regex.sub(r"(?<!\d)\.+$", "", with_digits(phrase).casefold().strip(" ,;:!?،。"))
    words = _cut(lexicon.rewritten(text), lexicon, month_first)
    either = [
        word for word in words or () if is_a(word, "month") and is_a(word, "weekday")
    ]  # "mar." is both in Spanish
    return None if either else words


def with_digits(text: str) -> str:
    """The text with 0 to 9 for the digits of other scripts, and nothing known for those that Python does not know."""
    return regex.sub(r"\d", lambda digit: str(unicodedata.decimal(digit[0], "\ufffd")), text)


def languages() -> tuple[str, ...]:
    """Whose time expressions are known, as codes of ISO 639-1."""
    return tuple(_lexicons())


def number_words(lang: str) -> Mapping[str, int]:
    """The small numbers that the language has a word for."""
    return _lexicons()[lang].numbers


@functools.cache
def _lexicons() -> Mapping[str, _Lexicon]:
    raw = parse_yaml((files("unimir.values") / "times.yaml").read_text(encoding="utf-8"))
    return {lang: _Lexicon(lang, words) for lang, words in raw.items()}


class _Lexicon:
    """A language's words, by length, with all that each may mean."""

    def __init__(self, lang: str, raw: Mapping[str, Any]) -> None:
        self.month_first = "month_first_in" in raw
        self.month_first_in: Sequence[str] = raw.get("month_first_in", ())
        self.spaced = lang not in ("zh", "ja", "th")
        self.meanings: dict[str, dict[Token, None]] = {}
        for unit in UNITS:
            self._add(raw.get(unit, ()), Token("unit", UNITS.index(unit)))
        for kind in _KINDS:
            self._add(raw.get(kind, ()), Token(kind))
        for kind, days in _DAYS.items():
            self._add(raw.get(kind, ()), Token("day_offset", days))
        for kind, years in _YEARS.items():
            self._add(raw.get(kind, ()), Token("year_offset", years))
        self.numbers: Mapping[str, int] = raw.get("numbers", {})
        for kind in ("number", "month", "weekday", "ordinal", "feast", "half_year"):
            for word, number in raw.get(f"{kind}s", {}).items():
                self._add([word], Token(kind, number))
        self._rewrites: Mapping[str, str] = raw.get("rewrites", {})
        self._add_names(lang)
        self.suffixes = "|".join(map(regex.escape, raw.get("ordinal_suffix", ()))) or "(?!)"
        listed = "|".join(regex.escape(word) for word in sorted(self.meanings, key=len, reverse=True))
        edge = r"(?![\p{L}\p{M}])" if self.spaced else ""
        self.pattern = regex.compile(
            rf"(?P<number>\d+)(?:(?P<suffix>{self.suffixes})(?!\p{{L}}))?|(?:(?P<word>{listed}))(?:(?<=['’])|{edge})"
        )

    def rewritten(self, text: str) -> str:
        """The text with a word instead of what says as much as several."""
        for word, words in self._rewrites.items():
            text = regex.sub(rf"(?<!\p{{L}}){regex.escape(word)}(?!\p{{L}})", words, text)
        return text

    def _add(self, words: Sequence[str], token: Token) -> None:
        for word in words:
            self.meanings.setdefault(word.casefold(), {})[token] = None

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
                    if len(name) > 1:  # 日 and 月 are day and month in Japanese, more often than Sunday and Monday
                        self._add([name, name.rstrip(".")], Token("weekday", int(number)))


def _cut(text: str, lexicon: _Lexicon, month_first: bool) -> list[Meaning] | None:
    tokens: list[Meaning] = []
    at = 0
    while at < len(text):
        if text[at].isspace() or text[at] in ",./" or _hyphen(text, at, tokens):
            at += 1
            continue
        numeric = _numeric(text, at, month_first)
        quarter = _QUARTER.match(text, at)
        if numeric is not None:
            token, at = numeric
            tokens.append((token,))
        elif text[at] in "-–—~":
            tokens.append((Token("to"), Token("filler")))
            at += 1
        elif quarter is not None:
            tokens.append((Token("quarter", int(quarter[1])),))
            at = quarter.end()
        else:
            found = lexicon.pattern.match(text, at)
            if found is None:
                return None
            at = found.end()
            if found["number"] is None:
                tokens.append(tuple(lexicon.meanings[found["word"]]))
            else:
                tokens.append(tuple(_number(int(found["number"]), len(found["number"]), found["suffix"])))
            _join_tens(tokens)
    return tokens


def _hyphen(text: str, at: int, tokens: Words) -> bool:
    """Whether this is the hyphen of vingt-neuf."""
    tens = bool(tokens) and any(token.kind == "number" and token.value >= 20 for token in tokens[-1])
    return text[at] == "-" and tens and text[at + 1 : at + 2].isalpha()


def _join_tens(tokens: list[Meaning]) -> None:
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
        tokens[-2:] = [(Token(ones.kind, tens + ones.value),)]


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


def is_a(word: Meaning, kind: str) -> bool:
    return any(token.kind == kind for token in word)


def value_of(word: Meaning, kind: str) -> int | None:
    return next((token.value for token in word if token.kind == kind), None)


def values_of(words: Words, kind: str) -> list[int]:
    return [value for word in words if (value := value_of(word, kind)) is not None]


def step_of(word: Meaning) -> int | None:
    steps = {"last": -1, "this": 0, "next": 1, "last_but_one": -2, "next_but_one": 2}
    steps |= {"last_but_one_behind": -2, "next_but_one_behind": 2}
    return next((steps[token.kind] for token in word if token.kind in steps), None)


def without_filler(word: Meaning, *, all_of_it: bool) -> Meaning | None:
    """None for a word that says nothing in a point: filler alone, or with `all_of_it` whatever can be filler."""
    if is_a(word, "filler") and (all_of_it or not useful(word)):
        return None
    return useful(word) or word


def useful(word: Meaning) -> Meaning:
    unused = ("filler", "roughly", "between", "to", "until", "and")
    return tuple(token for token in word if token.kind not in unused)
