"""Versions of a catalog's collection: one per bundle, of which an alias shows one to readers.

A version's name is NAME_NUMBER_BUNDLE, so that order and origin can be read off any Milvus. Knows no row and no model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from unimir.index.store import Store


@dataclass(frozen=True, order=True)
class Version:
    """One collection of a catalog; a higher number was begun later."""

    number: int
    bundle_id: str
    collection: str


def versions(store: Store, name: str) -> list[Version]:
    """All versions of the catalog, oldest first, finished or not."""
    pattern = re.compile(rf"{re.escape(name)}_(\d{{4,}})_([0-9a-f]+)")
    found = [(match, collection) for collection in store.collections() if (match := pattern.fullmatch(collection))]
    return sorted(Version(int(match[1]), match[2], collection) for match, collection in found)


def collection_for(store: Store, name: str, bundle_id: str) -> str:
    """The collection of this bundle: the one that is there, or the name of the next."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,99}", name):
        raise ValueError(f"name {name!r:.120}; a letter, then letters, digits and underscores, at most 100")
    if store.target(name) is None and store.exists(name):
        raise ValueError(f"name {name!r} is that of a collection; an alias cannot be called the same")
    present = versions(store, name)
    for version in present:
        if version.bundle_id == bundle_id:
            return version.collection
    return f"{name}_{present[-1].number + 1 if present else 1:04d}_{bundle_id}"


def publish(store: Store, name: str, collection: str, *, keep: int) -> list[str]:
    """Moves the alias to the collection, which is whole now, and returns the versions dropped.

    The `keep` newest whole ones stay for a rollback; what was begun earlier and never became whole goes. ValueError,
    and nothing moves, if readers would lose a tenant that they see now.
    """
    if keep < 0:
        raise ValueError(f"keep is {keep}; 0 or more")
    current = store.target(name)
    if current not in (None, collection):
        lost = store.tenants(current) - store.tenants(collection)
        if lost:
            named = ", ".join(repr(tenant) for tenant in sorted(lost)[:5])
            raise ValueError(
                f"{name} stays at {current}: {collection} lacks the items of tenants {named}; embed theirs too"
            )
    if current != collection:
        store.point(_mark(collection), collection)
        store.point(name, collection)
    others = [version.collection for version in versions(store, name) if version.collection != collection]
    whole = [other for other in others if _is_whole(store, other)]
    dropped = whole[: max(0, len(whole) - keep)]
    dropped += [other for other in others if other not in whole and other < collection]
    for old in dropped:
        if old in whole:
            store.unpoint(_mark(old))
        store.drop(old)
    return dropped


def rollback(store: Store, name: str) -> str:
    """Moves the alias to the whole version before the one it shows, and returns that one's collection."""
    current = store.target(name)
    if current is None:
        raise ValueError(f"no alias {name!r} to roll back")
    listed = [version.collection for version in versions(store, name)]
    earlier = listed[: listed.index(current)] if current in listed else []
    before = [collection for collection in earlier if _is_whole(store, collection)]
    if not before:
        raise ValueError(f"{name} shows {current}, and no earlier version is kept")
    store.load(before[-1])
    store.point(name, before[-1])
    return before[-1]


def _mark(collection: str) -> str:
    """An alias that only whole versions have: a killed job leaves a collection without one."""
    return f"{collection}_whole"


def _is_whole(store: Store, collection: str) -> bool:
    return _mark(collection) in store.aliases(collection)
