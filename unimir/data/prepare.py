"""A manifest's corpora to one prepared directory: two passes of Ray Data around one decision on the driver.

Knows the order of the work; what happens to rows is in shards, which rows go is in duplicates.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from unimir import artifacts
from unimir.config import Config
from unimir.data.corpora import Corpora, ImageTable, Source
from unimir.data.duplicates import drop_images, drop_rows, keys_of, trained_labels
from unimir.data.keys import label_hash
from unimir.data.passes import each
from unimir.data.readers import Unit, plan, table_files
from unimir.data.shards import Found, Part, Shards, label_of
from unimir.data.text import TextTokenizer, tokenizer_file, train_tokenizer, whole_tokenizer
from unimir.plain import to_dict
from unimir.schema import SPLITS

_FORMAT = 4  # raise when the same inputs would give another directory
_SAMPLED_UNITS = 32  # of each source, for the tokenizer
_PART_UNITS = 4  # units whose rows share one final file


def prepare(corpora: Corpora, config: Config, out: Path) -> Path:
    """The finished prepared directory below `out`, made now or found from before. Ray must be initialised."""
    files = [file for table in corpora.tables for file in table_files(corpora, table)]
    files += [file for s in corpora.sources if s.join for file in table_files(corpora, s.join)]
    manifest = to_dict(corpora) | {"root": None}
    listing = [[file.label, file.size, file.mtime] for file in files]
    settings = {"tokenizer": to_dict(config.tokenizer), "prepare": to_dict(config.prepare)}
    tokenizer = _given_tokenizer(config)
    key = artifacts.content_id(artifacts.canonical_json([_FORMAT, manifest, settings, listing]), tokenizer or b"")
    directory = out.absolute() / "prepared" / f"{corpora.name}-{key}"
    if artifacts.exists(directory):
        return directory
    units = plan(corpora, config.prepare.unit_rows)
    if not any(isinstance(corpora.tables[unit.table], Source) for unit in units):
        raise ValueError(f"{corpora.name}: no row is left for training")
    artifacts.start(directory)
    (directory / "candidates").mkdir()
    shards = Shards(corpora, config.prepare, str(directory))
    if tokenizer:
        (directory / "tokenizer.json").write_bytes(tokenizer)
    else:
        _train(shards, config, units)
    found = _pass([(unit,) for unit in units], shards.work)
    drops = _decide(shards, units, found)
    parts = _pass(_grouped(corpora, units, drops), shards.finish)
    shutil.rmtree(directory / "candidates")
    counts = _counts(corpora, units, found, parts)
    _write_statistics(directory, parts)
    kept = [path for path in directory.glob("*/**/part-*") if path.parent.name != "rejected"]
    named = [path for path in (directory / "tokenizer.json", directory / "labels.json") if path.exists()]
    artifacts.finish(
        directory,
        kind="prepared",
        id=artifacts.files_id(directory, [*kept, *named]),
        parents={},
        config={**settings, "corpora": manifest},
        counts=counts,
    )
    return directory


def _given_tokenizer(config: Config) -> bytes | None:
    if config.tokenizer.path is None:
        return None
    path = tokenizer_file(config.tokenizer.path)
    TextTokenizer.from_file(path, config.prepare.max_tokens)
    return whole_tokenizer(path)


def _pass(items: Sequence[tuple[Any, ...]], work: Callable[..., Any]) -> list[Any]:
    """The results of a pass in the order of the items."""
    results = dict(each(items, work))
    return [results[at] for at in range(len(items))]


def _train(shards: Shards, config: Config, units: Sequence[Unit]) -> None:
    """A tokenizer from training texts of all sources, larger sources weighing by the root of their size."""
    by_source: dict[int, list[Unit]] = {}
    for unit in units:
        if isinstance(shards.corpora.tables[unit.table], Source):
            by_source.setdefault(unit.table, []).append(unit)
    weights = {table: len(listed) ** 0.5 for table, listed in by_source.items()}
    items = []
    for table, listed in by_source.items():
        spread = np.unique(np.linspace(0, len(listed) - 1, min(_SAMPLED_UNITS, len(listed))).astype(int))
        budget = config.tokenizer.train_texts * weights[table] / sum(weights.values())
        items += [(listed[at], int(np.ceil(budget / len(spread)))) for at in spread]
    texts = [text for found in _pass(items, shards.texts) for text in found]
    if not texts:
        raise ValueError(f"{shards.corpora.name}: no row is left for training")
    path = Path(shards.directory) / "tokenizer.json"
    train_tokenizer(iter(texts), config.tokenizer.vocab_size, path)


def _decide(shards: Shards, units: Sequence[Unit], found: Sequence[Found]) -> list[bytes]:
    """One code per candidate row of each unit; writes labels.json."""
    corpora = shards.corpora
    shown = [i for i, unit in enumerate(units) if isinstance(corpora.tables[unit.table], ImageTable)]
    told = [i for i, unit in enumerate(units) if isinstance(corpora.tables[unit.table], Source)]
    drops: dict[int, bytes] = {}
    images = pa.concat_tables([found[i].keys for i in shown]) if shown else None
    ids, marks = np.zeros(0, np.uint64), np.zeros((0, 44), np.uint8)
    if images is not None:
        ids = images["image"].to_numpy()
        marks = np.frombuffer(b"".join(images["sketch"].to_pylist()), np.uint8).reshape(-1, 44)
        codes = drop_images(ids)
        drops |= _divided(codes, shown, found)
        ids, marks = ids[codes == 0], marks[codes == 0]
    first = len(corpora.images)
    keys = keys_of(
        [found[i].keys for i in told], [found[i].sketches for i in told], [units[i].table - first for i in told]
    )
    codes = drop_rows(keys, corpora.sources, ids, marks)
    if not np.any((codes == 0) & (keys.split == 0)):
        raise ValueError(f"{corpora.name}: no row is left for training")
    drops |= _divided(codes, told, found)
    names = sorted(set().union(*(found[i].labels for i in told)))
    trained = set(trained_labels(codes, keys).tolist())
    labels: dict[str, dict[str, list[str]]] = {}
    for what, label_set, name in names:
        if int(label_hash(what, pa.array([label_set]), pa.array([name]))[0]) in trained:
            labels.setdefault(label_set, {"intents": [], "slots": []})[what].append(name)
    _write_json(Path(shards.directory) / "labels.json", labels)
    return [drops[i] for i in range(len(units))]


def _divided(codes: Any, members: Sequence[int], found: Sequence[Found]) -> dict[int, bytes]:
    ends = np.cumsum([found[i].keys.num_rows for i in members])  # type: ignore[union-attr]
    return {i: part.tobytes() for i, part in zip(members, np.split(codes, ends[:-1]), strict=True)}


def _grouped(
    corpora: Corpora, units: Sequence[Unit], drops: Sequence[bytes]
) -> list[tuple[int, list[Unit], list[bytes]]]:
    """Neighbouring units of one kind share a final file."""
    kinds: dict[str, list[Unit]] = {}
    for unit in units:
        kinds.setdefault(getattr(corpora.tables[unit.table], "kind", "images"), []).append(unit)
    groups = [
        listed[start : start + _PART_UNITS] for listed in kinds.values() for start in range(0, len(listed), _PART_UNITS)
    ]
    return [(number, group, [drops[unit.index] for unit in group]) for number, group in enumerate(groups)]


def _counts(
    corpora: Corpora, units: Sequence[Unit], found: Sequence[Found], parts: Sequence[Part]
) -> dict[str, dict[str, Any]]:
    """Rows read, kept and rejected of every source; kept + rejected is what was read, or something is lost."""
    counts: dict[str, dict[str, Any]] = {}
    for table in corpora.tables:
        splits: dict[str, Any] = {} if isinstance(table, ImageTable) else {split: 0 for split in SPLITS}
        counts[label_of(table)] = {"read": 0, "kept": 0, "rejected": {}, **splits}
    for unit, told in zip(units, found, strict=True):
        counts[label_of(corpora.tables[unit.table])]["read"] += told.read
    for part in parts:
        for (name, reason), rows in sorted(part.rejected.items()):
            rejected = counts[name]["rejected"]
            rejected[reason] = rejected.get(reason, 0) + rows
        for (name, split), rows in part.kept.items():
            counts[name]["kept"] += rows
            if split:
                counts[name][split] += rows
    for name, count in counts.items():
        if count["kept"] + sum(count["rejected"].values()) != count["read"]:
            raise RuntimeError(f"{name}: rows were lost, this is a bug: {count}")
    return counts


def _write_statistics(directory: Path, parts: Sequence[Part]) -> None:
    """Rows, characters and tokens per source, language and split."""
    sums: dict[tuple[str, str, str], dict[str, int]] = {}
    for row in (row for part in parts for row in part.statistics):
        total = sums.setdefault((row["source"], row["lang"], row["split"]), {"rows": 0, "chars": 0, "tokens": 0})
        for name in total:
            total[name] += row[name]
    ordered = sorted(sums.items())
    rows = [{"source": source, "lang": lang, "split": split, **total} for (source, lang, split), total in ordered]
    _write_json(directory / "statistics.json", rows)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
