"""Do jobs refuse what this machine, or a directory, cannot give?"""

from pathlib import Path
from typing import Any

import pytest
import ray

from unimir import job


def test_artifacts_lie_in_directories() -> None:
    """`Path` would make a directory `s3:` of a URI, on whatever machine the job runs."""
    assert job.directory("var/x") == Path("var/x")
    with pytest.raises(ValueError, match="'s3://bucket/out'; artifacts lie in directories"):
        job.directory("s3://bucket/out")


def test_gpus_that_nobody_has_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
    job.check_gpus(0.5)
    with pytest.raises(ValueError, match="--gpus 2; this machine has 1"):
        job.check_gpus(2)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    job.check_gpus(2)  # machines may start


@pytest.mark.parametrize(
    ("machines", "alone"),
    [([{"CPU": 2.0}], True), ([{}], False), ([{"CPU": 2.0}, {"CPU": 2.0}], False)],
    ids=["one", "a head that starts others", "two"],
)
def test_one_machine_that_computes_is_alone(
    machines: list[dict[str, Any]], alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = {"Alive": False, "Resources": {"CPU": 8.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [gone, *({"Alive": True, "Resources": one} for one in machines)])
    assert job.alone() == alone
