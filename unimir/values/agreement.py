"""A phrase whose language nobody named, read in every language that knows its words.

Knows no phrase and no language: how one is read is given to it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

Value = TypeVar("Value", bound=Hashable)


def agreed(read: Callable[[str], Value | None], languages: Iterable[str], said_in: str | None = None) -> Value | None:
    """What the phrase says in the language it is said in; without one, what all that understand it say alike.

    `read` gives the value in one language (a tag of BCP 47), or None. None also where two languages differ: 03/04 is
    March in one and April in the other.
    """
    listed = tuple(languages)
    if said_in is not None and language_of(said_in) in listed:
        return read(said_in)
    found = {value for lang in listed if (value := read(lang)) is not None}
    return found.pop() if len(found) == 1 else None


def language_of(tag: str) -> str:
    """The language of a tag of BCP 47, as its code of ISO 639-1: "en" of "en-GB"."""
    return tag.replace("_", "-").split("-")[0].lower()
