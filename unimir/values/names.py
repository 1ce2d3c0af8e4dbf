"""Names that people say to the values that a collection holds: "Пекине", "柏林" and "berlín" to Peking and Berlin.

A value is also known by what CLDR calls that city or country in other languages, and by the synonyms it is given. Words
are compared without case, accents and articles, then by how many letters differ. Knows no field and no filter.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import regex
from babel import Locale
from rapidfuzz import fuzz, process

MIN_RATIO = 80
"""Of 100: a name less alike than this is another name."""
_MARGIN = 5  # by which the best must beat the next value
_ARTICLES = regex.compile(r"^(?:(?:the|le|la|les|el|los|las|il|lo|der|die|das|o|a|os|as|al)\s+|l['’]\s*)(?=\p{L})")
_LANGUAGES = (
    "en", "de", "es", "fr", "it", "pt", "ru", "ar", "zh", "ja", "nl", "pl", "tr", "uk", "ko", "hi", "id", "vi",
    "sv", "da", "nb", "fi", "cs", "hu", "ro", "el", "he", "th", "fa", "bn", "ta", "sw",
)  # fmt: skip


class Names:
    """Looks values up by their names."""

    def __init__(self, values: Iterable[str], synonyms: Mapping[str, Sequence[str]]) -> None:
        own: dict[str, str] = {plain(value): value for value in values if plain(value)}
        known: dict[str, set[str]] = {name: {value} for name, value in own.items()}
        for value, others in synonyms.items():
            if value in own.values():
                for other in others:
                    known.setdefault(plain(other), set()).add(value)
        for names in _cldr():
            for value in {own[name] for name in names if name in own}:
                for name in names - own.keys():
                    known.setdefault(name, set()).add(value)
        self._known = {name: next(iter(found)) for name, found in known.items() if len(found) == 1}
        self._listed = list(self._known)

    def find(self, said: str) -> tuple[str, float] | None:
        """The value that is meant and how sure that is, in (0, 1]; None if none is, or several may be."""
        name = plain(said)
        if name in self._known:
            return self._known[name], 1.0
        if len(name) < 3:
            return None
        near = process.extract(name, self._listed, scorer=fuzz.ratio, score_cutoff=MIN_RATIO - _MARGIN, limit=8)
        ranked: dict[str, float] = {}
        for other, ratio, _ in near:
            short = min(len(name), len(other)) < 5
            if not short or name.startswith(other) or other.startswith(name):
                ranked.setdefault(self._known[other], ratio)
        (value, best), second = next(iter(ranked.items()), ("", 0.0)), [*ranked.values(), 0.0, 0.0][1]
        return (value, best / 100) if best >= MIN_RATIO and best - second >= _MARGIN else None


def plain(name: str) -> str:
    """A name without case, accents, an article in front, and anything between its words but a space."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", name.casefold()) if not unicodedata.combining(c))
    return _ARTICLES.sub("", " ".join(regex.sub(r"[^\p{L}\p{N}'’]+", " ", bare).split()))


@functools.cache
def _cldr() -> tuple[frozenset[str], ...]:
    """For each city of the time zone table and each country, what it is called in many languages."""
    names: dict[str, set[str]] = {}
    for lang in _LANGUAGES:
        locale = Locale.parse(lang)
        for zone, said in locale.time_zones.items():
            if "/" in zone and "city" in said:
                names.setdefault(zone, {plain(zone.rsplit("/", 1)[1].replace("_", " "))}).add(plain(said["city"]))
        for code, country in locale.territories.items():
            if len(code) == 2:
                names.setdefault(code, set()).add(plain(country))
    return tuple(frozenset(found - {""}) for found in names.values())
