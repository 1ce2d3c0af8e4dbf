"""Numbers that judge a ranking, an intent, a slot or a probability: numpy in, floats out.

Knows no model, no corpus and no file. Every pessimistic choice is on purpose: a tie or a NaN never helps the system.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, int, str]
"""Start and end character (end excluded) and label of one slot."""

_SORT_FROM = 16  # relevant items of one query from which one sort of its scores is cheaper than counting for each
_DRAW = 4_000_000  # bootstrap indices held at once


class SlotScore(NamedTuple):
    """Micro-averaged precision, recall and F1 over spans, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


def ranks_of_relevant(
    scores: NDArray[np.floating[Any]], relevant: Sequence[NDArray[np.integer[Any]]]
) -> list[NDArray[np.int64]]:
    """1-based ranks of the relevant items of every query, best first; ties count against the system.

    The i-th best relevant item of a query has rank i plus the number of non-relevant items scoring at least as high,
    so a query with one relevant item and N equal scores gives rank N. NaN counts as -inf.

    Args:
        scores: floating [Q, N], higher is better.
        relevant: Q integer arrays of distinct column numbers, none of them empty.

    Returns:
        Q ascending int64 arrays, each as long as its entry of `relevant`. They do not follow the order of that entry.

    Memory beyond the result is a few rows of `scores`.
    """
    if scores.ndim != 2 or not np.issubdtype(scores.dtype, np.floating):
        raise ValueError(f"scores is {scores.dtype} {scores.shape}; must be floating [queries, items]")
    if len(relevant) != scores.shape[0]:
        raise ValueError(f"relevant has {len(relevant)} entries; scores has {scores.shape[0]} queries")
    ranks = []
    for query, (row, given) in enumerate(zip(scores, relevant, strict=True)):
        items = _distinct_items(query, given, row.size)
        row = np.where(np.isnan(row), -np.inf, row)
        values = np.sort(row[items])  # ascending
        at_least = _count_at_least(row, values)
        relevant_at_least = values.size - np.searchsorted(values, values, side="left")
        ranks.append((at_least - relevant_at_least)[::-1] + np.arange(1, values.size + 1, dtype=np.int64))
    return ranks


def _distinct_items(query: int, given: NDArray[np.integer[Any]], width: int) -> NDArray[np.int64]:
    items = np.asarray(given)
    if items.size == 0:
        raise ValueError(f"query {query} has no relevant item; every query must have at least one")
    if items.ndim != 1 or not np.issubdtype(items.dtype, np.integer):
        raise ValueError(f"relevant items of query {query} are {items.dtype} {items.shape}; must be integer [items]")
    unique = np.unique(items.astype(np.int64))
    if unique[0] < 0 or unique[-1] >= width:
        bad = unique[0] if unique[0] < 0 else unique[-1]
        raise ValueError(f"relevant item {bad} of query {query}; must be in 0..{width - 1}")
    if unique.size != items.size:
        raise ValueError(f"relevant items of query {query} repeat an item: {items.tolist()}; must be distinct")
    return unique


def _count_at_least(row: NDArray[Any], values: NDArray[Any]) -> NDArray[np.int64]:
    """How many elements of `row` [N] are >= each of `values` [R], int64 [R]."""
    if values.size < _SORT_FROM:
        return np.array([np.count_nonzero(row >= value) for value in values], dtype=np.int64)
    below: NDArray[np.int64] = np.searchsorted(np.sort(row), values, side="left").astype(np.int64)
    return row.size - below


class _Flat(NamedTuple):
    """Ranks of all queries in one array: `rank` ascending within a query, `order` 1, 2, ... within a query."""

    query: NDArray[np.int64]
    rank: NDArray[np.int64]
    order: NDArray[np.int64]


def _flatten(ranks: Sequence[NDArray[np.int64]]) -> _Flat:
    counts = np.array([len(one) for one in ranks], dtype=np.int64)
    query = np.repeat(np.arange(counts.size), counts)
    rank = np.concatenate([*ranks, np.zeros(0, dtype=np.int64)]).astype(np.int64)
    if rank.size and rank.min() < 1:
        raise ValueError(f"rank {rank.min()} of query {query[rank.argmin()]}; ranks start at 1")
    rank = rank[np.lexsort((rank, query))]
    order = np.arange(1, rank.size + 1) - np.repeat(np.cumsum(counts) - counts, counts)
    return _Flat(query, rank, order)


def _best(ranks: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    for query, one in enumerate(ranks):
        if len(one) == 0:
            raise ValueError(f"query {query} has no relevant item; every query must have at least one")
    _flatten(ranks)
    return np.array([np.min(one) for one in ranks], dtype=np.int64)


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}; must be at least 1")


def _check_counts(ranks: Sequence[NDArray[np.int64]], num_relevant: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    if len(num_relevant) != len(ranks):
        raise ValueError(f"num_relevant has {len(num_relevant)} entries; ranks has {len(ranks)} queries")
    counts = np.asarray(num_relevant, dtype=np.int64)
    for query, (one, count) in enumerate(zip(ranks, counts.tolist(), strict=True)):
        if count < 1:
            raise ValueError(f"query {query} has {count} relevant items; every query must have at least one")
        if len(one) > count:
            raise ValueError(f"query {query} has {len(one)} ranks of {count} relevant items; must not have more")
    return counts


def recall_at(ranks: Sequence[NDArray[np.int64]], k: int) -> NDArray[np.float64]:
    """Hit rate: 1.0 where any relevant item has rank <= k, else 0.0 (recall@k as Flickr30K and XTD10 report it).

    `ranks` are Q non-empty int64 arrays of 1-based ranks and k is at least 1; gives float64 [Q].
    """
    _check_k(k)
    return np.where(_best(ranks) <= k, 1.0, 0.0)


def reciprocal_rank(ranks: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """1 / rank of the best relevant item, float64 [Q]; ranks as for `recall_at` (Voorhees, TREC-8, 1999)."""
    return 1.0 / _best(ranks).astype(np.float64)


def ndcg_at(
    ranks: Sequence[NDArray[np.int64]], num_relevant: Sequence[int] | NDArray[np.int64], k: int
) -> NDArray[np.float64]:
    """Normalised discounted cumulative gain at k with gains 0 and 1 and discount 1 / log2(rank + 1).

    Jarvelin and Kekalainen 2002, with the discount now usual; the ideal ranking holds min(k, num_relevant) items.

    Args:
        ranks: Q int64 arrays of 1-based ranks; relevant items that were not retrieved may be left out.
        num_relevant: Q counts of relevant items, each at least 1 and at least the number of ranks.
        k: at least 1.

    Returns:
        float64 [Q] in [0, 1].
    """
    _check_k(k)
    counts = _check_counts(ranks, num_relevant)
    flat = _flatten(ranks)
    gains = np.where(flat.rank <= k, 1.0 / np.log2(flat.rank + 1.0), 0.0)
    depth = np.minimum(counts, k)
    ideal = np.cumsum(1.0 / np.log2(np.arange(2.0, depth.max(initial=1) + 2.0)))
    found: NDArray[np.float64] = np.bincount(flat.query, weights=gains, minlength=counts.size) / ideal[depth - 1]
    return found


def average_precision(
    ranks: Sequence[NDArray[np.int64]], num_relevant: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean over relevant items of the precision at their rank; an item without a rank adds 0.

    Manning, Raghavan and Schutze, Introduction to Information Retrieval, section 8.4. Arguments and shape as `ndcg_at`.
    """
    counts = _check_counts(ranks, num_relevant)
    flat = _flatten(ranks)
    return np.bincount(flat.query, weights=flat.order / flat.rank, minlength=counts.size) / counts


def _check_rows(gold: Sequence[Any], predicted: Sequence[Any], what: str) -> None:
    if len(gold) != len(predicted):
        raise ValueError(f"{len(predicted)} predicted {what} for {len(gold)} gold ones; must be as many")


def accuracy(gold: Sequence[Hashable], predicted: Sequence[Hashable]) -> float:
    """Share of equal labels; both sequences of the same length, at least 1."""
    _check_rows(gold, predicted, "labels")
    if not len(gold):
        raise ValueError("accuracy of 0 labels; must be at least 1")
    return sum(g == p for g, p in zip(gold, predicted, strict=True)) / len(gold)


def slot_score(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> SlotScore:
    """Micro precision, recall and F1 of spans: a predicted span counts when start, end and label are all equal.

    Equal to CoNLL-2000's conlleval and to seqeval's default mode on the same spans, and as seqeval 0.0 for every
    quotient whose denominator is 0, also where neither side has any span. Repeats of a span in a row count once.
    """
    _check_rows(gold, predicted, "rows of slots")
    hits = num_gold = num_predicted = 0
    for gold_row, predicted_row in zip(gold, predicted, strict=True):
        gold_set, predicted_set = set(gold_row), set(predicted_row)
        hits += len(gold_set & predicted_set)
        num_gold += len(gold_set)
        num_predicted += len(predicted_set)
    precision = hits / num_predicted if num_predicted else 0.0
    recall = hits / num_gold if num_gold else 0.0
    f1 = 2 * hits / (num_gold + num_predicted) if hits else 0.0
    return SlotScore(precision, recall, f1)


def slot_f1(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> float:
    """F1 of `slot_score`."""
    return slot_score(gold, predicted).f1


def frame_accuracy(
    gold_intents: Sequence[Hashable],
    predicted_intents: Sequence[Hashable],
    gold_slots: Sequence[Sequence[Span]],
    predicted_slots: Sequence[Sequence[Span]],
) -> float:
    """Share of rows with the right intent and exactly the gold set of spans; four sequences of one length >= 1."""
    _check_rows(gold_slots, predicted_slots, "rows of slots")
    _check_rows(gold_intents, gold_slots, "rows of slots")
    gold = [(intent, frozenset(row)) for intent, row in zip(gold_intents, gold_slots, strict=True)]
    _check_rows(gold_intents, predicted_intents, "intents")
    found = [(intent, frozenset(row)) for intent, row in zip(predicted_intents, predicted_slots, strict=True)]
    return accuracy(gold, found)


def _check_values(values: NDArray[Any], what: str) -> NDArray[np.float64]:
    checked = np.asarray(values, dtype=np.float64)
    if checked.ndim != 1 or checked.size == 0:
        raise ValueError(f"{what} has shape {checked.shape}; must be [N] with N at least 1")
    if not np.isfinite(checked).all():
        raise ValueError(f"{what} holds {checked[~np.isfinite(checked)][0]}; must be finite")
    return checked


def aggregate(values: NDArray[Any], langs: Sequence[str]) -> dict[str, float]:
    """Means per language, their unweighted mean and their minimum.

    Args:
        values: finite numbers [N], one per query or row.
        langs: N languages; none may be named "macro" or "worst".

    Returns:
        {"macro": mean of the languages' means, "worst": the least of them, <lang>: mean, ...}, languages sorted.
    """
    checked = _check_values(values, "values")
    _check_rows(checked.tolist(), langs, "languages")
    names, index = np.unique(np.asarray(langs, dtype=object), return_inverse=True)
    for reserved in {"macro", "worst"} & set(names):
        raise ValueError(f"language {reserved!r}; that name is taken by the aggregate itself")
    means = np.bincount(index, weights=checked) / np.bincount(index)
    by_lang = {str(name): float(mean) for name, mean in zip(names, means, strict=True)}
    return {"macro": float(means.mean()), "worst": float(means.min()), **by_lang}


def bootstrap_interval(
    values: NDArray[Any], *, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` [N] (Efron 1979); equal arguments give equal bounds."""
    checked = _check_values(values, "values")
    if samples < 1:
        raise ValueError(f"samples is {samples}; must be at least 1")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; must be above 0 and below 1")
    rng = np.random.default_rng(seed)
    step = max(1, _DRAW // checked.size)
    means = np.concatenate(
        [
            checked[rng.integers(checked.size, size=(min(step, samples - done), checked.size))].mean(axis=1)
            for done in range(0, samples, step)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def expected_calibration_error(probabilities: NDArray[Any], outcomes: NDArray[Any], bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3) over equal-width bins (i / bins, (i + 1) / bins].

    Args:
        probabilities: [N] in [0, 1], the confidence of each prediction; 0 falls in the first bin.
        outcomes: [N] bool or 0 / 1, whether the prediction was right.
        bins: at least 1.
    """
    confidence = _check_values(probabilities, "probabilities")
    right = _check_values(outcomes, "outcomes")
    _check_rows(confidence.tolist(), right.tolist(), "outcomes")
    if bins < 1:
        raise ValueError(f"bins is {bins}; must be at least 1")
    if confidence.min() < 0.0 or confidence.max() > 1.0:
        raise ValueError(f"probabilities span {confidence.min()}..{confidence.max()}; must be in 0..1")
    if not np.isin(right, (0.0, 1.0)).all():
        raise ValueError(f"outcomes hold {right[~np.isin(right, (0.0, 1.0))][0]}; must be 0 or 1")
    index = np.digitize(confidence, np.linspace(0.0, 1.0, bins + 1)[1:-1], right=True)
    gap = np.bincount(index, weights=right - confidence)
    return float(np.abs(gap).sum() / confidence.size)
