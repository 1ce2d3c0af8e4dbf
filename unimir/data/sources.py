"""Corpora and catalogs by name: a manifest from disk, files, the generated sample, or the open data of recipe atlas.

Knows where manifests come from and what must be generated first; what they hold is in corpora.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from unimir.config import Config
from unimir.data.catalog import Catalog, catalog_of_files, load_catalog
from unimir.data.corpora import Corpora, load_corpora

SAMPLE = "sample"
ATLAS = "atlas"
ROOT_VARIABLE = "UNIMIR_DATA"
"""Environment variable for the root of the open data, where no root is given."""


def corpora_of(
    config: Config, out: Path, root: Path | str | None = None, *, corpora: Path | str | None = None
) -> Corpora:
    """The corpora that `corpora`, or else the config, names; `root` is where a manifest's relative paths start.

    What is generated goes to `out/corpora`, once.
    """
    named = str(corpora or config.corpora)
    directory = out.absolute() / "corpora"
    if named == SAMPLE:
        return _sample(directory / f"{SAMPLE}-{config.sample_items}-{config.seed}", config)
    root = root or os.environ.get(ROOT_VARIABLE)
    if named == ATLAS:
        if root is None:
            raise ValueError(f"corpora {ATLAS!r}: say where the open data is, by --root DIR or {ROOT_VARIABLE}")
        return _atlas(directory / f"{ATLAS}-{config.seed}", Path(root), config)
    return load_corpora(Path(named), root)


def catalog_of(named: str, out: Path, *, root: Path | str | None = None, items: int, seed: int) -> Catalog:
    """The catalog that a name says: `sample` (generated once below `out`), a manifest (.yaml), or files."""
    if named == SAMPLE:
        directory = out.absolute() / "corpora" / f"{SAMPLE}-{items}-{seed}"
        _generated(directory, items, seed)
        with resources.as_file(resources.files("unimir.data") / "sample_catalog.yaml") as manifest:
            return load_catalog(manifest, directory)
    if named.endswith((".yaml", ".yml")):
        return load_catalog(Path(named), root)
    return catalog_of_files(named, root)


def _sample(directory: Path, config: Config) -> Corpora:
    _generated(directory, config.sample_items, config.seed)
    return _packaged("sample_corpora.yaml", directory)


def _generated(directory: Path, items: int, seed: int) -> None:
    from unimir.data.sample import generate

    _once(directory, lambda unfinished: generate(unfinished, items=items, seed=seed))


def _atlas(directory: Path, root: Path, config: Config) -> Corpora:
    from unimir.data.compose import compose

    _once(directory, lambda unfinished: compose(root, unfinished / "composed", seed=config.seed))
    corpora = _packaged("atlas.yaml", root)
    # The open data may be read-only, so the composed queries lie with the run's other output.
    sources = tuple(
        dataclasses.replace(
            source, path=tuple(str(directory / p) if p.startswith("composed/") else p for p in source.path)
        )
        for source in corpora.sources
    )
    return dataclasses.replace(corpora, sources=sources)


def _packaged(name: str, root: Path) -> Corpora:
    with resources.as_file(resources.files("unimir.data") / name) as manifest:
        return load_corpora(manifest, root)


def _once(directory: Path, make: Callable[[Path], None]) -> None:
    """Fills the directory unless it is there; a run killed half-way leaves nothing that looks whole."""
    if directory.exists():
        return
    unfinished = directory.with_name(f"{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    make(unfinished)
    unfinished.rename(directory)
