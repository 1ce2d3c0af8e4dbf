"""Which bundle and collection a service serves, found once before it starts.

Knows no HTTP and loads no model.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from unimir import artifacts
from unimir.bundle_files import read_model_config, verify_bundle
from unimir.index.lite import embedded
from unimir.index.store import Store
from unimir.index.versions import versions
from unimir.serve.settings import Settings


@dataclass(frozen=True)
class Served:
    """What a service serves: a bundle, and the collection whose vectors it made."""

    bundle: Path
    bundle_id: str
    collection: str
    dimensions: tuple[int, ...]  # that vectors may be asked in


def index_of(settings: Settings) -> contextlib.AbstractContextManager[str]:
    """The URI of the server, or of the embedded Milvus for as long as the context is open."""
    return contextlib.nullcontext(settings.milvus) if settings.milvus else embedded(Path(settings.data))


def find_served(settings: Settings) -> Served:
    """Which bundle belongs to the collection that readers see.

    ValueError if the one given does not, saying both ids, or if a file of it was changed.
    """
    with index_of(settings) as uri:
        store = Store(uri)
        shown = store.target(settings.collection)
        known = {version.collection: version.bundle_id for version in versions(store, settings.collection)}
        if shown is not None:
            store.load(shown)
        store.close()
    if shown is None or shown not in known:
        raise ValueError(f"no collection {settings.collection!r} to search; jobs/embed_catalog.py makes it")
    root = Path(settings.bundle)
    ids = artifacts.found(root, "bundle")
    if known[shown] not in ids:
        there = ", ".join(sorted(ids)) or "none"
        raise ValueError(f"collection {shown} holds vectors of bundle {known[shown]}; at {root}: {there}")
    bundle = ids[known[shown]].absolute()
    verify_bundle(bundle)
    config = read_model_config(bundle)
    return Served(bundle, known[shown], shown, (*config.prefixes, config.dim))
