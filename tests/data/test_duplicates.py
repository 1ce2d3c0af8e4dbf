"""What is dropped because of other rows, and what must not be."""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageEnhance

from unimir.data.duplicates import alike_pictures
from unimir.data.hashing import hash_strings, near_hash, picture_sketch, sketches
from unimir.schema import SLOTS

Prepare = Callable[..., Any]
LONG = "a long description of a lazy dog that sleeps under an old tree near the river while winter comes " * 3


def captions(path: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": "caps",
        "kind": "image_text",
        "format": "jsonl",
        "path": path,
        "columns": {"image_id": "image", "text": "text", "lang": "lang"},
        "images": "pics",
        "split": {"column": "split", "train": ["train"], "evaluation": ["eval"]},
        **changes,
    }


@pytest.fixture
def pictures(parquet: Any, picture: Callable[..., bytes]) -> Callable[..., tuple[dict[str, Any], ...]]:
    """An image table of (id, bytes or seed)."""

    def write(*rows: tuple[str, Any]) -> tuple[dict[str, Any], ...]:
        data = [value if isinstance(value, bytes) else picture(value) for _, value in rows]
        path = parquet({"id": [name for name, _ in rows], "png": pa.array(data, pa.binary())}, "pics.parquet")
        return ({"name": "pics", "format": "parquet", "path": path, "columns": {"image_id": "id", "image": "png"}},)

    return write


def caption(image: str, text: str, lang: str = "en", split: str = "train") -> dict[str, str]:
    return {"image": image, "text": text, "lang": lang, "split": split}


def test_captions(prepared: Prepare, jsonl: Any, pictures: Any, picture: Callable[..., bytes]) -> None:
    rows = [
        caption("a", "lazy dog"),
        caption("a", "lazy dog"),  # 1: the same row again
        caption("a", "Lazy, dog!"),  # 2: nearly
        caption("a", "lazy dog", "nl"),  # another language
        caption("b", "lazy dog"),  # another picture
        caption("a2", "lazy dog"),  # 5: a picture that looks the same
        caption("none", "lazy dog"),  # 6: no such picture
        caption("broken", "lazy dog"),  # 7: its picture was rejected
    ]
    again = io.BytesIO()
    Image.open(io.BytesIO(picture(1))).save(again, "JPEG", quality=85)
    images = pictures(("a", 1), ("b", 2), ("broken", b"x"), ("a", 3), ("a2", again.getvalue()))
    done = prepared(captions(jsonl(rows)), images=images)
    assert [(row["image_id"], row["lang"]) for row in done.rows("image_text")] == [
        ("pics/a", "en"),
        ("pics/a", "nl"),
        ("pics/b", "en"),
    ]
    assert sorted(done.rejected()) == [
        ("pics.parquet", 2, "unreadable image"),
        ("pics.parquet", 3, "duplicate image id"),
        ("rows.jsonl", 1, "duplicate"),
        ("rows.jsonl", 2, "near duplicate"),
        ("rows.jsonl", 5, "near duplicate"),
        ("rows.jsonl", 6, "image not found"),
        ("rows.jsonl", 7, "image not found"),
    ]


def test_leak_by_picture(prepared: Prepare, jsonl: Any, pictures: Any, picture: Callable[..., bytes]) -> None:
    again = io.BytesIO()
    Image.open(io.BytesIO(picture(1))).resize((80, 60)).save(again, "JPEG", quality=85)
    rows = [
        caption("a", "lazy dog", split="eval"),
        caption("a", "a tired hound"),
        caption("again", "some animal"),
        caption("b", "lazy dog"),  # the text alone is no leak of a picture
    ]
    images = (("a", 1), ("again", again.getvalue()), ("b", 2))
    done = prepared(captions(jsonl(rows)), images=pictures(*images))
    assert done.texts("image_text") == ["lazy dog"] and done.texts("image_text", "evaluation") == ["lazy dog"]
    assert done.reasons() == ["also in evaluation"] * 2
    done = prepared(captions(jsonl(rows), leak=[]), images=pictures(*images))
    assert len(done.texts("image_text")) == 3


def test_leak_by_text(prepared: Prepare, source: Any, jsonl: Any) -> None:
    held = jsonl([{"id": 1, "text": "Lazy dogs sleep."}, {"id": 2, "text": LONG}], "held.jsonl")
    edited = LONG.replace("lazy", "tired", 1)
    rows = jsonl([{"id": 7, "text": "lazy dogs sleep"}, {"id": 8, "text": edited}, {"id": 9, "text": "foxes run"}])
    evaluation = source(held, name="held", split={"only": "evaluation"})
    done = prepared(source(rows), evaluation)
    assert done.texts("parallel") == ["foxes run"] and len(done.texts("parallel", "evaluation")) == 2
    assert done.reasons() == ["also in evaluation"] * 2
    assert len(prepared(source(rows), {**evaluation, "leak": []}).texts("parallel")) == 3


def test_evaluation_rows_win_over_earlier_training_rows(prepared: Prepare, source: Any, jsonl: Any) -> None:
    first = jsonl([{"id": 1, "text": "lazy dog"}, {"id": 2, "text": "red fox"}])
    second = jsonl([{"id": 1, "text": "lazy dog"}], "held.jsonl")
    held = source(second, name="held", namespace="texts", split={"only": "evaluation"}, leak=[])
    done = prepared(source(first), held)
    assert done.texts("parallel") == ["red fox"] and done.texts("parallel", "evaluation") == ["lazy dog"]
    assert done.rejected() == [("rows.jsonl", 0, "duplicate")]


def test_long_texts(prepared: Prepare, source: Any, jsonl: Any) -> None:
    other = "quite another text about red apples and brown foxes that were never seen near any water at all " * 3
    texts = [LONG, LONG.replace("river", "stream", 1), LONG + "it snows", other, LONG[:100]]
    rows = [{"id": 1, "text": text} for text in texts] + [{"id": 2, "text": LONG}]
    done = prepared(source(jsonl(rows)))
    assert done.texts("parallel") == [" ".join(text.split()) for text in (LONG, other, LONG[:100], LONG)]
    assert done.rejected() == [("rows.jsonl", 1, "near duplicate"), ("rows.jsonl", 2, "near duplicate")]


def test_documents_count_as_partners(prepared: Prepare, jsonl: Any) -> None:
    rows = [
        {"query": "what is it", "document": "a dog"},
        {"query": "what is it", "document": "a fox"},
        {"query": "What is it?", "document": "A dog."},
    ]
    done = prepared(
        {
            "name": "pairs",
            "kind": "text_text",
            "format": "jsonl",
            "path": jsonl(rows),
            "columns": {"query": "query", "document": "document"},
            "lang": "en",
            "split": {"only": "train"},
        }
    )
    assert [row["doc_text"] for row in done.rows("text_text")] == ["a dog", "a fox"]
    assert done.rejected() == [("rows.jsonl", 2, "near duplicate")]


def nlu(path: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": "nlu",
        "kind": "nlu",
        "format": "jsonl",
        "path": path,
        "columns": {"text": "text", "intent": "intent", "slots": "slots"},
        "lang": "en",
        "label_set": "home",
        "split": {"only": "train"},
        **changes,
    }


def test_annotations(prepared: Prepare, jsonl: Any) -> None:
    rows = [
        {"text": "wake the dog", "intent": "wake", "slots": [[9, 12, "who"]]},
        {"text": "wake the dog", "intent": "wake", "slots": [[9, 12, "who"]]},  # 1
        {"text": "Wake the dog!", "intent": "wake", "slots": [[9, 12, "who"]]},  # 2
        {"text": "wake the dog", "intent": "feed", "slots": [[9, 12, "who"]]},  # another reading
        {"text": "wake the dog", "intent": "wake", "slots": []},  # another reading
        {"text": "wake the fox", "intent": "wake", "slots": [[9, 13, "who"]]},  # 5
        {"text": "wake the fox", "intent": "wake", "slots": [[9, 12]]},  # 6
        {"text": "wake the fox", "intent": "wake", "slots": [[5, 12, "a"], [9, 12, "b"]]},  # 7
        {"text": "wake the fox", "intent": "", "slots": []},  # 8
        {"text": "wake the fox", "intent": "wake", "slots": [["9", 12, "who"]]},  # 9
        {"text": "wake the fox", "intent": "wake", "slots": [[9, 2**40, "who"]]},  # 10
        {"text": "  wake\tthe fox ", "intent": "wake", "slots": [[11, 14, "who"]]},
        {"text": "wake him", "intent": "wake"},
    ]
    done = prepared(nlu(jsonl(rows)))
    kept = done.rows("nlu")
    assert [row["intent"] for row in kept] == ["wake", "feed", "wake", "wake", "wake"]
    assert kept[3]["slots"] == [{"start": 9, "end": 12, "label": "who"}]
    assert [(row, reason) for _, row, reason in sorted(done.rejected())] == [
        (1, "duplicate"),
        (2, "near duplicate"),
        (5, "slot outside the text"),
        (6, "malformed slots"),
        (7, "slots overlap"),
        (8, "no intent"),
        (9, "malformed slots"),
        (10, "slot outside the text"),
    ]


def test_token_slots_name_the_tokens(prepared: Prepare, jsonl: Any, tokenizer_file: Any) -> None:
    from unimir.data.text import TextTokenizer

    done = prepared(nlu(jsonl([{"text": "wake the lazy dog", "intent": "wake", "slots": [[9, 17, "who"]]}])))
    (row,) = done.rows("nlu")
    (slot,) = row["token_slots"]
    said = TextTokenizer.from_file(tokenizer_file, 64).decode(row["ids"][slot["start"] : slot["end"]])
    assert said.strip() == "lazy dog"
    assert done.rows("nlu")[0].keys() >= {"source", "group", "lang", "text", "ids", "label_set", "intent", "slots"}


def test_labels(prepared: Prepare, jsonl: Any) -> None:
    train = [
        {"text": "wake the dog", "intent": "wake", "slots": [[9, 12, "who"]]},
        {"text": "feed the dog", "intent": "feed", "slots": []},
        {"text": "held out too", "intent": "leaked", "slots": []},
    ]
    held = [
        {"text": "wake the fox", "intent": "wake", "slots": [[9, 12, "who"]]},
        {"text": "walk the fox", "intent": "walk", "slots": []},
        {"text": "wake it now", "intent": "wake", "slots": [[8, 11, "when"]]},
        {"text": "held out too", "intent": "wake", "slots": []},
    ]
    done = prepared(
        nlu(jsonl(train)), nlu(jsonl(held, "held.jsonl"), name="held", namespace="held", split={"only": "evaluation"})
    )
    labels = json.loads((done.directory / "labels.json").read_text())
    assert labels == {"home": {"intents": ["feed", "wake"], "slots": ["who"]}}
    assert sorted(done.rejected()) == [
        ("held.jsonl", 1, "unknown label"),
        ("held.jsonl", 2, "unknown label"),
        ("rows.jsonl", 2, "also in evaluation"),
    ]


def test_labels_of_other_sets_do_not_count(prepared: Prepare, jsonl: Any) -> None:
    row = {"text": "wake the dog", "intent": "wake", "slots": []}
    other = nlu(jsonl([row], "b.jsonl"), name="b", label_set="other", split={"only": "evaluation"}, leak=[])
    assert prepared(nlu(jsonl([row])), other).rejected() == [("b.jsonl", 0, "unknown label")]


def test_queries_for_items(prepared: Prepare, parquet: Any, pictures: Any) -> None:
    slots = pa.array([[{"start": 5, "end": 8, "label": "content"}]] * 3, SLOTS)
    columns = {
        "text": ["find dog now", "find dog now", "find dog now"],
        "intent": ["find"] * 3,
        "slots": slots,
        "group": ["g1", "g2", "g3"],
        "image": ["a", None, "gone"],
        "doc": [None, "a text about a dog", None],
        "filters": ['{"place": "x"}', None, None],
    }
    done = prepared(
        {
            "name": "queries",
            "kind": "intent_query",
            "format": "parquet",
            "path": parquet(columns),
            "columns": {
                "text": "text", "intent": "intent", "slots": "slots", "group_id": "group",
                "image_id": "image", "document": "doc", "filters": "filters",
            },
            "images": "pics",
            "lang": "en",
            "label_set": "search",
            "split": {"only": "train"},
        },
        images=pictures(("a", 1)),
    )  # fmt: skip
    first, second = done.rows("intent_query")
    assert (first["image_id"], first["doc_text"], first["doc_ids"], first["filters"]) == (
        "pics/a", None, None, '{"place": "x"}'
    )  # fmt: skip
    assert (second["image_id"], second["doc_text"], second["doc_lang"]) == (None, "a text about a dog", "en")
    assert second["doc_ids"] and first["group"] != second["group"]
    assert done.rejected() == [("rows.parquet", 2, "image not found")]


# ---- the sketches themselves ----------------------------------------------------------------------------------------


def test_hashes_are_stable() -> None:
    assert hash_strings(pa.array(["dog", ""])).tolist() == [17185010549780912462, 1760245841805064774]


@pytest.mark.parametrize("pair", [("Café, noir", "café noir"), ("ＡＢＣ", "abc"), ("one  two", "onetwo"), ("!?", "!?")])
def test_near_texts(pair: tuple[str, str]) -> None:
    first, second = near_hash(pa.array(pair))
    assert first == second


@pytest.mark.parametrize("pair", [("C++", "C"), ("cafe", "café"), ("!?", "?!"), ("1.5", "1.6"), ("", "x")])
def test_texts_apart(pair: tuple[str, str]) -> None:
    first, second = near_hash(pa.array(pair))
    assert first != second


def test_sketches_follow_small_edits() -> None:
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(400)]
    near = far = 0
    for _ in range(50):
        text = " ".join(rng.choice(words, 60))
        edited = text.split()
        edited[int(rng.integers(60))] = "changed"
        marks = sketches(pa.array([text, " ".join(edited), " ".join(rng.choice(words, 60))]))
        near += int((marks[0] == marks[1]).sum() >= 12)
        far += int((marks[0] == marks[2]).sum() >= 12)
    assert near >= 47 and far == 0


def test_alike_pictures(picture: Callable[..., bytes]) -> None:
    images = [Image.open(io.BytesIO(picture(seed, (64, 64)))).convert("RGB") for seed in range(20)]
    buffer = io.BytesIO()
    images[4].save(buffer, "JPEG", quality=70)
    changed = [Image.open(buffer), images[5].resize((200, 200)), ImageEnhance.Color(images[6]).enhance(0.0)]
    first = alike_pictures(np.stack([picture_sketch(image) for image in [*images, *changed]]))
    assert first.tolist() == [*range(20), 4, 5, 22]


def test_flat_pictures_of_other_colours_are_apart() -> None:
    colours = ["red", "green", "blue", "red"]
    first = alike_pictures(np.stack([picture_sketch(Image.new("RGB", (50, 50), colour)) for colour in colours]))
    assert first.tolist() == [0, 1, 2, 0]
