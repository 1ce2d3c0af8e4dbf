"""A catalog to embed: which files hold its items, and what their columns mean.

Knows no file's content: readers open the files, items decides what a row is.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unimir.data.corpora import Format, read_manifest, root_of
from unimir.plain import from_dict

COLUMNS = ("id", "title", "text", "lang", "image", "image_path", "captured_at", "place", "price", "tags")
"""What a catalog's columns can mean. `image` holds a picture's bytes, `image_path` its path under the root."""
_SUFFIXES: Mapping[str, Format] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tar": "webdataset",
}


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """One table of items; relative paths are under `root`."""

    name: str
    format: Format
    path: tuple[str, ...]
    columns: Mapping[str, str]
    extra: tuple[str, ...] = ()  # columns that are stored and given back as they are
    lang: str | None = None  # of every item, where no column says
    root: str = field(default="", repr=False)

    @property
    def tables(self) -> tuple[Catalog]:
        """The catalog as the one table of a manifest, which is how readers take it."""
        return (self,)


def load_catalog(path: Path, root: Path | str | None = None) -> Catalog:
    """Reads and checks a catalog's manifest (YAML); relative paths are under `root`, or else beside the manifest."""
    raw = read_manifest(path, "catalog", "format, path, columns")
    for key in ("path", "extra"):
        if key in raw and not isinstance(raw[key], list):
            raw[key] = [raw[key]]
    catalog = from_dict(Catalog, {"name": path.stem, **raw, "root": root_of(root or path.parent)}, str(path))
    _check(catalog, str(path))
    return catalog


def catalog_of_files(pattern: str, root: Path | str | None = None) -> Catalog:
    """A catalog of files, without a manifest: a path, glob or URI, whose columns bear the names of COLUMNS.

    An `image_path` is below `root`, or else beside the files.
    """
    from unimir.data.files import find
    from unimir.data.readers import column_names, table_files

    suffix = posixpath.splitext(pattern)[1].lower()
    pattern = pattern if "://" in pattern else root_of(pattern)
    fixed = re.split(r"[*?\[]", pattern)[0]
    start = root_of(root) if root is not None else fixed if suffix not in _SUFFIXES else posixpath.dirname(fixed)
    if suffix not in _SUFFIXES:  # a directory: of what, its files say
        files = find(start, [pattern], "catalog")
        suffixes = {posixpath.splitext(file.uri)[1].lower() for file in files}
        format: Format = next((_SUFFIXES[known] for known in _SUFFIXES if known in suffixes), "imagefolder")
        if format != "imagefolder":
            pattern = posixpath.join(pattern, f"**/*{next(s for s, f in _SUFFIXES.items() if f == format)}")
    else:
        format = _SUFFIXES[suffix]
    name = posixpath.basename(pattern.rstrip("/")).split(".")[0].strip("*") or "catalog"
    columns = {"id": "image_id", "image": "image"} if format == "imagefolder" else {"id": "id"}
    catalog = Catalog(name=name, format=format, path=(pattern,), columns=columns, root=start)
    if format == "imagefolder":
        return catalog
    found = column_names(catalog, table_files(catalog, catalog)[0])
    columns = {column: column for column in COLUMNS if column in found}
    extra = () if format == "webdataset" else tuple(column for column in found if column not in columns)
    catalog = dataclasses.replace(catalog, columns=columns, extra=extra)
    _check(catalog, f"{pattern} (columns {', '.join(found)})")
    return catalog


def _check(catalog: Catalog, where: str) -> None:
    unknown = [column for column in catalog.columns if column not in COLUMNS]
    if unknown:
        raise ValueError(f"{where}: unknown column {unknown[0]!r}; known columns: {', '.join(COLUMNS)}")
    if "id" not in catalog.columns:
        raise ValueError(f"{where}: columns lacks 'id'")
    if not {"title", "text", "image", "image_path"} & set(catalog.columns):
        raise ValueError(f"{where}: nothing to embed; give title, text, image or image_path")
