"""Does a run that is killed, wherever that is, see exactly the planned examples and end where one left alone does?"""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from unimir.bundle import preprocess_of, read_label_sets
from unimir.config import Config, Restarts
from unimir.plain import to_dict
from unimir.train.batches import digest
from unimir.train.driver import Places, train
from unimir.train.feed import Sources, StageFeed
from unimir.train.worker import build_objective

pytestmark = pytest.mark.slow
DRIVER = """
import json, sys
from pathlib import Path
import ray
from unimir.config import Config
from unimir.plain import from_dict
from unimir.train.driver import Places, train

ray.init(address="local", num_cpus=3, include_dashboard=False)
config = from_dict(Config, json.loads(Path(sys.argv[1]).read_text()))
train(config, Path(sys.argv[2]), Places(out=Path(sys.argv[3])), workers=int(sys.argv[4]))
"""
TELLS_KILLS = 60
"""Steps of the second stage after which processes are killed: two checkpoints lie within it by then."""


@pytest.fixture(scope="module")
def config(tiny_config: Config) -> Config:
    """A short stage and a longer one with everything a restart could get wrong: dropout, an anchor, hidden tokens."""
    text, _, joint = tiny_config.stages
    arch = {**tiny_config.model.text.arch, "hidden_dropout_prob": 0.1}
    tower = dataclasses.replace(tiny_config.model.text, arch=arch)
    tasks = tuple(dataclasses.replace(task, hide=0.2) for task in joint.tasks)
    return dataclasses.replace(
        tiny_config,
        recipe="restart",
        model=dataclasses.replace(tiny_config.model, text=tower),
        stages=(text, dataclasses.replace(joint, steps=240, tasks=tasks)),
        restarts=Restarts(every_steps=25, keep=2),
    )


@pytest.fixture(scope="module")
def undisturbed(config: Config, tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    return train(config, tiny_prepared, Places(out=out), workers=2).bundle


def log_of(out: Path, stage: str) -> list[dict[str, float]]:
    found = list((out / "logs").glob(f"*/{stage}.jsonl"))
    # The last line may be half written when it is read.
    return [json.loads(line) for path in found for line in path.read_text().splitlines() if line.endswith("}")]


def assert_exactly_as_planned(out: Path, config: Config, prepared: Path) -> None:
    """Every step once, on the examples of the plan, whoever saw them."""
    preprocess = preprocess_of(build_objective(config, prepared).model)
    sources = Sources(config, prepared, read_label_sets(prepared / "labels.json"), preprocess)
    for stage in config.stages:
        feed = StageFeed(stage, sources)
        planned = [
            (step, feed.tasks[task].task.name, number, digest(feed.tasks[task].order.batch(number)))
            for step, (task, number) in enumerate(feed.plan)
        ]
        seen = [(line["step"], line["task"], line["batch"], line["seen"]) for line in log_of(out, stage.name)]
        assert seen == planned


def assert_same_model(bundle: Path, other: Path) -> None:
    one, two = load_file(bundle / "model.safetensors"), load_file(other / "model.safetensors")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def wait_until_within(out: Path, alive: "subprocess.Popen[bytes] | None", log: Path | None) -> None:
    deadline = time.monotonic() + 240
    while len(log_of(out, "joint")) < TELLS_KILLS:
        said = log.read_text()[-4000:] if log else ""
        assert time.monotonic() < deadline and (alive is None or alive.poll() is None), said
        time.sleep(0.02)


def test_a_worker_killed_within_a_stage_costs_nothing(
    undisturbed: Path, config: Config, tiny_prepared: Path, tmp_path: Path
) -> None:
    """kill -9 of one of two workers; the checkpoints go to a URI."""
    killed: list[int] = []

    def kill() -> None:
        wait_until_within(tmp_path, None, None)
        workers = [p for p in psutil.Process().children(recursive=True) if "TrainWorker" in "".join(p.cmdline()[:1])]
        killed.append(len(workers))
        workers[-1].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    storage = (tmp_path / "elsewhere").as_uri()
    trained = train(config, tiny_prepared, Places(out=tmp_path, storage=storage), workers=2)
    killer.join()
    assert killed == [2]
    assert_exactly_as_planned(tmp_path, config, tiny_prepared)
    assert_same_model(trained.bundle, undisturbed)
    assert [stage["examples"] for stage in trained.stages] == [
        stage["examples"] for stage in json.loads((undisturbed / "manifest.json").read_text())["stages"]
    ]
    assert not (tmp_path / "runs").exists()
    kept = [path for path in (tmp_path / "elsewhere").glob("*/checkpoint_*") if path.is_dir()]
    assert 2 <= len(kept) <= 4  # the two best, the last, and what the kill cut off


@pytest.mark.parametrize("after", [2, 1, 3])
def test_a_driver_killed_within_a_stage_goes_on_at_any_number_of_workers(
    after: int, undisturbed: Path, config: Config, tiny_prepared: Path, killed_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(killed_run, out)
    drive(config, tiny_prepared, out, workers=after)
    assert_exactly_as_planned(out, config, tiny_prepared)
    (bundle,) = (out / "bundles").iterdir()
    if after == 2:
        assert_same_model(bundle, undisturbed)
    else:  # sums in another order; far below what a lost or repeated step would do
        last = [line["loss"] for line in log_of(out, "joint")[-20:]]
        undisturbed_last = [line["loss"] for line in log_of(undisturbed.parents[1], "joint")[-20:]]
        assert sum(last) / 20 == pytest.approx(sum(undisturbed_last) / 20, rel=0.1)


@pytest.fixture(scope="module")
def killed_run(config: Config, tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What kill -9 of the driver, and with it of all workers, leaves behind within the second stage."""
    directory = tmp_path_factory.mktemp("killed")
    out = directory / "out"
    process = drive(config, tiny_prepared, out, workers=2, wait=False)
    wait_until_within(out, process, directory / "log")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "bundles").exists()
    steps = [json.loads(path.read_text())["step"] for path in (out / "runs").glob("*/checkpoint_*/progress.json")]
    assert any(steps)
    return out


def drive(config: Config, prepared: Path, out: Path, *, workers: int, wait: bool = True) -> "subprocess.Popen[bytes]":
    """A training in a process, and on a cluster, of its own."""
    directory = out.parent
    (directory / "config.json").write_text(json.dumps(to_dict(config)))
    command = [sys.executable, "-c", DRIVER, str(directory / "config.json"), str(prepared), str(out), str(workers)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, process_group=0)
    if wait:
        assert process.wait(timeout=300) == 0, (directory / "log").read_text()[-4000:]
    return process
