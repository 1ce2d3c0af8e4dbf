"""Fixtures shared by all rooms' tests: one Ray cluster, one prepared corpus and one trained bundle for the session."""

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

import unimir.model  # noqa: F401  # makes torchvision importable, for libraries that tests import first
from unimir.config import Config, Restarts, Stage

# Ray's workers give way to whatever else runs, by default: beside the other process's tests they would come to a halt.
os.environ.setdefault("RAY_worker_niceness", "0")
# With more threads than cores, those that wait spin on the cores that the others need: forty times slower, measured.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # as for the local cluster of a job
# A hundred processes of Ray follow: where no bytecode is kept, each compiles torch anew: 14 s of CPU to import, not 7.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two processes of tests, of about equal length: whole jobs and a real server; all that shares fixtures."""
    # Last: the real server, whose bundle others make, and the service, which then stays up until the end.
    items.sort(key=lambda item: item.path.parent.name in ("real", "serve"))
    for item in items:
        whole = item.path.name in ("test_jobs.py", "test_restart.py") or item.path.parent.name == "real"
        item.add_marker(pytest.mark.xdist_group("jobs" if whole else "rooms"))


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[], Path]) -> Path:
    """What is made once for all processes of tests, by whoever needs it first."""
    own = factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with FileLock(shared / f"{name}.lock"):
        if not (shared / name).exists():
            (shared / name).write_text(str(make()))
    return Path((shared / name).read_text())


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    import ray
    import ray.data

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with warnings.catch_warnings():  # Ray's own defaults warn of themselves, once
        warnings.simplefilter("ignore")
        ray.data.DataContext.get_current()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """Recipe `tiny` at its smallest."""
    from unimir.recipes import recipe

    full = recipe("tiny")
    stages: tuple[Stage, ...] = tuple(dataclasses.replace(stage, steps=20) for stage in full.stages)
    return dataclasses.replace(full, sample_items=160, stages=stages, restarts=Restarts(keep=3))


@pytest.fixture(scope="session")
def tiny_prepared(ray_cluster: None, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from unimir.data.prepare import prepare
    from unimir.data.sources import corpora_of

    def make() -> Path:
        out = tmp_path_factory.mktemp("prepared")
        return prepare(corpora_of(tiny_config, out), tiny_config, out)

    return once(tmp_path_factory, "tiny_prepared", make)


@pytest.fixture(scope="session")
def tiny_run(tiny_prepared: Path, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything a training run with two workers leaves behind: bundles/, runs/ and logs/."""
    from unimir.train.driver import Places, train
    from unimir.train.hardware import Wanted

    def make() -> Path:
        out = tmp_path_factory.mktemp("run")
        train(tiny_config, tiny_prepared, Places(out=out), Wanted(workers=2))
        return out

    return once(tmp_path_factory, "tiny_run", make)


@pytest.fixture(scope="session")
def tiny_bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if given := os.environ.get("UNIMIR_TEST_BUNDLE"):  # tests run by a test (see tests/real) train no other
        return Path(given)

    def make() -> Path:
        (bundle,) = (request.getfixturevalue("tiny_run") / "bundles").iterdir()
        return Path(bundle)

    return once(tmp_path_factory, "tiny_bundle", make)
