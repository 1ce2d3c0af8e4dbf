"""Understanding on held-out rows: intents, slots and whole frames per language, beside a lexical baseline.

Knows no ranking and no report's layout.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from unimir import metrics
from unimir.infer import Encoder
from unimir.lexical import LexicalIntent, LexicalSlots


def named(prefix: str, values: dict[str, float]) -> dict[str, float]:
    """Flat metric names: `prefix.AGGREGATE`."""
    return {f"{prefix}.{aggregate}": float(value) for aggregate, value in values.items()}


def judge_understanding(name: str, encoder: Encoder, train: pa.Table, held_out: pa.Table) -> dict[str, float]:
    """Intent accuracy, slot F1 and frame accuracy per language; the baseline learns from the same training rows."""
    prefix = f"{name}_" if name else ""
    found: dict[str, float] = {}
    texts, intents, slots, langs = _nlu_rows(held_out)
    (label_set,) = set(held_out["label_set"].to_pylist())
    parses = encoder.parse(texts, label_set=label_set)
    guessed = [[(s.start, s.end, s.label) for s in parse.slots] for parse in parses]
    train_texts, train_intents, train_slots, _ = _nlu_rows(train)
    lexical_intents = LexicalIntent().fit(train_texts, train_intents).predict(texts)
    found |= _judge_nlu(prefix, "", langs, intents, slots, [parse.intent for parse in parses], guessed)
    lexical_slots = LexicalSlots().fit(train_texts, train_slots).predict(texts)
    found |= _judge_nlu(prefix, "_lexical", langs, intents, slots, lexical_intents, lexical_slots)
    return found


def _judge_nlu(
    prefix: str,
    suffix: str,
    langs: Sequence[str],
    intents: Sequence[str],
    slots: Sequence[Sequence[metrics.Span]],
    guessed_intents: Sequence[str],
    guessed_slots: Sequence[Sequence[metrics.Span]],
) -> dict[str, float]:
    right = np.array([a == b for a, b in zip(intents, guessed_intents, strict=True)], np.float64)
    whole = np.array([a and sorted(b) == sorted(c) for a, b, c in zip(right, slots, guessed_slots, strict=True)], float)
    found = {
        **named(f"{prefix}intent{suffix}.accuracy", metrics.aggregate(right, langs)),
        **named(f"{prefix}frame{suffix}.accuracy", metrics.aggregate(whole, langs)),
    }
    f1 = {}
    for lang in sorted(set(langs)):
        rows = [i for i, own in enumerate(langs) if own == lang]
        if any(slots[i] for i in rows):  # F1 says nothing where there is nothing to find
            f1[lang] = metrics.slot_f1([slots[i] for i in rows], [guessed_slots[i] for i in rows])
    if f1:
        summary = {"macro": float(np.mean(list(f1.values()))), "worst": min(f1.values())}
        found |= named(f"{prefix}slots{suffix}.f1", {**summary, **f1})
    return found


def _nlu_rows(table: pa.Table) -> tuple[list[str], list[str], list[list[metrics.Span]], list[str]]:
    slots = [[(s["start"], s["end"], s["label"]) for s in row or ()] for row in table["slots"].to_pylist()]
    return table["text"].to_pylist(), table["intent"].to_pylist(), slots, table["lang"].to_pylist()
