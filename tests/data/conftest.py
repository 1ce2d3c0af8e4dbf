"""Small corpora written to disk, and prepare run over them in this process."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from unimir.config import Config, ImageConfig, ModelConfig, PrepareConfig, TokenizerConfig
from unimir.data import prepare as prepare_module
from unimir.data.corpora import load_corpora
from unimir.data.text import train_tokenizer

Row = dict[str, Any]
WORDS = "the quick brown fox jumps over a lazy dog and finds red apples under old trees near cold rivers in winter"


@dataclass(frozen=True)
class Prepared:
    directory: Path

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.directory / "manifest.json").read_text())

    @property
    def counts(self) -> dict[str, Any]:
        return self.manifest["counts"]

    def rows(self, kind: str, split: str = "train") -> list[Row]:
        files = sorted((self.directory / kind / split).glob("*.parquet"))
        return [row for file in files for row in pq.read_table(file).to_pylist()]

    def texts(self, kind: str, split: str = "train") -> list[str]:
        return [row["text"] for row in self.rows(kind, split)]

    def rejected(self) -> list[tuple[str, int, str]]:
        """(file, row, reason) of every rejected row."""
        files = sorted((self.directory / "rejected").glob("*.parquet"))
        rows = [row for file in files for row in pq.read_table(file).to_pylist()]
        return [(row["file"], row["row"], row["reason"]) for row in rows]

    def reasons(self) -> list[str]:
        return [reason for _, _, reason in self.rejected()]


def png(seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    """A picture of its own for each seed: smooth random patches."""
    small = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(iter([WORDS, "dog's 12 apples, please!"] * 20), 700, path)
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes a manifest of sources (and image tables) beside the corpus files."""

    def write(*sources: Row, images: tuple[Row, ...] = ()) -> Path:
        path = tmp_path / "corpora.yaml"
        path.write_text(yaml.safe_dump({"name": "tiny", "images": list(images), "sources": list(sources)}))
        return path

    return write


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The passes run in this process: what is under test is the rows, not Ray."""
    monkeypatch.setattr(prepare_module, "_pass", lambda items, work: [work(*item) for item in items])


@pytest.fixture
def prepared(
    tmp_path: Path, tokenizer_file: Path, manifest: Callable[..., Path], inline: None
) -> Callable[..., Prepared]:
    """Runs prepare over sources; keyword arguments are settings of PrepareConfig."""

    def run(*sources: Row, images: tuple[Row, ...] = (), **settings: Any) -> Prepared:
        config = Config(
            recipe="test",
            tokenizer=TokenizerConfig(path=str(tokenizer_file)),
            prepare=PrepareConfig(**{"image_size": 32, **settings}),
            model=ModelConfig(image=ImageConfig(size=1)),  # no model is built
        )
        corpora = load_corpora(manifest(*sources, images=images))
        return Prepared(prepare_module.prepare(corpora, config, tmp_path / "out"))

    return run


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    """Writes rows (mappings, or raw bytes) as JSON lines; returns the file's name."""

    def write(rows: list[Mapping[str, Any] | bytes], name: str = "rows.jsonl") -> str:
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        (tmp_path / name).write_bytes(b"\n".join(lines) + b"\n")
        return name

    return write


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., str]:
    def write(columns: Mapping[str, Any] | pa.Table, name: str = "rows.parquet", **options: Any) -> str:
        table = columns if isinstance(columns, pa.Table) else pa.table(dict(columns))
        pq.write_table(table, tmp_path / name, **options)
        return name

    return write


@pytest.fixture
def picture() -> Callable[..., bytes]:
    return png


def source(path: str | list[str], **changes: Any) -> Row:
    """A source of kind parallel, all of it for training, unless told otherwise."""
    return {
        "name": "texts",
        "kind": "parallel",
        "format": "jsonl",
        "path": path,
        "columns": {"text": "text", "group_id": "id"},
        "lang": "en",
        "split": {"only": "train"},
        **changes,
    }


@pytest.fixture(name="source")
def source_fixture() -> Callable[..., Row]:
    return source
