"""Every metric against a value computed by eye, against an independent implementation, and under its invariances."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unimir import metrics

NAN = float("nan")


def _ranks(rows: list[list[float]], relevant: list[list[int]]) -> list[list[int]]:
    found = metrics.ranks_of_relevant(np.array(rows, dtype=np.float32), [np.array(r, dtype=np.int64) for r in relevant])
    assert all(one.dtype == np.int64 for one in found)
    return [one.tolist() for one in found]


@pytest.mark.parametrize(
    ("row", "relevant", "expected"),
    [
        ([0.9, 0.5, 0.1], [0], [1]),
        ([0.9, 0.5, 0.1], [2, 0], [1, 3]),
        ([0.3, 0.3, 0.3, 0.3], [1], [4]),
        ([0.3, 0.3, 0.3, 0.3], [0, 3], [3, 4]),
        ([0.3, 0.3, 0.3], [0, 1, 2], [1, 2, 3]),
        ([0.9, 0.5, 0.5, 0.1], [0, 2], [1, 3]),
        ([NAN, 0.5, 0.1], [0], [3]),
        ([NAN, NAN, 0.1, NAN], [0], [4]),
        ([NAN, NAN, 0.1, -np.inf], [2, 3], [1, 4]),
        ([0.0, -0.0, 0.1], [0], [3]),
    ],
)
def test_ranks_by_eye(row: list[float], relevant: list[int], expected: list[int]) -> None:
    assert _ranks([row], [relevant]) == [expected]


def test_ranks_of_several_queries_with_different_numbers_of_relevant() -> None:
    rows = [[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]
    assert _ranks(rows, [[0], [0, 1]]) == [[1], [2, 3]]
    assert metrics.ranks_of_relevant(np.zeros((0, 5), dtype=np.float32), []) == []


def _ranking(row: list[float], items: set[int], key: list[float]) -> list[int]:
    """Ranks by sorting, ties broken by `key`."""
    order = sorted(range(len(row)), key=lambda i: (-(-np.inf if np.isnan(row[i]) else row[i]), key[i]))
    return [place + 1 for place, item in enumerate(order) if item in items]


_rows = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, NAN]), min_size=n, max_size=n),
        st.sets(st.integers(0, n - 1), min_size=1),
        st.permutations(range(n)),
    )
)


@given(_rows)
def test_ties_are_never_better_than_any_tie_break(case: tuple[list[float], set[int], list[int]]) -> None:
    row, items, key = case
    found = _ranks([row], [sorted(items)])[0]
    other = _ranking(row, items, [float(k) for k in key])
    assert all(mine >= theirs for mine, theirs in zip(found, other, strict=True))
    worst = _ranking(row, items, [float(i in items) for i in range(len(row))])
    assert found == worst


@given(_rows)
def test_ranks_do_not_depend_on_the_order_of_items(case: tuple[list[float], set[int], list[int]]) -> None:
    row, items, order = case
    moved = [row[i] for i in order]
    assert _ranks([moved], [[order.index(i) for i in items]]) == _ranks([row], [list(items)])


@given(_rows, st.integers(1, 45))
def test_recall_is_monotone_in_k_and_measures_lie_in_unit_range(
    case: tuple[list[float], set[int], list[int]], k: int
) -> None:
    row, items, _ = case
    ranks = metrics.ranks_of_relevant(np.array([row]), [np.array(sorted(items))])
    assert metrics.recall_at(ranks, k)[0] <= metrics.recall_at(ranks, k + 1)[0]
    assert metrics.recall_at(ranks, len(row))[0] == 1.0
    measures = [metrics.ndcg_at(ranks, [len(items)], k), metrics.average_precision(ranks, [len(items)])]
    for value in [*measures, metrics.reciprocal_rank(ranks)]:
        assert value.shape == (1,) and value.dtype == np.float64 and 0.0 <= value[0] <= 1.0 + 1e-12


def _problem(seed: int) -> tuple[NDArray[Any], NDArray[Any], list[NDArray[np.int64]]]:
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(30.0), (20, 1)), axis=1).astype(np.float32)
    truth = rng.random((20, 30)) < rng.choice([0.05, 0.3, 0.9], size=(20, 1))
    truth[np.arange(20), rng.integers(30, size=20)] = True
    return scores, truth, [np.flatnonzero(row) for row in truth]


@pytest.mark.parametrize("seed", range(4))
def test_against_scikit_learn_without_ties(seed: int) -> None:
    from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

    scores, truth, relevant = _problem(seed)
    ranks = metrics.ranks_of_relevant(scores, relevant)
    counts = truth.sum(axis=1)
    for k in (1, 3, 10, 30):
        expected = [ndcg_score(truth[i : i + 1], scores[i : i + 1], k=k) for i in range(len(truth))]
        np.testing.assert_allclose(metrics.ndcg_at(ranks, counts, k), expected, rtol=1e-12)
    expected_ap = [label_ranking_average_precision_score(truth[i : i + 1], scores[i : i + 1]) for i in range(20)]
    np.testing.assert_allclose(metrics.average_precision(ranks, counts), expected_ap, rtol=1e-12)


def test_measures_by_eye() -> None:
    ranks = [np.array([1, 3]), np.array([4]), np.array([11, 2])]
    assert metrics.recall_at(ranks, 1).tolist() == [1.0, 0.0, 0.0]
    assert metrics.recall_at(ranks, 2).tolist() == [1.0, 0.0, 1.0]
    assert metrics.reciprocal_rank(ranks).tolist() == [1.0, 0.25, 0.5]
    np.testing.assert_allclose(metrics.average_precision(ranks, [2, 1, 4]), [(1 + 2 / 3) / 2, 0.25, (0.5 + 2 / 11) / 4])
    ideal = 1 + 1 / np.log2(3)
    np.testing.assert_allclose(metrics.ndcg_at(ranks, [2, 1, 2], 3), [1.5 / ideal, 0.0, (1 / np.log2(3)) / ideal])
    np.testing.assert_allclose(metrics.ndcg_at(ranks, [2, 1, 2], 1), [1.0, 0.0, 0.0])
    assert metrics.ndcg_at([np.zeros(0, dtype=np.int64)], [3], 10**9).tolist() == [0.0]
    assert metrics.average_precision([np.zeros(0, dtype=np.int64)], [3]).tolist() == [0.0]
    assert metrics.recall_at([], 5).shape == metrics.ndcg_at([], [], 5).shape == (0,)


@pytest.mark.parametrize("items", [1, 50])
def test_ranks_of_a_large_matrix_are_fast(items: int) -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((500, 20_000), dtype=np.float32)
    relevant = [rng.choice(20_000, size=items, replace=False) for _ in range(500)]
    start = time.perf_counter()
    metrics.ranks_of_relevant(scores, relevant)
    assert time.perf_counter() - start < 5.0


@pytest.mark.parametrize(
    ("scores", "relevant", "message"),
    [
        (np.zeros(3), [[0]], "must be floating"),
        (np.zeros((1, 3), dtype=np.int64), [[0]], "int64"),
        (np.zeros((2, 3)), [[0]], "1 entries"),
        (np.zeros((2, 3)), [[0], []], "query 1 has no relevant item"),
        (np.zeros((1, 3)), [[3]], "relevant item 3 of query 0"),
        (np.zeros((1, 3)), [[-1]], "relevant item -1"),
        (np.zeros((1, 3)), [[1, 1]], "must be distinct"),
        (np.zeros((1, 3)), [[True]], "must be integer"),
    ],
)
def test_wrong_rankings_are_named(scores: NDArray[Any], relevant: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.ranks_of_relevant(scores, [np.array(one) for one in relevant])


def test_wrong_arguments_of_measures_are_named() -> None:
    ranks = [np.array([1]), np.zeros(0, dtype=np.int64)]
    with pytest.raises(ValueError, match="query 1 has no relevant"):
        metrics.recall_at(ranks, 1)
    with pytest.raises(ValueError, match="query 1 has no relevant"):
        metrics.reciprocal_rank(ranks)
    with pytest.raises(ValueError, match="query 1 has 0 relevant"):
        metrics.ndcg_at(ranks, [1, 0], 1)
    with pytest.raises(ValueError, match="query 0 has 1 ranks of 0|query 0 has 0 relevant"):
        metrics.average_precision(ranks, [0, 1])
    with pytest.raises(ValueError, match="query 0 has 2 ranks of 1"):
        metrics.average_precision([np.array([1, 2])], [1])
    with pytest.raises(ValueError, match="num_relevant has 1"):
        metrics.average_precision(ranks, [1])
    with pytest.raises(ValueError, match="rank 0 of query 0"):
        metrics.recall_at([np.array([0])], 1)
    with pytest.raises(ValueError, match="k is 0"):
        metrics.recall_at(ranks, 0)
    with pytest.raises(ValueError, match="k is -1"):
        metrics.ndcg_at(ranks, [1, 1], -1)


def _bio(spans: list[metrics.Span], length: int) -> list[str]:
    tags = ["O"] * length
    for start, end, label in spans:
        tags[start:end] = [f"B-{label}"] + [f"I-{label}"] * (end - start - 1)
    return tags


@st.composite
def _span_rows(draw: st.DrawFn) -> list[metrics.Span]:
    cuts = draw(st.lists(st.integers(0, 12), unique=True).map(sorted))
    pairs = zip(cuts, cuts[1:], strict=False)
    return [(a, b, draw(st.sampled_from("xyz"))) for a, b in pairs if draw(st.booleans())]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_span_rows(), _span_rows()), min_size=1, max_size=6))
def test_slot_score_is_that_of_seqeval(rows: list[tuple[list[metrics.Span], list[metrics.Span]]]) -> None:
    from seqeval.metrics import f1_score, precision_score, recall_score

    gold, predicted = [g for g, _ in rows], [p for _, p in rows]
    tags = [[_bio(row, 12) for row in side] for side in (gold, predicted)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval warns about each 0 / 0
        expected = [float(measure(*tags)) for measure in (precision_score, recall_score, f1_score)]
    np.testing.assert_allclose(metrics.slot_score(gold, predicted), expected, atol=1e-12)
    assert metrics.slot_f1(gold, predicted) == metrics.slot_score(predicted, gold).f1


def test_slots_by_eye() -> None:
    gold = [[(0, 2, "a"), (3, 5, "b")], [(0, 1, "a")], []]
    predicted = [[(0, 2, "a"), (3, 5, "a")], [], []]
    assert metrics.slot_score(gold, predicted) == (0.5, 1 / 3, 0.4)
    assert metrics.slot_score([[]], [[]]) == (0.0, 0.0, 0.0)
    assert metrics.slot_f1([], []) == 0.0
    assert metrics.slot_f1(gold, gold) == 1.0
    assert metrics.frame_accuracy(["i", "j", "k"], ["i", "j", "k"], gold, predicted) == pytest.approx(1 / 3)
    assert metrics.frame_accuracy(["i", "j", "k"], ["i", "j", "z"], gold, gold) == pytest.approx(2 / 3)
    assert metrics.frame_accuracy(["i"], ["i"], [[(0, 1, "a"), (2, 3, "b")]], [[(2, 3, "b"), (0, 1, "a")]]) == 1.0
    assert metrics.accuracy(["a", "b"], ["a", "a"]) == 0.5


def test_unequal_lengths_are_named() -> None:
    with pytest.raises(ValueError, match="1 predicted labels for 2"):
        metrics.accuracy(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="0 labels"):
        metrics.accuracy([], [])
    with pytest.raises(ValueError, match="0 predicted rows of slots for 1"):
        metrics.slot_f1([[]], [])
    with pytest.raises(ValueError, match="1 predicted intents for 2"):
        metrics.frame_accuracy(["a", "b"], ["a"], [[], []], [[], []])


def test_aggregate_gives_each_language_the_same_weight() -> None:
    found = metrics.aggregate(np.array([1.0, 1.0, 1.0, 0.0]), ["en", "en", "sw", "sw"])
    assert found == {"macro": 0.75, "worst": 0.5, "en": 1.0, "sw": 0.5}
    assert metrics.aggregate(np.array([True, False, True]), ["b", "a", "b"])["macro"] == 0.5
    for values, langs, message in [
        ([1.0], ["macro"], "'macro'"),
        ([1.0, NAN], ["a", "b"], "holds nan"),
        ([1.0], ["a", "b"], "2 predicted languages for 1"),
        ([], [], "at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            metrics.aggregate(np.array(values), langs)


def test_bootstrap_interval() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    low, high = metrics.bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(values.size)
    assert low == pytest.approx(values.mean() - half, abs=0.05) and high == pytest.approx(
        values.mean() + half, abs=0.05
    )
    assert metrics.bootstrap_interval(values) == (low, high)
    narrow = metrics.bootstrap_interval(values, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert metrics.bootstrap_interval(np.full(5, 0.25)) == (0.25, 0.25)
    for kwargs, message in [({"samples": 0}, "samples is 0"), ({"level": 1.0}, "level is 1.0")]:
        with pytest.raises(ValueError, match=message):
            metrics.bootstrap_interval(values, **kwargs)  # type: ignore[arg-type]


def test_bootstrap_interval_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(37.0)
    whole = metrics.bootstrap_interval(values, samples=50)
    monkeypatch.setattr(metrics, "_DRAW", 100)
    assert metrics.bootstrap_interval(values, samples=50) == pytest.approx(whole)


def test_expected_calibration_error_by_eye() -> None:
    probabilities, outcomes = np.array([0.2, 0.2, 0.9, 1.0, 0.0]), np.array([0, 1, 1, 1, 0])
    expected = (abs(1 - 0.4) + abs(2 - 1.9) + 0.0) / 5
    assert metrics.expected_calibration_error(probabilities, outcomes, bins=5) == pytest.approx(expected)
    assert metrics.expected_calibration_error(np.array([0.5, 0.51]), np.array([1, 0]), bins=2) == pytest.approx(0.505)
    assert metrics.expected_calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0.0
    for wrong, right, bins, message in [
        ([1.1], [1], 15, "1.1"),
        ([0.5], [2], 15, "hold 2.0"),
        ([0.5], [1], 0, "bins is 0"),
        ([0.5, 0.6], [1], 5, "1 predicted outcomes for 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            metrics.expected_calibration_error(np.array(wrong), np.array(right), bins)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 20))
def test_expected_calibration_error_matches_the_definition(rows: list[tuple[float, bool]], bins: int) -> None:
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for low, high in zip(edges, edges[1:], strict=False):
        inside = [(p, o) for p, o in rows if low < p <= high or (low == 0 and p == 0)]
        if inside:
            total += len(inside) * abs(np.mean([o for _, o in inside]) - np.mean([p for p, _ in inside]))
    probabilities, outcomes = (np.array(side) for side in zip(*rows, strict=True))
    assert metrics.expected_calibration_error(probabilities, outcomes, bins) == pytest.approx(total / len(rows))
