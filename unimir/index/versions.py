"""Versions of a catalog's collection: one per bundle, of which an alias shows one to readers.

A version's name is NAME_NUMBER_BUNDLE, so that order and origin can be read off any Milvus. Knows no row and no model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from unimir.artifacts import content_id
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


def begin(store: Store, collection: str, tenant: str) -> None:
    """Notes that the tenant's items are being embedded: a job that is killed leaves the note behind."""
    store.point(_begun(collection, tenant), collection)


def publish(store: Store, name: str, collection: str, *, tenant: str, keep: int) -> list[str]:
    """Moves the alias to the collection, where this tenant is whole now, and returns the versions dropped.

    The one that readers saw until now and the newest other whole ones stay for a rollback, `keep` of them; what was
    begun earlier and never became whole goes. ValueError, and nothing moves, if readers would lose items of a tenant
    that they see now.
    """
    if keep < 0:
        raise ValueError(f"keep is {keep}; 0 or more")
    if (note := _begun(collection, tenant)) in store.aliases(collection):
        store.unpoint(note)
    current = store.target(name)
    if current not in (None, collection):
        begun = set(store.aliases(collection))
        there = {one for one in store.tenants(collection) if _begun(collection, one) not in begun}
        lost = store.tenants(current) - there
        if lost:
            named = ", ".join(repr(tenant) for tenant in sorted(lost)[:5])
            raise ValueError(
                f"{name} stays at {current}: {collection} lacks items of tenants {named}; embed theirs too"
            )
    if current != collection:
        store.point(_mark(collection), collection)
        store.point(name, collection)
    others = [version.collection for version in versions(store, name) if version.collection != collection]
    whole = [other for other in others if _is_whole(store, other)]
    whole.sort(key=lambda other: other == current)  # after a rollback not the newest: yet services still read it
    dropped = whole[: max(0, len(whole) - keep)]
    dropped += [other for other in others if other not in whole and other < collection]
    for old in dropped:
        for mark in store.aliases(old):
            if mark.startswith(f"{old}_"):  # ours; others keep it from being dropped
                store.unpoint(mark)
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


def _begun(collection: str, tenant: str) -> str:
    """An alias that a collection has while the items of this tenant come in."""
    return f"{collection}_begun_{content_id(tenant)}"


def _is_whole(store: Store, collection: str) -> bool:
    return _mark(collection) in store.aliases(collection)
