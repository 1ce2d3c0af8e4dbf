"""BIO tags: the best path through their scores, and the spans they mean. Knows no model and no label's meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, int, str]


def allowed_steps(tags: Sequence[str]) -> NDArray[np.float32]:
    """Scores [1 + tags, tags] of one tag after another, row 0 for the start: -inf for an I- not after its own label."""
    inside = np.array([tag.startswith("I-") for tag in tags])
    labels = np.array([tag[2:] for tag in tags])
    follows = np.concatenate([np.zeros((1, len(tags)), bool), labels[:, None] == labels])
    return np.where(~inside | follows, 0.0, -np.inf).astype(np.float32)


def best_path(scores: NDArray[Any], steps: NDArray[Any]) -> list[int]:
    """Viterbi: the tags of one sentence by scores [tokens, tags] and steps [1 + tags, tags], row 0 for the start."""
    total = steps[0] + scores[0]
    every = np.arange(total.size)
    back = []
    for row in scores[1:]:
        paths = total[:, None] + steps[1:]
        choice = paths.argmax(axis=0)
        back.append(choice)
        total = paths[choice, every] + row
    path = [int(total.argmax())]
    for choice in reversed(back):
        path.append(int(choice[path[-1]]))
    return path[::-1]


def spans_from_tags(tags: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[Span]:
    """Character spans of BIO tags per token; an I- without its beginning starts a span of its own."""
    spans: list[Span] = []
    open_label = ""
    for tag, (start, end) in zip(tags, offsets, strict=True):
        if start == end:  # special tokens and lone spaces neither start nor end a span
            continue
        prefix, _, label = tag.partition("-")
        if prefix == "I" and label == open_label:
            spans[-1] = (spans[-1][0], end, label)
        elif prefix in ("B", "I"):
            spans.append((start, end, label))
        open_label = label if prefix in ("B", "I") else ""
    return spans
