"""prepare as a whole, over a real Ray cluster: the artifact, its counts, its identity, and errors in one line."""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unimir import artifacts
from unimir.config import Config, ImageConfig, ModelConfig, PrepareConfig, TokenizerConfig
from unimir.data.corpora import load_corpora
from unimir.data.prepare import prepare
from unimir.data.shards import Shards
from unimir.data.sources import corpora_of
from unimir.schema import IMAGES, PREPARED, REJECTED, SPLITS

SAMPLE = Config(
    recipe="test",
    sample_items=120,
    tokenizer=TokenizerConfig(vocab_size=900, train_texts=500),
    prepare=PrepareConfig(image_size=32, unit_rows=300),
    model=ModelConfig(image=ImageConfig(size=32)),
)


@pytest.fixture(scope="module")
def sample(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample")
    return prepare(corpora_of(SAMPLE, out), SAMPLE, out)


def read(directory: Path) -> pa.Table:
    return pq.read_table(directory)


def test_sample_is_a_whole_artifact(sample: Path) -> None:
    manifest = artifacts.read_manifest(sample, "prepared")
    assert manifest["config"]["prepare"]["image_size"] == 32
    assert manifest["counts"]["sample_captions"]["read"] == 120 * 8
    for kind in PREPARED:
        for split in ("train", "evaluation"):
            for part in (sample / kind / split).glob("*.parquet"):
                assert pq.read_schema(part).equals(PREPARED[kind])
    pictures = list((sample / "images").iterdir())
    assert pictures and all(pa.ipc.open_file(str(part)).schema.equals(IMAGES) for part in pictures)
    assert not (sample / "candidates").exists()
    labels = json.loads((sample / "labels.json").read_text())
    assert list(labels) == ["search"] and "content" in labels["search"]["slots"]


def test_sample_splits_hold_out_compositions(sample: Path) -> None:
    for kind in ("image_text", "parallel", "text_text", "intent_query"):
        train, held = (set(read(sample / kind / split)["group"].to_pylist()) for split in ("train", "evaluation"))
        assert train and held and not train & held
    captions, queries = read(sample / "image_text" / "evaluation"), read(sample / "intent_query" / "train")
    assert not set(captions["image_id"].to_pylist()) & set(queries["image_id"].to_pylist())


def test_statistics_add_up(sample: Path) -> None:
    counts = artifacts.read_manifest(sample, "prepared")["counts"]
    rows: Counter[tuple[str, str]] = Counter()
    for row in json.loads((sample / "statistics.json").read_text()):
        rows[row["source"], row["split"]] += row["rows"]
        assert row["tokens"] >= 3 * row["rows"] and row["chars"] >= row["rows"]
    assert rows == Counter(
        {(source, split): count[split] for source, count in counts.items() for split in SPLITS if split in count}
    )


def test_second_run_is_found(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unimir.data.prepare._pass", None)
    out = sample.parent.parent
    assert prepare(corpora_of(SAMPLE, out), SAMPLE, out) == sample


def test_another_place_gives_the_same_id(sample: Path, tmp_path: Path) -> None:
    shutil.copytree(sample.parent.parent / "corpora", tmp_path / "corpora", copy_function=shutil.copyfile)
    again = prepare(corpora_of(SAMPLE, tmp_path), SAMPLE, tmp_path)
    first, second = (artifacts.read_manifest(directory, "prepared") for directory in (sample, again))
    assert first["id"] == second["id"] and first["counts"] == second["counts"]


def test_an_unfinished_run_is_done_again(sample: Path) -> None:
    identity = artifacts.read_manifest(sample, "prepared")["id"]
    (sample / artifacts.MANIFEST).unlink()
    (sample / "images" / "part-99999.arrow").write_bytes(b"half")
    out = sample.parent.parent
    assert prepare(corpora_of(SAMPLE, out), SAMPLE, out) == sample
    assert artifacts.read_manifest(sample, "prepared")["id"] == identity
    assert not (sample / "images" / "part-99999.arrow").exists()


def test_errors_of_tasks_are_one_line(
    ray_cluster: None, manifest: Any, source: Any, jsonl: Any, tokenizer_file: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    def fail(self: Shards, unit: Any) -> None:
        raise ValueError("rows.jsonl: all is wrong")

    monkeypatch.setattr(Shards, "work", fail)
    corpora = load_corpora(manifest(source(jsonl([{"id": 1, "text": "dog"}]))))
    config = Config(recipe="t", tokenizer=TokenizerConfig(path=str(tokenizer_file)))
    with pytest.raises(ValueError, match=r"^rows.jsonl: all is wrong$"):
        prepare(corpora, config, tmp_path)


# ---- without Ray ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [[], [{"id": 1, "text": ""}]])
def test_empty_corpus(prepared: Callable[..., Any], source: Any, jsonl: Any, rows: list[Any]) -> None:
    with pytest.raises(ValueError, match="tiny: no row is left for training"):
        prepared(source(jsonl(rows or [b""])))


def test_empty_file(prepared: Callable[..., Any], source: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match="tiny: no row is left for training"):
        prepared(source("rows.jsonl"))


def test_empty_corpus_without_a_tokenizer(inline: None, manifest: Any, source: Any, jsonl: Any, tmp_path: Path) -> None:
    corpora = load_corpora(manifest(source(jsonl([{"id": 1, "text": ""}]))))
    with pytest.raises(ValueError, match="tiny: no row is left for training"):
        prepare(corpora, Config(recipe="t"), tmp_path)


def test_corpus_of_evaluation_only(prepared: Callable[..., Any], source: Any, jsonl: Any) -> None:
    with pytest.raises(ValueError, match="no row is left for training"):
        prepared(source(jsonl([{"id": 1, "text": "dog"}]), split={"only": "evaluation"}))


def test_one_language_corpus(inline: None, manifest: Any, source: Any, jsonl: Any, tmp_path: Path) -> None:
    rows = jsonl([{"id": i, "text": f"the dog number {i}"} for i in range(50)])
    corpora = load_corpora(manifest(source(rows, split={"evaluation": 0.2})))
    directory = prepare(corpora, Config(recipe="t", tokenizer=TokenizerConfig(vocab_size=600)), tmp_path)
    statistics = json.loads((directory / "statistics.json").read_text())
    assert {row["lang"] for row in statistics} == {"en"} and sum(row["rows"] for row in statistics) == 50
    assert {row["split"] for row in statistics} == {"train", "evaluation"}


def test_missing_tokenizer(inline: None, manifest: Any, source: Any, jsonl: Any, tmp_path: Path) -> None:
    corpora = load_corpora(manifest(source(jsonl([{"id": 1, "text": "dog"}]))))
    with pytest.raises(ValueError, match="neither a path nor a model that can be fetched"):
        prepare(corpora, Config(recipe="t", tokenizer=TokenizerConfig(path=str(tmp_path / "none"))), tmp_path)


def test_texts_over_the_limit(prepared: Callable[..., Any], source: Any, jsonl: Any) -> None:
    done = prepared(source(jsonl([{"id": 1, "text": "dog " * 30}, {"id": 2, "text": "dog"}])), max_chars=50)
    assert done.rejected() == [("rows.jsonl", 0, "text too long")]


def test_languages(prepared: Callable[..., Any], source: Any, jsonl: Any) -> None:
    rows = [("en", "a dog"), ("ru", "a lazy dog"), ("english", "dog"), (None, "dog"), ("RU", "ленивая собака")]
    path = jsonl([{"id": i, "text": text, "lang": lang} for i, (lang, text) in enumerate(rows)])
    columns = {"text": "text", "group_id": "id", "lang": "lang"}
    done = prepared(source(path, columns=columns, lang=None))
    assert [row["lang"] for row in done.rows("parallel")] == ["en", "ru"]
    assert sorted(done.rejected()) == [
        ("rows.jsonl", 1, "script does not match language"),
        ("rows.jsonl", 2, "unknown language"),
        ("rows.jsonl", 3, "unknown language"),
    ]
    assert len(prepared(source(path, columns=columns, lang=None), language_check="off").rows("parallel")) == 3


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"max_image_pixels": 1000}, "image over the pixel limit"),
        ({"max_image_bytes": 100}, "image over the byte limit"),
        ({"max_image_aspect": 1.1}, "image aspect over the limit"),
    ],
)
def test_image_limits(
    prepared: Callable[..., Any], source: Any, jsonl: Any, parquet: Any, picture: Any, setting: Any, reason: str
) -> None:
    path = parquet({"id": ["a", None], "image": pa.array([picture(), picture()], pa.binary())})
    table = {"name": "pics", "format": "parquet", "path": path, "columns": {"image_id": "id", "image": "image"}}
    done = prepared(source(jsonl([{"id": 1, "text": "dog"}])), images=(table,), **setting)
    assert done.rejected() == [(path, 0, reason), (path, 1, "no image_id")]
    assert done.counts["images/pics"] == {"read": 2, "kept": 0, "rejected": {reason: 1, "no image_id": 1}}


def test_groups_are_split_whole_and_shared(prepared: Callable[..., Any], source: Any, jsonl: Any) -> None:
    rows = [{"id": i // 3, "text": f"dog {i}", "page": i // 30} for i in range(300)]
    path = jsonl(rows)
    split = {"evaluation": 0.3, "validation": 0.2}
    both = [source(path, name=name, namespace="ns", split=split) for name in ("a", "b")]
    done = prepared(
        both[0], {**both[1], "kind": "text_text", "columns": {"query": "text", "document": "text", "group_id": "id"}}
    )
    found = {
        split: {row["group"] for row in done.rows("parallel", split)} for split in ("train", "validation", "evaluation")
    }
    assert all(len(found[a] & found[b]) == 0 for a, b in (("train", "validation"), ("train", "evaluation")))
    assert 12 <= len(found["evaluation"]) <= 48 and sum(map(len, found.values())) == 100
    assert {row["group"] for row in done.rows("text_text", "evaluation")} == found["evaluation"]
    salted = prepared(source(path, split={**split, "salt": "other"}))
    assert {row["text"] for row in salted.rows("parallel", "evaluation")} != set(done.texts("parallel", "evaluation"))
    paged = prepared(source(path, split={"by": "page", "evaluation": 0.5}))
    assert {int(text.split()[1]) // 30 for text in paged.texts("parallel")}.isdisjoint(
        int(text.split()[1]) // 30 for text in paged.texts("parallel", "evaluation")
    )


LINES = st.one_of(
    st.binary(max_size=6).filter(lambda line: b"\n" not in line),
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.one_of(st.none(), st.integers(0, 5), st.text(max_size=2)),
            "text": st.one_of(
                st.none(), st.sampled_from(["dog", "Dog!", "fox", "собака", "\u200b"]), st.text(max_size=5)
            ),
            "lang": st.one_of(st.none(), st.sampled_from(["en", "ru", "zz-zz-zz", "no"])),
        },
    ),
)


@given(rows=st.lists(LINES, min_size=1, max_size=30), unit_rows=st.integers(1, 8))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_kept_and_rejected_are_what_was_read(prepared: Any, source: Any, jsonl: Any, rows: Any, unit_rows: int) -> None:
    good = {"id": "always", "text": "a first good line", "lang": "en"}
    path = jsonl([good, *rows], f"{random.random()}.jsonl")
    columns = {"text": "text", "group_id": "id", "lang": "lang"}
    done = prepared(source(path, columns=columns, lang=None), unit_rows=unit_rows)
    count = done.counts["texts"]
    assert count["read"] == len(rows) + 1 == count["kept"] + sum(count["rejected"].values())
    assert count["kept"] == len(done.rows("parallel"))
    assert Counter(done.reasons()) == count["rejected"]
    assert len({row for _, row, _ in done.rejected()}) == len(done.rejected())


def test_rejected_rows_have_their_schema(prepared: Callable[..., Any], source: Any, jsonl: Any) -> None:
    done = prepared(source(jsonl([{"id": 1, "text": "dog"}, {"id": 1, "text": ""}])))
    (part,) = (done.directory / "rejected").glob("*.parquet")
    assert pq.read_schema(part).equals(REJECTED)
