"""What composing queries needs of each language: sentences with a gap, times, cities and the few words of a table.

Knows `compose_words.yaml`, the phrase files and xSID's labels; knows no picture and composes nothing.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MANY = 50  # a language with more sentences than this holds out a tenth of them
_QUOTES = re.compile(r'\s*["“”„]\s*')


@dataclass(frozen=True)
class Words:
    """One language of compose_words.yaml, and the phrases of its locale."""

    code: str
    raw: Mapping[str, Any]
    times: tuple[tuple[str, ...], ...]  # relative, counted and calendar times
    cities: tuple[str, ...]

    @property
    def tag(self) -> str:
        """The language of its queries."""
        return str(self.raw.get("tag", self.code))

    @property
    def locale(self) -> str:
        """Whose names, keywords and phrases it uses."""
        return str(self.raw["words"])

    def options(self, name: str) -> list[str]:
        """The ways the table gives for one thing."""
        return str(self.raw[name]).split("|")


@dataclass(frozen=True)
class Frame:
    """A sentence with {content} and perhaps {picture}, and the words that may stand for the latter."""

    text: str
    pictures: tuple[str, ...]


def words_of(code: str, raw: Mapping[str, Any], root: Path) -> Words:
    """One language; ValueError names a file of phrases that is missing."""
    path = root / "phrases" / f"{raw['words']}.json"
    if not path.is_file():
        raise ValueError(f"{path}: no file of phrases there")
    phrases = json.loads(path.read_text(encoding="utf-8"))
    zones = phrases["cities"].items()
    cities = {name for zone, name in zones if zone.count("/") == 1 and not zone.startswith(("Etc/", "Antarctica/"))}
    return Words(code, raw, _times(phrases, code), tuple(sorted(cities)))


def _times(phrases: Mapping[str, Any], code: str) -> tuple[tuple[str, ...], ...]:
    """What the locale says of a time that has been: relative units, counted units, months and years."""
    relative, counted, calendar = [], [], []
    for unit, forms in phrases["relative"].items():
        if unit in ("hour", "minute", "second"):
            continue
        weekday = len(unit) == 3 and unit != "day"
        kinds = [f"relative-type-{at}" for at in (("-1",) if weekday else ("-2", "-1", "0"))]
        relative += [forms[kind] for kind in kinds if kind in forms]
        if unit in ("day", "week", "month", "year"):
            past = {key.rsplit("-", 1)[1]: text for key, text in forms["relativeTime-type-past"].items()}
            counted += [past.get(_plural(code, number), past["other"]).format(number) for number in range(2, 11)]
    months = list(phrases["months"]["standalone"].values())
    for year in range(2015, 2026):
        calendar += [f"{year}年{month}" if code == "zh" else f"{month} {year}" for month in months]
        calendar += 3 * [f"{year}年" if code == "zh" else str(year)]
    return tuple(relative), tuple(counted), tuple(calendar + 3 * months)


def _plural(code: str, number: int) -> str:
    """CLDR's plural category of 2 to 10."""
    if code == "ar":
        return "two" if number == 2 else "few"
    if code == "lt":
        return "few" if number < 10 else "other"
    return "few" if code == "sr" and number < 5 else "other"


def frame_of(text: str, slots: Sequence[Mapping[str, Any]], raw: Mapping[str, Any]) -> Frame | None:
    """The sentence with its object's name and type replaced, or None if it is of no use."""
    names = [span for span in slots if span["label"] == "object_name"]
    kinds = [span for span in slots if span["label"] == "object_type"]
    if len(names) != 1 or len(kinds) > 1 or len(slots) != len(names) + len(kinds) or re.search(r"[\[\]{}]", text):
        return None
    bracketed = text
    for span in sorted(slots, key=lambda span: -int(span["start"])):
        put = "{content}" if span in names else f"[{text[span['start'] : span['end']]}]"
        bracketed = f"{bracketed[: span['start']]} {put} {bracketed[span['end'] :]}"
    bracketed = re.sub(r"\s+([.,?!。？؟،，])", r"\1", " ".join(_QUOTES.sub(" ", bracketed).split()))
    if re.search(raw["drop"], bracketed):
        return None
    pictures: tuple[str, ...] = ()
    if kinds:
        before, kind, after = re.split(r"\[(.*?)\]", bracketed)
        wanted = (before.split() or ["^"])[-1].lower()
        by_word = raw["picture"]
        listed = kind if kind.lower() in raw["keep"].lower().split("|") else by_word.get(wanted, by_word.get("*"))
        if listed is None:
            return None
        pictures = tuple(str(listed).split("|"))
        bracketed = f"{before}{{picture}}{after}"
    return Frame(re.sub(r"(\bl') ", r"\1", bracketed), pictures)


def divided(found: Sequence[tuple[Frame, str]]) -> dict[str, list[Frame]]:
    """Frames by split: for evaluation those that no training sentence of xSID has, and no frame is in both.

    A language with many frames holds out some more; one whose evaluation would have none gives one of its training.
    """
    wordings: dict[str, dict[str, None]] = defaultdict(dict)  # texts that differ in case and punctuation only are one
    pictures: dict[str, dict[str, None]] = defaultdict(dict)
    trained = set()
    for frame, split in found:
        key = re.sub(r"[^\w{}]+", " ", frame.text.lower()).strip()
        wordings[key][frame.text] = None
        pictures[key].update(dict.fromkeys(frame.pictures))
        if split == "train":
            trained.add(key)
    ordered = sorted(wordings, key=lambda key: (zlib.crc32(key.encode()), key))
    held = [key for key in ordered if key not in trained]
    if len(ordered) > _MANY:
        held += [key for key in ordered if key in trained][: len(ordered) // 10]
    elif len(held) in (0, len(ordered)):
        held = ordered[: max(1, len(ordered) // 4)]
    splits: dict[str, list[Frame]] = {"train": [], "evaluation": []}
    for key in ordered:
        split = "evaluation" if key in held else "train"
        splits[split] += [Frame(text, tuple(pictures[key])) for text in wordings[key]]
    return {split: frames or splits["evaluation"] for split, frames in splits.items()}
