"""Faults of the service under a steady load, and overload: a script that prints a table and one line of JSON.

    python tests/slow/serve_faults.py --bundle DIR --other DIR [--seconds 60] [--only NAME,...]

It embeds the sample with both bundles, serves it with parts in deployments of their own, and sends 20 requests
a second while it kills, redeploys and moves aliases. Every answer is compared with the one given before the fault.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from serve.conftest import START, running  # noqa: E402

PORT, RATE = 8124, 20.0
QUERIES = [
    "please help me find a photo of two red cats",
    "ein Bild von drei blauen Booten",
    "une description de quatre livres jaunes",
    "найди фото красной машины",
    "两只白色小狗的照片",
    "赤い車の写真",
    "صورة قطتين",
    "un pájaro verde",
]


def ask(body: Any, timeout: float = 20.0) -> tuple[int, Any, float]:
    """Status (0: no answer), JSON and seconds of one search."""
    started = time.perf_counter()
    connection = HTTPConnection("127.0.0.1", PORT, timeout=timeout)
    try:
        connection.request("POST", "/v1/search", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        try:
            return answer.status, json.loads(text), time.perf_counter() - started
        except ValueError:
            return answer.status, {"code": f"not json: {text[:60]!r}"}, time.perf_counter() - started
    except (OSError, HTTPException) as error:
        return 0, {"code": type(error).__name__}, time.perf_counter() - started
    finally:
        connection.close()


def body_of(query: str) -> dict[str, Any]:
    return {"query": query, "limit": 5, "now": "2026-03-15T12:00:00Z"}


def gist(found: Any) -> Any:
    return [found["bundle_id"], [(hit["id"], round(hit["score"], 3)) for hit in found["hits"]]]


def steady(seconds: float, expected: dict[str, Any], fault: Callable[[], None]) -> dict[str, Any]:
    """Sends RATE requests a second; the fault happens after a quarter of the time."""
    outcomes: Counter[str] = Counter()
    failed_at: list[float] = []
    took: list[float] = []
    turn = threading.Lock()
    started = time.monotonic()

    def one(number: int) -> None:
        query = QUERIES[number % len(QUERIES)]
        at = time.monotonic() - started
        status, found, seconds_taken = ask(body_of(query))
        with turn:
            took.append(seconds_taken)
            if status == 200:
                outcomes["right" if gist(found) == expected[query] else "wrong"] += 1
            else:
                outcomes[f"{status} {found.get('code')}"] += 1
                failed_at.append(round(at, 1))

    threads = []
    trouble = threading.Timer(seconds / 4, fault)
    trouble.start()
    for number in range(int(RATE * seconds)):
        wait = started + number / RATE - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        threads.append(threading.Thread(target=one, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    trouble.join()
    took.sort()
    window = [min(failed_at), max(failed_at)] if failed_at else None
    p99 = round(1000 * took[int(0.99 * len(took))])
    return {"sent": len(took), "outcomes": dict(outcomes), "failed_between_s": window, "p99_ms": p99}


def processes(*needles: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if all(needle in line for needle in needles):
            found.append(process)
    return found


def kill_one(*needles: str) -> Callable[[], None]:
    def kill() -> None:
        os.kill(processes(*needles)[0].pid, signal.SIGKILL)

    return kill


def config_of(directory: Path, bundles: Path, **changes: Any) -> dict[str, Any]:
    config = yaml.safe_load((ROOT / "serve_configs" / "search.yaml").read_text())
    config["http_options"]["port"] = PORT
    application = config["applications"][0]
    application["args"] |= {"bundle": str(bundles), "data": str(directory / "milvus"), "backend": "torch", "threads": 1}
    application["args"] |= {"apart": ["TextEncoder", "Retriever"], **changes}
    options = {"num_replicas": 2, "max_ongoing_requests": 256, "ray_actor_options": {"num_cpus": 0}}
    application["deployments"] = [{"name": name, **options} for name in ("Gateway", "TextEncoder", "Retriever")]
    return config


@contextmanager
def collections(directory: Path, bundles: list[Path]) -> Iterator[Callable[[str], None]]:
    """A collection of each bundle; readers see the first one's. Gives what moves the alias to a collection."""
    from unimir.index.lite import find
    from unimir.index.store import Store

    for bundle in reversed(bundles):
        command = [sys.executable, "jobs/embed_catalog.py", "--bundle", str(bundle), "--keep", "2"]
        subprocess.run([*command, "--out", str(directory)], cwd=ROOT, check=True, stdout=sys.stderr)

    def move(bundle_id: str) -> None:
        uri = find(directory / "milvus")
        assert uri is not None
        store = Store(uri)
        store.point("catalog", next(name for name in store.collections() if name.endswith(bundle_id)))
        store.close()

    yield move


def deploy(path: Path) -> None:
    command = [str(Path(sys.executable).with_name("serve")), "deploy", str(path), "--address", "http://127.0.0.1:8265"]
    subprocess.run(command, env={**os.environ, "RAY_AUTH_MODE": "token"}, check=True, stdout=sys.stderr)


def status() -> tuple[str, str]:
    """What Serve says of the application once it has made up its mind, and the end of what it says is wrong."""
    command = [str(Path(sys.executable).with_name("serve")), "status", "--address", "http://127.0.0.1:8265"]
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        application = yaml.safe_load(done.stdout)["applications"]["search"]
        if application["status"] != "DEPLOYING" or time.monotonic() > deadline:
            return application["status"], application["message"].strip()[-300:]
        time.sleep(2)


async def flood(rate: float, seconds: float) -> dict[int, list[float]]:
    """Sends so many requests a second over connections that stay open, whether answers come or not."""
    body = json.dumps(body_of(QUERIES[0])).encode()
    head = "POST /v1/search HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: "
    request = f"{head}{len(body)}\r\n\r\n".encode() + body
    took: dict[int, list[float]] = defaultdict(list)
    idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def one() -> None:
        reader, writer = idle.get_nowait() if not idle.empty() else await asyncio.open_connection("127.0.0.1", PORT)
        started = time.perf_counter()
        try:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):  # the connection was closed
            took[0].append(time.perf_counter() - started)
            return
        lines = answer.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), None)
        await (reader.readuntil(b"0\r\n\r\n") if length is None else reader.readexactly(length))  # else in chunks
        took[int(answer[9:12])].append(time.perf_counter() - started)
        idle.put_nowait((reader, writer))

    began = time.perf_counter()
    tasks = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    return took


def overload(seconds: float) -> dict[str, Any]:
    """Ten times as many requests as it can answer, for so long; then how soon it is as fast as before."""

    def rank(listed: list[float], share: float) -> int:
        return round(1000 * sorted(listed)[int(share * len(listed))])

    calm = asyncio.run(flood(10, 10))[200]
    fastest = asyncio.run(flood(200, 5))
    capacity = len(fastest[200]) / 5
    memory = {process.pid: process.memory_info().rss for process in processes("ray::ServeReplica:search")}
    took = asyncio.run(flood(10 * capacity, seconds))
    time.sleep(5)
    after = asyncio.run(flood(10, 5))[200]
    grown = [(psutil.Process(pid).memory_info().rss - rss) / 2**20 for pid, rss in memory.items()]
    return {
        "calm_p99_ms": rank(calm, 0.99),
        "capacity_per_s": capacity,
        "sent_per_s": 10 * capacity,
        "answers": {status: len(listed) for status, listed in took.items()},
        "accepted_p99_ms": rank(took[200], 0.99),
        "refused_p99_ms": rank(took[429] or [0.0], 0.99),
        "grown_mib": round(max(grown), 1),
        "p99_ms_5s_later": rank(after, 0.99),
    }


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    directory = Path(tempfile.mkdtemp(prefix="faults-"))
    bundles = directory / "bundles"
    bundles.mkdir()
    linked = []
    for name in (arguments.bundle, arguments.other):
        linked.append(bundles / f"b{len(linked)}")
        linked[-1].symlink_to(Path(name).resolve())
    ids = [json.loads((path / "manifest.json").read_text())["id"] for path in linked]
    first, changed, broken = (directory / f"{name}.yaml" for name in ("search", "changed", "broken"))
    first.write_text(yaml.safe_dump(config_of(directory, bundles)))
    changed.write_text(yaml.safe_dump(config_of(directory, bundles, release="again")))
    broken.write_text(yaml.safe_dump(config_of(directory, directory / "nowhere")))
    results: dict[str, Any] = {}
    os.environ.update(START)
    with collections(directory, linked) as move, running(first, directory / "log", PORT):
        time.sleep(10)  # all replicas
        expected = {query: gist(ask(body_of(query))[1]) for query in QUERIES}
        faults: dict[str, Callable[[], None]] = {
            "nothing": lambda: None,
            "kill Gateway": kill_one("ray::ServeReplica:search:Gateway"),
            "kill TextEncoder": kill_one("ray::ServeReplica:search:TextEncoder"),
            "kill Retriever": kill_one("ray::ServeReplica:search:Retriever"),
            "kill Milvus": kill_one("unimir.index.lite", "server"),
            "redeploy": lambda: deploy(changed),
            "broken deploy": lambda: deploy(broken),
            "move alias": lambda: move(ids[1]),
        }
        wanted = arguments.only.split(",") if arguments.only else [*faults, "overload"]
        for name, fault in faults.items():
            if name in wanted:
                replicas = {process.pid for process in processes("ray::ServeReplica:search")}
                # A deploy takes a minute beside the load; it has to be over within the time.
                seconds = (3 if "deploy" in name else 1) * arguments.seconds
                results[name] = steady(seconds, expected, fault)
                replaced = len(replicas - {process.pid for process in processes("ray::ServeReplica:search")})
                results[name]["replaced"] = f"{replaced} of {len(replicas)} replicas"
                if "deploy" in name:
                    results[name]["status"], results[name]["message"] = status()
                print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
                time.sleep(5)
        if "move alias" in wanted:
            move(ids[0])
    if "overload" in wanted:
        small = directory / "small.yaml"
        limits = {"in_flight": arguments.in_flight}
        config = config_of(directory, bundles, apart=[], backend="onnx-fp32", limits=limits)
        config["applications"][0]["deployments"] = [
            {"name": "Gateway", "max_ongoing_requests": 1000, "ray_actor_options": {"num_cpus": 0}}
        ]
        small.write_text(yaml.safe_dump(config))
        with running(small, directory / "log2", PORT):
            results["overload"] = overload(arguments.seconds / 2)
            print("overload", json.dumps(results["overload"]), file=sys.stderr, flush=True)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--other", required=True, help="a bundle with another id, for the move of the alias")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", help="names of faults, with commas between")
    parser.add_argument(
        "--in-flight", type=int, default=1, help="requests at a time in the overload: Milvus has the other core"
    )
    print(json.dumps(main(parser.parse_args())))
