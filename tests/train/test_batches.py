"""Is the plan right: epochs, language balance, shares of workers, partners, and its purity."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimir.config import Stage, Task
from unimir.train.batches import Order, Partners, rng_of, share, task_schedule


def order_of(langs: list[int], batch_size: int, temperature: float = 1.0) -> Order:
    lengths = np.arange(len(langs)) % 17
    return Order(np.array(langs), lengths, batch_size=batch_size, temperature=temperature, seed=(0, "stage", "task"))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200), st.integers(2, 16))
@settings(max_examples=50, deadline=None)
def test_an_epoch_sees_every_example_at_most_once(langs: list[int], batch_size: int) -> None:
    order = order_of(langs, batch_size)
    rows = np.concatenate([order.batch(i) for i in range(order.batches_per_epoch)])
    assert len(set(rows.tolist())) == len(rows)
    assert len(rows) >= len(langs) - batch_size + 1  # only what does not fill a batch waits for another epoch


def test_epochs_differ_and_are_reproducible() -> None:
    order, again = order_of([0] * 64, 8), order_of([0] * 64, 8)
    first = [order.batch(i).tolist() for i in range(16)]
    assert first == [again.batch(i).tolist() for i in reversed(range(16))][::-1]
    assert first[:8] != first[8:]


def test_temperature_zero_gives_every_language_alike() -> None:
    langs = [0] * 900 + [1] * 90 + [2] * 10
    order = order_of(langs, 10, temperature=0.0)
    rows = np.concatenate([order.batch(i) for i in range(order.batches_per_epoch)])
    counts = np.bincount(np.array(langs)[rows], minlength=3)
    assert counts.max() - counts.min() <= 10


def test_batches_hold_like_lengths() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 4096)
    order = Order(np.zeros(4096, int), lengths, batch_size=64, temperature=1.0, seed=(0,))
    spread = [np.ptp(lengths[order.batch(i)]) for i in range(order.batches_per_epoch)]
    assert np.mean(spread) < 10


@given(st.integers(1, 8), st.integers(1, 40))
@settings(deadline=None)
def test_captions_of_a_picture_lie_side_by_side(per_picture: int, num_pictures: int) -> None:
    pictures = np.random.default_rng(num_pictures).integers(0, num_pictures, 1024)
    order = Order(
        np.zeros(1024, int),
        np.ones(1024, int),
        batch_size=64,
        temperature=1.0,
        seed=(0,),
        pictures=pictures,
        per_picture=per_picture,
    )
    rows = np.concatenate(order.epoch(0))
    assert sorted(rows.tolist()) == list(range(1024))
    runs = 1 + np.count_nonzero(np.diff(pictures[rows]))
    whole = np.ceil(np.bincount(pictures) / per_picture).sum()
    assert runs <= whole + order.batches_per_epoch  # as few as there can be, but for those that a batch cuts in two


@given(st.integers(1, 50), st.integers(1, 5))
def test_shares_are_the_batch_once_at_any_number_of_workers(size: int, workers: int) -> None:
    batch = np.arange(size) * 7
    parts = [batch[share(batch, rank, workers)[0]] for rank in range(workers)]
    assert np.concatenate(parts).tolist() == batch.tolist()
    assert [len(part) for part in parts] == list(share(batch, 0, workers)[1])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 99))
@settings(deadline=None)
def test_partners_are_of_the_same_group_and_others_where_there_are(groups: list[int], seed: int) -> None:
    array = np.array(groups, np.uint64)
    rows = np.arange(len(groups))
    partners = Partners.of(array).draw(rows, rng_of(seed))
    assert array[partners].tolist() == groups
    alone = np.array([groups.count(g) == 1 for g in groups])
    assert ((partners == rows) == alone).all()


def test_partners_reach_every_other_row() -> None:
    drawn = {int(Partners.of(np.zeros(5, np.uint64)).draw(np.array([2]), rng_of(i))[0]) for i in range(200)}
    assert drawn == {0, 1, 3, 4}


@pytest.mark.parametrize("steps", [1, 7, 40, 400])
def test_tasks_keep_their_shares_all_along(steps: int) -> None:
    tasks = (Task(name="a", kind="parallel", weight=3), Task(name="b", kind="nlu", weight=1, losses={"intent": 1.0}))
    schedule = task_schedule(Stage(name="s", steps=steps, tasks=tasks, rates={"text": 1.0}))
    counts = np.cumsum(np.array(schedule) == 0)
    assert np.abs(counts - 0.75 * np.arange(1, steps + 1)).max() <= 1
