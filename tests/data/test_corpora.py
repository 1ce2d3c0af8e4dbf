"""The manifest: short forms, defaults, and one clear line for every mistake."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from unimir.data.corpora import SplitRule, Where, load_corpora

IMAGE = {"name": "pics", "format": "parquet", "path": "i.parquet", "columns": {"image_id": "id", "image": "image"}}
CAPTIONS = {
    "name": "caps",
    "kind": "image_text",
    "format": "parquet",
    "path": "c.parquet",
    "columns": {"image_id": "id", "text": "t"},
    "images": "pics",
    "lang": "en",
}
NLU = {"name": "nlu", "kind": "nlu", "format": "conll", "path": "x.conll", "lang": "en", "label_set": "x"}


def test_short_forms_and_defaults(manifest: Callable[..., Path]) -> None:
    source = {**CAPTIONS, "where": {"kind": "name", "lang": {"not": ["en", "de"]}}, "split": {"by": "id"}}
    (read,) = load_corpora(manifest(source, images=(IMAGE,))).sources
    assert read.path == ("c.parquet",) and read.columns["text"] == ("t",)
    assert read.where == {"kind": Where(values=("name",)), "lang": Where(values=("en", "de"), exclude=True)}
    assert read.namespace == "caps" and read.leak == ("image",)
    assert read.split == SplitRule(by=("id",), evaluation=0.1)


def test_text_kinds_guard_texts(manifest: Callable[..., Path]) -> None:
    assert load_corpora(manifest(NLU)).sources[0].leak == ("text",)
    assert load_corpora(manifest({**NLU, "leak": []})).sources[0].leak == ()


def test_split_shares_fill_up(manifest: Callable[..., Path]) -> None:
    rule = load_corpora(manifest({**NLU, "split": {"evaluation": 0.2, "validation": 0.1}})).sources[0].split
    assert (rule.train, rule.validation, rule.evaluation) == (pytest.approx(0.7), 0.1, 0.2)


def test_on_is_a_key_and_no_is_norwegian(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "sources: [{name: a, kind: text_text, format: jsonl, path: a, lang: no, columns: {query: q},"
        " join: {path: b, format: jsonl, on: id, where: {lang: [no]}, columns: {document: d}}}]"
    )
    (read,) = load_corpora(path).sources
    assert read.lang == "no" and read.join is not None
    assert read.join.on == "id" and read.join.where["lang"].values == ("no",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pth": "x"}, r"source caps: unknown key 'pth'; known keys: name, kind, format, path"),
        ({"kind": "pictures"}, r"source caps.kind: 'pictures'; one of image_text, text_text"),
        ({"format": "xml"}, r"source caps.format: 'xml'; one of parquet, jsonl"),
        ({"columns": {"image_id": "id", "txt": "t"}}, r"source caps: unknown column 'txt' for kind image_text; known"),
        ({"columns": {"text": "t"}}, r"source caps: kind image_text needs a column 'image_id'"),
        ({"images": "photos"}, r"source caps: images 'photos' is unknown; image tables: pics"),
        ({"images": None}, r"source caps: a column image_id needs images; image tables: pics"),
        ({"lang_from_path": "^[a-z]+"}, r"source caps: lang_from_path '\^\[a-z\]\+' has no \(group\)"),
        ({"lang_from_path": "([a-z"}, r"source caps: lang_from_path '\(\[a-z' is no pattern"),
        ({"where": {"kind": {"not": None}}}, r"source caps: where kind has null, which no value equals"),
        ({"lang": None}, r"source caps: no language"),
        ({"leak": ["texts"]}, r"source caps: leak has 'texts'; allowed: text, document, image"),
        ({"where": {"kind": {"is": ["a"]}}}, r"source caps: where kind has keys \['is'\]; only 'not' is known"),
        ({"split": {"train": 0.5, "evaluation": 0.1}}, r"source caps: split: shares .* add up to 1"),
        ({"split": {"parts": 2}}, r"source caps.split: unknown key 'parts'; known keys: by, train"),
        ({"split": {"column": "s"}}, r"source caps: split by column s names no values"),
        ({"join": {"path": "x"}}, r"source caps.join: .*missing"),
    ],
)
def test_mistakes_of_a_source(manifest: Callable[..., Path], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load_corpora(manifest({**CAPTIONS, **change}, images=(IMAGE,)))
    assert "\n" not in str(error.value)


def test_label_set_is_needed(manifest: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="kind nlu needs a label_set"):
        load_corpora(manifest({**NLU, "label_set": None}))


def test_names_are_used_once(manifest: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="the name 'nlu' is used twice"):
        load_corpora(manifest(NLU, NLU))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: x\nsorces: []", "unknown key 'sorces'; known keys: name, images, sources"),
        ("name: x", "no sources"),
        ("[1, 2]", "expected a mapping"),
        ("a: [", "not YAML"),
        ("sources: {a: 1}", "sources must be a list"),
        ("sources: [text]", "expected a mapping, got 'text'"),
    ],
)
def test_mistakes_of_the_file(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        load_corpora(path)
    assert "\n" not in str(error.value)


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no corpora manifest there"):
        load_corpora(tmp_path / "none.yaml")


def test_relative_paths_start_at_root(manifest: Callable[..., Path], tmp_path: Path) -> None:
    path = manifest(NLU)
    assert load_corpora(path).root == str(tmp_path)
    assert load_corpora(path, tmp_path / "data").root == str(tmp_path / "data")
    assert yaml.safe_load(path.read_text())["name"] == "tiny"
