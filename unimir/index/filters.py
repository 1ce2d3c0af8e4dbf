"""Filters as typed values, and the one place where they become an expression for Milvus.

A caller builds `Equals`, `OneOf`, `Between`, `HasTags`, joined by `AllOf`, `AnyOf` and `Not`; no text of a user ever
enters an expression but as an escaped literal. Knows no client and no collection.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeVar

T = TypeVar("T")
FieldType = Literal["text", "number", "time", "tags", "texts"]
"""What a field holds; "texts" are texts by name, of which FIELD.NAME is one."""
Value = str | int | float | datetime
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

MAX_DEPTH = 8
"""Nesting of joined filters: Milvus Lite answers deep nesting with a recursion error, a server spends time on it."""
MAX_TERMS = 256
MAX_VALUES = 1000
"""Of all lists together: a value may become a term of its own."""
MAX_BYTES = 1024
"""UTF-8 bytes of one literal."""

MISSING: Mapping[FieldType, int | float] = {"number": -1e300, "time": -(2**62)}
"""What stands for "not known" in a scalar column: not every server has nullable columns. Below any value allowed."""


@dataclass(frozen=True)
class Equals:
    """The field has this value."""

    field: str
    value: Value


@dataclass(frozen=True)
class OneOf:
    """The field has one of these values; never, if there are none."""

    field: str
    values: Sequence[Value]


@dataclass(frozen=True)
class Between:
    """low <= field < high, where given; false where the field's value is not known."""

    field: str
    low: Value | None = None
    high: Value | None = None


@dataclass(frozen=True)
class HasTags:
    """The field's tags include one of these, or with `every` all of them."""

    field: str
    tags: Sequence[str]
    every: bool = False


@dataclass(frozen=True)
class AllOf:
    """Every one of the filters; with none, everything."""

    filters: Sequence[Filter]


@dataclass(frozen=True)
class AnyOf:
    """At least one of the filters; with none, nothing."""

    filters: Sequence[Filter]


@dataclass(frozen=True)
class Not:
    """Not the filter; rows whose value is not known are among them."""

    filter: Filter


Filter = Equals | OneOf | Between | HasTags | AllOf | AnyOf | Not

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
"""All that both backends have in common: Milvus Lite knows no \\u, and takes every other character as it is."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_ALWAYS, _NEVER = 'id != ""', 'id == ""'  # an id is never empty; every backend has both


def expression(wanted: Filter, fields: Mapping[str, FieldType]) -> str:
    """The filter as a Milvus boolean expression over these fields.

    ValueError names what is not allowed: an unknown field, a value of the wrong type, or more than the limits above.
    """
    terms = _count(wanted, 1)
    if terms > MAX_TERMS:
        raise ValueError(f"filter has {terms} terms; at most {MAX_TERMS}")
    if (listed := _listed(wanted)) > MAX_VALUES:
        raise ValueError(f"filter lists {listed} values; at most {MAX_VALUES}")
    return _Compiler(fields).compile(wanted)


def field_type(field: str, fields: Mapping[str, FieldType]) -> FieldType | None:
    """What the field holds; None if there is no such field to filter by."""
    whole, dot, name = field.partition(".")
    kind = fields.get(whole)
    if kind != "texts":
        return None if dot else kind
    return "text" if _NAME.fullmatch(name) else None


def _count(wanted: Filter, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise ValueError(f"filter is nested more than {MAX_DEPTH} deep")
    if isinstance(wanted, AllOf | AnyOf):
        return 1 + sum(_count(inner, depth + 1) for inner in wanted.filters)
    return 1 + _count(wanted.filter, depth + 1) if isinstance(wanted, Not) else 1


def _listed(wanted: Filter) -> int:
    match wanted:
        case AllOf(filters) | AnyOf(filters):
            return sum(map(_listed, filters))
        case Not(inner):
            return _listed(inner)
        case OneOf(_, values) | HasTags(_, values, _):
            return len(values)
    return 0


class _Compiler:
    def __init__(self, fields: Mapping[str, FieldType], *, negated: bool = False) -> None:
        self._fields, self._negated = fields, negated

    def compile(self, wanted: Filter) -> str:
        match wanted:
            case Equals(field, value):
                return f"{_column(field)} == {self._literal(field, value)}"
            case OneOf(field, values):
                listed = [self._literal(field, value) for value in self._several(field, values)]
                if "." in field:  # Milvus Lite has no "in" for a text among others
                    return " or ".join(f"{_column(field)} == {value}" for value in listed) or _NEVER
                return f"{field} in [{', '.join(listed)}]" if listed else _NEVER
            case Between(field, low, high):
                return self._between(field, low, high)
            case HasTags(field, tags, every):
                return self._tags(field, tags, every)
            case AllOf(filters):
                return " and ".join(f"({self.compile(inner)})" for inner in filters) or _ALWAYS
            case AnyOf(filters):
                return " or ".join(f"({self.compile(inner)})" for inner in filters) or _NEVER
            case Not(inner):
                return f"not ({_Compiler(self._fields, negated=True).compile(inner)})"
        raise ValueError(f"{wanted!r:.80} is not a filter")

    def _between(self, field: str, low: Value | None, high: Value | None) -> str:
        kind = self._kind(field, "number", "time")
        if low is None and high is None:
            raise ValueError(f"filter on {field}: a range needs a lower or an upper bound")
        bounds = [f"{field} > {MISSING[kind]}"] if low is None else [f"{field} >= {self._literal(field, low)}"]
        if high is not None:
            bounds.append(f"{field} < {self._literal(field, high)}")
        return " and ".join(bounds)

    def _tags(self, field: str, tags: Sequence[str], every: bool) -> str:
        self._kind(field, "tags")
        listed = [_quoted(field, tag) for tag in self._several(field, tags)]
        # One by one: array_contains is the one form that both backends have in all versions.
        joined = (" and " if every else " or ").join(f"array_contains({field}, {tag})" for tag in listed)
        return joined or (_ALWAYS if every else _NEVER)

    def _kind(self, field: str, *allowed: FieldType) -> FieldType:
        kind = field_type(field, self._fields)
        if kind is None:
            names = [f"{name}.NAME" if held == "texts" else name for name, held in sorted(self._fields.items())]
            raise ValueError(f"filter on unknown field {field!r:.80}; fields are {', '.join(names)}")
        if self._negated and "." in field:  # where the row has no such text, backends disagree
            raise ValueError(f"filter on {field}: a text of {field.partition('.')[0]} cannot be negated")
        if allowed and kind not in allowed:
            raise ValueError(f"filter on {field}: it holds {kind}, this filter is for {' and '.join(allowed)}")
        return kind

    def _several(self, field: str, values: Sequence[T]) -> Sequence[T]:
        if isinstance(values, str):
            raise ValueError(f"filter on {field}: {values!r:.80}; expected a list")
        return values

    def _literal(self, field: str, value: Value) -> str:
        kind = self._kind(field, "text", "number", "time")
        match kind, value:
            case "text", str():
                return _quoted(field, value)
            case "number", bool():
                pass
            case "number", int() | float() if math.isfinite(value) and abs(value) < 1e300:
                return repr(float(value))
            case "time", datetime() if value.tzinfo is not None:
                return str(milliseconds(value))
        kinds = {"text": "a string", "number": "a finite number", "time": "a time with its time zone"}
        raise ValueError(f"filter on {field}: {value!r:.80}; expected {kinds[kind]}")


def milliseconds(moment: datetime | None) -> int:
    """Whole milliseconds since 1970, exact for every year that a datetime has."""
    return int(MISSING["time"]) if moment is None else (moment - _EPOCH) // timedelta(milliseconds=1)


def _column(field: str) -> str:
    whole, dot, name = field.partition(".")
    return f'{whole}["{name}"]' if dot else field


def _quoted(field: str, value: object) -> str:
    """A string literal that both backends read back as it was: quotes and backslashes escaped, all else as it is."""
    if not isinstance(value, str):
        raise ValueError(f"filter on {field}: {value!r:.80}; expected a string")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"filter on {field}: the value is not valid Unicode") from error
    if size > MAX_BYTES or "\0" in value:
        raise ValueError(f"filter on {field}: {value!r:.80}; at most {MAX_BYTES} bytes, and no NUL")
    return f'"{value.translate(_ESCAPES)}"'
