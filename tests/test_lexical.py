"""Lexical baselines: n-gram search equal to scikit-learn's, tokens of many scripts, intents and slots learnt."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimir import lexical, metrics

_BAGS = [
    ["A dog runs", "Ein Hund rennt", "犬が走る"],
    ["a red car", "ein rotes Auto", "赤い車"],
    [],
    ["two dogs and a cat", "zwei Hunde und eine Katze"],
    [" ", "\n"],
]


def test_index_finds_the_item_that_shares_n_grams() -> None:
    index = lexical.LexicalIndex(_BAGS)
    scores = index.scores(["DOG runs", "Auto", "走る", "", "qqq"])
    assert scores.shape == (5, 5) and scores.dtype == np.float32
    assert scores[:3].argmax(axis=1).tolist() == [0, 1, 0]
    assert (scores[3:] == 0).all() and (scores[:, [2, 4]] == 0).all()
    assert (scores >= 0).all() and (scores <= 1 + 1e-6).all()


def test_an_item_scores_one_with_its_own_text() -> None:
    index = lexical.LexicalIndex(_BAGS)
    own = index.scores(["\n".join(bag) for bag in _BAGS])
    np.testing.assert_allclose(own.diagonal(), [1, 1, 0, 1, 0], atol=1e-6)


_word = st.text(st.sampled_from("abAß éİ犬走\n\t1.ा"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(_word, max_size=3), min_size=1, max_size=6), st.lists(_word, min_size=1, max_size=5))
def test_index_equals_tfidf_of_scikit_learn(bags: list[list[str]], queries: list[str]) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    scores = lexical.LexicalIndex(bags).scores(queries)
    if not any("\n".join(bag).split() for bag in bags):
        assert not scores.any()
        return
    plain = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    items = plain.fit_transform(["\n".join(bag) for bag in bags])
    np.testing.assert_allclose(scores, (plain.transform(queries) @ items.T).toarray(), atol=1e-5)


def test_chunks_of_scores_are_its_rows() -> None:
    index = lexical.LexicalIndex(_BAGS)
    queries = ["dog", "car", "Hund", "犬", "x"]
    parts = list(index.iter_scores(queries, chunk=2))
    assert [part.shape for part in parts] == [(2, 5), (2, 5), (1, 5)]
    np.testing.assert_allclose(np.concatenate(parts), index.scores(queries), rtol=1e-6)
    assert index.scores([]).shape == (0, 5)


def test_an_index_without_any_text_scores_zero() -> None:
    assert lexical.LexicalIndex([[], [""]]).scores(["a", "b", "c"]).tolist() == [[0, 0]] * 3
    assert lexical.LexicalIndex([]).scores(["a"]).shape == (1, 0)


def test_wrong_index_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="item 1 is the string 'ab'"):
        lexical.LexicalIndex([["a"], "ab"])
    with pytest.raises(ValueError, match="chunk is 0"):
        list(lexical.LexicalIndex(_BAGS).iter_scores(["a"], chunk=0))


def test_a_large_index_is_fast() -> None:
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), size=rng.integers(2, 9))) for _ in range(3000)]
    bags = [[" ".join(rng.choice(words, size=10)) for _ in range(3)] for _ in range(2000)]
    start = time.perf_counter()
    index = lexical.LexicalIndex(bags)
    scores = index.scores([bag[0] for bag in bags[:500]])
    assert time.perf_counter() - start < 10.0
    assert (scores.argmax(axis=1) == np.arange(500)).mean() > 0.99


_THINGS = ["lights", "alarm", "music", "heating"]
_ROOMS = ["kitchen", "bedroom", "garage", "living room", "hall"]


def _commands(seed: int, rows: int) -> tuple[list[str], list[str], list[list[metrics.Span]]]:
    rng = np.random.default_rng(seed)
    texts, intents, slots = [], [], []
    for _ in range(rows):
        thing, room = rng.choice(_THINGS), rng.choice(_ROOMS)
        intent, head = [("on", "turn on the"), ("off", "please switch off the"), ("ask", "how is the")][rng.integers(3)]
        text = f"{head} {thing} in the {room}" + rng.choice(["", "!", " now"])
        spans = [(text.index(word), text.index(word) + len(word), kind) for word, kind in ((thing, "d"), (room, "r"))]
        texts.append(text)
        intents.append(intent)
        slots.append(spans)
    return texts, intents, slots


def test_intents_are_learnt_and_fits_are_equal() -> None:
    texts, intents, _ = _commands(0, 200)
    new, gold, _ = _commands(1, 50)
    found = lexical.LexicalIntent().fit(texts, intents).predict(new)
    assert metrics.accuracy(gold, found) == 1.0
    assert all(type(one) is str for one in found)
    again = lexical.LexicalIntent().fit(texts, intents)
    odd = ["", "turn", "off how", "犬"]
    assert again.predict(odd) == lexical.LexicalIntent().fit(texts, intents).predict(odd)
    assert again.predict([]) == []


def test_intent_with_one_and_two_classes() -> None:
    assert lexical.LexicalIntent().fit(["a", "b"], ["x", "x"]).predict(["b", ""]) == ["x", "x"]
    assert lexical.LexicalIntent().fit(["aa", "bb"] * 9, ["x", "y"] * 9).predict(["bb", "aa"]) == ["y", "x"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" wake me, 7:30pm! ", ["wake", "me", ",", "7", ":", "30pm", "!"]),
        ("今天5点", ["今", "天", "5", "点"]),
        ("アラーム abc", ["ア", "ラ", "ー", "ム", "abc"]),
        ("مساءً غدا", ["مساءً", "غدا"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("ตั้ง", ["ตั้", "ง"]),
        ("snake_case l'eau", ["snake_case", "l", "'", "eau"]),
        ("내일 7시", ["내일", "7시"]),
        ("👍🏽a", ["👍", "🏽", "a"]),
        ("e\u0301a \u0301b", ["e\u0301a", "\u0301b"]),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in lexical.tokens(text)] == expected


@given(st.text())
def test_tokens_cover_everything_but_space(text: str) -> None:
    spans = lexical.tokens(text)
    flat = [place for span in spans for place in span]
    assert flat == sorted(flat) and all(start < end for start, end in spans)
    covered = "".join(text[start:end] for start, end in spans)
    assert covered == "".join(char for char in text if not char.isspace())


def test_slots_are_learnt_and_fits_are_equal() -> None:
    texts, _, slots = _commands(0, 150)
    new, _, gold = _commands(1, 50)
    found = lexical.LexicalSlots().fit(texts, slots).predict(new)
    assert metrics.slot_f1(gold, found) == 1.0
    model = lexical.LexicalSlots().fit(texts, slots)
    odd = ["", " ", "lights kitchen kitchen", "キッチン", "room living alarm alarm"]
    assert model.predict(odd) == lexical.LexicalSlots().fit(texts, slots).predict(odd)
    assert model.predict(odd)[:2] == [[], []]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([*_THINGS, *_ROOMS, "in", "the", "?", "犬"]), max_size=8).map(" ".join))
def test_predicted_slots_are_ordered_spans_of_whole_tokens(text: str) -> None:
    found = _model().predict([text])[0]
    starts, ends = {s for s, _ in lexical.tokens(text)}, {e for _, e in lexical.tokens(text)}
    assert all(start in starts and end in ends and label in {"d", "r"} for start, end, label in found)
    assert all(one[1] <= two[0] for one, two in zip(found, found[1:], strict=False))


_fitted: list[lexical.LexicalSlots] = []


def _model() -> lexical.LexicalSlots:
    if not _fitted:
        texts, _, slots = _commands(0, 60)
        _fitted.append(lexical.LexicalSlots().fit(texts, slots))
    return _fitted[0]


def test_a_span_inside_a_token_takes_the_token_and_a_corpus_without_slots_predicts_none() -> None:
    texts, slots = ["paris12 now"] * 8, [[(1, 4, "p")]] * 8
    assert lexical.LexicalSlots().fit(texts, slots).predict(["paris12 now"]) == [[(0, 7, "p")]]
    assert lexical.LexicalSlots().fit(["a b", ""], [[], []]).predict(["a c"]) == [[]]


def test_neighbouring_slots_of_one_label_stay_apart() -> None:
    texts, slots = ["play abba queen loud"] * 8, [[(5, 9, "a"), (10, 15, "a")]] * 8
    assert lexical.LexicalSlots().fit(texts, slots).predict(texts[:1]) == [slots[0]]


def test_wrong_arguments_of_the_models_are_named() -> None:
    with pytest.raises(ValueError, match="1 intents for 2 texts"):
        lexical.LexicalIntent().fit(["a", "b"], ["x"])
    with pytest.raises(ValueError, match="none of 1 texts has a word"):
        lexical.LexicalIntent().fit([" "], ["x"])
    with pytest.raises(ValueError, match="0 rows of slots for 1 texts"):
        lexical.LexicalSlots().fit(["a"], [])
    for model in (lexical.LexicalIntent(), lexical.LexicalSlots()):
        with pytest.raises(ValueError, match="call fit first"):
            model.predict(["a"])
    with pytest.raises(ValueError, match="epochs is 0"):
        lexical.LexicalSlots(epochs=0)
    for wrong in ([(0, 9, "a")], [(1, 1, "a")], [(-1, 1, "a")], [(0, 2, "a"), (1, 3, "b")]):
        with pytest.raises(ValueError, match="of row 0 with 3 characters"):
            lexical.LexicalSlots().fit(["abc"], [wrong])
