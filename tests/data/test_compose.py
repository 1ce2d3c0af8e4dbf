"""Queries composed from xSID's sentences: gold slots, what is held out, the same bytes for the same seed."""

import dataclasses
import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import unimir.data
from unimir.data import compose as composing
from unimir.data.canonical import Canon
from unimir.data.compose import FILES, compose
from unimir.data.corpora import load_corpora
from unimir.data.readers import plan, read_unit
from unimir.data.rows import Rejects
from unimir.data.wordings import frame_of, words_of
from unimir.schema import SPLITS

ROOM = Path(unimir.data.__file__).parent
TABLE = yaml.safe_load((ROOM / "compose_words.yaml").read_text(encoding="utf-8"))
REAL = Path(__file__).parents[3] / "shared" / "data"
PAST = {"relativeTimePattern-count-one": "{0} ago", "relativeTimePattern-count-other": "{0} times ago"}
PHRASES = {
    "relative": {
        "week": {"relative-type--1": "last week", "relative-type-0": "this week", "relativeTime-type-past": PAST},
        "sun": {"relative-type--1": "last Sunday", "relativeTime-type-past": PAST},
    },
    "months": {"standalone": {"1": "January"}},
    "cities": {"Europe/Rome": "Rome", "Etc/Unknown": "Nowhere", "America/North_Dakota/Beulah": "Beulah"},
}
VERBS = ["get", "seek", "fetch", "bring", "locate", "request", "pull", "spot", "want", "need"]


def _conll(sentences: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    blocks = []
    for intent, tokens in sentences:
        lines = [f"{i}\t{token}\t{intent}\t{tag}" for i, (token, tag) in enumerate(tokens, 1)]
        blocks.append("\n".join([f"# text = {' '.join(token for token, _ in tokens)}", f"# intent = {intent}", *lines]))
    return "\n\n".join(blocks) + "\n\n"


def _asked(verb: str, kind: str = "picture") -> tuple[str, list[tuple[str, str]]]:
    name = [("Hard", "B-object_name"), ("Rain", "I-object_name"), (".", "O")]
    return "SearchCreativeWork", [(verb, "O"), ("the", "O"), (kind, "B-object_type"), *name]


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for number in range(40):
            row = {"image_id": f"p{number}", "source": "g", "coarse_class": f"class {number % 4}"}
            row["captions"] = {"en": f"fruit {number % 4}", "it": f"frutto {number % 4}"}
            for extension, data in (("jpg", b"no picture is opened"), ("json", json.dumps(row).encode())):
                info = tarfile.TarInfo(f"p{number}.{extension}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The open data in small: the same files, English and Italian captions, xSID sentences of two languages."""
    root = tmp_path / "root"
    for folder in ("emoji", "photos", "nlu/xsid", "phrases"):
        (root / folder).mkdir(parents=True)
    captions = [
        {"image_id": f"e{number}", "lang": lang, "text": f"{word} {number}", "kind": kind}
        for number in range(200)
        for lang, kind, word in (("en", "name", "thing"), ("en", "keyword", "stuff"), ("it", "name", "cosa"))
    ]
    captions += [{"image_id": f"e{n}", "lang": "en", "text": "shared", "kind": "keyword"} for n in range(200)]
    captions.append({"image_id": "e0", "lang": "en", "text": None, "kind": "keyword"})
    pq.write_table(pa.Table.from_pylist(captions), root / "emoji" / "captions.parquet")
    _tar(root / "photos" / "photos-0000.tar")
    rain, snow = (
        ("weather/find", [(word, "O"), ("in", "O"), ("Rome", "B-location"), ("tomorrow", "B-datetime")])
        for word in ("rain", "snow")
    )
    files = {
        "en.train": [_asked(verb) for verb in VERBS[:3]] + [rain],
        "en.valid": [_asked(verb) for verb in VERBS] + [snow, _asked("play")],
        "it.valid": [("SearchCreativeWork", [("Mostrami", "O"), ("Rain", "B-object_name"), (".", "O")]), snow],
        **{f"{code}.valid": [snow] for code in ("gsw", "nap", "de-ba", "de-muc", "de-st")},
    }
    for name, sentences in files.items():
        (root / "nlu" / "xsid" / f"{name}.conll").write_text(_conll(sentences), encoding="utf-8")
    for raw in TABLE.values():
        (root / "phrases" / f"{raw['words']}.json").write_text(json.dumps(PHRASES), encoding="utf-8")
    return root


def _rows(root: Path, source_name: str, out: Path) -> list[dict[str, Any]]:
    """Rows of a composed file with the split that prepare gives them."""
    corpora = load_corpora(ROOM / "atlas.yaml", root)
    source = next(source for source in corpora.sources if source.name == source_name)
    source = dataclasses.replace(source, path=(str(out / Path(source.path[0]).name),))
    rows: list[dict[str, Any]] = []
    for unit in plan(dataclasses.replace(corpora, images=(), sources=(source,)), 1 << 20):
        rejects = Rejects(source.name, "")
        for raw in read_unit(source, unit, rejects, 1 << 16):
            table = Canon(source, None, rejects, unit.file.label).rows(raw)
            rows += [row | {"split": SPLITS[row["_split"]]} for row in table.to_pylist()]
        assert not rejects.rows
    return rows


def _said(row: dict[str, Any], label: str) -> list[str]:
    return [row["text"][span["start"] : span["end"]] for span in row["slots"] if span["label"] == label]


def test_slots_are_the_words_that_were_put_in(root: Path, tmp_path: Path) -> None:
    compose(root, tmp_path / "out", queries=400)
    rows = _rows(root, "composed", tmp_path / "out")
    assert {row["lang"] for row in rows} == {"en", "it"}
    for row in rows:
        number = row["image_id"].removeprefix("emoji/e")
        (content,) = _said(row, "content")
        assert content in ((f"thing {number}", f"stuff {number}") if row["lang"] == "en" else (f"cosa {number}",))
        assert row["intent"] == "find_picture"
        assert set(_said(row, "place")) <= {"Rome"}
    times = {time for row in rows for time in _said(row, "time")}
    assert {"last week", "this week", "last Sunday", "3 times ago", "January"} <= times
    assert any(time.startswith("January 20") for time in times) and any(time.isdigit() for time in times)
    photos = _rows(root, "composed_photo", tmp_path / "out")
    assert photos and all(_said(row, "content")[0].split()[-1] == str(int(row["image_id"][8:]) % 4) for row in photos)


def test_a_query_is_held_out_with_its_caption_and_asks_in_unseen_words(root: Path, tmp_path: Path) -> None:
    compose(root, tmp_path / "out", queries=2000)
    held = {
        (row["image_id"], row["lang"])
        for row in _rows(root, "emoji_name", root / "emoji")
        if row["split"] == "evaluation"
    }
    verbs: dict[str, set[str]] = {"train": set(), "evaluation": set()}
    for row in _rows(root, "composed", tmp_path / "out"):
        assert (row["split"] == "evaluation") == ((row["image_id"], row["lang"]) in held)
        if row["lang"] == "en":
            verbs[row["split"]] |= set(row["text"].lower().split()) & set(VERBS)
    assert verbs["train"] and verbs["evaluation"]
    assert not verbs["train"] & verbs["evaluation"]
    assert set(VERBS[:3]) <= verbs["train"]  # what xSID trains on is not unseen


def test_other_intents_keep_their_times_and_places_and_their_split(root: Path, tmp_path: Path) -> None:
    compose(root, tmp_path / "out", queries=400)
    rows = _rows(root, "composed_other", tmp_path / "out")
    weather = [row for row in rows if row["intent"] == "other"]
    assert {row["lang"] for row in weather} == {"en", "it"}
    assert all(_said(row, "place") == ["Rome"] and _said(row, "time") == ["tomorrow"] for row in weather)
    splits = {row["text"]: row["split"] for row in _rows(root, "xsid_valid", root / "nlu" / "xsid")}
    assert {row["split"] for row in weather if row["text"].startswith("rain")} == {"train"}
    assert all(row["split"] == splits[row["text"]] for row in weather if row["text"].startswith("snow"))
    browse = [row for row in rows if row["intent"] == "browse_pictures"]
    assert browse and all(not _said(row, "content") and row["slots"] for row in browse)


def test_the_same_seed_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        compose(root, tmp_path / name, queries=300, seed=seed)
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in FILES)
    assert (tmp_path / "a" / FILES[0]).read_bytes() != (tmp_path / "c" / FILES[0]).read_bytes()


@pytest.mark.parametrize("gone", ["emoji/captions.parquet", "photos", "nlu/xsid/en.train.conll", "phrases/it.json"])
def test_a_missing_file_is_named_in_one_line(root: Path, tmp_path: Path, gone: str) -> None:
    shutil.rmtree(root / gone) if (root / gone).is_dir() else (root / gone).unlink()
    with pytest.raises(ValueError, match=gone) as raised:
        compose(root, tmp_path / "out", queries=10)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("code", "text", "spans", "expected"),
    [
        ("en", "get the saga X ?", [(8, 12, "object_type"), (13, 14, "object_name")], "get the {picture} {content}?"),
        ("en", "get the saga X", [(13, 14, "object_name")], None),  # a kind of thing that is not marked stays
        ("nl", "een trailer X .", [(4, 11, "object_type"), (12, 13, "object_name")], "een {picture} {content}."),
        ("tr", "X adlı kitabı bul", [(0, 1, "object_name"), (7, 13, "object_type")], "{content} adlı {picture} bul"),
        ("it", "l' album X", [(3, 8, "object_type"), (9, 10, "object_name")], "l'{picture} {content}"),
        ("de", "Finde der Film X", [(10, 14, "object_type"), (15, 16, "object_name")], None),  # no word for "der"
        ("it", "Vorrei ascoltare X", [(17, 18, "object_name")], None),
        ("it", "Mostrami X e Y", [(9, 10, "object_name"), (13, 14, "object_name")], None),
        ("it", "Mostrami {X}", [(9, 12, "object_name")], None),
    ],
)
def test_a_sentence_becomes_a_frame(code: str, text: str, spans: list[Any], expected: str | None) -> None:
    slots = [{"start": start, "end": end, "label": label} for start, end, label in spans]
    frame = frame_of(text, slots, TABLE[code])
    assert (frame.text if frame else None) == expected


def test_paraphrases_of_one_intent_and_its_slots_share_a_split(tmp_path: Path) -> None:
    (tmp_path / "nlu").mkdir()
    rows = [
        {
            "text": f"{verb} {room}",
            "lang": "en",
            "intent": intent,
            "slots": [[len(verb) + 1, len(f"{verb} {room}"), room]],
        }
        for intent in "abcdefghijkl"
        for verb in ("light", "brighten")
        for room in ("area", "floor")
    ]
    (tmp_path / "nlu" / "homeassistant.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    splits: dict[tuple[str, str], set[str]] = {}
    for row in _rows(tmp_path, "homeassistant", tmp_path / "nlu"):
        splits.setdefault((row["intent"], row["slots"][0]["label"]), set()).add(row["split"])
    assert len(splits) == 24 and all(len(found) == 1 for found in splits.values())
    assert {"train", "evaluation"} == set().union(*splits.values())


needs_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the open data of recipe atlas at {REAL}")


@pytest.mark.atlas
@needs_data
def test_real_data_gives_queries_in_every_language_of_the_table(tmp_path: Path) -> None:
    compose(REAL, tmp_path, queries=1800)
    rows = _rows(REAL, "composed", tmp_path) + _rows(REAL, "composed_photo", tmp_path)
    by_lang = {raw.get("tag", code): 0 for code, raw in TABLE.items()}
    for row in rows:
        by_lang[row["lang"]] += 1
        assert all(_said(row, span["label"])[0].strip() == _said(row, span["label"])[0] for span in row["slots"])
    assert set(by_lang.values()) == {100}
    share = sum(row["split"] == "evaluation" for row in rows) / len(rows)
    assert 0.1 < share < 0.2


@pytest.mark.atlas
@needs_data
def test_real_sentences_are_in_one_split_only() -> None:
    words = {code: words_of(code, raw, REAL) for code, raw in TABLE.items()}
    frames, others = composing._sentences(load_corpora(ROOM / "atlas.yaml", REAL), words)
    for code, by_split in frames.items():
        train, evaluation = ({frame.text for frame in by_split[split]} for split in ("train", "evaluation"))
        assert len(train) >= 4 and len(evaluation) >= 2, code
        assert not train & evaluation, code
    assert set(others) == set(TABLE)
