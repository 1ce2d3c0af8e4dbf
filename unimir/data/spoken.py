"""Whole texts about an item: catalog documents, spoken search queries with marked slots, and other commands.

Knows how sentences are put together from the lexicon's templates. Does not know files, pictures or item choice.
"""

import datetime
import math
import re
from typing import Any, NamedTuple

from unimir.data import phrasing
from unimir.data.phrasing import Content, Rng, Slot, lexicon, pick

# Each search intent with the word group naming what is wanted; an intent may have frames of its own besides "ask".
WANTED = {"find_picture": "picture", "find_text": "text", "find_offer": "offer", "show_recent": "recent"}
COMMANDS = ("count_items", "greeting", "help", "out_of_scope")

_CASE = re.compile(r"\{(nom|acc|dat|gen|obl)\}")
_OPTIONAL = re.compile(r"<([^<>]*)>")
_COMMAS = str.maketrans("", "", ",،")
_SYMBOLS = {"EUR": "€", "USD": "$", "JPY": "¥", "GBP": "£"}


class Facts(NamedTuple):
    """When and where an item was made, and what it costs."""

    captured_at: datetime.date
    place: str
    price: float
    currency: str


class Utterance(NamedTuple):
    """A query or command with its gold slots and, for searches, the filters its constraints mean."""

    text: str
    slots: list[Slot]
    filters: dict[str, Any]


def title(code: str, content: Content, rng: Rng) -> str:
    """A title-like content phrase."""
    text = phrasing.content_phrase(code, content, "title", rng)
    return text[0].upper() + text[1:] if rng.random() < 0.5 else text


def document(code: str, content: Content, facts: Facts, rng: Rng) -> str:
    """A description of three to five sentences stating content, place, date and price among catalog prose."""
    raw = lexicon().languages[code].raw
    lead = _with_content(pick(raw["doc"], rng), code, content, rng)
    amount = f"{facts.price:.0f}" if facts.currency == "JPY" else f"{facts.price:.2f}"
    unit = _SYMBOLS[facts.currency] if rng.random() < 0.5 else facts.currency
    day = facts.captured_at
    body = pick(raw["facts"], rng).format(
        place=phrasing.unbracketed(raw["places"][facts.place]),
        date=raw["date"].format(day=day.day, month=raw["months"][day.month - 1], year=day.year),
        price=f"{amount.replace('.', raw['decimal'])} {unit}",
    )
    order = rng.permutation(len(raw["filler"]))[: 1 + int(rng.random() < 0.5)]
    sentences = [lead, body, *(raw["filler"][k] for k in order)]
    if rng.random() < 0.25:
        sentences[1], sentences[2] = sentences[2], sentences[1]
    return phrasing.unmark(_tidy(raw["space"].join(sentences)))[0]


def query(code: str, intent: str, content: Content, facts: Facts, today: datetime.date, rng: Rng) -> Utterance:
    """A wordy search request; a recent-items search always names a time, an offer search always a price."""
    raw = lexicon().languages[code].raw
    constraints, filters = _constraints(code, intent, facts, today, rng)
    kind = WANTED[intent]
    frames = raw[kind] if kind in raw and rng.random() < 0.6 else raw["ask"]
    wanted = _with_content(pick(raw["wanted"][kind], rng), code, content, rng)
    frame = _OPTIONAL.sub(r"\1" if constraints else "", pick(frames, rng))
    said = frame.format(w=wanted, c=raw.get("join", " ").join(constraints))
    plain, slots = phrasing.unmark(_tidy(_among_noise(said, raw, rng)))
    if "captured_at" in filters:
        span = next(slot for slot in slots if slot.label == "time")
        filters["captured_at"]["phrase"] = plain[span.start : span.end]
    return Utterance(plain, slots, filters)


def command(code: str, intent: str, content: Content, rng: Rng) -> Utterance:
    """Something said to the assistant that is no search."""
    raw = lexicon().languages[code].raw
    template = pick(raw[intent], rng)
    text = template.format(
        name=pick(raw["names"], rng),
        n=int(rng.integers(2, 60)),
        thing=pick(raw["things"], rng),
        place=phrasing.unbracketed(raw["places"][pick(lexicon().places, rng)]),
        bare=phrasing.slot("content", phrasing.content_phrase(code, content._replace(quantity=0), "nom", rng)),
    )
    opening = pick(raw["open"], rng) if rng.random() < 0.7 else ""
    closing = pick(raw["close"], rng) if rng.random() < 0.4 else ""
    plain, slots = phrasing.unmark(_tidy(raw["space"].join((opening, text)) + closing))
    return Utterance(plain, slots, {})


def _with_content(template: str, code: str, content: Content, rng: Rng) -> str:
    """The template with its one content place filled in the case it asks for."""
    found = _CASE.search(template)
    if found is None:
        raise ValueError(
            f"template {template!r} has no content place; allowed are nom, acc, dat, gen and obl in braces"
        )
    phrase = phrasing.slot("content", phrasing.content_phrase(code, content, found[1], rng))
    return template[: found.start()] + phrase + template[found.end() :]


def _constraints(
    code: str,
    intent: str,
    facts: Facts,
    today: datetime.date,
    rng: Rng,
) -> tuple[list[str], dict[str, Any]]:
    """Marked constraint wordings in random order, all true of the item, and the filters they mean."""
    raw = lexicon().languages[code].raw
    said: list[str] = []
    filters: dict[str, Any] = {}
    if intent == "show_recent" or rng.random() < 0.4:
        window = pick(phrasing.windows(facts.captured_at, today), rng)
        said.append(phrasing.bracketed("time", phrasing.time_phrase(code, window, rng)))
        filters["captured_at"] = {"from": window.start.isoformat(), "to": window.end.isoformat()}
    if rng.random() < 0.4:
        place = pick(raw["place"].split("|"), rng).format(place=raw["places"][facts.place])
        said.append(phrasing.bracketed("place", place))
        filters["place"] = facts.place
    if intent == "find_offer" or rng.random() < 0.3:
        bounds = _price_bounds(facts.price, facts.currency, rng)
        said.append(phrasing.bracketed("price", phrasing.price_phrase(code, bounds, facts.currency, rng)))
        filters["price"] = {**bounds, "currency": facts.currency}
    return [said[k] for k in rng.permutation(len(said))], filters


def _price_bounds(price: float, currency: str, rng: Rng) -> dict[str, int]:
    """Round bounds around the price: max, min or both."""
    step = 500 if currency == "JPY" else 5 if price < 50 else 10
    high = math.ceil(price * rng.uniform(1.02, 1.5) / step) * step
    low = math.floor(price * rng.uniform(0.4, 0.95) / step) * step
    kind = pick(("max", "max", "min", "range"), rng) if low else "max"
    return {key: value for key, value in (("min", low), ("max", high)) if kind in (key, "range")}


def _among_noise(said: str, raw: dict[str, Any], rng: Rng) -> str:
    """The request with hesitations, courtesies and, in a third of the cases, an aside about something else."""
    parts = [said]
    aside = float(rng.random())
    if aside < 0.18:
        parts.insert(0, pick(raw["before"], rng).format(thing=pick(raw["things"], rng)))
    if rng.random() < 0.75:
        parts.insert(0, pick(raw["open"], rng))
    text: str = raw["space"].join(parts)
    if 0.18 <= aside < 0.36:
        text += pick(raw["after"], rng).format(thing=pick(raw["things"], rng))
    if rng.random() < 0.5:
        text += pick(raw["close"], rng)
    # Speech recognisers often leave punctuation out.
    return text.translate(_COMMAS) if raw["space"] and rng.random() < 0.3 else text


def _tidy(text: str) -> str:
    return " ".join(text.split())
