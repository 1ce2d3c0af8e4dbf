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
_DIGITS = regex.compile(r"\d+")
_ARTICLES = regex.compile(r"^(?:(?:the|le|la|les|el|los|las|il|lo|der|die|das|o|a|os|as|al)\s+|l['’]\s*)(?=\p{L})")
_LANGUAGES = (
    "en", "de", "es", "fr", "it", "pt", "ru", "ar", "zh", "ja", "nl", "pl", "tr", "uk", "ko", "hi", "id", "vi",
    "sv", "da", "nb", "fi", "cs", "hu", "ro", "el", "he", "th", "fa", "bn", "ta", "sw",
)  # fmt: skip


class Names:
    """Looks values up by their names."""

    def __init__(self, values: Iterable[str], synonyms: Mapping[str, Sequence[str]]) -> None:
        spelt: dict[str, list[str]] = {}  # "Berlin" and "BERLIN" are one
        for value in sorted(set(values)):
            if name := plain(value):
                spelt.setdefault(name, []).append(value)
        known: dict[str, set[str]] = {name: {name} for name in spelt}
        for value, others in synonyms.items():
            for other in others if plain(value) in spelt else ():
                known.setdefault(plain(other), set()).add(plain(value))
        for names in _cldr():
            for own in names & spelt.keys():
                for name in names - spelt.keys():
                    known.setdefault(name, set()).add(own)
        self._known = {name: next(iter(found)) for name, found in known.items() if len(found) == 1}
        self._listed, self._spelt = list(self._known), spelt

    def find(self, said: str) -> tuple[Sequence[str], float] | None:
        """The value that is meant, in all its spellings, and how sure that is, in (0, 1].

        None if none is meant, or several may be; and for a name that is more like that of a place which the collection
        does not hold: Austria is no misspelt Australia.
        """
        name = plain(said)
        if name in self._known:
            return self._spelt[self._known[name]], 1.0
        if len(name) < 3:
            return None
        near = process.extract(name, self._listed, scorer=fuzz.ratio, score_cutoff=MIN_RATIO - _MARGIN, limit=8)
        ranked: dict[str, float] = {}
        for other, ratio, _ in near:
            short = min(len(name), len(other)) < 5
            numbered = _DIGITS.findall(name) != _DIGITS.findall(other)  # iPhone 15 is no misspelt iPhone 14
            if not numbered and (not short or name.startswith(other) or other.startswith(name)):
                ranked.setdefault(self._known[other], ratio)
        (value, best), second = next(iter(ranked.items()), ("", 0.0)), [*ranked.values(), 0.0, 0.0][1]
        if best < MIN_RATIO or best - second < _MARGIN:
            return None
        # What is more like it than this is not longer or shorter by more.
        least, most = len(name) * best / (200 - best), len(name) * (200 - best) / best
        places = [place for length, named in _places().items() if least <= length <= most for place in named]
        place = process.extractOne(name, places, scorer=fuzz.ratio, score_cutoff=best)
        elsewhere = place is not None and place[1] > best and self._known.get(place[0]) != value
        return None if elsewhere else (self._spelt[value], best / 100)


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


@functools.cache
def _places() -> Mapping[int, Sequence[str]]:
    """All names of cities and countries, by length."""
    by_length: dict[int, list[str]] = {}
    for name in frozenset[str]().union(*_cldr()):
        by_length.setdefault(len(name), []).append(name)
    return by_length
