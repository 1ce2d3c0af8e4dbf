"""One real application for the session: Ray Serve over a collection of the sample, with keys, asked over HTTP."""

from __future__ import annotations

import hashlib
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

ROOT = Path(__file__).parents[2]
_LINES = (ROOT / "serve_configs" / "serve.env").read_text().splitlines()
START = dict(line.split("=") for line in _LINES if not line.startswith("#"))
"""What README's start line sets."""
PORT = 8123
ITEMS = 120
KEYS = {"shop": "key of the shop", "x' or id != '' or id == 'x": "key of the other", "third": "key of the third"}
TENANT, OTHER, LIMITED = KEYS
IN_FLIGHT = 8
Ask = Callable[..., tuple[int, dict[str, str], Any]]


@pytest.fixture(scope="session")
def collection(ray_cluster: None, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with the embedded Milvus of a small catalog of the sample."""
    out = tmp_path_factory.mktemp("serve")
    catalog = catalog_of("sample", out, root=None, items=ITEMS, seed=0)
    with embedded(out / "milvus") as uri:
        job = Embedding(catalog=catalog, bundle=tiny_bundle, uri=uri, out=out, tenant=TENANT)
        embed(job, Actors(least=1, most=1))
    yield out


@pytest.fixture(scope="session")
def application(collection: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[running]:
    """The application as `serve run` starts it."""
    directory = tmp_path_factory.mktemp("run")
    lines = (f"{hashlib.sha256(key.encode()).hexdigest()} {tenant}" for tenant, key in KEYS.items())
    (directory / "keys").write_text("\n".join(lines))
    config = yaml.safe_load((ROOT / "serve_configs" / "search.yaml").read_text())
    config["http_options"]["port"] = PORT
    args = config["applications"][0]["args"]
    args |= {"bundle": str(tiny_bundle.parent), "data": str(collection / "milvus"), "backend": "torch"}
    args |= {"keys": str(directory / "keys"), "feedback": str(collection / "feedback")}
    quotas = {LIMITED: 50.0}
    args["limits"] = {"body_bytes": 2_000_000, "in_flight": IN_FLIGHT, "tenant_requests_per_s": quotas}
    # So little training leaves slots and intents to chance: every intent is about pictures here.
    intents = ["find_picture", "find_text", "find_offer", "show_recent", "count_items", "greeting", "help"]
    args["modality_of_intent"] = dict.fromkeys([*intents, "out_of_scope"], "image")
    args["least_certainty"] = 0.0
    (directory / "search.yaml").write_text(yaml.safe_dump(config))
    with running(directory / "search.yaml", directory / "log", PORT) as started:
        yield started


@pytest.fixture(scope="session")
def service(application: running) -> str:
    """Its address."""
    return application.url


class running:
    """`serve run` on a config, up once it is alive."""

    def __init__(self, config: Path, log: Path, port: int) -> None:
        command = [str(Path(sys.executable).with_name("serve")), "run", str(config), "--address", "local"]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | START
        self.url, self.log = f"http://127.0.0.1:{port}", log
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)

    def __enter__(self) -> running:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/healthz", timeout=5)
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    raise AssertionError(self.log.read_text(errors="replace")[-4000:]) from None
                time.sleep(0.5)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def ask(service: str) -> Ask:
    """Sends a request as a tenant (None: without a key); returns status, headers and JSON."""

    def send(
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        tenant: str | None = TENANT,
        **headers: str,
    ) -> tuple[int, dict[str, str], Any]:
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        given = {"content-type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        if tenant is not None:
            given["authorization"] = f"Bearer {KEYS[tenant]}"
        request = urllib.request.Request(service + path, data, given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, dict(answer.headers), json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), json.loads(error.read())

    return send
