"""A bundle on the evaluation split of a prepared corpus: numbers per language, each beside a lexical baseline.

Every number goes through `Encoder`, the path of embedding and serving. Knows no trainer, no job and no report's layout.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unimir import metrics
from unimir.config import Config, EvalTask
from unimir.data.image import decode_stored
from unimir.data.prepared import read_images, read_kind
from unimir.evaluate_checks import check
from unimir.evaluate_nlu import judge_understanding, named
from unimir.infer import Encoder
from unimir.lexical import LexicalIndex
from unimir.schema import PREPARED, Split

QUERY_CHUNK = 512
"""Queries scored against the whole pool at once."""

Vectors = NDArray[np.float32]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Items:
    """What is ranked: pictures and texts in one list."""

    images: list[str]  # image_ids
    texts: list[str]
    by_group: dict[int, list[int]]  # positions in the list: pictures first, then texts

    def __len__(self) -> int:
        return len(self.images) + len(self.texts)


@dataclass(frozen=True)
class Queries:
    """Texts that ask, and which items answer each."""

    texts: list[str]
    langs: list[str]
    relevant: list[NDArray[np.int64]]


Part = tuple[Queries, Vectors, Vectors, Sequence[str]]
"""Queries with vectors of what they ask by, and the vectors and texts of their own pool."""


def evaluate(
    encoder: Encoder, prepared: Path, config: Config, *, progress: Progress = lambda name: None
) -> dict[str, float]:
    """Flat metrics `TASK.METRIC.AGGREGATE`; ValueError where the corpus and the bundle do not fit together."""
    check(prepared, config)
    found: dict[str, float] = {}
    for task in config.evaluation:
        progress(task.name or task.measure)
        tables = {split: _read(prepared, task, split) for split in ("train", config.eval_split)}
        held_out = tables[config.eval_split]
        pool = held_out if task.pool == "evaluation" else pa.concat_tables(tables.values())
        found.update(_MEASURES[task.measure](task, encoder, _Corpus(prepared, tables["train"], held_out, pool)))
    return found


@dataclass(frozen=True)
class _Corpus:
    prepared: Path
    train: pa.Table
    held_out: pa.Table
    pool: pa.Table


def _read(prepared: Path, task: EvalTask, split: Split) -> pa.Table:
    columns = [name for name in PREPARED[task.kind].names if name not in ("ids", "doc_ids", "token_slots")]
    table = read_kind(prepared, task.kind, split, columns)
    return table.filter(pc.is_in(table["source"], pa.array(task.sources))) if task.sources else table


def _text_to_image(task: EvalTask, encoder: Encoder, corpus: _Corpus) -> dict[str, float]:
    items = _items(corpus.pool)
    queries = _queries(corpus, items, task.max_queries)
    item_vectors = _embed_items(encoder, items, corpus.prepared)
    return {
        **_judge(task.name, queries, _dots(encoder.embed_texts(queries.texts), item_vectors), task.metrics),
        **_judge(f"{task.name}_lexical", queries, _lexical(corpus, items, queries.texts), task.metrics),
    }


def _query_to_item(task: EvalTask, encoder: Encoder, corpus: _Corpus) -> dict[str, float]:
    items = _items(corpus.pool)
    queries = _queries(corpus, items, task.max_queries)
    item_vectors = _embed_items(encoder, items, corpus.prepared)
    fused, plain = encoder.embed_texts(queries.texts, as_query=True), encoder.embed_texts(queries.texts)
    return {
        **_judge(task.name, queries, _dots(fused, item_vectors), task.metrics),
        **_judge(f"{task.name}_plain", queries, _dots(plain, item_vectors), task.metrics),
        **_judge(f"{task.name}_lexical", queries, _lexical(corpus, items, queries.texts), task.metrics),
    }


def _image_to_text(task: EvalTask, encoder: Encoder, corpus: _Corpus) -> dict[str, float]:
    """Held-out pictures against all held-out texts of one language at a time."""
    return _judge_parts(task, _to_languages(task, encoder, corpus))


def _to_languages(task: EvalTask, encoder: Encoder, corpus: _Corpus) -> Iterator[Part]:
    items = _items(corpus.held_out)
    image_vectors = _embed_items(encoder, items, corpus.prepared)
    words = _training_texts(corpus.train, "image_id")
    captions = [" ".join(words.get(image, ())) for image in items.images]
    for lang in sorted(set(corpus.held_out["lang"].to_pylist())):
        rows = corpus.held_out.filter(pc.equal(corpus.held_out["lang"], lang))
        texts = sorted(set(rows["text"].to_pylist()))
        place = {text: i for i, text in enumerate(texts)}
        answers: dict[int, set[int]] = defaultdict(set)  # of each picture, those of all its groups
        for group, text in zip(rows["group"].to_pylist(), rows["text"].to_pylist(), strict=True):
            for position in items.by_group.get(group, ()):
                answers[position].add(place[text])
        chosen = sorted(answers, key=lambda position: _by_hash(items.images[position]))[: task.max_queries]
        if chosen:
            relevant = [np.array(sorted(answers[position])) for position in chosen]
            queries = Queries([captions[position] for position in chosen], [lang] * len(chosen), relevant)
            yield queries, image_vectors[chosen], encoder.embed_texts(texts), texts


def _text_to_text(task: EvalTask, encoder: Encoder, corpus: _Corpus) -> dict[str, float]:
    if task.kind == "parallel":
        return _judge_parts(task, _across_languages(encoder, corpus.held_out, task.max_queries))
    items = _items(corpus.pool)
    queries = _queries(corpus, items, task.max_queries)
    scores = _dots(encoder.embed_texts(queries.texts), encoder.embed_texts(items.texts))
    lexical = LexicalIndex([[text] for text in items.texts]).iter_scores(queries.texts, QUERY_CHUNK)
    return {
        **_judge(task.name, queries, scores, task.metrics),
        **_judge(f"{task.name}_lexical", queries, lexical, task.metrics),
    }


def _across_languages(encoder: Encoder, table: pa.Table, limit: int) -> Iterator[Part]:
    """Every language against the texts of English, and English against the next largest language."""
    texts: dict[str, dict[int, str]] = defaultdict(dict)
    for lang, group, text in zip(*(table[c].to_pylist() for c in ("lang", "group", "text")), strict=True):
        texts[lang].setdefault(group, text)
    by_size = sorted(texts, key=lambda lang: (lang != "en", -len(texts[lang]), lang))
    for lang in sorted(texts):
        pool = texts[by_size[0] if lang != by_size[0] else by_size[1]]
        candidates = sorted(set(pool.values()))
        place = {text: i for i, text in enumerate(candidates)}
        answers: dict[str, set[int]] = defaultdict(set)  # of each text, those of all its groups
        for group in texts[lang].keys() & pool.keys():
            answers[texts[lang][group]].add(place[pool[group]])
        chosen = sorted(answers, key=_by_hash)[:limit]
        if chosen:
            relevant = [np.array(sorted(answers[text])) for text in chosen]
            queries = Queries(chosen, [lang] * len(chosen), relevant)
            yield queries, encoder.embed_texts(queries.texts), encoder.embed_texts(candidates), candidates


def _items(table: pa.Table) -> Items:
    """The distinct pictures and documents of the rows."""
    groups = table["group"].to_pylist()
    places: list[dict[str, int]] = []
    owners: list[set[tuple[int, int]]] = []
    for column in ("image_id", "doc_text"):
        names = table[column].to_pylist() if column in table.column_names else [None] * len(groups)
        place: dict[str, int] = {}
        owner = set()
        for name, group in zip(names, groups, strict=True):
            if name is not None:
                owner.add((group, place.setdefault(name, len(place))))
        places.append(place)
        owners.append(owner)
    by_group: dict[int, list[int]] = defaultdict(list)
    for offset, owner in zip((0, len(places[0])), owners, strict=True):
        for group, position in sorted(owner, key=lambda pair: pair[1]):
            by_group[group].append(offset + position)
    return Items(list(places[0]), list(places[1]), by_group)


def _queries(corpus: _Corpus, items: Items, limit: int) -> Queries:
    """Distinct held-out texts per language; relevant is every item of the text's groups, or said to be the same."""
    groups_of: dict[tuple[str, str], set[int]] = defaultdict(set)
    for row in _rows(corpus.pool, "lang", "text", "group"):
        groups_of[row[0], row[1]].add(row[2])
    chosen: dict[str, list[str]] = defaultdict(list)
    for lang, text in sorted(set(_rows(corpus.held_out, "lang", "text")), key=lambda pair: _by_hash(pair[1])):
        if len(chosen[lang]) < limit:
            chosen[lang].append(text)
    texts, langs, relevant = [], [], []
    for lang, own in sorted(chosen.items()):
        for text in own:
            found = {position for group in groups_of[lang, text] for position in items.by_group.get(group, ())}
            if found:
                texts.append(text)
                langs.append(lang)
                relevant.append(np.array(sorted(found)))
    return Queries(texts, langs, relevant)


def _embed_items(encoder: Encoder, items: Items, prepared: Path) -> Vectors:
    vectors = np.full((len(items), encoder.dim), np.nan, np.float32)
    place = {image_id: i for i, image_id in enumerate(items.images)}
    if place:
        for batch in read_images(prepared).select(["image_id", "image"]).to_batches(max_chunksize=256):
            wanted = [(place[r["image_id"]], r["image"]) for r in batch.to_pylist() if r["image_id"] in place]
            if wanted:
                images = [decode_stored(data, target=encoder.bundle.preprocess.size) for _, data in wanted]
                vectors[[p for p, _ in wanted]] = encoder.embed_images(images)
    if np.isnan(vectors[: len(place), 0]).any():
        lost = items.images[int(np.isnan(vectors[: len(place), 0]).argmax())]
        raise ValueError(f"{prepared}: picture {lost!r} is asked for, and is not among its pictures")
    vectors[len(items.images) :] = encoder.embed_texts(items.texts)
    return vectors


def _lexical(corpus: _Corpus, items: Items, texts: Sequence[str]) -> Iterator[Vectors]:
    """Scores by shared character n-grams with a document's text, or a picture's training texts in all languages."""
    words = _training_texts(corpus.train, "image_id")
    documents = [words.get(image, []) for image in items.images] + [[text] for text in items.texts]
    return LexicalIndex(documents).iter_scores(texts, QUERY_CHUNK)


def _training_texts(table: pa.Table, column: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, text in _rows(table, column, "text"):
        if name is not None:
            found[name].append(text)
    return found


def _rows(table: pa.Table, *columns: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[column].to_pylist() for column in columns), strict=True)


def _dots(queries: Vectors, items: Vectors) -> Iterator[Vectors]:
    for start in range(0, len(queries), QUERY_CHUNK):
        yield queries[start : start + QUERY_CHUNK] @ items.T


def _by_hash(text: str) -> tuple[int, str]:
    return zlib.crc32(text.encode()), text


def _judge(name: str, queries: Queries, scores: Iterator[Vectors], wanted: Sequence[str]) -> dict[str, float]:
    ranks: list[NDArray[np.int64]] = []
    for chunk in scores:
        ranks += metrics.ranks_of_relevant(chunk, queries.relevant[len(ranks) : len(ranks) + len(chunk)])
    counts = [len(relevant) for relevant in queries.relevant]
    found: dict[str, float] = {}
    for metric in wanted:
        kind, _, k = metric.partition("@")
        values = metrics.recall_at(ranks, int(k)) if kind == "r" else metrics.ndcg_at(ranks, counts, int(k))
        found |= named(f"{name}.{metric}", metrics.aggregate(values, queries.langs))
    return found


def _judge_parts(task: EvalTask, parts: Iterable[Part]) -> dict[str, float]:
    """Several pools judged as one task: each query only against its own pool. ValueError if nothing is asked."""
    judged: dict[str, list[dict[str, float]]] = {"": [], "_lexical": []}
    for queries, asked_QD, pool_ND, texts in parts:
        lexical = LexicalIndex([[text] for text in texts]).iter_scores(queries.texts, QUERY_CHUNK)
        judged[""].append(_judge(task.name, queries, _dots(asked_QD, pool_ND), task.metrics))
        judged["_lexical"].append(_judge(task.name, queries, lexical, task.metrics))
    if not judged[""]:
        raise ValueError(f"evaluation task {task.name!r}: no held-out row has another of its group to find")
    found: dict[str, float] = {}
    for suffix, by_part in judged.items():
        for metric in task.metrics:
            values = {k.rsplit(".", 1)[1]: v for part in by_part for k, v in part.items() if f".{metric}." in k}
            langs = {k: v for k, v in values.items() if k not in ("macro", "worst")}
            summary = {"macro": float(np.mean(list(langs.values()))), "worst": min(langs.values())}
            found |= named(f"{task.name}{suffix}.{metric}", {**summary, **langs})
    return found


def _nlu(task: EvalTask, encoder: Encoder, corpus: _Corpus) -> dict[str, float]:
    keys = [_by_hash(text) for text in corpus.train["text"].to_pylist()]
    rows = sorted(range(len(keys)), key=keys.__getitem__)[: task.max_lexical_rows]
    return judge_understanding(task.name, encoder, corpus.train.take(rows), corpus.held_out)


_MEASURES = {
    "text_to_image": _text_to_image,
    "image_to_text": _image_to_text,
    "text_to_text": _text_to_text,
    "query_to_item": _query_to_item,
    "nlu": _nlu,
}
