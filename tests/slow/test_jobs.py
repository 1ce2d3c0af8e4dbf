"""The jobs as a user runs them: in processes of their own, read by what they print and how they exit."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
pytestmark = pytest.mark.slow


def job(name: str, *arguments: object, timeout: int = 900, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"jobs/{name}.py", *map(str, arguments)]
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


def result(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@pytest.fixture
def head() -> Iterator[dict[str, str]]:
    """A cluster of its own, started with the README's line; yields the variables its clients need."""
    home = Path(tempfile.mkdtemp(prefix="head"))  # short: Ray's sockets lie in it, and their paths have a limit
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(home / "token")}
    (home / "token").write_text("0123456789abcdef0123456789abcdef")
    ray = str(Path(sys.executable).with_name("ray"))
    environment = {**os.environ, **variables}
    # Ports of its own, and stopped by its own process: the session's cluster may be up beside it.
    ports = ["--port=0", "--dashboard-port=8271", "--dashboard-agent-listen-port=52471"]
    start = [ray, "start", "--head", "--block", *ports, "--num-cpus=2", f"--temp-dir={home}/r"]
    # Not a session of its own: by sessions Linux shares processors out (see unimir/index/lite.py).
    started = subprocess.Popen(
        start, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
    )
    yield variables
    # All at once: nothing of it is needed any more, and stopping it in order takes half a minute.
    head_process = psutil.Process(started.pid)
    for process in [head_process, *head_process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    started.wait(60)
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.timeout(2500)
def test_main_job_as_a_submitted_job_meets_its_bars(head: dict[str, str], tmp_path: Path) -> None:
    """The whole sample, through `ray job submit` with token authentication as the README says."""
    ray = str(Path(sys.executable).with_name("ray"))
    entry = ["--", sys.executable, "jobs/train_joint.py", "--out", str(tmp_path / "var")]
    command = [ray, "job", "submit", "--address", "http://127.0.0.1:8271", "--working-dir", ".", *entry]
    for _ in range(24):  # the head and its job agent are up some seconds after its start
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **head}, capture_output=True, text=True, timeout=2400
        )
        if "No available agent" not in done.stderr + done.stdout and "Failed to connect" not in done.stderr:
            break
        time.sleep(5)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith('{"bundle"')]
    found = json.loads(line)
    metrics = found["metrics"]
    assert metrics["text_to_image.r@10.macro"] >= 0.90
    assert metrics["text_to_image.r@10.worst"] >= 0.80
    assert metrics["intent.accuracy.macro"] >= 0.95
    assert metrics["slots.f1.macro"] >= 0.95
    assert metrics["query_to_item.r@10.macro"] >= metrics["query_to_item_plain.r@10.macro"] + 0.05
    assert metrics["clean_to_item.r@10.macro"] >= metrics["clean_to_item_plain.r@10.macro"] - 0.01
    assert [stage["name"] for stage in found["stages"]] == ["text", "nlu", "joint"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train_joint", "--recipe", "smaple"], "error: recipe 'smaple'; recipes are"),
        (["train_joint", "--set", "model.dims=3"], "error: model: unknown key 'dims'; known keys: dim,"),
        (["train_joint", "--corpora", "nowhere.yaml"], "error: nowhere.yaml"),
        (["prepare_corpora", "--recipe", "atlas"], "error: corpora 'atlas': say where the open data is"),
        (["evaluate", "--bundle", "nowhere"], "error: nowhere: not a bundle artifact"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = job(arguments[0], *arguments[1:], "--out", tmp_path)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(message), done.stderr
    assert "Traceback" not in done.stderr and not done.stdout


@pytest.mark.atlas
@pytest.mark.timeout(900)
@pytest.mark.skipif(not DATA.is_dir(), reason="the open data of recipe atlas is not beside the checkout")
def test_atlas_smoke_walks_the_real_data(tmp_path: Path) -> None:
    found = result(job("train_joint", "--recipe", "atlas-smoke", "--root", DATA, "--out", tmp_path))
    metrics = found["metrics"]
    assert isinstance(metrics, dict)
    for name in ("emoji_name.r@10", "photo_class.ndcg@10", "tldr.r@10", "xsid_intent.accuracy", "composed.r@10"):
        assert 0 <= metrics[f"{name}.macro"] <= 1
