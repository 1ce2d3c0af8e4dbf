"""Is the best path of BIO tags the best of all allowed ones?"""

from itertools import pairwise, product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unimir.bio import allowed_steps, best_path

TAGS = ("O", "B-a", "I-a", "B-b", "I-b")


def is_allowed(path: tuple[int, ...]) -> bool:
    names = ["O", *(TAGS[tag] for tag in path)]
    return all(not name.startswith("I-") or before[2:] == name[2:] for before, name in pairwise(names))


@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_no_allowed_path_is_better(length: int, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(length, len(TAGS)))
    allowed = [path for path in product(range(len(TAGS)), repeat=length) if is_allowed(path)]
    best = max(allowed, key=lambda path: sum(scores[place, tag] for place, tag in enumerate(path)))
    assert tuple(best_path(scores, allowed_steps(TAGS))) == best


def test_an_inside_needs_its_own_beginning() -> None:
    scores = np.log(np.array([[0.5, 0.4, 0.0, 0.1, 0.0], [0.05, 0.0, 0.9, 0.05, 0.0]]) + 1e-9)
    assert [TAGS[tag] for tag in best_path(scores, allowed_steps(TAGS))] == ["B-a", "I-a"]  # greedy: O, I-a
