"""The embedding job under kill -9 and with mistakes, run and read as a user would."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unimir.index.connection import IndexUnavailable
from unimir.index.entities import key_of
from unimir.index.lite import embedded
from unimir.index.store import Store
from unimir.infer import Encoder

ROOT = Path(__file__).parents[2]
ROWS = 20_000
pytestmark = pytest.mark.slow


def command(*arguments: object) -> list[str]:
    return [sys.executable, "jobs/embed_catalog.py", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=600)


def descendants(pid: int) -> Iterator[int]:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        yield from descendants(int(child))


def process_of(job: int, wanted: bytes) -> int:
    """The job's first descendant whose command line has these bytes."""
    for pid in descendants(job):
        if wanted in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError(f"no process with {wanted!r} below {job}")


def wait_for(count: int, store: Callable[[], Store], job: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert job.poll() is None, f"the job ended too early: {log.read_text()[-4000:]}"
        try:
            opened = store()
            (collection,) = opened.collections()
            if opened.count(collection) >= count:
                return
        except (IndexUnavailable, ValueError, FileNotFoundError):
            pass  # not up yet, or just killed
        time.sleep(0.1)
    raise AssertionError(f"{count} rows were not there in time")


@pytest.mark.timeout(600)
def test_kills_in_the_middle_lose_nothing_and_repeat_nothing(tiny_bundle: Path, tmp_path: Path) -> None:
    """kill -9 of a worker, of Milvus and of the job itself, each while 20,000 rows are on their way."""
    texts = [f"thing {number} of colour {number % 7} in {'abcdefgh'[number % 8] * 3}" for number in range(ROWS)]
    ids = [f"item-{number}" for number in range(ROWS)]
    pq.write_table(pa.table({"id": ids, "title": texts}), tmp_path / "items.parquet")
    arguments = ["--bundle", tiny_bundle, "--catalog", tmp_path / "items.parquet", "--out", tmp_path / "var"]
    milvus = tmp_path / "var" / "milvus"

    def store() -> Store:
        return Store(f"http://127.0.0.1:{json.loads((milvus / 'endpoint.json').read_text())['port']}", deadline_s=5)

    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(command(*arguments), cwd=ROOT, stdout=log, stderr=log)
        wait_for(2000, store, job, tmp_path / "log")
        os.kill(process_of(job.pid, b"_Actor"), signal.SIGKILL)
        wait_for(6000, store, job, tmp_path / "log")
        os.kill(process_of(job.pid, b"unimir.index.lite"), signal.SIGKILL)
        wait_for(10_000, store, job, tmp_path / "log")
        job.kill()
        job.wait()
    # Milvus Lite was killed too, with what it had not written down yet. Of what it still holds nothing is repeated.
    with embedded(milvus) as uri:
        left = Store(uri)
        (collection,) = left.collections()
        held = len(set(left.keys(collection, "")))
        left.close()
    done = run(*arguments)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert (result["rows_read"], result["rows_rejected"]) == (ROWS, 0)
    assert result["rows_unchanged"] == held >= 5000
    assert result["rows_embedded"] + result["rows_unchanged"] == ROWS
    expected = Encoder.from_bundle(tiny_bundle).embed_texts(texts)
    keys = [key_of("", item, "text") for item in ids]
    with embedded(milvus) as uri:
        found = Store(uri)
        assert found.target("catalog") == result["collection"]
        assert sorted(found.keys("catalog", "")) == sorted(keys)
        stored = found.get("catalog", keys, ["vector"])
    assert np.abs(np.array([stored[key]["vector"] for key in keys]) - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--catalog", "nowhere.parquet"], "error: catalog nowhere: no file matches"),
        (["--bundle", "nowhere"], "error: nowhere: not a bundle artifact"),
        (["--milvus", "http://127.0.0.1:1"], "error: Milvus does not answer"),
        (["--rollback"], "error: no alias 'catalog' to roll back"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, tiny_bundle: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "title": ["b"]}), tmp_path / "items.parquet")
    done = run("--bundle", tiny_bundle, "--catalog", tmp_path / "items.parquet", "--out", tmp_path, *arguments)
    assert done.returncode in (1, 2)
    assert done.stderr.strip().splitlines()[-1].startswith(message), done.stderr
    assert "Traceback" not in done.stderr and not done.stdout
