"""Embedding of a catalog beside a bare loop, sentence-transformers and plain pymilvus, and how it grows.

python tests/bench/embed.py --data ../shared/data [--parts text,upsert,storage,loop,growth] [--rows 20000] [--layers 6]
Real texts of open data: names, sentences and pages in over a hundred languages, so lengths have a heavy tail. The
model has random weights (6 layers of 384, as small multilingual sentence encoders have). Loading and start-up are not
counted.
Needs the extra `bench`. Prints one JSON object.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from unimir.bundle import save_bundle
from unimir.config import ImageConfig, ModelConfig, TextConfig
from unimir.data.catalog import catalog_of_files
from unimir.data.clean import normalise
from unimir.data.passes import Actors
from unimir.data.text import TextTokenizer, train_tokenizer
from unimir.index.embed import Embedding, embed
from unimir.index.keywords import keywords_of
from unimir.index.lite import embedded
from unimir.index.requests import IndexConfig
from unimir.index.store import Store
from unimir.infer import Encoder
from unimir.model.unimir import UniMIR
from unimir.schema import LabelSet

LABELS = LabelSet(name="search", intents=("find", "help"), slots=("content", "time"))
MAX_TOKENS = 256
WINDOW = 256


def texts_of(data: Path, count: int) -> list[str]:
    """Names, sentences and pages, mixed."""
    names = pq.read_table(data / "emoji/captions.parquet", columns=["text"])["text"].to_pylist()
    sentences = pq.read_table(data / "parallel/ntrex.parquet", columns=["text"])["text"].to_pylist()
    with (data / "passages/tldr.jsonl").open(encoding="utf-8") as lines:
        pages = [" ".join(map(str, json.loads(line).values())) for line in lines]
    rng = np.random.default_rng(0)
    kinds = rng.choice(3, count, p=[0.45, 0.45, 0.10])
    pools = (names, sentences, pages)
    mixed = [f"{pools[kind][int(rng.integers(len(pools[kind])))]} {number}" for number, kind in enumerate(kinds)]
    clean: list[str] = normalise(pa.array(mixed)).to_pylist()  # as the encoder does, so that both sides see the same
    return clean


def make_bundle(directory: Path, texts: Sequence[str], layers: int, hidden: int) -> Path:
    """A bundle of random weights whose tokenizer knows the texts."""
    train_tokenizer(iter(texts[:20_000]), 16_000, directory / "tokenizer.json")
    tokenizer = TextTokenizer.from_file(directory / "tokenizer.json", MAX_TOKENS)
    arch = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, hidden // 32),
        "intermediate_size": 4 * hidden,
        "type_vocab_size": 1,
    }
    torch.manual_seed(0)
    image = ImageConfig(name="convnext_atto", args={"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}, size=32)
    config = ModelConfig(dim=hidden, text=TextConfig(arch=arch, max_tokens=MAX_TOKENS), image=image)
    model = UniMIR(config, [LABELS], vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)
    save_bundle(
        directory / "bundle",
        model,
        weights=model.state_dict(),
        tokenizer_file=directory / "tokenizer.json",
        label_sets=[LABELS],
        parents={},
        config={},
    )
    return directory / "bundle"


def write_catalog(path: Path, texts: Sequence[str]) -> Path:
    pq.write_table(
        pa.table({"id": [str(n) for n in range(len(texts))], "text": list(texts)}), path, row_group_size=5000
    )
    return path


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Peak resident GiB of this process and of the largest worker among its descendants."""
    found = {"driver": 0.0, "worker": 0.0}
    stop = threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not stop.wait(0.5):
            found["driver"] = max(found["driver"], me.memory_info().rss / 2**30)
            for child in me.children(recursive=True):
                try:
                    if "_Actor" in " ".join(child.cmdline()):
                        found["worker"] = max(found["worker"], child.memory_info().rss / 2**30)
                except psutil.Error:
                    continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def loop(bundle: Path, catalog: Path, count: int) -> float:
    """Seconds of one process with all cores that reads, embeds in the same windows, and stores nothing."""
    encoder = Encoder.from_bundle(bundle)
    started = time.perf_counter()
    for batch in pq.ParquetFile(catalog).iter_batches(WINDOW, columns=["text"]):
        encoder.embed_texts(batch["text"].to_pylist())
    return time.perf_counter() - started


def job(bundle: Path, catalog: Path, out: Path, uri: str, name: str) -> dict[str, Any]:
    embedding = Embedding(catalog=catalog_of_files(str(catalog)), bundle=bundle, uri=uri, out=out, name=name)
    return embed(embedding, Actors(least=2, most=2))


def sentence_transformer(bundle: Path, directory: Path) -> Any:
    """The same text tower in sentence-transformers."""
    from sentence_transformers import SentenceTransformer, models
    from transformers import PreTrainedTokenizerFast

    encoder = Encoder.from_bundle(bundle)
    text = encoder.bundle.model.text
    text.backbone.save_pretrained(directory)
    specials = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(bundle / "tokenizer.json"), **specials)
    tokenizer.model_max_length = MAX_TOKENS
    tokenizer.save_pretrained(directory)
    dense = models.Dense(
        text.hidden_size, encoder.dim, bias=False, activation_function=torch.nn.Identity(),
        init_weight=text.projection.weight,
    )  # fmt: skip
    transformer = models.Transformer(str(directory), max_seq_length=MAX_TOKENS)
    pooling = models.Pooling(text.hidden_size, "mean")
    return SentenceTransformer(modules=[transformer, pooling, dense, models.Normalize()], device="cpu")


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def text_part(bundle: Path, texts: Sequence[str], runs: int) -> dict[str, Any]:
    """Texts per second of sentence-transformers and of each backend, in turn."""
    with tempfile.TemporaryDirectory() as directory:
        rival = sentence_transformer(bundle, Path(directory))
    sides: dict[str, Callable[[], Any]] = {
        "sentence_transformers": lambda: rival.encode(list(texts), batch_size=32, show_progress_bar=False),
    }
    for backend in ("torch", "onnx-fp32", "onnx-int8"):
        encoder = Encoder.from_bundle(bundle, backend=backend)
        sides[backend] = lambda encoder=encoder: encoder.embed_texts(texts)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    vectors = {}
    for _ in range(runs):
        for name, side in sides.items():
            took, vectors[name] = timed(side)
            seconds[name].append(took)
    best = {name: len(texts) / min(took) for name, took in seconds.items()}
    return {
        "texts_per_s": {name: round(rate, 1) for name, rate in best.items()},
        "ratio": {name: round(rate / best["sentence_transformers"], 2) for name, rate in best.items()},
        "cosine_min": {
            name: round(float((found * vectors["sentence_transformers"]).sum(-1).min()), 5)
            for name, found in vectors.items()
        },
    }


def stored_rows(rows: int, dim: int) -> tuple[list[dict[str, Any]], Any]:
    """Rows with a sentence each, and unit vectors."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(rows, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    text = "some words " * 10
    fixed = {"tenant": "", "modality": "text", "lang": "de", "title": "a title", "text": text, "place": "Köln",
             "price": 1.0, "captured_at": 0, "tags": ["a", "b"], "content_hash": "0" * 32, "extra": {},
             "keywords": keywords_of(text)}  # fmt: skip
    return [{"id": str(number), **fixed} for number in range(rows)], vectors


def upsert_part(uri: str, rows: int, dim: int) -> dict[str, Any]:
    """Rows per second of Store.upsert and of plain pymilvus insert into the same schema, in turn."""
    store = Store(uri)
    data, vectors = stored_rows(rows, dim)
    took: dict[str, list[float]] = {"store": [], "plain": []}
    for turn in range(3):
        for side in took:
            name = f"up_{side}_{turn}"
            store.create(name, dim)
            started = time.perf_counter()
            for start in range(0, rows, WINDOW):
                part = slice(start, start + WINDOW)
                if side == "store":
                    store.upsert(name, data[part], vectors[part])
                else:
                    pairs = zip(data[part], vectors[part], strict=True)
                    store._client.insert(name, [{**row, "key": row["id"], "vector": v} for row, v in pairs], timeout=60)
            took[side].append(time.perf_counter() - started)
            store.drop(name)
    rates = {side: round(rows / min(seconds)) for side, seconds in took.items()}
    return {
        **{f"{side}_rows_per_s": round(rate) for side, rate in rates.items()},
        "ratio": round(rates["store"] / rates["plain"], 2),
    }


def storage_part(directory: Path, rows: int, dim: int) -> dict[str, Any]:
    """Bytes per row on disk, and of memory that the embedded Milvus has more after writing, indexing and a search."""
    data, vectors = stored_rows(rows, dim)
    found = {}
    for kind in ("HNSW", "FLAT", "IVF_SQ8"):
        with embedded(directory / kind) as uri:
            store = Store(uri, index=IndexConfig(kind=kind))
            store.create("stored", dim)
            (server,) = [p for p in psutil.Process().children() if str(directory / kind / "data") in p.cmdline()]
            before = server.memory_info().rss
            for start in range(0, rows, WINDOW):
                store.upsert("stored", data[start : start + WINDOW], vectors[start : start + WINDOW])
            store.flush("stored")
            store.search("stored", vectors[:1], tenant="", limit=10)
            memory = server.memory_info().rss - before
            disk = sum(path.stat().st_size for path in (directory / kind).rglob("*") if path.is_file())
            found[kind] = {"disk": round(disk / rows), "memory": round(memory / rows)}
            store.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--parts", default="text,upsert,storage,loop,growth")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--texts", type=int, default=1500)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--growth", type=int, nargs="+", default=[5000, 20_000, 80_000, 200_000])
    parser.add_argument("--layers", type=int, default=6)
    args = parser.parse_args()
    parts = args.parts.split(",")
    found: dict[str, Any] = {"cores": psutil.cpu_count(logical=False), "rows": args.rows, "layers": args.layers}
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        texts = texts_of(args.data, max(args.rows, args.texts, *args.growth))
        bundle = make_bundle(here, texts, args.layers, 384)
        if "text" in parts:
            found["text"] = text_part(bundle, texts[: args.texts], args.runs)
            print(json.dumps(found), file=sys.stderr)
        with embedded(here / "milvus") as uri:
            if "upsert" in parts:
                found["upsert"] = upsert_part(uri, args.rows, 384)
            if "storage" in parts:
                found["storage_bytes_per_row"] = storage_part(here, args.rows, 384)
            if "loop" in parts or "growth" in parts:
                import ray

                ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
            if "loop" in parts:
                catalog = write_catalog(here / "items.parquet", texts[: args.rows])
                result = job(bundle, catalog, here, uri, "loop")
                bare = loop(bundle, catalog, args.rows)
                rate = args.rows / result["work_s"]
                found["loop"] = {"job_rows_per_s": round(rate, 1), "loop_rows_per_s": round(args.rows / bare, 1),
                                 "ratio": round(rate * bare / args.rows, 2)}  # fmt: skip
            if "growth" in parts:
                (here / "small").mkdir()
                small = make_bundle(here / "small", texts, 1, 64)
                found["growth"] = []
                for count in args.growth:
                    catalog = write_catalog(here / f"g{count}.parquet", texts[:count])
                    with peak_memory() as memory:
                        result = job(small, catalog, here, uri, f"growth{count}")
                    rate = round(count / result["work_s"], 1)
                    found["growth"].append({"rows": count, "rows_per_s": rate, "seconds": result["seconds"],
                                            "peak_gib": {k: round(v, 2) for k, v in memory.items()}})  # fmt: skip
                    print(json.dumps(found["growth"][-1]), file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
