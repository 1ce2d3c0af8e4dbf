"""Do catalogs in every form give the same items, and is every bad row rejected with its reason?"""

import io
import json
import tarfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unimir.data.catalog import Catalog, catalog_of_files, load_catalog
from unimir.data.items import MAX_BYTES, Item, read_ids, read_items
from unimir.data.readers import plan
from unimir.data.rows import Rejects
from unimir.data.sources import catalog_of

GOOD = {
    "id": "a",
    "title": "Caf\u0065\u0301",
    "text": "a long  text",
    "lang": "de-de",
    "captured_at": "2026-01-02T03:04:05+01:00",
    "place": "Köln",
    "price": "12.5",
    "tags": ["x", "y", "x"],
}


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def items_of(catalog: Catalog) -> tuple[list[Item], list[tuple[int, str, str]]]:
    rejects = Rejects("", "")
    units = plan(catalog, 1000)
    return [item for unit in units for chunk in read_items(catalog, unit, rejects, 2) for item in chunk], rejects.rows


def parquet(directory: Path, *rows: dict[str, Any]) -> Catalog:
    pq.write_table(pa.Table.from_pylist(list(rows)), directory / "items.parquet")
    return catalog_of_files(str(directory / "items.parquet"))


def test_a_row_becomes_an_item(tmp_path: Path) -> None:
    (item,), rejected = items_of(parquet(tmp_path, {**GOOD, "image": png(), "brand": "b", "stock": 3}))
    assert not rejected
    assert (item.id, item.title, item.text, item.words) == ("a", "Café", "a long text", "Café\na long text")
    assert (item.lang, item.place, item.price, item.tags) == ("de-DE", "Köln", 12.5, ("x", "y"))
    assert item.captured_at == datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)
    assert item.extra == {"brand": "b", "stock": "3"}
    assert item.picture == png()


def test_other_columns_are_kept_whatever_their_type(tmp_path: Path) -> None:
    nested = {"colour": "red", "sizes": [{"eu": 42}]}
    more = {"cost": Decimal("1.10"), "attrs": nested, "labels": ["x", "y"]}
    table = pa.Table.from_pylist([{**GOOD, **more}]).append_column("unused", pa.nulls(1))
    pq.write_table(table, tmp_path / "items.parquet")
    line = json.dumps({**GOOD, **more, "cost": 1.1, "unused": None})
    (tmp_path / "items.jsonl").write_text(line + "\n")
    for name, cost in (("items.parquet", "1.10"), ("items.jsonl", "1.1")):
        (item,), rejected = items_of(catalog_of_files(str(tmp_path / name)))
        assert not rejected
        assert json.loads(item.extra["attrs"]) == nested
        assert (item.extra["cost"], item.extra["labels"]) == (cost, "x\ny") and "unused" not in item.extra


def test_files_of_every_form_give_the_same_item(tmp_path: Path) -> None:
    plain = {**GOOD, "tags": "x,y"}
    (tmp_path / "items.jsonl").write_text(json.dumps(GOOD), encoding="utf-8")
    header = ",".join(plain)
    (tmp_path / "items.csv").write_text(
        f"{header}\n{','.join(json.dumps(str(v), ensure_ascii=False) for v in plain.values())}\n"
    )
    (expected,), _ = items_of(parquet(tmp_path, GOOD))
    for name in ("items.jsonl", "items.csv"):
        (item,), rejected = items_of(catalog_of_files(str(tmp_path / name)))
        assert not rejected
        assert item == expected


def test_a_manifest_can_say_norwegian(tmp_path: Path) -> None:
    """YAML takes a bare `no` for a boolean."""
    (tmp_path / "items.jsonl").write_text(json.dumps({"id": "a", "title": "en hund"}), encoding="utf-8")
    manifest = "format: jsonl\npath: items.jsonl\nlang: no\ncolumns: {id: id, title: title}\n"
    (tmp_path / "catalog.yaml").write_text(manifest)
    (item,), _ = items_of(load_catalog(tmp_path / "catalog.yaml"))
    assert item.lang == "no"


def test_pictures_lie_beside_the_files_or_below_a_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the job was started."""
    (tmp_path / "shop" / "photos").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for folder in ("shop/photos", "elsewhere"):
        (tmp_path / folder / "a.png").write_bytes(png())
    (tmp_path / "shop" / "items.csv").write_text("id,image_path\n1,photos/a.png\n2,a.png\n")
    monkeypatch.chdir(tmp_path)
    for pattern in ("shop/items.csv", "shop", "shop/*.csv", str(tmp_path / "shop" / "items.csv")):
        items, rejected = items_of(catalog_of_files(pattern))
        assert [item.id for item in items] == ["1"] and [row for row, *_ in rejected] == [1], pattern
        items, _ = items_of(catalog_of_files(pattern, "elsewhere"))
        assert [item.id for item in items] == ["2"], pattern


def test_directories_and_archives_of_pictures_are_catalogs(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for name in ("one.png", "sub/two.png"):
        (folder / name).write_bytes(png())
    found, _ = items_of(catalog_of_files(str(folder)))
    assert [item.picture for item in found] == [png(), png()]
    assert [item.id.rpartition("/")[2] for item in found] == ["one.png", "two.png"]
    with tarfile.open(tmp_path / "pictures.tar", "w") as archive:
        for name, data in (("k.png", png()), ("k.json", json.dumps({"id": "k"}).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    manifest = tmp_path / "tar.yaml"
    manifest.write_text("format: webdataset\npath: pictures.tar\ncolumns: {id: json.id, image: png}\n")
    (item,), _ = items_of(load_catalog(manifest))
    assert (item.id, item.picture) == ("k", png())


def test_pictures_may_lie_beside_the_catalog_but_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "a.png").write_bytes(png())
    (tmp_path / "secret.png").write_bytes(png())
    paths = [
        "a.png",
        "../secret.png",
        str(tmp_path / "secret.png"),
        "b.png",
        "file:///etc/passwd",
        "x/../../secret.png",
    ]
    pq.write_table(
        pa.table({"id": [str(n) for n in range(len(paths))], "image_path": paths}), tmp_path / "shop" / "c.parquet"
    )
    manifest = tmp_path / "shop" / "c.yaml"
    manifest.write_text("format: parquet\npath: c.parquet\ncolumns: {id: id, image_path: image_path}\n")
    found, rejected = items_of(load_catalog(manifest))
    assert [item.id for item in found] == ["0"]
    outside = "image_path leaves the catalog's root"
    assert [reason for _, reason, _ in rejected] == [outside, outside, "no picture at image_path", outside, outside]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": None}, "no id"),
        ({"id": ""}, "no id"),
        ({"id": "a\0b"}, "id with a NUL"),
        ({"id": "é" * 1025}, "id over 2048 bytes"),
        ({"title": None, "text": " \u200b "}, "nothing to embed: no title, no text, no image"),
        ({"title": "é" * (MAX_BYTES["title"] // 2 + 1)}, "title over 4096 bytes"),
        ({"text": "x" * (MAX_BYTES["text"] + 1)}, "text over 60000 bytes"),
        ({"captured_at": "yesterday"}, "captured_at is no ISO 8601 date or time"),
        ({"captured_at": "1710123152359"}, "captured_at is no ISO 8601 date or time"),  # not the year 1710
        ({"captured_at": "0001-01-01T00:00:00+05:00"}, "captured_at outside 1 to 9999"),
        ({"price": "cheap"}, "price is not a number"),
        ({"price": "nan"}, "price is not a finite number"),
        ({"price": "1e999"}, "price is not a finite number"),
        ({"tags": ["x" * 129]}, "more than 64 tags, or a tag over 128 bytes"),
        ({"tags": [str(n) for n in range(65)]}, "more than 64 tags, or a tag over 128 bytes"),
        ({"note": "x" * 16_400}, "extra columns over 16384 bytes"),
    ],
)
def test_bad_rows_are_rejected_and_the_rest_goes_through(tmp_path: Path, changes: Any, reason: str) -> None:
    found, rejected = items_of(parquet(tmp_path, {"note": "", **GOOD, **changes}, {"note": "", **GOOD, "id": "good"}))
    assert [item.id for item in found] == ["good"]
    assert [(row, why) for row, why, _ in rejected] == [(0, reason)]


def test_unknown_languages_are_said_to_be_unknown(tmp_path: Path) -> None:
    found, _ = items_of(
        parquet(tmp_path, *({**GOOD, "id": str(n), "lang": lang} for n, lang in enumerate(["qqqq", None, "ja"])))
    )
    assert [item.lang for item in found] == ["und", "und", "ja"]


def test_the_digest_changes_with_anything_the_row_says(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"title": "b"},
        {"price": "1"},
        {"tags": ["x"]},
        {"image": png("blue")},
        {"note": "n"},
    ]
    rows = [{**GOOD, "image": png(), "note": None, **change} for change in changes]
    found, _ = items_of(parquet(tmp_path, *rows))
    assert len({item.digest for item in found}) == len(changes)
    again, _ = items_of(parquet(tmp_path, *rows))
    assert [item.digest for item in again] == [item.digest for item in found]


def test_ids_are_read_without_the_rest(tmp_path: Path) -> None:
    catalog = parquet(tmp_path, GOOD, {**GOOD, "id": None}, {**GOOD, "id": "b"})
    (unit,) = plan(catalog, 1000)
    assert read_ids(catalog, unit) == ([0, 1, 2], ["a", "", "b"])


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("- a", "expected a mapping"),
        ("format: parquet\npath: x\ncolumns: {id: id, colour: c}", "unknown column 'colour'"),
        ("format: parquet\npath: x\ncolumns: {title: t}", "columns lacks 'id'"),
        ("format: parquet\npath: x\ncolumns: {id: t}", "nothing to embed"),
        ("format: doc\npath: x\ncolumns: {id: t}", "one of parquet"),
        ("formt: doc", "unknown key 'formt'"),
        ("path: [", "not YAML"),
    ],
)
def test_what_a_manifest_may_not_say(tmp_path: Path, manifest: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(manifest)
    with pytest.raises(ValueError, match="c.yaml") as error:
        load_catalog(path)
    assert message in str(error.value)


def test_files_without_what_is_needed_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sku": ["a"], "name": ["b"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x.parquet \(columns sku, name\): columns lacks 'id'"):
        catalog_of_files(str(tmp_path / "x.parquet"))
    with pytest.raises(ValueError, match="no file matches"):
        catalog_of_files(str(tmp_path / "y.parquet"))
    with pytest.raises(ValueError, match="no catalog manifest there"):
        catalog_of("nowhere.yaml", tmp_path, items=1, seed=0)


def test_the_sample_is_a_catalog_of_pictures_and_texts(tmp_path: Path) -> None:
    catalog = catalog_of("sample", tmp_path, items=12, seed=0)
    found, rejected = items_of(catalog)
    assert len(found) == 12
    assert not rejected
    assert all(item.picture and item.title and item.text and item.tags and item.price for item in found)
    assert {key for item in found for key in item.extra} == {"currency"}
