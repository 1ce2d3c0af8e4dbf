"""Is a catalog embedded exactly once, are versions shown only when whole, and is nothing lost on the way?"""

import base64
import dataclasses
import io
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from unimir import artifacts
from unimir.bundle_files import CONTENT, read_model_config
from unimir.data.catalog import catalog_of_files
from unimir.data.passes import Actors
from unimir.data.readers import plan
from unimir.data.sources import catalog_of
from unimir.index import embedder
from unimir.index.connection import IndexRefused, IndexUnavailable
from unimir.index.embed import Embedding, embed
from unimir.index.embedder import Embedder, Task
from unimir.index.entities import KEY_BYTES, MAX_PREVIEW_BYTES, key_of, with_preview
from unimir.index.lite import embedded
from unimir.index.store import Store
from unimir.index.versions import rollback, versions
from unimir.infer import Encoder

ITEMS = 40
ONE = Actors(least=1, most=1)
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    catalog = catalog_of("sample", tmp_path_factory.mktemp("sample"), items=ITEMS, seed=3)
    table = pq.read_table(Path(catalog.root) / "catalog.parquet")
    found: Rows = table.rename_columns([{"description": "text"}.get(n, n) for n in table.column_names]).to_pylist()
    return found


@pytest.fixture
def job(tiny_bundle: Path, milvus_uri: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Embedding]:
    name = f"c{abs(hash(request.node.name)) % 10**9}"
    catalog = catalog_of_files(str(_written(tmp_path, [{"id": "-", "title": "-"}])))
    yield Embedding(catalog=catalog, bundle=tiny_bundle, uri=milvus_uri, out=tmp_path / "out", name=name)
    store = Store(milvus_uri)
    for version in versions(store, name):
        for alias in store.aliases(version.collection):
            store.unpoint(alias)
        store.drop(version.collection)


def _written(directory: Path, rows: Rows) -> Path:
    path = directory / "items.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def run(job: Embedding, rows: Rows, **changes: Any) -> dict[str, Any]:
    path = _written(job.out.parent, rows)
    return embed(dataclasses.replace(job, catalog=catalog_of_files(str(path)), **changes), ONE)


def counts(result: dict[str, Any]) -> tuple[int, int, int, int, int]:
    names = ("rows_read", "rows_embedded", "rows_unchanged", "rows_rejected", "deleted")
    return tuple(result[name] for name in names)  # type: ignore[return-value]


def ids_in(store: Store, job: Embedding) -> set[tuple[str, str]]:
    rows = store.get(job.name, list(store.keys(job.name, job.tenant)), ["id", "modality"])
    return {(row["id"], row["modality"]) for row in rows.values()}


def test_items_are_embedded_once_and_again_when_they_change(store: Store, job: Embedding, rows: Rows) -> None:
    first = run(job, rows)
    assert counts(first) == (ITEMS, ITEMS, 0, 0, 0)
    assert first["collection"] == f"{job.name}_0001_{first['bundle_id']}"
    assert store.target(job.name) == first["collection"]
    assert ids_in(store, job) == {(row["id"], modality) for row in rows for modality in ("image", "text")}
    assert store.count(job.name) == 2 * ITEMS

    second = run(job, rows)
    assert counts(second) == (ITEMS, 0, ITEMS, 0, 0)
    assert second["model_s"] * 10 <= first["model_s"]

    changed = [{**row, "price": 1.0} if at < 2 else row for at, row in enumerate(rows)]
    changed[5] = {**changed[5], "title": "something else"}
    assert counts(run(job, changed)) == (ITEMS, 3, ITEMS - 3, 0, 0)
    stored = store.get(job.name, [key_of("", rows[5]["id"], "text")], ["title", "price"])
    assert [row["title"] for row in stored.values()] == ["something else"]


def test_many_units_go_through_a_pool_of_workers(
    ray_cluster: None, store: Store, job: Embedding, rows: Rows, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also: of an id that recurs in another unit the first row is the item."""
    repeated = [*rows, {**rows[0], "title": "not this one"}]
    path = _written(job.out.parent, repeated)
    pooled = dataclasses.replace(job, catalog=catalog_of_files(str(path)), unit_rows=7)
    pool = Actors(least=1, most=2, num_cpus=0.5)
    assert counts(embed(pooled, pool)) == (ITEMS + 1, ITEMS, 0, 1, 0)
    assert "41/41" in capfd.readouterr().err
    stored = store.get(job.name, [key_of("", rows[0]["id"], "text")], ["title"])
    assert [row["title"] for row in stored.values()] == [rows[0]["title"]]
    assert counts(embed(pooled, pool)) == (ITEMS + 1, 0, ITEMS, 1, 0)


def test_a_worker_that_cannot_start_says_why(job: Embedding, rows: Rows) -> None:
    broken = another(job.bundle, job.out.parent, "d")
    (broken / "golden.safetensors").unlink()
    with pytest.raises(ValueError, match="the bundle lacks golden.safetensors"):
        run(job, rows, bundle=broken)
    assert Store(job.uri).target(job.name) is None


def test_stored_vectors_are_the_encoders(store: Store, job: Embedding, rows: Rows, tiny_bundle: Path) -> None:
    run(job, rows)
    encoder = Encoder.from_bundle(tiny_bundle)
    texts = encoder.embed_texts([f"{row['title']}\n{row['text']}" for row in rows])
    images = encoder.embed_images([row["image"] for row in rows])
    for modality, expected in (("text", texts), ("image", images)):
        keys = [key_of("", row["id"], modality) for row in rows]
        stored = store.get(job.name, keys, ["vector"])
        assert np.abs(np.array([stored[key]["vector"] for key in keys]) - expected).max() < 1e-5


def test_what_left_the_catalog_is_deleted_when_asked(store: Store, job: Embedding, rows: Rows) -> None:
    run(job, rows)
    assert counts(run(job, rows[:30])) == (30, 0, 30, 0, 0)
    assert len(ids_in(store, job)) == 2 * ITEMS
    broken = [{**rows[0], "image": b"no picture"}, *rows[1:30]]
    assert counts(run(job, broken, delete_missing=True)) == (30, 0, 29, 1, 20)
    assert ids_in(store, job) == {(row["id"], modality) for row in rows[:30] for modality in ("image", "text")}


def test_an_item_that_loses_its_picture_loses_that_row(store: Store, job: Embedding, rows: Rows) -> None:
    run(job, rows)
    assert counts(run(job, [{**rows[0], "image": None}, *rows[1:]])) == (ITEMS, 1, ITEMS - 1, 0, 0)
    assert len(ids_in(store, job)) == 2 * ITEMS - 1


def test_bad_rows_are_rejected_with_reasons_and_the_rest_goes_through(store: Store, job: Embedding, rows: Rows) -> None:
    bad = [dict(row) for row in rows]
    for at in range(0, ITEMS, 10):
        bad[at]["image"] = bad[at]["image"][:100]
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    bad[5]["image"] = bomb.getvalue()
    bad[1]["id"] = bad[2]["id"]
    bad[3]["id"] = ""
    bad[4] |= {"image": None, "title": "", "text": ""}
    result = run(job, bad)
    assert counts(result) == (ITEMS, ITEMS - 8, 0, 8, 0)
    assert result["rejected"] == {
        "duplicate id": 1,
        "image over the pixel limit": 1,
        "no id": 1,
        "nothing to embed: no title, no text, no image": 1,
        "unreadable image": 4,
    }
    listed = pq.read_table(Path(result["report"]) / "rejected.parquet").to_pylist()
    assert sorted(row["row"] for row in listed) == [0, 2, 3, 4, 5, 10, 20, 30]
    assert json.loads((Path(result["report"]) / "manifest.json").read_text())["counts"]["rows_rejected"] == 8


def another(bundle: Path, directory: Path, name: str) -> Path:
    """The same model under another id: its configuration ends in another number of empty lines."""
    copy = shutil.copytree(bundle, directory / f"bundle-{name}")
    with (copy / "config.json").open("a") as config:
        config.write("\n" * (1 + ord(name)))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["id"] = artifacts.files_id(copy, [copy / file for file in CONTENT])
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_a_new_bundle_is_a_new_version_that_readers_see_when_it_is_whole(
    store: Store, job: Embedding, rows: Rows, tmp_path: Path
) -> None:
    first = run(job, rows)["collection"]
    bundles = [another(job.bundle, tmp_path, digit) for digit in "ab"]
    with pytest.raises(ValueError, match="every row was rejected .unreadable image: 40.*"):
        run(job, [{**row, "image": b"?"} for row in rows], bundle=bundles[0])
    assert store.target(job.name) == first
    second = run(job, rows, bundle=bundles[0])["collection"]
    assert second == f"{job.name}_0002_{artifacts.read_manifest(bundles[0], 'bundle')['id']}"
    assert store.target(job.name) == second
    third = run(job, rows, bundle=bundles[1], keep=1)["collection"]
    assert [version.collection for version in versions(store, job.name)] == [second, third]
    assert rollback(store, job.name) == second
    assert store.target(job.name) == second
    with pytest.raises(ValueError, match="no earlier version is kept"):
        rollback(store, job.name)
    with pytest.raises(ValueError, match=f"what readers of {job.name}, {second}_whole see; it stays"):
        store.drop(second)


def test_what_was_rolled_back_to_outlives_what_was_rolled_back_from(
    store: Store, job: Embedding, rows: Rows, tmp_path: Path
) -> None:
    """Services still read the one that the alias showed, whatever its number."""
    first = run(job, rows)["collection"]
    run(job, rows, bundle=another(job.bundle, tmp_path, "a"))
    assert rollback(store, job.name) == first
    third = run(job, rows, bundle=another(job.bundle, tmp_path, "b"), keep=1)["collection"]
    assert [version.collection for version in versions(store, job.name)] == [first, third]
    assert rollback(store, job.name) == first


def test_a_version_that_never_became_whole_is_neither_kept_nor_shown(
    store: Store, job: Embedding, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(job, rows)["collection"]
    killed, third = (another(job.bundle, tmp_path, digit) for digit in "ab")
    with monkeypatch.context() as broken, pytest.raises(IndexRefused, match="are not in"):
        broken.setattr(Store, "keys", lambda *_: iter(()))
        run(job, rows, bundle=killed)
    assert [version.number for version in versions(store, job.name)] == [1, 2]
    shown = run(job, rows, bundle=third, keep=1)["collection"]
    assert [version.collection for version in versions(store, job.name)] == [first, shown]
    assert rollback(store, job.name) == first
    with pytest.raises(ValueError, match="keep is -1; 0 or more"):
        run(job, rows, bundle=third, keep=-1)


def test_no_tenant_is_lost_by_a_new_version(store: Store, job: Embedding, rows: Rows, tmp_path: Path) -> None:
    first = run(job, rows[:5], tenant="a'\" or 1")["collection"]
    assert run(job, rows[:3], tenant="b")["collection"] == first
    assert store.tenants(first) == {"a'\" or 1", "b"}
    new = another(job.bundle, tmp_path, "c")
    with pytest.raises(ValueError, match="lacks items of tenants 'b'"):
        run(job, rows[:5], tenant="a'\" or 1", bundle=new)
    assert store.target(job.name) == first
    second = run(job, rows[:3], tenant="b", bundle=new)["collection"]
    assert store.target(job.name) == second != first


def test_a_tenant_that_was_killed_halfway_keeps_a_new_version_from_readers(
    store: Store, job: Embedding, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(job, rows[:5], tenant="a")["collection"]
    run(job, rows[:5], tenant="b")
    new = another(job.bundle, tmp_path, "c")
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(Store, "flush", _interrupted)
        run(job, rows[:2], tenant="b", bundle=new)
    assert store.tenants(versions(store, job.name)[-1].collection) == {"b"}
    with pytest.raises(ValueError, match=f"{job.name} stays at {first}: .* lacks items of tenants 'b'; embed theirs"):
        run(job, rows[:5], tenant="a", bundle=new)
    second = run(job, rows[:5], tenant="b", bundle=new, keep=0)["collection"]
    assert store.target(job.name) == second
    assert store.aliases(second) == sorted([job.name, f"{second}_whole"])  # nothing begun is left


def test_a_dry_run_writes_nothing(store: Store, job: Embedding, rows: Rows) -> None:
    assert counts(run(job, rows, dry_run=True)) == (ITEMS, ITEMS, 0, 0, 0)
    assert not versions(store, job.name)
    real = Path(run(job, rows[:10])["report"], "manifest.json").read_text()
    assert counts(dry := run(job, rows, dry_run=True)) == (ITEMS, ITEMS - 10, 10, 0, 0)
    assert dry["report"].endswith("-dry") and Path(dry["report"][:-4], "manifest.json").read_text() == real
    assert store.count(job.name) == 20


def test_an_empty_catalog_and_a_bad_name_are_refused(job: Embedding, rows: Rows) -> None:
    empty = pa.Table.from_pylist(rows[:1]).slice(0, 0)
    pq.write_table(empty, job.out.parent / "empty.parquet")
    with pytest.raises(ValueError, match="no rows; an index is not emptied"):
        embed(dataclasses.replace(job, catalog=catalog_of_files(str(job.out.parent / "empty.parquet"))), ONE)
    with pytest.raises(ValueError, match="name 'a b'; a letter, then"):
        run(job, rows, name="a b")
    with pytest.raises(ValueError, match="workers 2,1; expected MIN,MAX"):
        Actors(least=2, most=1)


def test_nobody_at_the_uri_is_an_error_of_one_line(job: Embedding, rows: Rows) -> None:
    with pytest.raises(IndexUnavailable, match="Milvus does not answer"):
        run(job, rows, uri="http://127.0.0.1:1")


@pytest.fixture
def alone(job: Embedding, store: Store, rows: Rows) -> Callable[[], Embedder]:
    """A worker without Ray, on the catalog of all rows."""

    def make() -> Embedder:
        catalog = catalog_of_files(str(_written(job.out.parent, rows)))
        collection = f"{job.name}_0001_00"
        store.create(collection, read_model_config(job.bundle).dim)
        task = Task(
            catalog=catalog,
            bundle=str(job.bundle),
            backend="torch",
            device="cpu",
            uri=job.uri,
            collection=collection,
            tenant="",
            fresh=True,
            preview=0,
            dry=False,
        )
        return Embedder(task)

    return make


@pytest.mark.parametrize("poison", ["raises", "nan", "zero"])
def test_a_row_that_poisons_its_batch_is_isolated(
    alone: Callable[[], Embedder], rows: Rows, poison: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = alone()
    embed_texts = worker._encoder.embed_texts

    def poisoned(texts: list[str]) -> np.ndarray:
        bad = [at for at, text in enumerate(texts) if text.startswith(rows[7]["title"])]
        if bad and poison == "raises":
            raise RuntimeError("boom")
        vectors = embed_texts(texts)
        vectors[bad] = np.nan if poison == "nan" else 0.0
        return vectors

    monkeypatch.setattr(worker._encoder, "embed_texts", poisoned)
    (unit,) = plan(worker._task.catalog, 1000)
    done = worker(unit, frozenset())
    reasons = {"raises": "cannot be embedded", "nan": "vector is not finite", "zero": "vector is zero"}
    same_title = [at for at, row in enumerate(rows) if row["title"].startswith(rows[7]["title"])]
    assert [(row, reason) for row, reason, _ in done.rejected] == [(at, reasons[poison]) for at in same_title]
    assert done.embedded == ITEMS - len(same_title)
    assert worker._store.count(worker._task.collection) == 2 * done.embedded


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
        (MemoryError(), MemoryError),
        (RuntimeError("boom"), RuntimeError),
    ],
)
def test_a_machine_that_fails_is_no_fault_of_its_items(
    alone: Callable[[], Embedder], error: Exception, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = alone()

    def fails(texts: list[str]) -> np.ndarray:
        raise error

    monkeypatch.setattr(worker._encoder, "embed_texts", fails)
    (unit,) = plan(worker._task.catalog, 1000)
    with pytest.raises(raised, match="none of 40 items could be embedded" if raised is RuntimeError else None):
        worker(unit, frozenset())


def test_a_batch_too_large_for_the_memory_is_cut(
    alone: Callable[[], Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = alone()
    embed_texts = worker._encoder.embed_texts

    def small(texts: list[str]) -> np.ndarray:
        if len(texts) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return embed_texts(texts)

    monkeypatch.setattr(worker._encoder, "embed_texts", small)
    (unit,) = plan(worker._task.catalog, 1000)
    assert worker(unit, frozenset()).embedded == ITEMS


def test_a_worker_that_starts_while_the_index_is_away_waits_too(
    alone: Callable[[], Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was killed is started again, perhaps at the moment when Milvus is too."""
    task, calls = alone()._task, []

    def sometimes(uri: str) -> Store:
        calls.append(uri)
        if len(calls) < 3:
            raise IndexUnavailable("away")
        return Store(uri)

    monkeypatch.setattr(embedder, "Store", sometimes)
    (unit,) = plan(task.catalog, 1000)
    assert Embedder(task)(unit, frozenset()).embedded == ITEMS
    assert calls == [task.uri] * 3


def test_a_worker_waits_for_an_index_that_is_away_for_a_while(
    alone: Callable[[], Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = alone()
    upsert, calls = worker._store.upsert, []

    def sometimes(*args: Any) -> None:
        calls.append(1)
        if len(calls) < 3:
            raise IndexUnavailable("away")
        upsert(*args)

    monkeypatch.setattr(worker._store, "upsert", sometimes)
    (unit,) = plan(worker._task.catalog, 1000)
    assert worker(unit, frozenset()).embedded == ITEMS
    assert worker._store.count(worker._task.collection) == 2 * ITEMS
    monkeypatch.setattr(embedder, "PATIENCE_S", 0.0)
    calls.clear()
    with pytest.raises(IndexUnavailable):
        worker(unit, frozenset())


def test_vectors_of_another_model_are_found_out(alone: Callable[[], Embedder]) -> None:
    worker = alone()
    (unit,) = plan(worker._task.catalog, 1000)
    done = worker(unit, frozenset())
    assert worker.compare(unit, frozenset(), 16) > 1 - 1e-5
    keys = [done.keys[start : start + KEY_BYTES].decode() for start in (0, KEY_BYTES)]
    stored = worker._store.get(worker._task.collection, keys, ["*"])
    row = next(iter(stored.values()))
    vector = np.roll(np.asarray(row.pop("vector"), np.float32), 1)
    worker._store.upsert(worker._task.collection, [row], vector[None])
    assert worker.compare(unit, frozenset(), 16) < 0.99
    worker._store.delete(worker._task.collection, keys)
    assert worker.compare(unit, frozenset(), 16) == -1.0


def test_wrong_vectors_are_not_shown_however_often_the_job_starts(store: Store, job: Embedding, rows: Rows) -> None:
    collection = run(job, rows)["collection"]
    store.unpoint(job.name)
    (row,) = store.get(collection, [key_of("", rows[0]["id"], "image")], ["*"]).values()
    store.upsert(collection, [row], np.roll(np.asarray(row.pop("vector"), np.float32), 1)[None])
    for _ in range(2):
        with pytest.raises(IndexRefused, match="does not hold the vectors of bundle"):
            run(job, rows)
        assert store.target(job.name) is None


def test_nothing_to_compare_with_is_no_agreement(
    alone: Callable[[], Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(inputs: Any) -> np.ndarray:
        raise RuntimeError("boom")

    worker = alone()
    (unit,) = plan(worker._task.catalog, 1000)
    worker(unit, frozenset())
    monkeypatch.setattr(worker._encoder, "embed_pixels", broken)
    monkeypatch.setattr(worker._encoder, "embed_texts", broken)
    assert worker.compare(unit, frozenset(), 16) == -1.0


@pytest.mark.parametrize("cause", ["truncated", "no device"])
def test_a_bundle_that_cannot_be_loaded_is_no_fault_of_the_rows(
    alone: Callable[[], Embedder], tmp_path: Path, cause: str
) -> None:
    task = alone()._task
    if cause == "truncated":
        task = dataclasses.replace(task, bundle=str(shutil.copytree(task.bundle, tmp_path / "damaged")))
        weights = Path(task.bundle) / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    elif torch.cuda.is_available():
        pytest.skip("there is a device")
    else:
        task = dataclasses.replace(task, device="cuda")
    (unit,) = plan(task.catalog, 1000)
    with pytest.raises(ValueError, match="damaged bundle" if cause == "truncated" else "cannot be loaded on cuda"):
        Embedder(task)(unit, frozenset())


@pytest.mark.parametrize("noise", [True, False])
def test_a_preview_is_no_larger_than_an_index_takes(noise: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8) if noise else np.zeros((512, 512, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    row: dict[str, Any] = {"modality": "image"}
    with_preview([row], buffer.getvalue(), 512)
    shown = Image.open(io.BytesIO(base64.b64decode(row["preview"])))
    assert len(row["preview"]) <= MAX_PREVIEW_BYTES
    assert 128 < shown.width < 512 if noise else shown.size == (512, 512)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": -1}, "keep is -1; 0 or more"),
        ({"preview": -5}, "preview is -5"),
        ({"tenant": "é" * 33}, "has 66 bytes; at most 64"),
    ],
)
def test_mistakes_of_flags_are_said_before_anything_is_embedded(
    job: Embedding, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(job, **changes)


def test_a_collection_of_the_same_name_is_refused_first(store: Store, job: Embedding, rows: Rows) -> None:
    store.create(job.name, 4)
    try:
        with pytest.raises(ValueError, match=f"name '{job.name}' is that of a collection"):
            run(job, rows)
        assert versions(store, job.name) == []
    finally:
        store.drop(job.name)


def test_versions_that_a_killed_job_left_go_with_the_next_run(
    store: Store, job: Embedding, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = run(job, rows), another(job.bundle, tmp_path, "a")
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(Store, "drop", _interrupted)
        run(job, rows, bundle=other, keep=0)
    assert store.target(job.name) != first["collection"] and len(versions(store, job.name)) == 2
    run(job, rows, bundle=other, keep=0)
    assert [version.collection for version in versions(store, job.name)] == [store.target(job.name)]


def _interrupted(store: Store, collection: str) -> None:
    raise KeyboardInterrupt


def test_rows_that_vanish_are_noticed(job: Embedding, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Store.keys
    monkeypatch.setattr(Store, "keys", lambda self, *args: list(keys(self, *args))[1:])
    with pytest.raises(IndexRefused, match=r"1 of 80 rows are not in"):
        run(job, rows)


def test_a_full_disk_is_an_error_that_says_so(job: Embedding, rows: Rows, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        long = [{**row, "id": f"{row['id']}-{n}", "text": f"{n} " * 9000} for n in range(12) for row in rows[:20]]
        with pytest.raises(OSError, match="No space left"), embedded(disk) as uri:
            run(job, long, uri=uri)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
