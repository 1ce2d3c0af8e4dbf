"""Does a run that is killed, wherever that is, see exactly the planned examples and end where one left alone does?"""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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
from unimir.train.hardware import Wanted
from unimir.train.ngrams import count_ngrams
from unimir.train.process import environment
from unimir.train.snapshot import SNAPSHOT
from unimir.train.worker import build_objective

pytestmark = pytest.mark.slow
DRIVER = """
import json, sys
from pathlib import Path
import ray
from unimir.config import Config
from unimir.plain import from_dict
from unimir.train.driver import Places, train
from unimir.train.hardware import Wanted

ray.init(address="local", num_cpus=3, include_dashboard=False)
config = from_dict(Config, json.loads(Path(sys.argv[1]).read_text()))
train(config, Path(sys.argv[2]), Places(out=Path(sys.argv[3]), storage=sys.argv[5]), Wanted(workers=int(sys.argv[4])))
"""
FIRST_KILL, SECOND_KILL = 45, 75
"""Steps of the second stage after which processes are killed: two checkpoints lie within it by the first."""


@pytest.fixture(scope="module")
def config(tiny_config: Config) -> Config:
    """A short stage and a longer one with everything a restart could get wrong: dropout, an anchor, hidden tokens,
    counted n-grams."""
    text, _, joint = (dataclasses.replace(stage, rates={**stage.rates, "ngrams": 0.02}) for stage in tiny_config.stages)
    arch = {**tiny_config.model.text.arch, "hidden_dropout_prob": 0.1}
    tower = dataclasses.replace(tiny_config.model.text, arch=arch, ngrams=2, ngram_buckets=4096, ngram_min_count=2)
    tasks = tuple(dataclasses.replace(task, hide=0.2) for task in joint.tasks)
    return dataclasses.replace(
        tiny_config,
        recipe="restart",
        model=dataclasses.replace(tiny_config.model, text=tower),
        stages=(text, dataclasses.replace(joint, steps=110, tasks=tasks)),
        restarts=Restarts(every_steps=20, keep=2),
    )


@pytest.fixture(scope="module")
def undisturbed(config: Config, tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    return train(config, tiny_prepared, Places(out=out), Wanted(workers=2)).bundle


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


def wait_until_told(steps: int, out: Path, process: "subprocess.Popen[bytes]") -> None:
    wait_until(lambda: len(log_of(out, "joint")) >= steps, out, process)


def wait_until(true: Callable[[], bool], out: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 240
    while not true():
        assert time.monotonic() < deadline and process.poll() is None, (out.parent / "log").read_text()[-4000:]
        time.sleep(0.02)


def test_workers_look_up_what_all_texts_together_have_often(
    undisturbed: Path, config: Config, tiny_prepared: Path
) -> None:
    alone = build_objective(config, tiny_prepared).model.text.ngrams
    count_ngrams(alone, config, tiny_prepared, torch.device("cpu"))
    assert alone is not None and alone.known is not None and (alone.known < 255).any()
    assert torch.equal(load_file(undisturbed / "model.safetensors")["text.ngrams.known"], alone.known)


def test_a_driver_and_then_a_worker_killed_within_a_stage_cost_nothing(
    undisturbed: Path, config: Config, tiny_prepared: Path, killed_run: Path, tmp_path: Path
) -> None:
    """Started again after kill -9, it loses one of its two workers too: as if nothing had been."""
    out = shutil.copytree(killed_run, tmp_path / "out")
    process = drive(config, tiny_prepared, out, workers=2)
    wait_until_told(SECOND_KILL, out, process)
    workers = workers_of(process)
    given = environment(gpu=False)  # they have asked for no GPU
    assert all(given.items() <= worker.environ().items() for worker in workers)
    workers[-1].kill()
    finish(process, out)
    assert_exactly_as_planned(out, config, tiny_prepared)
    (bundle,) = (out / "bundles").iterdir()
    assert_same_model(bundle, undisturbed)
    found, expected = (json.loads((path / "manifest.json").read_text())["stages"] for path in (bundle, undisturbed))
    assert [stage["examples"] for stage in found] == [stage["examples"] for stage in expected]
    known = [path for path in storage(out).glob("*/checkpoint_*") if path.is_dir() and path.name in known_in(out)]
    assert 2 <= len(known) <= 3  # the two best and the last; what a kill cut off is there, but not known


@pytest.mark.parametrize("after", [1, 3])
def test_a_killed_run_goes_on_at_another_number_of_workers(
    after: int, undisturbed: Path, config: Config, tiny_prepared: Path, killed_run: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(killed_run, tmp_path / "out")
    (known,) = storage(out).glob(f"*/{SNAPSHOT}")
    if after == 1:  # the kill came while the list of checkpoints was written
        known.write_bytes(known.read_bytes()[:100])
    (text,) = (out / "logs").glob("*/text.jsonl")
    before = text.read_bytes()
    finish(drive(config, tiny_prepared, out, workers=after), out)
    assert_exactly_as_planned(out, config, tiny_prepared)
    assert text.read_bytes() == before  # its rates would be others, had it begun anew
    # Sums in another order, other rows dropped out; far below what a lost or repeated step would do.
    last = [line["loss"] for line in log_of(out, "joint")[-20:]]
    undisturbed_last = [line["loss"] for line in log_of(undisturbed.parents[1], "joint")[-20:]]
    assert sum(last) / 20 == pytest.approx(sum(undisturbed_last) / 20, rel=0.1)


@pytest.fixture(scope="module")
def killed_run(config: Config, tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What kill -9 of a worker between the stages, then of the driver and with it of all, leaves in the second one."""
    out = tmp_path_factory.mktemp("killed") / "out"
    process = drive(config, tiny_prepared, out, workers=2)
    wait_until(lambda: '"checkpoint_dir_name":' in known_in(out), out, process)  # the first stage's last
    workers_of(process)[-1].kill()
    wait_until_told(FIRST_KILL, out, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "bundles").exists() and not (out / "runs").exists()
    steps = [json.loads(path.read_text())["step"] for path in storage(out).glob("*/checkpoint_*/progress.json")]
    assert any(steps)
    return out


def storage(out: Path) -> Path:
    """Where the checkpoints are told to go, by URI."""
    return out / "elsewhere"


def known_in(out: Path) -> str:
    """What Ray Train would go on from, as it writes it down."""
    return "".join(path.read_text() for path in storage(out).glob(f"*/{SNAPSHOT}"))


def workers_of(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in children if "TrainWorker" in "".join(child.cmdline()[:1])]
    assert len(workers) == 2
    return workers


def drive(config: Config, prepared: Path, out: Path, *, workers: int) -> "subprocess.Popen[bytes]":
    """A training in a process, and on a cluster, of its own."""
    directory = out.parent
    (directory / "config.json").write_text(json.dumps(to_dict(config)))
    arguments = [directory / "config.json", prepared, out, workers, storage(out).as_uri()]
    with (directory / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, *map(str, arguments)], stdout=log, stderr=log, process_group=0
        )


def finish(process: "subprocess.Popen[bytes]", out: Path) -> None:
    assert process.wait(timeout=300) == 0, (out.parent / "log").read_text()[-4000:]
