"""Is the list of checkpoints whole after a kill at any moment of its writing?"""

from pathlib import Path
from types import SimpleNamespace

import pytest

from unimir.train.snapshot import SNAPSHOT, KeepWhole, mend


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    return directory


def reported(run: Path, text: str, storage_path: str) -> None:
    (run / SNAPSHOT).write_text(text)
    config = SimpleNamespace(storage_path=storage_path, name=run.name)
    KeepWhole().after_report(SimpleNamespace(run_config=config), [{}], None)


@pytest.mark.parametrize("by_uri", [False, True])
def test_a_list_cut_off_at_any_byte_is_the_one_before(run: Path, by_uri: bool) -> None:
    storage_path = run.parent.as_uri() if by_uri else str(run.parent)
    first, second = '{"results": [1]}', '{"results": [1, 2], "last": 2}'
    reported(run, first, storage_path)
    for length in range(len(second)):
        (run / SNAPSHOT).write_text(second[:length])
        mend(storage_path, run.name)
        assert (run / SNAPSHOT).read_text() == first
    (run / SNAPSHOT).write_text(second)
    mend(storage_path, run.name)
    assert (run / SNAPSHOT).read_text() == second


def test_a_first_list_that_was_cut_off_is_as_none(run: Path) -> None:
    (run / SNAPSHOT).write_text("{")
    mend(str(run.parent), run.name)
    assert not list(run.iterdir())
    mend(str(run.parent), run.name)
    mend(str(run.parent), "another")


def test_a_copy_that_cannot_be_made_costs_no_training(run: Path) -> None:
    reported(run, "{}", str(run.parent / "nowhere"))
