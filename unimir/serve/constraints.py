"""What a query's slots ask of the catalog's fields: typed filters, each with the span it comes from and how sure it is.

A serve config says which slot speaks of which field. Knows no model, no index and no request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from functools import partial

from unimir.index.filters import AllOf, AnyOf, Between, Equals, Filter, HasTags, Not, OneOf
from unimir.schema import Parse, Slot
from unimir.serve.settings import SlotRule
from unimir.values import amounts, time_words
from unimir.values.agreement import agreed
from unimir.values.amounts import Amount, read_amount
from unimir.values.calendar_units import Range
from unimir.values.times import resolve

Found = Mapping[tuple[str, str], tuple[Sequence[str], float]]
"""Values of the collection (one, in its spellings) and how sure they are meant, by field and by what was said."""


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """A condition on one field that a query implies."""

    label: str  # of the slot, or "intent"
    text: str
    field: str
    wanted: Filter
    certainty: float
    value: Mapping[str, str | float]  # for people: what the words were taken to mean

    @property
    def fields(self) -> set[str]:
        """What it is about."""
        return fields_of([self.wanted])


def names_said(parse: Parse, rules: Mapping[str, SlotRule]) -> list[tuple[str, str]]:
    """The field and the words of each slot that names a value of the collection."""
    named = [(rules[slot.label], slot) for slot in parse.slots if slot.label in rules]
    return [(rule.field, slot.text) for rule, slot in named if rule.type in ("name", "tag")]


def constraints_of(
    parse: Parse, rules: Mapping[str, SlotRule], found: Found, *, now: datetime, lang: str | None
) -> list[Constraint]:
    """A constraint for each slot whose words are certain; several names of one field are joined.

    `now` has the caller's time zone, in which its days begin and end.
    """
    listed: list[Constraint] = []
    for slot in parse.slots:
        rule = rules.get(slot.label)
        one = None if rule is None else _constraint(slot, rule, found, now, lang)
        if one is not None:
            listed.append(one)
    return _joined(listed)


def fields_of(wanted: Iterable[Filter]) -> set[str]:
    """The fields that filters speak of."""
    named: set[str] = set()
    for one in wanted:
        match one:
            case AllOf(filters) | AnyOf(filters):
                named |= fields_of(filters)
            case Not(inner):
                named |= fields_of([inner])
            case Equals() | OneOf() | Between() | HasTags():
                named.add(one.field)
    return named


def _constraint(slot: Slot, rule: SlotRule, found: Found, now: datetime, lang: str | None) -> Constraint | None:
    wanted: Filter
    value: dict[str, str | float]
    sure = 1.0
    match rule.type:
        case "time":
            span = agreed(partial(resolve, slot.text, now=now), time_words.languages(), lang)
            if span is None:
                return None
            wanted, value = _times(rule.field, span, now)
        case "amount":
            read = partial(read_amount, slot.text, units=rule.units, exact=rule.exact)
            amount = agreed(read, amounts.languages(), lang)
            if amount is None:
                return None
            wanted, value = _bounds(rule, amount)
        case "name" | "tag":
            if (rule.field, slot.text) not in found:
                return None
            names, sure = found[rule.field, slot.text]
            wanted = OneOf(rule.field, names) if rule.type == "name" else HasTags(rule.field, names)
            value = {"equals": ", ".join(names)}
    certainty = slot.score * sure
    return Constraint(
        label=slot.label, text=slot.text, field=rule.field, wanted=wanted, certainty=certainty, value=value
    )


def _times(field: str, span: Range, now: datetime) -> tuple[Filter, dict[str, str | float]]:
    ends = {"at_least": span.start, "below": span.end}
    said = {name: datetime.combine(day, time(), now.tzinfo) for name, day in ends.items() if day is not None}
    value: dict[str, str | float] = {name: moment.isoformat() for name, moment in said.items()}
    return Between(field, said.get("at_least"), said.get("below")), value


def _bounds(rule: SlotRule, amount: Amount) -> tuple[Filter, dict[str, str | float]]:
    ends = {"at_least": amount.low, "below": amount.high}
    value: dict[str, str | float] = {name: bound for name, bound in ends.items() if bound is not None}
    wanted: Filter = Between(rule.field, amount.low, amount.high)
    if amount.unit is not None and rule.unit_field is not None:
        wanted = AllOf([wanted, Equals(rule.unit_field, amount.unit)])
        value["unit"] = amount.unit
    return wanted, value


def _joined(listed: Sequence[Constraint]) -> list[Constraint]:
    """Two places mean either; of two ranges both hold anyway."""
    joined: dict[str, Constraint] = {}
    rest: list[Constraint] = []
    for one in listed:
        other = joined.get(one.field)
        if not isinstance(one.wanted, OneOf | HasTags):
            rest.append(one)
        elif other is None:
            joined[one.field] = one
        else:
            joined[one.field] = Constraint(
                label=one.label,
                text=f"{other.text}, {one.text}",
                field=one.field,
                wanted=AnyOf([other.wanted, one.wanted]),
                certainty=min(other.certainty, one.certainty),
                value={"equals": f"{other.value['equals']}, {one.value['equals']}"},
            )
    return [*rest, *joined.values()]
