"""The sample catalog: same bytes from the same seed, sound annotations, readable pictures, all languages."""

import datetime
import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unimir.data import drawing, phrasing, sample, shapes, spoken

ITEMS = 400
Tables = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    out = tmp_path_factory.mktemp("sample")
    sample.generate(out, items=ITEMS)
    return {name: pq.read_table(out / f"{name}.parquet").to_pylist() for name in sample.SCHEMAS}


def _contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_same_seed_gives_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        sample.generate(tmp_path / name, items=12, seed=seed)
    first, again, other = (_contents(tmp_path / name) for name in "abc")
    assert set(first) == {f"{name}.parquet" for name in sample.SCHEMAS}
    assert first == again
    assert all(first[name] != other[name] for name in first)


def test_an_item_does_not_depend_on_how_many_there_are(tmp_path: Path, tables: Tables) -> None:
    sample.generate(tmp_path, items=5)
    for name in ("images", "captions", "descriptions", "queries", "catalog"):
        few = pq.read_table(tmp_path / f"{name}.parquet").to_pylist()
        assert few == tables[name][: len(few)]


@pytest.mark.parametrize("items", [0, -1])
def test_no_items_is_refused(tmp_path: Path, items: int) -> None:
    with pytest.raises(ValueError, match=str(items)):
        sample.generate(tmp_path, items=items)


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="-7"):
        sample.generate(tmp_path, items=1, seed=-7)


def test_row_counts(tables: Tables) -> None:
    counts = {name: len(rows) for name, rows in tables.items()}
    assert counts == {
        "images": ITEMS,
        "captions": 8 * ITEMS,
        "descriptions": 2 * ITEMS,
        "queries": 4 * ITEMS,
        "commands": ITEMS * 2 // 5,
        "catalog": ITEMS,
    }


def test_pictures_are_small_rgb_and_differ(tables: Tables) -> None:
    for row in tables["images"][:50]:
        with Image.open(io.BytesIO(row["image"])) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (drawing.SIDE, drawing.SIDE))
    assert len({row["image"] for row in tables["images"]}) == ITEMS


def test_everything_the_lexicon_names_can_be_drawn() -> None:
    words = sample.lexicon()
    assert set(words.objects) == set(shapes.SHAPES)
    assert set(words.colours) == set(drawing.PAINTS)


def test_group_ids_parse_into_known_attributes(tables: Tables) -> None:
    words = sample.lexicon()
    for row in tables["images"] + tables["captions"] + tables["descriptions"] + tables["queries"]:
        thing, colour, count, pattern, scene = row["group_id"].split("|")
        assert thing in words.objects and colour in words.colours and int(count) in words.counts
        assert pattern in words.patterns and scene in words.scenes
        assert row["composition"] == f"{thing}|{colour}|{scene}"


def test_slots_cut_out_whole_phrases(tables: Tables) -> None:
    for row in tables["queries"] + tables["commands"]:
        labels = [slot["label"] for slot in row["slots"]]
        assert len(set(labels)) == len(labels) and set(labels) <= {"content", "time", "place", "price"}
        assert ("content" in labels) == (row["intent"] in spoken.WANTED or row["intent"] == "count_items")
        for slot in row["slots"]:
            phrase = row["text"][slot["start"] : slot["end"]]
            assert phrase and phrase == phrase.strip()
        assert not any("\ue000" <= char <= "\uf8ff" or char in "{}[]<>" for char in row["text"])


def test_slots_and_filters_name_the_same_constraints(tables: Tables) -> None:
    known = {"content": "content", "time": "captured_at", "place": "place", "price": "price"}
    for row in tables["queries"]:
        filters = json.loads(row["filters"])
        assert {known[slot["label"]] for slot in row["slots"]} - {"content"} == set(filters)
        for slot in row["slots"]:
            if slot["label"] == "time":
                assert filters["captured_at"]["phrase"] == row["text"][slot["start"] : slot["end"]]
        assert row["intent"] != "show_recent" or "captured_at" in filters
        assert row["intent"] != "find_offer" or "price" in filters


def test_filters_hold_for_the_item_they_came_from(tables: Tables) -> None:
    items = {row["id"]: row for row in tables["catalog"]}
    for row in tables["queries"]:
        filters, one = json.loads(row["filters"]), items.get(row["image_id"])
        if "captured_at" in filters:
            assert filters["captured_at"]["from"] < filters["captured_at"]["to"]
        if one is None:
            continue
        if "captured_at" in filters:
            assert filters["captured_at"]["from"] <= one["captured_at"] < filters["captured_at"]["to"]
        assert filters.get("place", one["place"]) == one["place"]
        if price := filters.get("price"):
            assert price["currency"] == one["currency"]
            assert price.get("min", 0) <= one["price"] <= price.get("max", one["price"])


def test_each_query_has_one_kind_of_target(tables: Tables) -> None:
    documents = {row["document"] for row in tables["descriptions"]}
    for row in tables["queries"]:
        if row["intent"] == "find_text":
            assert row["image_id"] is None and row["document"] in documents and row["doc_lang"]
        else:
            assert row["image_id"] and row["document"] is None and row["doc_lang"] is None


def test_every_intent_is_said_in_every_language(tables: Tables) -> None:
    languages = set(sample.lexicon().languages)
    for name, intents in (("queries", spoken.WANTED), ("commands", spoken.COMMANDS)):
        said = {(row["intent"], row["lang"]) for row in tables[name]}
        assert said == {(intent, code) for intent in intents for code in languages}
    assert {row["lang"] for row in tables["captions"]} == languages


def test_eight_languages_in_at_least_four_scripts(tables: Tables) -> None:
    letters = {char for row in tables["captions"] for char in row["text"] if char.isalpha()}
    scripts = {unicodedata.name(char).split()[0] for char in letters}
    assert len({row["lang"] for row in tables["captions"]}) == 8
    assert {"LATIN", "CYRILLIC", "CJK", "HIRAGANA", "ARABIC"} <= scripts


def test_captions_of_different_groups_differ(tables: Tables) -> None:
    groups: dict[tuple[str, str], set[str]] = {}
    for row in tables["captions"]:
        groups.setdefault((row["lang"], row["text"].lower()), set()).add(row["group_id"])
    assert all(len(found) == 1 for found in groups.values())


def test_queries_are_mostly_noise_around_varied_content(tables: Tables) -> None:
    shares = []
    for row in tables["queries"]:
        shares.append(sum(slot["end"] - slot["start"] for slot in row["slots"]) / len(row["text"]))
    assert sum(shares) / len(shares) < 0.6
    assert len({row["text"] for row in tables["queries"]}) > 0.99 * len(tables["queries"])


@pytest.mark.parametrize(
    ("code", "content", "case", "wordings"),
    [
        ("de", ("fish", "red", 1, "striped", "beach"), "acc", {"einen roten gestreiften Fisch am Strand"}),
        ("de", ("book", "blue", 3, "dotted", "forest"), "dat", {"drei blauen gepunkteten Büchern im Wald"}),
        ("ru", ("house", "white", 2, "striped", "city"), "nom", {"два белых полосатых дома в городе"}),
        ("ru", ("fish", "blue", 3, "striped", "desert"), "gen", {"трёх синих полосатых рыб в пустыне"}),
        ("ar", ("cat", "red", 2, "dotted", "forest"), "nom", {"قطتان حمراوان منقطتان في الغابة"}),
        ("ar", ("book", "green", 3, "striped", "city"), "obl", {"ثلاثة كتب خضراء مخططة في المدينة"}),
        ("fr", ("star", "white", 4, "solid", "desert"), "nom", {"quatre étoiles blanches unies dans le désert"}),
        ("zh", ("key", "black", 2, "striped", "city"), "nom", {"城市里的两把黑色条纹钥匙"}),
        ("ja", ("fish", "red", 3, "dotted", "beach"), "nom", {"海辺の三匹の赤い水玉模様の魚"}),
    ],
)
def test_phrases_agree(code: str, content: tuple[str, str, int, str, str], case: str, wordings: set[str]) -> None:
    rng = np.random.default_rng(0)
    said = {phrasing.content_phrase(code, phrasing.Content(*content), case, rng) for _ in range(600)}
    assert wordings <= said


def test_time_phrases_cover_their_day_and_mean_calendar_periods() -> None:
    today = sample.REFERENCE_DATE
    found = {window.key: window for window in phrasing.windows(datetime.date(2026, 2, 10), today)}
    assert found["last_month"][1:3] == (datetime.date(2026, 2, 1), datetime.date(2026, 3, 1))
    assert found["since_month"].end == today + datetime.timedelta(days=1)
    for age in range(0, 800):
        day = today - datetime.timedelta(days=age)
        windows = phrasing.windows(day, today)
        assert windows and all(window.start <= day < window.end for window in windows)
