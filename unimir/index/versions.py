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
    present = versions(store, name)
    for version in present:
        if version.bundle_id == bundle_id:
            return version.collection
    return f"{name}_{present[-1].number + 1 if present else 1:04d}_{bundle_id}"


def publish(store: Store, name: str, collection: str, *, keep: int) -> list[str]:
    """Moves the alias to the collection and drops all but the `keep` newest other versions; returns those dropped.

    ValueError, and nothing moves, if readers would lose a tenant that they see now.
    """
    current = store.target(name)
    if current == collection:
        return []
    if current is not None:
        lost = store.tenants(current) - store.tenants(collection)
        if lost:
            named = ", ".join(repr(tenant) for tenant in sorted(lost)[:5])
            raise ValueError(
                f"{name} stays at {current}: {collection} lacks the items of tenants {named}; embed theirs too"
            )
    store.point(name, collection)
    others = [version.collection for version in versions(store, name) if version.collection != collection]
    dropped = others[: max(0, len(others) - keep)]
    for old in dropped:
        store.drop(old)
    return dropped


def rollback(store: Store, name: str) -> str:
    """Moves the alias to the version before the one it shows, and returns that one's collection."""
    current = store.target(name)
    if current is None:
        raise ValueError(f"no alias {name!r} to roll back")
    listed = [version.collection for version in versions(store, name)]
    before = listed[: listed.index(current)] if current in listed else []
    if not before:
        raise ValueError(f"{name} shows {current}, and no earlier version is kept")
    store.load(before[-1])
    store.point(name, before[-1])
    return before[-1]
