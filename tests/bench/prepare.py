"""prepare beside Hugging Face `datasets` doing the same work: rows per second end to end, and peak memory.

python tests/bench/prepare.py --data ../shared/data [--rows 100000 500000] [--runs 3]
Every run is a process of its own. Both sides get the same Parquet file and tokenizer, two processes, and share the
functions that clean, check, encode and hash a batch. Ray's start and the imports are not counted; everything after
them is. prepare does more than its rival here: splits, leaks, rejected rows with reasons, statistics, a content id.
Prints one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unimir.config import Config, TokenizerConfig
from unimir.data.clean import check_language, normalise, standard_tags
from unimir.data.corpora import Corpora, Source, SplitRule
from unimir.data.examples import token_lists
from unimir.data.hashing import combine, hash_strings, near_hash
from unimir.data.prepare import prepare
from unimir.data.text import TextTokenizer, train_tokenizer

MAX_TOKENS = 64


def write_rows(data: Path, path: Path, count: int) -> None:
    """Captions and news sentences in over a hundred languages, numbered so that each is new."""
    emoji = pq.read_table(data / "emoji/captions.parquet", columns=["text", "lang"])
    news = pq.read_table(data / "parallel/ntrex.parquet", columns=["text", "lang"])
    table = pa.concat_tables([emoji, news]).combine_chunks()
    at = np.random.default_rng(0).integers(0, table.num_rows, count)
    rows = table.take(pa.array(at))
    numbers = pa.array(np.arange(count)).cast(pa.string())
    text = pc.binary_join_element_wise(rows["text"], numbers, " ")
    pq.write_table(pa.table({"text": text, "lang": rows["lang"], "group": numbers}), path, row_group_size=50_000)


def ours(rows: Path, tokenizer: Path, out: Path) -> int:
    """Rows kept by prepare."""
    source = Source(
        name="bench",
        kind="parallel",
        format="parquet",
        path=(str(rows),),
        columns={"text": ("text",), "lang": ("lang",), "group_id": ("group",)},
        namespace="bench",
        split=SplitRule(only="train"),
        leak=("text",),
    )
    config = Config(recipe="bench", tokenizer=TokenizerConfig(path=str(tokenizer)))
    done = prepare(Corpora("bench", str(rows.parent), (), (source,)), config, out)
    kept: int = json.loads((done / "manifest.json").read_text())["counts"]["bench"]["kept"]
    return kept


def theirs(rows: Path, tokenizer: Path, out: Path) -> int:
    """Rows kept by `datasets` with the same functions."""
    import datasets

    datasets.disable_progress_bars()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    encoder = TextTokenizer.from_file(tokenizer, MAX_TOKENS)

    def batch(table: pa.Table) -> pa.Table:
        texts = normalise(table["text"].combine_chunks())
        langs = standard_tags(table["lang"].combine_chunks())
        fits = check_language(texts, langs)
        ids = token_lists(encoder.encode(texts.to_pylist()))
        lang, group = hash_strings(langs), hash_strings(table["group"].combine_chunks())
        return pa.table(
            {
                "text": texts,
                "lang": langs,
                "group": group,
                "ids": ids,
                "good": pc.and_(fits, pc.not_equal(texts, "")),
                "exact": combine(lang, group, hash_strings(texts)),
                "near": combine(lang, group, near_hash(texts)),
            }
        )

    dataset = datasets.load_dataset("parquet", data_files=str(rows), cache_dir=str(out / "cache"), split="train")
    dataset = dataset.with_format("arrow").map(
        batch, batched=True, batch_size=5000, num_proc=2, remove_columns=dataset.column_names
    )
    table = dataset.data.table
    good = table["good"].to_numpy()
    for name in ("exact", "near"):
        alive = np.flatnonzero(good)
        first = np.unique(table[name].to_numpy()[alive], return_index=True)[1]
        good = np.zeros(len(good), bool)
        good[alive[first]] = True
    kept = dataset.select(np.flatnonzero(good)).remove_columns(["good", "exact", "near"])
    kept.to_parquet(str(out / "kept.parquet"))
    return len(kept)


@contextmanager
def peak_memory() -> Iterator[Callable[[], float]]:
    """Peak sum of resident memory, in MB, of this process and all below it."""
    peak, stop = [0.0], threading.Event()
    own = psutil.Process()

    def watch() -> None:
        while not stop.wait(0.25):
            total = 0
            for process in [own, *own.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], total / 1e6)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: round(peak[0])
    finally:
        stop.set()
        thread.join()


def one(side: str, rows: Path, tokenizer: Path) -> dict[str, Any]:
    """One run, in this process, into a fresh directory."""
    if side == "prepare":
        import ray
        import ray.data

        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    else:
        import datasets  # noqa: F401
    with tempfile.TemporaryDirectory(dir=rows.parent) as out, peak_memory() as peak:
        started = time.perf_counter()
        kept = (ours if side == "prepare" else theirs)(rows, tokenizer, Path(out))
        return {"seconds": round(time.perf_counter() - started, 2), "kept": kept, "peak_mb": peak()}


def apart(side: str, rows: Path, tokenizer: Path) -> dict[str, Any]:
    """One run in a process of its own, as a job would be: nothing is warm, no memory is left from the run before."""
    command = [sys.executable, __file__, "--one", side, str(rows), str(tokenizer)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(data: Path, counts: list[int], runs: int, directory: Path) -> dict[str, Any]:
    """Alternates the two sides at every size."""
    report: dict[str, Any] = {}
    tokenizer = directory / "tokenizer.json"
    for count in counts:
        rows = directory / f"rows-{count}.parquet"
        write_rows(data, rows, count)
        if not tokenizer.exists():
            train_tokenizer(iter(pq.read_table(rows)["text"].to_pylist()[:50_000]), 8000, tokenizer)
        found: dict[str, list[dict[str, Any]]] = {"prepare": [], "datasets": []}
        for _ in range(runs):
            for side, results in found.items():
                results.append(apart(side, rows, tokenizer))
        speed = {side: count / float(np.median([run["seconds"] for run in done])) for side, done in found.items()}
        pairs = zip(found["prepare"], found["datasets"], strict=True)
        report[str(count)] = {
            "rows_per_second": {side: round(value) for side, value in speed.items()},
            "ratio": round(speed["prepare"] / speed["datasets"], 3),
            "ratio_of_runs": [round(b["seconds"] / a["seconds"], 3) for a, b in pairs],
            "runs": found,
        }
    small = directory / "small.parquet"
    largest = max(counts)
    write_rows(data, small, largest // 10)
    peaks = [apart("prepare", small, tokenizer)["peak_mb"], *_peaks(report[str(largest)])]
    report["peak_mb_of_prepare"] = {str(largest // 10): peaks[0], str(largest): max(peaks[1:])}
    report["peak_growth_tenfold"] = round(max(peaks[1:]) / peaks[0], 3)
    return report


def _peaks(block: dict[str, Any]) -> list[float]:
    return [run["peak_mb"] for run in block["runs"]["prepare"]]


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the open data, emoji/ and parallel/ in it")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 500_000])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("SIDE", "ROWS", "TOKENIZER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one[0], Path(args.one[1]), Path(args.one[2]))))
    elif args.data:
        with tempfile.TemporaryDirectory() as directory:
            print(json.dumps(compare(args.data, args.rows, args.runs, Path(directory))))
    else:
        parser.error("--data is needed")


if __name__ == "__main__":
    main()
