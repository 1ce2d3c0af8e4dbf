"""The service beside a plain one: FastAPI, uvicorn, sentence-transformers and pymilvus in one process.

unshare -n sh -c 'ip link set lo up && python tests/bench/search.py --data ../shared/data --server' [--items 20000]
Same texts, same weights (random, 6 layers of 384), same Milvus, same queries (what people said to assistants, in many
languages: CLINC150, Home Assistant), in turn; 1, 8 and 32 clients that each wait for their answer. `--server` starts
the Milvus server of the package `milvus` (a network namespace keeps it from the outside), without it both use Milvus
Lite. Start-up is not counted. Needs the extra `bench`. Prints one JSON object.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from bench.embed import job, make_bundle, sentence_transformer, texts_of, write_catalog  # noqa: E402
from serve.conftest import running  # noqa: E402

from unimir.index.lite import embedded  # noqa: E402
from unimir.index.store import Store  # noqa: E402
from unimir.infer import Encoder  # noqa: E402

PORTS = {"unimir": 8131, "plain": 8132}
FIELDS = ["id", "modality", "lang", "title", "text", "place", "captured_at", "price", "tags", "extra"]
PLAIN = """
import unimir.model  # lets torchvision be imported beside a torch for CPUs
import sys, torch, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from pymilvus import MilvusClient
from sentence_transformers import SentenceTransformer

torch.set_num_threads(2)
model = SentenceTransformer(sys.argv[1], device="cpu")
client = MilvusClient(sys.argv[2])
app = FastAPI()

class Query(BaseModel):
    query: str
    limit: int = 10

@app.post("/v1/search")
def search(body: Query):
    vector = model.encode([body.query], normalize_embeddings=True, show_progress_bar=False)
    found = client.search(sys.argv[3], vector.tolist(), limit=body.limit, filter='tenant == ""',
                          output_fields=sys.argv[4].split(","), consistency_level="Bounded")
    return {"hits": [{"score": hit["distance"], **dict(hit["entity"])} for hit in found[0]]}

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[5]), log_level="warning")
"""


@contextmanager
def server(directory: Path, wanted: bool) -> Iterator[str]:
    """The URI of a Milvus that is new."""
    if not wanted:
        with embedded(directory / "milvus") as uri:
            yield uri
        return
    from milvus import default_server

    default_server.set_base_dir(str(directory / "server"))
    default_server.start()
    yield f"http://127.0.0.1:{default_server.listen_port}"
    default_server.stop()


def ask(name: str, body: str, connection: HTTPConnection) -> Any:
    connection.request("POST", "/v1/search", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, (name, answer.status, text[:300])
    return json.loads(text)


def load(name: str, queries: list[str], clients: int, seconds: float) -> dict[str, Any]:
    """Requests a second and latencies of so many clients, each of which waits for its answer before it asks again."""
    took: list[float] = []
    stages: list[dict[str, float]] = []
    stop = time.monotonic() + seconds

    def client(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", PORTS[name], timeout=60)
        at = number * 7
        while time.monotonic() < stop:
            at += 1
            started = time.perf_counter()
            found = ask(name, json.dumps({"query": queries[at % len(queries)], "limit": 10}), connection)
            took.append(time.perf_counter() - started)
            stages.append(found.get("timings_ms", {}))
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - started
    took.sort()
    ranks = {f"p{rank}_ms": 1000 * took[rank * len(took) // 100] for rank in (50, 99)}
    result: dict[str, Any] = {"per_s": len(took) / wall, **ranks}
    if stages[0]:
        means = {stage: float(np.mean([one[stage] for one in stages])) for stage in stages[0]}
        whole = 1000 * float(np.mean(took))
        shares = {stage: round(ms / whole, 3) for stage, ms in means.items()}
        result["shares"] = {**shares, "proxy, HTTP and JSON": round(1 - sum(shares.values()), 3)}
    return result


def understanding(bundle: Path, queries: list[str], backend: str) -> float:
    """Time of understanding queries over that of embedding them alone, in turn, least of five."""
    encoder = Encoder.from_bundle(bundle, backend=backend)
    best = {"understand": float("inf"), "embed": float("inf")}
    for _ in range(5):
        for name, call in (("embed", encoder.embed_texts), ("understand", encoder.encode_queries)):
            started = time.perf_counter()
            for at in range(0, 256, 8):
                call(queries[at : at + 8])
            best[name] = min(best[name], time.perf_counter() - started)
    return best["understand"] / best["embed"]


def said_to_assistants(data: Path) -> list[str]:
    """Queries, shuffled."""
    files = [data / "nlu" / f"{name}.jsonl" for name in ("clinc150.test", "homeassistant")]
    texts = [json.loads(line)["text"] for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    random.Random(0).shuffle(texts)
    return texts


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    import ray

    directory = Path(tempfile.mkdtemp(prefix="bench-search-"))
    texts = texts_of(arguments.data, arguments.items)
    (directory / "bundles").mkdir()
    bundle = make_bundle(directory / "bundles", texts, 6, 384)
    plain = directory / "plain"
    sentence_transformer(bundle, directory).save(str(plain))
    queries = said_to_assistants(arguments.data)
    tokens = [len(one.ids) for one in Encoder.from_bundle(bundle).tokenize(queries[:1000])]
    results: dict[str, Any] = {"tokens of a query": float(np.mean(tokens))}
    results |= {"understanding": {b: understanding(bundle, queries, b) for b in ("torch", "onnx-fp32")}}
    with server(directory, arguments.server) as uri:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        job(bundle, write_catalog(directory / "catalog.parquet", texts), directory, uri, "catalog")
        ray.shutdown()
        store = Store(uri)
        collection = store.target("catalog")
        store.close()
        config = yaml.safe_load((ROOT / "serve_configs" / "search.yaml").read_text())
        config["http_options"]["port"] = PORTS["unimir"]
        config["applications"][0]["args"] |= {"bundle": str(directory / "bundles"), "milvus": uri, "slots": {}}
        (directory / "search.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-c", PLAIN, str(plain), uri, collection, ",".join(FIELDS), str(PORTS["plain"])]
        with (directory / "plain.log").open("wb") as log:
            other = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        try:
            with running(directory / "search.yaml", directory / "log", PORTS["unimir"]):
                results |= compared(queries, arguments.seconds)
        finally:
            other.terminate()
    return results


def compared(queries: list[str], seconds: float) -> dict[str, Any]:
    """Both services in turn, twice for each number of clients; the better run of each counts."""
    for name, port in PORTS.items():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        else:
            raise RuntimeError(f"service {name} did not come up")
        load(name, queries, 4, 3)  # warm
    found: dict[str, Any] = {}
    for clients in (1, 8, 32):
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in PORTS}
        for _ in range(2):
            for name in PORTS:
                runs[name].append(load(name, queries, clients, seconds))
        best = {name: max(listed, key=lambda one: one["per_s"]) for name, listed in runs.items()}
        ratio = best["unimir"]["per_s"] / best["plain"]["per_s"]
        found[f"{clients} clients"] = {**best, "ratio": ratio}
        print(clients, json.dumps(found[f"{clients} clients"]), file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--server", action="store_true", help="a Milvus server instead of Milvus Lite")
    print(json.dumps(main(parser.parse_args()), indent=1))
