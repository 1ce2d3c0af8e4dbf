"""Text hygiene, vectorised: Unicode normal form, invisible characters, language tags, scripts, spans that follow along.

Knows no source and no tokenizer: Arrow arrays in, Arrow arrays and masks out.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import langcodes
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from langcodes.data_dicts import LIKELY_SUBTAGS

from unimir.schema import SLOTS

# Controls, and format characters: zero-width (also joiners: text with and without them must meet), bidi marks, BOM,
# soft hyphen. White-space controls are not here: they become spaces.
_INVISIBLE = r"[\p{Cf}\x00-\x08\x0e-\x1b\x7f\x{80}-\x{84}\x{86}-\x{9f}]"
_ODD_SPACE = r"\t-\r\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
_SPACES = f"[ {_ODD_SPACE}]+"
_UNTIDY = f"[{_ODD_SPACE}]|  |^ | $"

_NAMES = {
    "Arab": "Arabic", "Armn": "Armenian", "Beng": "Bengali", "Bopo": "Bopomofo", "Cans": "Canadian_Aboriginal",
    "Cher": "Cherokee", "Copt": "Coptic", "Cyrl": "Cyrillic", "Deva": "Devanagari", "Ethi": "Ethiopic",
    "Geor": "Georgian", "Goth": "Gothic", "Grek": "Greek", "Gujr": "Gujarati", "Guru": "Gurmukhi", "Hang": "Hangul",
    "Hani": "Han", "Hebr": "Hebrew", "Hira": "Hiragana", "Java": "Javanese", "Kana": "Katakana", "Khmr": "Khmer",
    "Knda": "Kannada", "Laoo": "Lao", "Latn": "Latin", "Mlym": "Malayalam", "Mong": "Mongolian", "Mymr": "Myanmar",
    "Nkoo": "Nko", "Olck": "Ol_Chiki", "Orya": "Oriya", "Sinh": "Sinhala", "Syrc": "Syriac", "Taml": "Tamil",
    "Telu": "Telugu", "Tfng": "Tifinagh", "Thaa": "Thaana", "Thai": "Thai", "Tibt": "Tibetan", "Yiii": "Yi",
}  # fmt: skip
_MIXED = {  # ISO 15924 codes of writing systems that mix scripts
    "Hans": ("Hani", "Bopo"),
    "Hant": ("Hani", "Bopo"),
    "Jpan": ("Hira", "Kana", "Hani"),
    "Kore": ("Hang", "Hani"),
}
_ALSO = {  # languages written in several scripts when the tag names none
    "az": "Latn Cyrl Arab", "ber": "Latn Tfng Arab", "bm": "Latn Nkoo", "bs": "Latn Cyrl", "crh": "Latn Cyrl",
    "ff": "Latn", "ha": "Latn Arab", "iu": "Cans Latn", "kk": "Cyrl Latn Arab", "kmr": "Latn Arab Cyrl",
    "kok": "Deva Latn", "ks": "Arab Deva", "ku": "Latn Arab Cyrl", "ky": "Cyrl Latn Arab", "mey": "Arab Latn",
    "mn": "Cyrl Mong", "mni": "Beng", "ms": "Latn Arab", "pa": "Guru Arab", "sd": "Arab Deva", "sh": "Latn Cyrl",
    "shi": "Latn Tfng Arab", "sr": "Cyrl Latn", "tg": "Cyrl Latn Arab", "tk": "Latn Cyrl Arab", "tt": "Cyrl Latn", 
    "tzm": "Latn Tfng Arab", "ug": "Arab Cyrl Latn", "uz": "Latn Cyrl Arab", "yi": "Hebr Latn", "zgh": "Tfng Latn",
}  # fmt: skip


def normalise(texts: pa.Array) -> pa.Array:
    """NFC, without invisible characters, white space collapsed and stripped. Nulls stay null."""
    texts = _replace(texts, _INVISIBLE, _INVISIBLE, "")
    texts = _composed(texts)
    return pc.utf8_trim(_replace(texts, _UNTIDY, _SPACES, " "), " ")


def _replace(texts: pa.Array, found: str, pattern: str, by: str) -> pa.Array:
    """Replaces within the rows that match; a match costs a tenth of a replacement and most rows are clean."""
    mask = pc.fill_null(pc.match_substring_regex(texts, found), False)
    if not pc.any(mask).as_py():
        return texts
    return pc.replace_with_mask(texts, mask, pc.replace_substring_regex(texts.filter(mask), pattern, by))


def _composed(texts: pa.Array) -> pa.Array:
    mask = pc.fill_null(pc.invert(pc.string_is_ascii(texts)), False)
    if not pc.any(mask).as_py():
        return texts
    return pc.replace_with_mask(texts, mask, pc.utf8_normalize(texts.filter(mask), "NFC"))


def normalise_spans(texts: pa.Array, slots: pa.Array) -> tuple[pa.Array, pa.Array]:
    """`normalise` for annotated texts: the spans move to the same words of the cleaned text."""
    cleaned = normalise(texts)
    changed = pc.fill_null(pc.not_equal(texts, cleaned), False)
    lengths = pc.fill_null(pc.list_value_length(slots), 0).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(texts)), lengths)
    moved = changed.to_numpy(zero_copy_only=False)[rows]
    if not moved.any():
        return cleaned, slots
    flat = slots.flatten()
    starts, ends = (flat.field(i).to_numpy(zero_copy_only=False).copy() for i in (0, 1))
    before, after = texts.to_pylist(), cleaned.to_pylist()
    heads = [before[row][:at] for row, at in zip(rows[moved], starts[moved], strict=True)]
    tails = [before[row][:at] for row, at in zip(rows[moved], ends[moved], strict=True)]
    # What stands before a position keeps its own cleaned length, whatever follows.
    left, right = (pc.utf8_length(normalise(pa.array(parts, pa.string()))).to_pylist() for parts in (heads, tails))
    for i, (row, start) in enumerate(zip(rows[moved].tolist(), left, strict=True)):
        left[i] = start + (after[row][start : start + 1] == " ")  # the space belongs to no span
    starts[moved], ends[moved] = left, right
    spans = pa.StructArray.from_arrays(
        [pa.array(starts, pa.int32()), pa.array(ends, pa.int32()), flat.field(2)], fields=list(SLOTS.value_type)
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return cleaned, pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), spans, type=SLOTS)


def slots_fit(texts: pa.Array, slots: pa.Array) -> tuple[Any, Any]:
    """Two masks over rows: every span lies within the text and is labelled; no two spans overlap."""
    lengths = pc.fill_null(pc.list_value_length(slots), 0).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(texts)), lengths)
    flat = slots.flatten()
    starts, ends = (pc.fill_null(flat.field(i), -1).to_numpy(zero_copy_only=False) for i in (0, 1))
    limits = pc.fill_null(pc.utf8_length(texts), 0).to_numpy(zero_copy_only=False)[rows]
    named = pc.fill_null(pc.not_equal(flat.field(2), ""), False).to_numpy(zero_copy_only=False)
    inside, apart = np.ones(len(texts), dtype=bool), np.ones(len(texts), dtype=bool)
    inside[rows[~((starts >= 0) & (starts < ends) & (ends <= limits) & named)]] = False
    order = np.lexsort((starts, rows))
    same = rows[order][1:] == rows[order][:-1]
    apart[rows[order][1:][same & (starts[order][1:] < ends[order][:-1])]] = False
    return inside, apart


# ---- languages ------------------------------------------------------------------------------------------------------


def standard_tags(tags: pa.Array) -> pa.Array:
    """BCP-47 tags in standard form; null where there is no such language."""
    coded = tags.dictionary_encode()
    known = pa.array([None if tag is None else standard_tag(tag) for tag in coded.dictionary.to_pylist()], pa.string())
    return known.take(coded.indices)


MAX_TAG = 35
"""Characters that RFC 5646 asks readers of a tag to have room for."""


def standard_tag(tag: str) -> str | None:
    """One tag in standard form; None for one that is none, or too long."""
    return _standard_tag(tag) if len(tag) <= MAX_TAG else None


@lru_cache(maxsize=4096)
def _standard_tag(tag: str) -> str | None:
    try:
        standard = langcodes.standardize_tag(tag.strip())
        return standard if langcodes.Language.get(standard).is_valid() else None
    except (ValueError, LookupError):
        return None


def check_language(texts: pa.Array, langs: pa.Array) -> pa.Array:
    """False where a text of at least 4 letters is not in a script of its language.

    Half of the letters must be in one. Latin names and loans among letters of another script are neither for nor
    against (product names make up most of many a Korean sentence), but a tenth of all letters must be its own.
    """
    coded = langs.dictionary_encode()
    scripts = [_scripts(tag) if tag else None for tag in coded.dictionary.to_pylist()]
    groups = {script: number for number, script in enumerate(dict.fromkeys(scripts))}
    of_row = np.array([groups[script] for script in scripts] or [0])[
        pc.fill_null(coded.indices, 0).to_numpy(zero_copy_only=False)
    ]
    fits = np.ones(len(texts), dtype=bool)
    for script, number in groups.items():
        rows = np.flatnonzero(of_row == number)
        if script is None or not len(rows):
            continue
        # Most texts hold no letter of another script at all; one match settles those without counting.
        group = texts.take(pa.array(rows))
        foreign = pc.fill_null(pc.match_substring_regex(group, rf"[^{script}\p{{Common}}\p{{Inherited}}]"), False)
        mixed = rows[foreign.to_numpy(zero_copy_only=False)]
        if len(mixed):
            fits[mixed] = _mostly(texts.take(pa.array(mixed)), script)
    return pa.array(fits)


def _mostly(texts: pa.Array, script: str) -> npt.NDArray[np.bool_]:
    letters = pc.replace_substring_regex(texts, r"\P{L}+", "")
    total, own, latin = (
        pc.utf8_length(counted).to_numpy(zero_copy_only=False)
        for counted in (
            letters,
            pc.replace_substring_regex(letters, rf"[^{script}]+", ""),
            pc.replace_substring_regex(letters, r"\P{Latin}+", ""),
        )
    )
    neutral = 0 if "Latin" in script else latin
    fits: npt.NDArray[np.bool_] = (total < 4) | ((own * 2 >= total - neutral) & (own * 10 >= total))
    return fits


@lru_cache(maxsize=4096)
def _scripts(tag: str) -> str | None:
    """The inside of a regular expression's class of the scripts a language is written in; None: not known."""
    language = langcodes.Language.get(tag)
    # Of a language that CLDR says nothing of, `maximize` takes English for likely.
    known = any(tag in LIKELY_SUBTAGS for tag in language.broader_tags() if not tag.startswith("und"))
    likely = language.script or (language.maximize().script if known else None)
    codes = [*_MIXED.get(likely or "", (likely,))] if likely else []
    if language.script is None:
        codes += _ALSO.get(language.language or "", "").split()
    names = [_NAMES.get(code or "") for code in dict.fromkeys(codes)]
    return "".join(rf"\p{{{name}}}" for name in names) if names and all(names) else None
