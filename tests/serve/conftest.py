"""One real application for the session: Ray Serve over a collection of the sample, asked over HTTP."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from unimir.data.passes import Actors
from unimir.data.sources import catalog_of
from unimir.index.embed import Embedding, embed
from unimir.index.lite import embedded

START = {f"RAY_SERVE_{name}": "1" for name in ("ENABLE_HA_PROXY", "THROUGHPUT_OPTIMIZED", "USE_GRPC_BY_DEFAULT")}
"""What README's start line sets."""
PORT = 8123
ITEMS = 120
Ask = Callable[..., tuple[int, dict[str, str], Any]]


@pytest.fixture(scope="session")
def collection(ray_cluster: None, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with the embedded Milvus of a small catalog of the sample."""
    out = tmp_path_factory.mktemp("serve")
    catalog = catalog_of("sample", out, root=None, items=ITEMS, seed=0)
    with embedded(out / "milvus") as uri:
        embed(Embedding(catalog=catalog, bundle=tiny_bundle, uri=uri, out=out), Actors(least=1, most=1))
    yield out


@pytest.fixture(scope="session")
def service(collection: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The application as `serve run` starts it."""
    root = Path(__file__).parents[2]
    config = yaml.safe_load((root / "serve_configs" / "search.yaml").read_text())
    config["http_options"]["port"] = PORT
    config["applications"][0]["args"] |= {"bundle": str(tiny_bundle.parent), "data": str(collection / "milvus")}
    directory = tmp_path_factory.mktemp("run")
    (directory / "search.yaml").write_text(yaml.safe_dump(config))
    command = [str(Path(sys.executable).with_name("serve")), "run", str(directory / "search.yaml")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | START
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--address", "local"], cwd=root, env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + 180
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/healthz", timeout=5)
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, (directory / "log").read_text()[-4000:]
            time.sleep(0.5)
    yield f"http://127.0.0.1:{PORT}"
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def ask(service: str) -> Ask:
    """Sends a request; returns status, headers and JSON."""

    def send(method: str, path: str, body: Any = None, raw: bytes | None = None) -> tuple[int, dict[str, str], Any]:
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(service + path, data, {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, dict(answer.headers), json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), json.loads(error.read())

    return send
