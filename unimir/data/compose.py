"""Spoken-style queries for the open data: real sentences of xSID that ask for a work, asking for a picture instead.

Knows the manifest `atlas.yaml`, whose sources it reads as prepare does: a query is held out exactly when the caption
it asks with is, and is then put into a sentence that no training query uses. Knows no model and no tokenizer.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from unimir.data.canonical import Canon
from unimir.data.corpora import Corpora, load_corpora
from unimir.data.phrasing import slot, unmark
from unimir.data.readers import plan, read_unit
from unimir.data.rows import Rejects
from unimir.data.wordings import Frame, Words, divided, frame_of, words_of
from unimir.schema import SLOTS, SPLITS

FILES = ("emoji_queries.parquet", "photo_queries.parquet", "other.parquet")
_PHOTOS = 0.25  # share of queries for photos
_HELD_OUT = 0.15  # share of evaluation queries
_OTHER = 600  # sentences with other intents per language
_BROWSE = 0.1  # requests without content per query

_CONSTRAINTS = {"datetime": "time", "recurring_datetime": "time", "location": "place"}  # what xSID calls them
_SCHEMAS = [
    pa.schema([*((name, pa.string()) for name in names), ("slots", SLOTS)])
    for names in 2 * [("text", "lang", "intent", "group_id", "image_id", "cell_lang")]
    + [("text", "lang", "intent", "split")]
]
_END = re.compile(r"^(.*?)[\s,]*([.?!。？؟]*)$", re.DOTALL)
_WIDE = r"[\u3000-\u9fff\uff00-\uffef\ue000-\ue002]"  # Han and its punctuation; the marks of slots
_AROUND_WIDE = re.compile(rf"(?<={_WIDE})\s+|\s+(?={_WIDE})")


@dataclass(frozen=True)
class _Item:
    """A picture and what it is called in one language."""

    image_id: str
    group_id: str
    texts: tuple[str, ...]


Frames = dict[str, dict[str, list[Frame]]]  # code -> split -> frames
Items = dict[str, dict[str, list[_Item]]]  # locale -> split -> items


def compose(root: Path, out: Path, *, queries: int = 20_000, seed: int = 0) -> None:
    """Writes FILES into the folder `out` from the open data under `root`; ValueError names a file that is missing.

    Languages that have both sentences and captions share the queries evenly.
    """
    with resources.as_file(resources.files("unimir.data") / "atlas.yaml") as manifest:
        corpora = load_corpora(manifest, root)
    table = yaml.safe_load(resources.files("unimir.data").joinpath("compose_words.yaml").read_text(encoding="utf-8"))
    words = {code: words_of(code, raw, root) for code, raw in table.items()}
    frames, others = _sentences(corpora, words)
    locales = {known.locale for known in words.values()}
    items = {"emoji": _emoji(corpora, locales), "photos": _photos(corpora, locales)}
    written: dict[str, list[dict[str, Any]]] = {"emoji": [], "photos": []}
    commands: list[dict[str, Any]] = []
    spoken = {code: by_split for code, by_split in frames.items() if items["emoji"][words[code].locale]["train"]}
    share = -(-queries // max(1, len(spoken)))
    for code, by_split in spoken.items():
        rng = random.Random(f"{seed} {code}")
        for _ in range(share):
            photos = items["photos"][words[code].locale]
            what = "photos" if rng.random() < _PHOTOS and photos["train"] else "emoji"
            written[what].append(_query(words[code], by_split, items[what][words[code].locale], rng))
        commands += _browse(words[code], by_split, int(share * _BROWSE), rng)
        commands += rng.sample(others[code], min(_OTHER, len(others[code])))
    out.mkdir(parents=True, exist_ok=True)
    for name, rows, schema in zip(FILES, [*written.values(), commands], _SCHEMAS, strict=True):
        pq.write_table(pa.Table.from_pylist(rows, schema), out / name)


# ---- what the data gives --------------------------------------------------------------------------------------------


def _rows(corpora: Corpora, name: str) -> Iterator[tuple[str, pa.Table, pa.Table]]:
    """File label, raw and canonical tables of one source, read and split as prepare does."""
    source = next(source for source in corpora.sources if source.name == name)
    for unit in plan(dataclasses.replace(corpora, images=(), sources=(source,)), 1 << 20):
        rejects = Rejects(name, unit.file.label)
        for raw in read_unit(source, unit, rejects, 1 << 16):
            yield unit.file.label, raw, Canon(source, None, rejects, unit.file.label).rows(raw)


def _sentences(corpora: Corpora, words: Mapping[str, Words]) -> tuple[Frames, dict[str, list[dict[str, Any]]]]:
    """Per language the frames of each split, and the commands that ask for something else."""
    found: dict[str, list[tuple[Frame, str]]] = defaultdict(list)
    others: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name in ("xsid_valid", "xsid_valid_ba", "xsid_valid_muc", "xsid_valid_st", "xsid_train"):
        for label, _, table in _rows(corpora, name):
            code = label.rsplit("/", 1)[-1].split(".")[0]
            if code not in words:
                continue
            for row in table.select(["text", "intent", "slots", "_split"]).to_pylist():
                split = SPLITS[row["_split"]]
                if row["intent"] != "SearchCreativeWork":
                    kept = [span | {"label": _CONSTRAINTS.get(span["label"])} for span in row["slots"]]
                    said = {"text": row["text"], "lang": words[code].tag, "intent": "other", "split": split}
                    others[code].append(said | {"slots": [span for span in kept if span["label"]]})
                elif frame := frame_of(row["text"], row["slots"], words[code].raw):
                    found[code].append((frame, split))
    return {code: divided(found[code]) for code in words if found[code]}, others


def _emoji(corpora: Corpora, locales: set[str]) -> Items:
    """Emoji by locale, with their names and those keywords that no other emoji of the locale has."""
    owners: dict[tuple[str, str], set[str]] = defaultdict(set)
    texts: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    splits: dict[tuple[str, str], str] = {}
    for name in ("emoji_name", "emoji_keyword"):
        for _, _, table in _rows(corpora, name):
            for row in table.select(["lang", "image_id", "text", "_split"]).to_pylist():
                if row["lang"] in locales and row["text"]:
                    image = row["image_id"].split("/", 1)[1]
                    owners[row["lang"], row["text"].lower()].add(image)
                    texts[row["lang"], image][row["text"]] = None
                    splits[row["lang"], image] = SPLITS[row["_split"]]
    items: Items = {locale: {split: [] for split in SPLITS} for locale in locales}
    for (lang, image), own in texts.items():
        clear = [text for text in own if len(owners[lang, text.lower()]) == 1 and re.search(r"[^\W\d_]", text)]
        if clear:
            items[lang][splits[lang, image]].append(_Item(image, image, tuple(clear)))
    return items


def _photos(corpora: Corpora, locales: set[str]) -> Items:
    items: Items = {locale: {split: [] for split in SPLITS} for locale in locales}
    for _, raw, table in _rows(corpora, "photo_class"):
        groups = dict(zip(raw["_row"].to_pylist(), raw["json.coarse_class"].to_pylist(), strict=True))
        for row in table.select(["lang", "image_id", "text", "_row", "_split"]).to_pylist():
            if row["lang"] in locales and row["text"]:
                image = row["image_id"].split("/", 1)[1]
                items[row["lang"]][SPLITS[row["_split"]]].append(_Item(image, groups[row["_row"]], (row["text"],)))
    return items


# ---- what is said ---------------------------------------------------------------------------------------------------


def _query(
    words: Words, frames: Mapping[str, list[Frame]], items: Mapping[str, list[_Item]], rng: random.Random
) -> dict[str, Any]:
    split = "evaluation" if rng.random() < _HELD_OUT and items["evaluation"] else "train"
    item, frame = rng.choice(items[split]), rng.choice(frames[split])
    # A name comes first and is as likely as all keywords together.
    content = item.texts[0] if rng.random() < 0.5 else rng.choice(item.texts)
    said = frame.text.replace("{content}", slot("content", content))
    if frame.pictures:
        said = said.replace("{picture}", rng.choice(frame.pictures))
    text, slots = _said(words, said, rng.random() < 0.4, rng.random() < 0.3, rng)
    return {
        "text": text,
        "lang": words.tag,
        "intent": "find_picture",
        "group_id": item.group_id,
        "image_id": item.image_id,
        "cell_lang": words.locale,
        "slots": slots,
    }


def _browse(words: Words, frames: Mapping[str, list[Frame]], count: int, rng: random.Random) -> list[dict[str, Any]]:
    """Requests for pictures of some time or place, whatever they show: frames that name no kind of thing."""
    rows = []
    for _ in range(count):
        split = "evaluation" if rng.random() < _HELD_OUT else "train"
        bare = [frame for frame in frames[split] if not frame.pictures]
        if bare:
            said = rng.choice(bare).text.replace("{content}", rng.choice(words.options("many")))
            placed = rng.random() < 0.4
            text, slots = _said(words, said, not placed or rng.random() < 0.5, placed, rng)
            rows.append({"text": text, "lang": words.tag, "intent": "browse_pictures", "split": split, "slots": slots})
    return rows


def _said(words: Words, said: str, timed: bool, placed: bool, rng: random.Random) -> tuple[str, list[dict[str, Any]]]:
    """The sentence with when, where and courtesies around it, as plain text with its slots."""
    first = bool(words.raw.get("first"))
    before: list[str] = []
    after: list[str] = []
    found = _END.match(said)
    body, end = (found[1], found[2]) if found else (said, "")
    parts = [slot("time", rng.choice(rng.choice(words.times)))] if timed else []
    if placed:
        parts.append(rng.choice(words.options("place")).format(slot("place", rng.choice(words.cities))))
    rng.shuffle(parts)
    for part in parts:
        # A comma says on which side of the request its part stands.
        bound = part.startswith((",", "،", "，"))
        leads = part.endswith(",") or (not bound and rng.random() < (0.75 if first else 0.1))
        (before if leads else after).append(part)
    asked, closing = (word if word not in body.lower() else "" for word in words.options("please"))
    if rng.random() < 0.2 and asked:
        before.insert(0, asked)
    elif rng.random() < 0.2 and closing:
        after.append(closing)
    if before and body[1:2].islower():
        body = body[0].lower() + body[1:]
    text = re.sub(r"\s+([,،，])", r"\1", " ".join([*before, body, *after])) + (end if rng.random() < 0.7 else "")
    plain, slots = unmark(_AROUND_WIDE.sub("", text) if words.raw.get("solid") else text)
    return plain, [{"start": one.start, "end": one.end, "label": one.label} for one in slots]
