"""Text hygiene: normal form, spans that follow, languages and scripts."""

import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimir.data.clean import check_language, normalise, normalise_spans, slots_fit, standard_tag, standard_tags
from unimir.schema import SLOTS

ASSIGNED = st.characters(exclude_categories=["Cs", "Cn", "Co"])
MESSY = st.text(st.one_of(ASSIGNED, st.sampled_from(list(" \t\n\u00a0\u200b\u200d\u202e\ufeff\u0301\u00ad é한e"))))


def one(text: str) -> str:
    return normalise(pa.array([text]))[0].as_py()


@given(MESSY)
@settings(max_examples=300, deadline=None)
def test_normalise_properties(text: str) -> None:
    clean = one(text)
    assert one(clean) == clean
    assert unicodedata.is_normalized("NFC", clean)
    assert clean == clean.strip() and "  " not in clean
    assert not [
        char for char in clean if unicodedata.category(char) in ("Cc", "Cf") or (char.isspace() and char != " ")
    ]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  two\t\n words ", "two words"),
        ("e\u0301", "é"),
        ("zero\u200bwidth", "zerowidth"),
        ("a \u200b b", "a b"),
        ("e\u200d\u0301", "é"),
        ("\u202eevil\u202c", "evil"),
        ("bell\x07 nul\x00", "bell nul"),
        ("line\u2028sep", "line sep"),
        ("\ufeffbom", "bom"),
        ("\u200b", ""),
        ("日本\u3000語", "日本 語"),
    ],
)
def test_normalise_examples(raw: str, clean: str) -> None:
    assert one(raw) == clean


def test_normalise_keeps_nulls() -> None:
    assert normalise(pa.array(["a ", None], pa.string())).to_pylist() == ["a", None]


@given(
    st.lists(st.text(st.characters(categories=["Lu", "Ll", "Nd"], max_codepoint=0x24F), min_size=1), min_size=1),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_spans_keep_their_words(words: list[str], data: st.DataObject) -> None:
    space = st.text(st.sampled_from(" \t\u00a0\u200b\u202e"), min_size=1)
    text, slots = data.draw(space), []
    for word in words:
        slots.append({"start": len(text), "end": len(text) + len(word), "label": word})
        text += word + " " + data.draw(space)
    cleaned, moved = normalise_spans(pa.array([text]), pa.array([slots], SLOTS))
    found = [cleaned[0].as_py()[slot["start"] : slot["end"]] for slot in moved[0].as_py()]
    assert found == [one(word) for word in words]


def test_spans_of_clean_texts_stay() -> None:
    slots = pa.array([[{"start": 0, "end": 3, "label": "a"}], [], None], SLOTS)
    texts, moved = normalise_spans(pa.array(["dog cat", "x", " y "]), slots)
    assert texts.to_pylist() == ["dog cat", "x", "y"] and moved.to_pylist() == slots.to_pylist()


def test_spans_include_outer_spaces_no_more() -> None:
    slots = pa.array([[{"start": 1, "end": 8, "label": "a"}]], SLOTS)
    texts, moved = normalise_spans(pa.array(["a  big  dog"]), slots)
    start, end = moved[0].as_py()[0]["start"], moved[0].as_py()[0]["end"]
    assert texts[0].as_py()[start:end] == "big"


@pytest.mark.parametrize(
    ("slots", "inside", "apart"),
    [
        ([], True, True),
        ([(0, 3)], True, True),
        ([(0, 4)], False, True),
        ([(2, 2)], False, True),
        ([(-1, 2)], False, True),
        ([(1, 3), (0, 2)], True, False),
        ([(1, 3), (0, 1)], True, True),
    ],
)
def test_slots_fit(slots: list[tuple[int, int]], inside: bool, apart: bool) -> None:
    column = pa.array([[], [{"start": a, "end": b, "label": "x"} for a, b in slots]], SLOTS)
    fits, separate = slots_fit(pa.array(["", "dog"]), column)
    assert (fits.tolist(), separate.tolist()) == ([True, inside], [True, apart])


@pytest.mark.parametrize(
    ("tag", "standard"),
    [
        ("en", "en"),
        ("EN-us", "en-US"),
        ("spa", "es"),
        ("srp-Latn", "sr-Latn"),
        ("zh_CN", "zh-CN"),
        ("english", None),
        ("", None),
        pytest.param("-".join(["en"] + 3000 * ["abcde"]), None, id="long"),
    ],
)
def test_tags(tag: str, standard: str | None) -> None:
    assert standard_tag(tag) == standard
    assert standard_tags(pa.array([tag, None, tag], pa.string())).to_pylist() == [standard, None, standard]


@pytest.mark.parametrize(
    ("text", "lang", "fits"),
    [
        ("a lazy dog", "en", True),
        ("ленивая собака", "en", False),
        ("ленивая собака", "ru", True),
        ("a lazy dog", "ru", False),
        ("dog", "ru", True),  # fewer than four letters decide nothing
        ("12:30 !!", "ru", True),
        ("lenji pas", "sr", True),
        ("лењи пас", "sr", True),
        ("лењи пас", "sr-Latn", False),
        ("怠け者の犬カタカナ", "ja", True),
        ("게으른 개", "ko", True),
        ("PowerShell 버전을 가져오는 변수", "ko", True),  # names stay in Latin script
        ("set a short timer 분", "ko", False),
        ("懒狗在睡觉", "zh", True),
        ("懒狗在睡觉", "yue-Hans", True),
        ("नमस्ते दुनिया", "hi", True),
        ("ጤና ይስጥልኝ", "am", True),
        ("anything goes", "und", True),
        ("что угодно", "und", True),
        ("سلام دنیا", "azb", True),  # not known to CLDR, which is no reason to take it for English
        ("ленивая собака", "arb", False),  # known by its macrolanguage
    ],
)
def test_language(text: str, lang: str, fits: bool) -> None:
    assert check_language(pa.array([text]), pa.array([lang])).to_pylist() == [fits]


def test_language_of_many_rows_keeps_their_order() -> None:
    texts, langs = ["dog barks", "собака", "dog barks", "собака"], ["en", "ru", "ru", "en"]
    assert check_language(pa.array(texts), pa.array(langs)).to_pylist() == [True, True, False, False]
    assert check_language(pa.array([], pa.string()), pa.array([], pa.string())).to_pylist() == []
