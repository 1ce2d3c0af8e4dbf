"""Does the embedding job grow a real cluster, and does the cluster shrink to nothing when the job is done?"""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
HEAD = "10.77.0.1"
ROWS = 16_000
pytestmark = pytest.mark.slow


def _config(state: Path) -> dict[str, object]:
    """A head without CPUs, and up to three workers of one."""
    lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "namespaces",
        "max_workers": 3,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 10.0,
        "provider": {
            "type": "external",
            "module": "namespaces.NamespaceProvider",
            "state": str(state),
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "foreground_node_launch": True,
        },
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 3},
        },
        "head_node_type": "head",
        "auth": {"ssh_user": "ray"},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{name}_commands": [] for name in lists},
    }


def _picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (60, 80, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((800, 600)).save(buffer, "JPEG")
    return buffer.getvalue()


@contextmanager
def _process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output)
    try:
        yield process
    finally:  # all at once: stopping a head in order takes half a minute, and nothing of it is needed any more
        assert process.stdin is not None
        process.stdin.close()
        top = psutil.Process(process.pid)
        for each in [*top.children(recursive=True), top]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()


def _actors() -> int:
    """Workers of the pool: processes of whatever node, but not of the network that the tests run in."""
    found = 0
    outside = Path(f"/proc/{os.getppid()}/ns/net").readlink()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            inside = path.with_name("ns").joinpath("net").readlink() != outside
            found += inside and path.read_bytes().startswith(b"ray::MapWorker")
        except OSError:  # gone meanwhile
            continue
    return found


def scenario(bundle: Path, directory: Path) -> dict[str, object]:
    """Runs inside a network namespace of its own."""
    for command in ("set lo up", "add rays type bridge", "set rays up"):
        subprocess.run(["ip", "link", *command.split()], check=True)
    subprocess.run(["ip", "addr", "add", f"{HEAD}/24", "dev", "rays"], check=True)
    state = directory / "nodes"
    state.mkdir()
    (directory / "cluster.yaml").write_text(yaml.safe_dump(_config(state)))
    (directory / "token").write_text("0123456789abcdef0123456789abcdef")
    pictures = [_picture(number) for number in range(7)]  # decoding them is work enough for a pool to grow
    columns = {"id": [str(n) for n in range(ROWS)], "image": [pictures[n % 7] for n in range(ROWS)]}
    pq.write_table(pa.table(columns), directory / "items.parquet")
    bins = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bins}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parent),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(directory / "token"),
        "RAY_enable_autoscaler_v2": "0",
    }
    temporary = tempfile.mkdtemp(prefix="as")  # short: Ray's sockets lie in it
    head = [str(bins / "ray"), "start", "--head", f"--node-ip-address={HEAD}", "--port=6379", "--num-cpus=0", "--block"]
    head += ["--include-dashboard=false", f"--temp-dir={temporary}"]
    head += [f"--autoscaling-config={directory / 'cluster.yaml'}"]
    milvus = [sys.executable, "-m", "unimir.index.lite", "server", "--host", HEAD, "--port", "19530"]
    milvus += ["--data-dir", str(directory / "milvus")]
    job = [sys.executable, "jobs/embed_catalog.py", "--bundle", str(bundle), "--workers", "1,3"]
    job += ["--catalog", str(directory / "items.parquet")]
    job += ["--milvus", f"http://{HEAD}:19530", "--out", str(directory / "var")]
    peak = {"nodes": 0, "actors": 0}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            peak["nodes"] = max(peak["nodes"], len(list(state.iterdir())))
            peak["actors"] = max(peak["actors"], _actors())

    running = {**environment, "RAY_ADDRESS": f"{HEAD}:6379"}
    try:
        with (
            _process(milvus, environment, directory / "milvus.log"),
            _process(head, environment, directory / "head.log"),
        ):
            while not (directory / "head.log").read_text().count("will now block"):
                time.sleep(0.2)
            watcher = threading.Thread(target=watch, daemon=True)
            watcher.start()
            done = subprocess.run(job, cwd=ROOT, env=running, capture_output=True, text=True, timeout=800)
            deadline = time.monotonic() + 120
            while (list(state.iterdir()) or _actors()) and time.monotonic() < deadline:
                time.sleep(0.5)
            stop.set()
            watcher.join()
            left = {"nodes_left": len(list(state.iterdir())), "actors_left": _actors()}
            return {"rc": done.returncode, "out": done.stdout, "err": done.stderr[-3000:], **left, **peak}
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.timeout(1100)
def test_pool_and_cluster_grow_for_the_job_and_shrink_to_nothing(tiny_bundle: Path, tmp_path: Path) -> None:
    if not shutil.which("unshare") or subprocess.run(["unshare", "-n", "ip", "link", "set", "lo", "up"]).returncode:
        pytest.skip("needs the right to make a network namespace (unshare -n, ip link)")
    command = ["unshare", "-n", sys.executable, __file__, str(tiny_bundle), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1050)
    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    assert seen["rc"] == 0, seen["err"]
    result = json.loads(seen["out"].strip().splitlines()[-1])
    assert (result["rows_embedded"], result["rows_rejected"]) == (ROWS, 0)
    assert min(seen["nodes"], seen["actors"]) >= 2, seen
    assert (seen["nodes_left"], seen["actors_left"]) == (0, 0)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(scenario(Path(sys.argv[1]), Path(sys.argv[2]))))
