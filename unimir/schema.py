"""Names and types of every column that crosses a room, label sets, and the parse of a query.

Knows no corpus, no tensor and no job: only what two rooms have to agree on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Kind = Literal["image_text", "text_text", "parallel", "nlu", "intent_query"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What one example is. `parallel` is a text of a group whose other texts, in any language, say the same."""

Split = Literal["train", "validation", "evaluation"]
SPLITS: tuple[Split, ...] = get_args(Split)

SLOT = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("label", pa.string())])
SLOTS = pa.list_(SLOT)
IDS = pa.list_(pa.int32())

_COMMON = [
    ("source", pa.string()),
    ("group", pa.uint64()),  # hash of namespace and group_id: rows of one group are never each other's negatives
    ("lang", pa.string()),  # BCP-47
    ("text", pa.string()),
    ("ids", IDS),  # token ids with the tokenizer's special tokens
]
_DOCUMENT = [("doc_lang", pa.string()), ("doc_text", pa.string()), ("doc_ids", IDS)]
_NLU = [
    ("label_set", pa.string()),
    ("intent", pa.string()),
    ("slots", SLOTS),  # character spans of `text`
    ("token_slots", SLOTS),  # the same spans as positions in `ids`
]

PREPARED: dict[Kind, pa.Schema] = {
    "image_text": pa.schema([*_COMMON, ("image_id", pa.string())]),
    "text_text": pa.schema([*_COMMON, *_DOCUMENT]),
    "parallel": pa.schema(_COMMON),
    "nlu": pa.schema([*_COMMON, *_NLU]),
    # An intent query asks for the items of its group: a picture (image_id), a text (doc_*), or both.
    "intent_query": pa.schema([*_COMMON, *_NLU, ("image_id", pa.string()), *_DOCUMENT, ("filters", pa.string())]),
}
"""Columns of `prepared/<kind>/<split>/*.parquet`."""

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),  # namespace-qualified: "<images name>/<id>"
        ("source", pa.string()),
        ("image", pa.binary()),  # PNG or JPEG, shorter side at most the prepared size
    ]
)
"""Columns of `prepared/images/*.arrow`; every image is stored once, however many texts name it."""

REJECTED = pa.schema(
    [
        ("source", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),  # zero-based row, line or member of that file
        ("reason", pa.string()),  # a short stable code such as "empty text"
        ("detail", pa.string()),
    ]
)
"""Columns of `prepared/rejected/*.parquet`."""


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """The intents and slot labels of one source of annotation; a row's labels compete only within its own set."""

    name: str
    intents: tuple[str, ...]
    slots: tuple[str, ...]

    @property
    def tags(self) -> tuple[str, ...]:
        """BIO tags in the order of the slot head's columns: O, B-a, I-a, B-b, I-b, ..."""
        return ("O", *(f"{prefix}-{label}" for label in self.slots for prefix in "BI"))


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A labelled span of the query: characters [start, end), and the model's certainty in [0, 1]."""

    start: int
    end: int
    label: str
    text: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Parse:
    """What one forward pass understood of a query."""

    text: str
    label_set: str
    intent: str
    intent_score: float
    slots: tuple[Slot, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Understood:
    """What one forward pass makes of a query: its vector with the noise suppressed, the plain one, and the parse."""

    fused_D: NDArray[np.float32]
    plain_D: NDArray[np.float32]
    parse: Parse
