"""Baselines that see only characters: search by shared n-grams, intents and slots by linear models.

Fitted in the same run and on the same rows as the model they are compared with. Knows no file, corpus or encoder.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import groupby
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unimir.bio import best_path
from unimir.metrics import Span

_SEED = 0
_INTENT_EPOCHS = 5
_DROP = 0.5  # share of a sentence's words hidden from the slot model in training: uniform between 0 and this
_UNSPACED = (  # scripts written without spaces: each letter is a token of its own
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


class LexicalIndex:
    """Cosine of TF-IDF vectors of character 2- to 4-grams inside word boundaries, sublinear term frequency.

    As scikit-learn's TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True) fitted on the items,
    but every distinct word is cut into n-grams once.
    """

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        """Index N items, each by a bag of texts (a picture by its training captions); a bag may be empty."""
        from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

        for item, bag in enumerate(documents):
            if isinstance(bag, str):
                raise ValueError(f"item {item} is the string {bag!r}; must be a sequence of strings")
        self.items = len(documents)
        texts = ["\n".join(bag).lower() for bag in documents]
        self._grams: Any = None  # stays None without any word: every score is then 0
        if not any(text.split() for text in texts):
            return
        words = CountVectorizer(analyzer=str.split, dtype=np.float32)
        words_of_item = words.fit_transform(texts)
        self._grams = CountVectorizer(analyzer="char_wb", ngram_range=(2, 4), dtype=np.float32)
        grams_of_word = self._grams.fit_transform(words.get_feature_names_out().tolist())
        self._weights = TfidfTransformer(sublinear_tf=True)
        self._columns = self._weights.fit_transform(words_of_item @ grams_of_word).T.tocsr()  # sparse [grams, N]

    def iter_scores(self, queries: Sequence[str], chunk: int = 256) -> Iterator[NDArray[np.float32]]:
        """Yield the rows of `scores` in order, `chunk` queries at a time: float32 [<= chunk, N]."""
        if chunk < 1:
            raise ValueError(f"chunk is {chunk}; must be at least 1")
        for start in range(0, len(queries), chunk):
            part = list(queries[start : start + chunk])
            if self._grams is None:
                yield np.zeros((len(part), self.items), dtype=np.float32)
            else:
                rows = self._weights.transform(self._grams.transform(part))
                yield (rows @ self._columns).toarray()

    def scores(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Cosine of each of Q queries with each item, float32 [Q, N] in [0, 1]; 0 for an item or query without text."""
        found = np.zeros((len(queries), self.items), dtype=np.float32)
        row = 0
        for part in self.iter_scores(queries):
            found[row : row + len(part)] = part
            row += len(part)
        return found


def _check_fit(texts: Sequence[str], labels: Sequence[Any], what: str) -> None:
    if len(texts) != len(labels):
        raise ValueError(f"{len(labels)} {what} for {len(texts)} texts; must be as many")
    if not any(text.strip() for text in texts):
        raise ValueError(f"none of {len(texts)} texts has a word; at least one must")


class LexicalIntent:
    """Intent of a text by one-vs-rest logistic regression on TF-IDF of character 1- to 4-grams.

    Trained by averaged stochastic gradient descent from a fixed seed: equal rows in equal order predict equally.
    """

    def __init__(self) -> None:
        self._model: Any = None

    def fit(self, texts: Sequence[str], intents: Sequence[str]) -> Self:
        """Learn from N texts and their N intents."""
        from sklearn.dummy import DummyClassifier
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import SGDClassifier

        _check_fit(texts, intents, "intents")
        self._grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, dtype=np.float32)
        model = SGDClassifier(
            loss="log_loss", alpha=1e-5, max_iter=_INTENT_EPOCHS, tol=None, average=True, random_state=_SEED
        )
        self._model = model if len(set(intents)) > 1 else DummyClassifier(strategy="most_frequent")
        self._model.fit(self._grams.fit_transform(texts), list(intents))
        return self

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Most likely intent of each text."""
        if self._model is None:
            raise ValueError("LexicalIntent predicts before it is fitted; call fit first")
        return [str(intent) for intent in self._model.predict(self._grams.transform(texts))] if len(texts) else []


@cache
def _char_class(char: str) -> str:
    """'w' part of a word, 'm' a mark that stays with what is before it, 's' a space, '1' a token of its own."""
    category = unicodedata.category(char)
    if char.isspace():
        return "s"
    if category[0] == "M" or category == "Cf":
        return "m"
    if any(low <= ord(char) <= high for low, high in _UNSPACED) or not (char.isalnum() or char == "_"):
        return "1"
    return "w"


def tokens(text: str) -> list[tuple[int, int]]:
    """Character spans of words, single punctuation marks and single letters of scripts written without spaces."""
    found: list[tuple[int, int]] = []
    before = "s"
    for place, char in enumerate(text):
        kind = _char_class(char)
        if before != "s" and (kind == "m" or (kind == "w" and before == "w")):
            found[-1] = (found[-1][0], place + 1)
        elif kind != "s":
            found.append((place, place + 1))
            before = "w" if kind == "m" else kind
        else:
            before = "s"
    return found


@lru_cache(maxsize=1 << 16)
def _shape(word: str) -> str:
    kinds = ("d" if c.isdigit() else "X" if c.isupper() else "x" if c.isalpha() else c for c in word)
    return "".join(kind for kind, _ in groupby(kinds))


_READS: tuple[tuple[int, ...], ...] = ((0,), (0,), (0,), (), (-1,), (1,), (-2,), (2,), (-1, 0), (0, 1), ())
"""For each feature of a token the words it names, relative to the token."""
_NAMES = np.array([[at in reads for reads in _READS] for at in range(-2, 3)])  # bool [words from -2 to 2, features]


def _features(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[str, ...]]:
    """As many strings for each token as `_READS` has entries, each string starting with the letter of its feature."""
    words = [text[start:end] for start, end in spans]
    lower = ["", "", *(word.lower() for word in words), "", ""]
    rows = []
    for place, word in enumerate(words):
        two, one, here, right, far = lower[place : place + 5]
        around = (one, right, two, far, f"{one} {here}", f"{here} {right}", "")
        values = (here, here[:3], here[-3:], _shape(word), *around)
        rows.append(tuple(chr(97 + number) + value for number, value in enumerate(values)))
    return rows


def _hide(columns: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Some words of one sentence [tokens, features] turned into unknown ones, wherever a feature names them."""
    hidden = np.zeros(len(columns) + 4, dtype=bool)
    hidden[2:-2] = rng.random(len(columns)) < _DROP * rng.random()
    around = hidden[np.arange(len(columns))[:, None] + np.arange(5)]  # [tokens, words from -2 to 2]
    return np.where(around @ _NAMES, np.arange(len(_READS)), columns)


def _tags(row: int, text: str, spans: Sequence[tuple[int, int]], slots: Sequence[Span]) -> list[str]:
    """BIO tags: a token belongs to the slot it overlaps, to the first one where there are two."""
    tags = ["O"] * len(spans)
    last = 0
    for start, end, label in sorted(slots):
        if not last <= start < end <= len(text):
            raise ValueError(
                f"slot {(start, end, label)} of row {row} with {len(text)} characters; must be inside, without overlap"
            )
        last = end
        prefix = "B"
        for place, (low, high) in enumerate(spans):
            if low < end and start < high and tags[place] == "O":
                tags[place] = f"{prefix}-{label}"
                prefix = "I"
    return tags


class LexicalSlots:
    """Slots of a text as the best legal BIO sequence of its tokens, by a structured averaged perceptron.

    Collins 2002, over each token, its affixes and neighbours and the tag before. Words are hidden at random from a
    fixed seed in training, so that a word never seen, as of another language, has weights too.
    """

    def __init__(self, *, epochs: int = 6) -> None:
        if epochs < 1:
            raise ValueError(f"epochs is {epochs}; must be at least 1")
        self._epochs = epochs
        self._tags: list[str] = []

    def fit(self, texts: Sequence[str], slots: Sequence[Sequence[Span]]) -> Self:
        """Learn from N texts and their N lists of (start, end, label) character spans."""
        _check_fit(texts, slots, "rows of slots")
        cut = [tokens(text) for text in texts]
        tagged = [_tags(row, *one) for row, one in enumerate(zip(texts, cut, slots, strict=True))]
        rows = [_features(text, spans) for text, spans in zip(texts, cut, strict=True)]
        counts = Counter(feature for sentence in rows for token in sentence for feature in token)
        kept = (feature for feature, count in counts.items() if count > 1)
        self._columns = {feature: column for column, feature in enumerate(kept, start=len(_READS))}
        self._tags = sorted({tag for tags in tagged for tag in tags})
        number = {tag: index for index, tag in enumerate(self._tags)}
        self._train([self._known(row) for row in rows], [[number[tag] for tag in tags] for tags in tagged])
        return self

    def _known(self, sentence: Sequence[tuple[str, ...]]) -> NDArray[np.int64]:
        """Columns [tokens, features] of the weights; feature f not seen twice in training has column f."""
        found = [[self._columns.get(value, f) for f, value in enumerate(token)] for token in sentence]
        return np.array(found, dtype=np.int64).reshape(-1, len(_READS))

    def _legal(self) -> NDArray[np.float32]:
        """Float32 [1 + tags, tags], row 0 for the start: 0, or -inf where BIO forbids a tag after another."""
        steps = np.zeros((1 + len(self._tags), len(self._tags)), dtype=np.float32)
        for index, tag in enumerate(self._tags):
            if tag.startswith("I-"):
                legal = {tag, "B-" + tag[2:]}
                steps[[True, *(other not in legal for other in self._tags)], index] = -np.inf
        return steps

    def _train(self, sentences: Sequence[NDArray[np.int64]], gold: Sequence[list[int]]) -> None:
        rng = np.random.default_rng(_SEED)
        steps = self._legal()
        weights = np.zeros((len(_READS) + len(self._columns), len(self._tags)), dtype=np.float32)
        past_weights, past_steps = np.zeros(weights.shape), np.zeros(steps.shape)  # updates times when they came
        filled = [row for row, tags in enumerate(gold) if tags]
        clock = 1
        for _ in range(self._epochs):
            for row in rng.permutation(filled):
                seen = _hide(sentences[row], rng)
                path = best_path(weights[seen].sum(axis=1), steps)
                before_right = before_wrong = 0
                for token, right, wrong in zip(seen, gold[row], path, strict=True):
                    if right != wrong:
                        for change, tag in ((1, right), (-1, wrong)):
                            weights[token, tag] += change
                            past_weights[token, tag] += change * clock
                    if (before_right, right) != (before_wrong, wrong):
                        for change, step in ((1, (before_right, right)), (-1, (before_wrong, wrong))):
                            steps[step] += change
                            past_steps[step] += change * clock
                    before_right, before_wrong = right + 1, wrong + 1
                clock += 1
        self._weights = (weights - past_weights / clock).astype(np.float32)
        self._steps = (steps - past_steps / clock).astype(np.float32)

    def predict(self, texts: Sequence[str]) -> list[list[Span]]:
        """Character spans of each text, in order and without overlap."""
        if not self._tags:
            raise ValueError("LexicalSlots predicts before it is fitted; call fit first")
        return [self._predict(text, tokens(text)) for text in texts]

    def _predict(self, text: str, spans: Sequence[tuple[int, int]]) -> list[Span]:
        slots: list[Span] = []
        scores = self._weights[self._known(_features(text, spans))].sum(axis=1)
        for (start, end), index in zip(spans, best_path(scores, self._steps) if spans else [], strict=True):
            tag = self._tags[index]
            if tag.startswith("B-"):
                slots.append((start, end, tag[2:]))
            elif tag.startswith("I-"):
                slots[-1] = (slots[-1][0], end, tag[2:])
        return slots
