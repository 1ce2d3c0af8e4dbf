"""A catalog into a collection: scan, embed with a pool of workers, check, and only then show it to readers.

Knows the order of the work; what happens to rows is in embedder, how names and aliases go in versions.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from unimir import artifacts
from unimir.bundle_files import read_model_config
from unimir.data.catalog import Catalog
from unimir.data.items import read_ids
from unimir.data.passes import Actors, each
from unimir.data.readers import Unit, plan
from unimir.index.connection import IndexRefused, IndexUnavailable
from unimir.index.embedder import Done, Embedder, Task
from unimir.index.entities import KEY_BYTES, MAX_BYTES, MODALITIES, PREVIEW, key_of
from unimir.index.store import Store
from unimir.index.versions import begin, collection_for, publish
from unimir.infer import Encoder
from unimir.schema import REJECTED

LEAST_COSINE = {"torch": 1 - 1e-5, "onnx-fp32": 1 - 1e-5, "onnx-int8": 0.999}
"""Between stored vectors and the same items embedded again by the driver; int8 quantises by what else is in a batch."""
_KEY = np.dtype(f"S{KEY_BYTES}")
_COMPARED = 16
_SHOW_EVERY_S = 5.0
_CARRIED = (IndexUnavailable, IndexRefused)


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """What to embed, with what, and where to."""

    catalog: Catalog
    bundle: Path
    uri: str
    out: Path
    name: str = "catalog"
    tenant: str = ""
    backend: str = "torch"
    device: str = "cpu"
    keep: int = 1
    delete_missing: bool = False
    preview: int = PREVIEW
    dry_run: bool = False
    unit_rows: int = 1000  # what a worker does at a time, and does again if it dies

    def __post_init__(self) -> None:
        if self.keep < 0:
            raise ValueError(f"keep is {self.keep}; 0 or more")
        if self.preview < 0:
            raise ValueError(f"preview is {self.preview}; pixels, or 0 for none")
        if (size := len(self.tenant.encode())) > MAX_BYTES["tenant"]:
            raise ValueError(f"tenant {self.tenant!r:.80} has {size} bytes; at most {MAX_BYTES['tenant']}")


@dataclass
class _Scan:
    """What the catalog's ids tell before anything is embedded."""

    rows: int
    repeated: list[frozenset[int]]  # by unit
    keys: NDArray[np.bytes_]  # every key that some row of the catalog could have, rejected rows too


def embed(job: Embedding, actors: Actors) -> dict[str, Any]:
    """Embeds what is new or changed, then moves the alias. Ray must be initialised.

    ValueError if there is nothing to embed or nothing was good; IndexUnavailable or IndexRefused as Milvus has it. The
    alias stays where it was in any such case, and what was stored so far is found again by the next run.
    """
    started = time.perf_counter()
    bundle_id = artifacts.read_manifest(job.bundle, "bundle")["id"]
    units = plan(job.catalog, job.unit_rows)
    scan = _scanned(job, units)
    if not scan.rows:
        raise ValueError(f"catalog {job.catalog.name}: no rows; an index is not emptied by an empty catalog")
    store = Store(job.uri)
    collection = collection_for(store, job.name, bundle_id)
    task = _task(job, store, collection)
    if not job.dry_run:
        begin(store, collection, job.tenant)
    done = _run(units, scan, task, actors)
    total = Counter(embedded=0, unchanged=0, rejected=0)
    for unit in done:
        total.update(embedded=unit.embedded, unchanged=unit.unchanged, rejected=len(unit.rejected))
    reasons = Counter(reason for unit in done for _, reason, _ in unit.rejected)
    report = _write_report(job, units, done, collection)
    if not (total["embedded"] or total["unchanged"]):
        raise ValueError(f"catalog {job.catalog.name}: every row was rejected ({_listed(reasons)}); see {report}")
    deleted = 0
    if not job.dry_run:
        deleted = _checked(job, task, store, units, scan, done)
        publish(store, job.name, collection, tenant=job.tenant, keep=job.keep)
    seconds = time.perf_counter() - started
    read = sum(unit.read for unit in done)
    result = {
        "collection": collection,
        "alias": job.name,
        "bundle_id": bundle_id,
        "rows_read": read,
        "rows_embedded": total["embedded"],
        "rows_unchanged": total["unchanged"],
        "rows_rejected": total["rejected"],
        "rejected": dict(sorted(reasons.items())),
        "deleted": deleted,
        "seconds": round(seconds, 1),
        "rows_per_s": round(read / seconds, 1),
        "work_s": round(max(unit.ended for unit in done) - min(unit.began for unit in done), 2),
        "model_s": round(sum(unit.model_s for unit in done), 2),
        "report": str(report),
    }
    artifacts.finish(report, kind="embedding", id=artifacts.content_id(collection, artifacts.canonical_json(result)),
                     parents={"bundle": bundle_id}, config=_config(job), counts=result)  # fmt: skip
    return result


def _scanned(job: Embedding, units: Sequence[Unit]) -> _Scan:
    """One pass over the ids alone: the first row of an id is the item, later ones are rejected."""
    work = functools.partial(_ids, job.catalog, job.tenant)
    functools.update_wrapper(work, _ids)
    if len(units) < 2:
        found = {at: work(unit) for at, unit in enumerate(units)}
    else:
        found = dict(each([(unit,) for unit in units], work))
    keys_NM = np.concatenate([np.empty((0, len(MODALITIES)), _KEY), *(found[at][1] for at in range(len(units)))])
    _, firsts = np.unique(keys_NM[:, 0], return_index=True)
    again_N = np.ones(len(keys_NM), bool)
    again_N[firsts] = False
    repeated, start = [], 0
    for at in range(len(units)):
        rows = found[at][0]
        repeated.append(frozenset(np.asarray(rows)[again_N[start : start + len(rows)]].tolist()))
        start += len(rows)
    return _Scan(len(keys_NM), repeated, keys_NM.ravel())


def _ids(catalog: Catalog, tenant: str, unit: Unit) -> tuple[list[int], NDArray[np.bytes_]]:
    """A unit's row numbers, and the keys [N, modalities] that the items could have."""
    rows, ids = read_ids(catalog, unit)
    keys = [[key_of(tenant, item_id, modality) for modality in MODALITIES] for item_id in ids]
    return rows, np.array(keys, _KEY).reshape(len(rows), len(MODALITIES))


def _task(job: Embedding, store: Store, collection: str) -> Task:
    if job.backend != "torch" and not job.dry_run:
        Encoder.from_bundle(job.bundle, backend=job.backend)  # exports once, before many workers would
    fresh = True
    if store.exists(collection) or not job.dry_run:
        store.create(collection, read_model_config(job.bundle).dim)
        fresh = store.count(collection, tenant=job.tenant) == 0
    return Task(
        catalog=job.catalog,
        bundle=str(job.bundle.absolute()),
        backend=job.backend,
        device=job.device,
        uri=job.uri,
        collection=collection,
        tenant=job.tenant,
        fresh=fresh,
        preview=job.preview,
        dry=job.dry_run,
    )


def _run(units: Sequence[Unit], scan: _Scan, task: Task, actors: Actors) -> list[Done]:
    """Every unit's outcome in the order of the units, with a line of progress now and then."""
    if len(units) == 1 and not actors.num_gpus:  # not worth the start of a worker; a GPU may be on another machine
        return [Embedder(task)(units[0], scan.repeated[0])]
    results: dict[int, Done] = {}
    started = shown = time.monotonic()
    items = list(zip(units, scan.repeated, strict=True))
    rows = 0
    for at, done in each(items, functools.partial(Embedder, task), actors=actors, carry=_CARRIED):
        results[at] = done
        rows += done.read
        now = time.monotonic()
        if now - shown > _SHOW_EVERY_S or len(results) == len(units):
            shown = now
            bar = tqdm.format_meter(rows, max(rows, scan.rows), now - started, ncols=100, prefix="embed", unit="row")
            sys.stderr.write(f"{bar}\n")  # whole lines: a submitted job's log has no cursor
    return [results[at] for at in range(len(units))]


def _checked(job: Embedding, task: Task, store: Store, units: Sequence[Unit], scan: _Scan, done: Sequence[Done]) -> int:
    """Is everything stored, and with the vectors that it should have? Deletes what left the catalog, if told to."""
    if any(unit.embedded for unit in done):
        store.flush(task.collection)
    # As arrays of fixed width: a set of strings would take four times the memory.
    expected = np.concatenate([np.frombuffer(unit.keys, _KEY) for unit in done])
    stored = np.fromiter((key.encode() for key in store.keys(task.collection, task.tenant)), _KEY)
    missing = int(np.isin(expected, stored, invert=True).sum())
    if missing:
        raise IndexRefused(f"{missing} of {len(expected)} rows are not in {task.collection} after writing them")
    gone: list[str] = []
    if job.delete_missing:
        gone = np.setdiff1d(stored, np.concatenate([expected, scan.keys])).astype(str).tolist()
    for start in range(0, len(gone), 1000):
        store.delete(task.collection, gone[start : start + 1000])
    # Also where nothing was embedded: an earlier run may have been killed, or refused, just here.
    first = next(at for at, unit in enumerate(done) if unit.keys)
    here = dataclasses.replace(task, device=task.device if torch.cuda.is_available() else "cpu")
    cosine = Embedder(here).compare(units[first], scan.repeated[first], _COMPARED)
    if not cosine >= LEAST_COSINE[job.backend]:  # also true for NaN
        raise IndexRefused(
            f"{task.collection} does not hold the vectors of bundle {job.bundle.name} "
            f"(cosine {cosine:.6f}, at least {LEAST_COSINE[job.backend]})"
        )
    return len(gone)


def _write_report(job: Embedding, units: Sequence[Unit], done: Sequence[Done], collection: str) -> Path:
    """A directory with every rejected row and its reason."""
    whose = f"{collection}-{artifacts.content_id(job.tenant)[:8]}" if job.tenant else collection
    directory = artifacts.start(job.out / "embeddings" / (f"{whose}-dry" if job.dry_run else whose))
    rows = [
        {"source": job.catalog.name, "file": unit.file.label, "row": row, "reason": reason, "detail": detail}
        for unit, told in zip(units, done, strict=True)
        for row, reason, detail in told.rejected
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=REJECTED), directory / "rejected.parquet")
    return directory


def _config(job: Embedding) -> Mapping[str, Any]:
    return {"catalog": job.catalog.name, "tenant": job.tenant, "backend": job.backend, "keep": job.keep}


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common(5))
