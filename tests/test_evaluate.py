"""Is the evaluation right: every task through a real bundle, names as promised, pools and relevance by hand."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unimir.config import Config, EvalTask
from unimir.data.prepared import read_images
from unimir.evaluate import (
    _MEASURES,
    Queries,
    _across_languages,
    _Corpus,
    _dots,
    _items,
    _judge,
    _to_languages,
    evaluate,
)
from unimir.evaluate_checks import check, check_own
from unimir.infer import Encoder
from unimir.report import summary, write_report
from unimir.schema import PREPARED

PROMISED = (
    "text_to_image.r@10.macro",
    "text_to_image.r@10.worst",
    "image_to_text.r@10.de",
    "text_to_text.r@10.macro",
    "query_to_item.r@10.macro",
    "query_to_item_plain.r@10.macro",
    "clean_to_item.r@10.macro",
    "clean_to_item_plain.r@10.macro",
    "intent.accuracy.macro",
    "slots.f1.macro",
    "text_to_image_lexical.r@10.macro",
    "query_to_item_lexical.r@10.macro",
    "intent_lexical.accuracy.macro",
    "slots_lexical.f1.macro",
)


@pytest.fixture(scope="module")
def found(tiny_bundle: Path, tiny_prepared: Path, tiny_config: Config) -> dict[str, float]:
    return evaluate(Encoder.from_bundle(tiny_bundle), tiny_prepared, tiny_config)


def test_promised_names_are_there(found: dict[str, float]) -> None:
    assert set(PROMISED) <= set(found)
    assert all(0 <= value <= 1 for value in found.values())


def test_macro_and_worst_agree_with_the_languages(found: dict[str, float]) -> None:
    langs = {k: v for k, v in found.items() if k.startswith("text_to_image.r@10.") and k[-5:] not in ("macro", "worst")}
    assert len(langs) == 8
    assert found["text_to_image.r@10.macro"] == pytest.approx(np.mean(list(langs.values())))
    assert found["text_to_image.r@10.worst"] == min(langs.values())


def test_plain_clean_queries_are_text_to_image(found: dict[str, float]) -> None:
    assert found["clean_to_item_plain.r@10.macro"] == found["text_to_image.r@10.macro"]


def test_pictures_without_training_texts_have_no_lexical_match(found: dict[str, float]) -> None:
    assert found["text_to_image_lexical.r@10.macro"] == 0.0


def test_report_has_json_table_and_picture(found: dict[str, float], tmp_path: Path) -> None:
    table = write_report(tmp_path, found, {"bundle": "abc"})
    assert json.loads((tmp_path / "report.json").read_text())["metrics"] == found
    assert "| text_to_image.r@10 |" in summary(found) and summary(found) in table.read_text()
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    write_report(tmp_path / "nothing", {}, {"bundle": "abc"})  # of evaluation=[]
    assert {path.name for path in (tmp_path / "nothing").iterdir()} == {"report.json", "report.md"}


def test_items_are_distinct_and_know_their_groups() -> None:
    rows = [
        {"group": 1, "image_id": "a", "doc_text": None},
        {"group": 1, "image_id": None, "doc_text": "x"},
        {"group": 2, "image_id": "b", "doc_text": None},
        {"group": 2, "image_id": "a", "doc_text": "x"},
    ]
    items = _items(pa.Table.from_pylist(rows))
    assert (items.images, items.texts) == (["a", "b"], ["x"])
    assert items.by_group == {1: [0, 2], 2: [0, 1, 2]}


def test_another_corpus_than_the_bundles_own_is_refused_unless_said(
    tiny_bundle: Path, tiny_prepared: Path, tmp_path: Path
) -> None:
    check_own(tiny_bundle, tiny_prepared)
    manifest = json.loads((tiny_prepared / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "id": "another"}))
    with pytest.raises(ValueError, match="and its recipe's is another: say by --corpora or --recipe"):
        check_own(tiny_bundle, tmp_path)


def test_a_picture_of_two_groups_is_asked_for_once(tiny_bundle: Path, tiny_prepared: Path) -> None:
    (task,) = (EvalTask(name="i", measure="image_to_text", kind="image_text", metrics=("r@1",)),)
    rows = [
        {"image_id": read_images(tiny_prepared)["image_id"][0].as_py(), "group": group, "text": text, "lang": "en"}
        for group, text in ((1, "a red cat"), (2, "a cat on a mat"))
    ]
    encoder, table = Encoder.from_bundle(tiny_bundle), pa.Table.from_pylist(rows)
    found = _MEASURES["image_to_text"](task, encoder, _Corpus(tiny_prepared, table, table, table))
    assert found["i.r@1.macro"] == 1.0  # whichever comes first answers
    lost = pa.Table.from_pylist([{**rows[0], "image_id": "lost/1"}])
    with pytest.raises(ValueError, match="picture 'lost/1' is asked for, and is not among its pictures"):
        _MEASURES["image_to_text"](task, encoder, _Corpus(tiny_prepared, lost, lost, lost))


def test_pictures_are_held_against_all_texts_of_a_language(tiny_bundle: Path, tiny_prepared: Path) -> None:
    """The limit is of what asks: fewer texts to choose from would be an easier task."""
    names = read_images(tiny_prepared)["image_id"].to_pylist()[:12]
    rows = [{"image_id": name, "group": at, "text": f"cat {at}", "lang": "en"} for at, name in enumerate(names)]
    table, encoder = pa.Table.from_pylist(rows), Encoder.from_bundle(tiny_bundle)
    task = EvalTask(name="i", measure="image_to_text", kind="image_text", max_queries=5)
    ((queries, asked, pool, texts),) = _to_languages(task, encoder, _Corpus(tiny_prepared, table, table, table))
    assert len(queries.texts) == len(asked) == 5 and len(pool) == len(texts) == 12
    for vector, (answer,) in zip(asked, queries.relevant, strict=True):
        name = names[int(texts[answer].split()[1])]
        at = read_images(tiny_prepared)["image_id"].to_pylist().index(name)
        picture = read_images(tiny_prepared)["image"][at].as_py()
        np.testing.assert_allclose(encoder.embed_images([picture])[0], vector, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"measure": "nlu", "kind": "text_text"}, "nlu of kind text_text; it is of nlu, intent_query"),
        ({"measure": "text_to_image", "kind": "parallel"}, "text_to_image of kind parallel"),
        ({"measure": "text_to_text", "kind": "image_text"}, "it is of parallel, text_text"),
        ({"measure": "text_to_text", "kind": "parallel", "max_queries": 0}, "max_queries 0; at least 1"),
        (
            {"measure": "image_to_text", "kind": "image_text", "pool": "all"},
            "pool all; image_to_text of kind image_text",
        ),
        ({"measure": "text_to_text", "kind": "parallel", "pool": "all"}, "has only held-out candidates"),
        ({"measure": "nlu", "kind": "nlu", "max_lexical_rows": 0}, "max_lexical_rows 0; at least 1"),
        ({"measure": "text_to_image", "kind": "image_text", "sources": ("sample_captions", "tpyo")}, "row of tpyo in"),
        ({"measure": "text_to_image", "kind": "image_text", "name": "twice"}, "the name 'twice' comes twice"),
    ],
)
def test_tasks_that_could_only_fail_are_refused_first(
    tiny_prepared: Path, tiny_config: Config, task: dict[str, Any], message: str
) -> None:
    other = EvalTask(name="twice", measure="image_to_text", kind="image_text")
    config = dataclasses.replace(tiny_config, evaluation=(other, EvalTask(**{"name": "t", **task})))
    with pytest.raises(ValueError, match=message):
        check(tiny_prepared, config)


def test_a_source_may_be_there_for_training_alone(tiny_prepared: Path, tiny_config: Config, tmp_path: Path) -> None:
    """As that of atlas' xSID, which the baseline learns from."""
    for split in ("train", "evaluation"):
        (path,) = shutil.copytree(tiny_prepared / "nlu" / split, tmp_path / "nlu" / split).glob("*.parquet")
        table = pq.read_table(path)
        source = pa.array([f"own_{split}"] * len(table), table.schema.field("source").type)
        pq.write_table(table.set_column(table.column_names.index("source"), "source", source), path)
    task = EvalTask(name="n", measure="nlu", kind="nlu", sources=("own_train", "own_evaluation"))
    check(tmp_path, dataclasses.replace(tiny_config, evaluation=(task,)))
    wrong = dataclasses.replace(task, sources=(*task.sources, "tpyo"))
    with pytest.raises(ValueError, match="no nlu row of tpyo in split evaluation, nor in train"):
        check(tmp_path, dataclasses.replace(tiny_config, evaluation=(wrong,)))


def test_across_languages_needs_two(tiny_prepared: Path, tiny_config: Config, tmp_path: Path) -> None:
    held_out = shutil.copytree(tiny_prepared / "parallel" / "evaluation", tmp_path / "parallel" / "evaluation")
    for path in held_out.glob("*.parquet"):
        table = pq.read_table(path)
        english = pa.array(["en"] * len(table), table.schema.field("lang").type)
        pq.write_table(table.set_column(table.column_names.index("lang"), "lang", english), path)
    config = dataclasses.replace(tiny_config, evaluation=(EvalTask(name="t", measure="text_to_text", kind="parallel"),))
    with pytest.raises(ValueError, match="task 't': its rows are of one language"):
        check(tmp_path, config)


def test_what_an_nlu_task_lacks_is_said_by_the_check(tiny_prepared: Path, tiny_config: Config, tmp_path: Path) -> None:
    held_out = shutil.copytree(tiny_prepared / "nlu" / "evaluation", tmp_path / "nlu" / "evaluation")
    config = dataclasses.replace(tiny_config, evaluation=(EvalTask(name="n", measure="nlu", kind="nlu"),))
    with pytest.raises(ValueError, match="task 'n': no nlu row in split train, which the baseline needs"):
        check(tmp_path, config)
    (path,) = held_out.glob("*.parquet")
    table = pq.read_table(path)
    sets = pa.array(["banking", *["search"] * (len(table) - 1)])
    pq.write_table(table.set_column(table.column_names.index("label_set"), "label_set", sets), path)
    with pytest.raises(ValueError, match="task 'n' mixes the label sets banking, search; name sources of one"):
        check(tmp_path, config)


def test_unknown_label_set_is_a_clear_error(
    tiny_bundle: Path, tiny_prepared: Path, tiny_config: Config, tmp_path: Path
) -> None:
    """Rows of a label set that the bundle was not trained with."""
    for split in ("train", "evaluation"):
        (source,) = (tiny_prepared / "nlu" / split).glob("*.parquet")
        table = pq.read_table(source)
        renamed = table.set_column(
            table.column_names.index("label_set"), "label_set", pa.array(["banking"] * len(table))
        )
        (tmp_path / "nlu" / split).mkdir(parents=True)
        pq.write_table(renamed.cast(PREPARED["nlu"]), tmp_path / "nlu" / split / "part-0.parquet")
    config = dataclasses.replace(tiny_config, evaluation=(EvalTask(name="", measure="nlu", kind="nlu"),))
    with pytest.raises(ValueError, match="label_set 'banking'; this bundle has search"):
        evaluate(Encoder.from_bundle(tiny_bundle), tmp_path, config)


def test_scores_are_judged_a_few_queries_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a million documents at once would not fit; what is found is the same."""
    rng = np.random.default_rng(0)
    asked, items = (rng.standard_normal((count, 8)).astype(np.float32) for count in (20, 50))
    relevant = [np.sort(rng.choice(50, 1 + at % 3, replace=False)) for at in range(20)]
    queries = Queries([str(at) for at in range(20)], ["en", "de"] * 10, relevant)
    wanted = _judge("task", queries, iter([asked @ items.T]), ["r@10", "ndcg@10"])
    monkeypatch.setattr("unimir.evaluate.QUERY_CHUNK", 3)
    assert [len(scores) for scores in _dots(asked, items)] == [3] * 6 + [2]
    assert _judge("task", queries, _dots(asked, items), ["r@10", "ndcg@10"]) == pytest.approx(wanted)
    assert 0 < wanted["task.r@10.macro"] < 1


def test_no_rows_is_a_clear_error(tiny_bundle: Path, tiny_prepared: Path, tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="task 'text_to_image': .* has no image_text rows in split evaluation"):
        evaluate(Encoder.from_bundle(tiny_bundle), tmp_path, tiny_config)
    (task, *_) = tiny_config.evaluation
    named = dataclasses.replace(tiny_config, evaluation=(dataclasses.replace(task, sources=("flickr",)),))
    with pytest.raises(ValueError, match="no image_text rows of flickr in split evaluation"):
        check(tiny_prepared, named)


def test_a_text_of_two_groups_is_asked_once_and_answered_by_both(tiny_bundle: Path) -> None:
    said = [("en", 1, "a cat"), ("en", 2, "the cat"), ("en", 3, "a dog"), *(("de", g, "Katze") for g in (1, 2))]
    table = pa.Table.from_pylist([{"lang": lang, "group": group, "text": text} for lang, group, text in said])
    parts = {part[0].langs[0]: part for part in _across_languages(Encoder.from_bundle(tiny_bundle), table, 500)}
    queries, _, _, texts = parts["de"]
    assert queries.texts == ["Katze"]
    assert [texts[place] for place in queries.relevant[0]] == ["a cat", "the cat"]
