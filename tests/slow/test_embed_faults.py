"""The embedding job with mistakes, run and read as a user would."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def command(*arguments: object) -> list[str]:
    return [sys.executable, "jobs/embed_catalog.py", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=600)


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
