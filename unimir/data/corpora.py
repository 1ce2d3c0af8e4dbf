"""The corpora manifest: which files hold which examples, and how their columns, languages and splits are named.

Knows no file's content: readers open the files, prepare decides what is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from unimir.plain import from_dict
from unimir.schema import SPLITS, Kind, Split

Format = Literal["parquet", "jsonl", "csv", "tsv", "conll", "webdataset", "imagefolder", "hf_dataset"]
LEAKS = ("text", "document", "image")

_COLUMNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # kind -> required, optional
    "image_text": (("image_id", "text"), ("lang", "group_id")),
    "text_text": (("query", "document"), ("query_lang", "doc_lang", "group_id")),
    "parallel": (("text", "group_id"), ("lang",)),
    "nlu": (("text", "intent"), ("lang", "slots", "label_set", "group_id")),
    "intent_query": (
        ("text", "intent", "group_id"),
        ("lang", "slots", "label_set", "image_id", "document", "doc_lang", "filters"),
    ),
}
_CONLL = ("text", "intent", "slots")  # what the format itself names


@dataclass(frozen=True, kw_only=True)
class Where:
    """Raw values of one column that are kept, or (`exclude`) left out."""

    values: tuple[str, ...]
    exclude: bool = False


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """How a row's split is chosen: by hash of columns, by a column's value, or one split for all."""

    by: tuple[str, ...] = ("group_id",)
    train: float = 0.9
    validation: float = 0.0
    evaluation: float = 0.1
    salt: str | None = None
    only: Split | None = None
    column: str | None = None
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shares = (self.train, self.validation, self.evaluation)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"split: shares {shares} of train, validation, evaluation must be >= 0 and add up to 1")


@dataclass(frozen=True, kw_only=True)
class Join:
    """A small lookup table, held in memory, whose columns are added to rows by a key."""

    path: tuple[str, ...]
    format: Format
    on: str
    columns: Mapping[str, tuple[str, ...]]
    where: Mapping[str, Where] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """A table of pictures, each stored once under an id."""

    name: str
    format: Format
    path: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    where: Mapping[str, Where] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One table of examples of one kind."""

    name: str
    kind: Kind
    format: Format
    path: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    where: Mapping[str, Where] = field(default_factory=dict)
    images: str | None = None
    namespace: str = ""
    lang: str | None = None
    lang_from_path: str | None = None
    join: Join | None = None
    texts: str | None = None
    label_set: str | None = None
    rename_labels: Mapping[str, str] = field(default_factory=dict)
    split: SplitRule = field(default_factory=SplitRule)
    leak: tuple[str, ...] = ()


@dataclass(frozen=True)
class Corpora:
    """A whole manifest; relative paths are under `root`."""

    name: str
    root: str
    images: tuple[ImageTable, ...]
    sources: tuple[Source, ...]

    @property
    def tables(self) -> tuple[ImageTable | Source, ...]:
        """Image tables, then sources: the order of work and of precedence among duplicates."""
        return (*self.images, *self.sources)


class _Loader(yaml.SafeLoader):
    """YAML without booleans: `on` is a key here and `no` is Norwegian."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def parse_yaml(text: str) -> Any:
    """What YAML says, words for booleans as words. yaml.YAMLError if it says nothing."""
    return yaml.load(text, Loader=_Loader)


def read_manifest(path: Path, kind: str, keys: str) -> dict[str, Any]:
    """A manifest's top level; ValueError says what it should be where it is something else."""
    if not path.is_file():
        raise ValueError(f"{path}: no {kind} manifest there")
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: expected a mapping with {keys}; got {type(raw).__name__}")
    return raw


def root_of(root: Path | str) -> str:
    """Where relative paths start: a URI as it is, a directory in full."""
    text = str(root)
    return text if "://" in text else str(Path(text).absolute())


def load_corpora(path: Path, root: Path | str | None = None) -> Corpora:
    """Reads and checks a manifest; relative paths are under `root`, or else beside the manifest."""
    raw = read_manifest(path, "corpora", "name, images, sources")
    unknown = [key for key in raw if key not in ("name", "images", "sources")]
    if unknown:
        raise ValueError(f"{path}: unknown key {unknown[0]!r}; known keys: name, images, sources")
    images = tuple(
        _build(ImageTable, entry, f"{path}: images {_name(entry)}") for entry in _entries(raw, "images", path)
    )
    sources = tuple(_build(Source, entry, f"{path}: source {_name(entry)}") for entry in _entries(raw, "sources", path))
    if not sources:
        raise ValueError(f"{path}: no sources")
    corpora = Corpora(str(raw.get("name", path.stem)), root_of(root or path.parent), images, sources)
    _check(corpora, path)
    return corpora


def _entries(raw: Mapping[str, Any], key: str, path: Path) -> list[Any]:
    value = raw.get(key) or []
    if not isinstance(value, list):
        raise ValueError(f"{path}: {key} must be a list, got {type(value).__name__}")
    return value


def _name(entry: Any) -> str:
    return str(entry.get("name", "(no name)")) if isinstance(entry, Mapping) else repr(entry)


def _build(cls: type[Any], entry: Any, where: str) -> Any:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: expected a mapping, got {entry!r}")
    values = _tidy(entry, where)
    if cls is Source:
        values.setdefault("namespace", values.get("name"))
        values.setdefault("leak", ["image"] if values.get("kind") == "image_text" else ["text"])
        if "split" in values:
            values["split"] = _split(values["split"], where)
        if isinstance(values.get("join"), Mapping):
            values["join"] = _tidy(values["join"], f"{where}.join")
    try:
        return from_dict(cls, values, where)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(where) else f"{where}: {message}") from error


def _tidy(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Short forms of the YAML spelt out: one path or column as a list, `where` as values and exclude."""
    values = dict(entry)
    if "path" in values:
        values["path"] = _listed(values["path"])
    columns = values.get("columns")
    if isinstance(columns, Mapping):
        values["columns"] = {key: _listed(column) for key, column in columns.items()}
    rules = values.get("where")
    if isinstance(rules, Mapping):
        values["where"] = {}
        for column, rule in rules.items():
            exclude = isinstance(rule, Mapping)
            if exclude and set(rule) != {"not"}:
                raise ValueError(f"{where}: where {column} has keys {sorted(rule)}; only 'not' is known")
            listed = _texts(rule["not"] if exclude else rule, f"{where}: where {column}")
            values["where"][column] = {"values": listed, "exclude": exclude}
    return values


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _texts(value: Any, where: str) -> list[str]:
    """Values that a column is compared with. ValueError for null, which equals nothing."""
    if None in (listed := _listed(value)):
        raise ValueError(f"{where} has null, which no value equals")
    return [str(one) for one in listed]


def _split(rule: Any, where: str) -> Any:
    if not isinstance(rule, Mapping):
        return rule
    values = dict(rule)
    if "by" in values:
        values["by"] = _listed(values["by"])
    if "column" in values:
        taken = {split: values.pop(split) for split in SPLITS if split in values}
        if not taken:
            raise ValueError(f"{where}: split by column {values['column']} names no values for any of {SPLITS}")
        values["values"] = {split: _texts(listed, f"{where}: split {split}") for split, listed in taken.items()}
    elif "only" not in values:
        given = [values[split] for split in ("validation", "evaluation") if isinstance(values.get(split), (int, float))]
        values.setdefault("evaluation", 0.1)
        values.setdefault("train", 1.0 - sum(given) - (0.1 if "evaluation" not in rule else 0.0))
    return values


def _check(corpora: Corpora, path: Path) -> None:
    names = [table.name for table in corpora.tables]
    for kind in (corpora.images, corpora.sources):
        listed = [table.name for table in kind]
        if repeated := sorted({name for name in listed if listed.count(name) > 1}):
            raise ValueError(f"{path}: the name {repeated[0]!r} is used twice")
    for table in corpora.images:
        _check_images(table, f"{path}: images {table.name}")
    for source in corpora.sources:
        _check_source(source, names[: len(corpora.images)], f"{path}: source {source.name}")


def _check_images(table: ImageTable, where: str) -> None:
    known = ("image_id", "image")
    if unknown := [column for column in table.columns if column not in known]:
        raise ValueError(f"{where}: unknown column {unknown[0]!r}; known columns: {', '.join(known)}")
    missing = [column for column in known if column not in table.columns]
    if missing and table.format != "imagefolder":
        raise ValueError(f"{where}: columns lacks {missing[0]!r}")


def _check_source(source: Source, images: list[str], where: str) -> None:
    required, optional = _COLUMNS[source.kind]
    named = {*source.columns, *(source.join.columns if source.join else ())}
    unknown = sorted(named - {*required, *optional})
    if unknown:
        known = ", ".join((*required, *optional))
        raise ValueError(f"{where}: unknown column {unknown[0]!r} for kind {source.kind}; known columns: {known}")
    implied = set(_CONLL) if source.format == "conll" else set()
    if source.texts is not None:
        implied.add("query" if source.kind == "text_text" else "text")
    missing = [column for column in required if column not in named | implied]
    if missing:
        raise ValueError(f"{where}: kind {source.kind} needs a column {missing[0]!r}")
    if not ({"lang", "query_lang"} & named or source.lang or source.lang_from_path or source.texts):
        raise ValueError(f"{where}: no language; give lang, lang_from_path, or a column for it")
    if source.kind in ("nlu", "intent_query") and not (source.label_set or "label_set" in named):
        raise ValueError(f"{where}: kind {source.kind} needs a label_set")
    if "image_id" in named and source.images is None:
        raise ValueError(f"{where}: a column image_id needs images; image tables: {', '.join(images) or 'none'}")
    if source.lang_from_path is not None:
        try:
            groups = re.compile(source.lang_from_path).groups
        except re.error as error:
            raise ValueError(f"{where}: lang_from_path {source.lang_from_path!r} is no pattern ({error})") from error
        if not groups:
            raise ValueError(f"{where}: lang_from_path {source.lang_from_path!r} has no (group) around the language")
    if source.images is not None and source.images not in images:
        raise ValueError(f"{where}: images {source.images!r} is unknown; image tables: {', '.join(images) or 'none'}")
    bad = [key for key in source.leak if key not in LEAKS]
    if bad:
        raise ValueError(f"{where}: leak has {bad[0]!r}; allowed: {', '.join(LEAKS)}")
