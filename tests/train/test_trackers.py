"""Do the trackers that a run may name get its numbers, and go on after a kill?"""

import json
from pathlib import Path
from typing import Any

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from unimir.config import check_trackers
from unimir.train.log import Log, Step, Tracker, open_trackers, tracker_settings

RATES = {"examples_per_s": 5.0, "seconds": 1.0}


def steps(first: int, last: int) -> list[Step]:
    return [Step(number=n, task="pairs", batch=n, losses={"loss": 10.0 - n}, seen=n) for n in range(first, last)]


def run(directory: Path, start: int, stop: int, trackers: list[Tracker]) -> dict[str, float]:
    log = Log("text", 9, directory, start=start, before=100, trackers=trackers)
    log.write(steps(start, stop), RATES)
    found = log.close()
    for tracker in trackers:
        tracker.close()
    return found


def test_a_log_that_was_cut_off_tells_every_step_once(tmp_path: Path) -> None:
    run(tmp_path, 0, 6, [])
    with (tmp_path / "text.jsonl").open("a") as lines:
        lines.write('{"step": 6, "lo')  # killed while it wrote
    found = run(tmp_path, 4, 9, [])
    told = [json.loads(line) for line in (tmp_path / "text.jsonl").read_text().splitlines()]
    assert [line["step"] for line in told] == list(range(9))
    assert found == {"loss_first": 6.0, "loss_last": 6.0}
    assert steps_told(tmp_path, "text/pairs/loss") == list(range(100, 109))
    (rate,) = events_of(tmp_path, "text/examples_per_s")  # that of step 105 was before the kill
    assert (rate.step, rate.value) == (108, 5.0)


def test_two_kills_in_a_row_cost_no_line(tmp_path: Path) -> None:
    """The second before the log has told anything new."""
    run(tmp_path, 0, 6, [])
    log = Log("text", 9, tmp_path, start=5, before=100, trackers=[])
    assert len((tmp_path / "text.jsonl").read_text().splitlines()) == 5  # what a kill would leave
    log.close()
    assert run(tmp_path, 5, 9, []) == {"loss_first": 6.0, "loss_last": 6.0}
    told = [json.loads(line)["step"] for line in (tmp_path / "text.jsonl").read_text().splitlines()]
    assert told == list(range(9))


def test_a_tracker_that_is_away_costs_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Away:
        def __init__(self) -> None:
            self.asked = 0

        def write(self, values: object, step: int) -> None:
            self.asked += 1
            raise ConnectionError("no route\nto host")

        def close(self) -> None:
            pass

    away = Away()
    run(tmp_path, 0, 9, [away])
    assert away.asked == 1 and "warning: away is told no more (no route to host)" in capsys.readouterr().err
    assert steps_told(tmp_path, "text/pairs/loss") == list(range(100, 109))


def test_a_stage_that_begins_again_leaves_the_curves_of_those_before(tmp_path: Path) -> None:
    for stage, before, start, stop in (("text", 0, 0, 9), ("joint", 9, 0, 7), ("joint", 9, 4, 5), ("joint", 9, 0, 3)):
        log = Log(stage, 9, tmp_path, start=start, before=before, trackers=[])
        log.write(steps(start, stop), RATES)
        log.close()
    assert steps_told(tmp_path, "text/pairs/loss") == list(range(9))
    assert steps_told(tmp_path, "joint/pairs/loss") == [9, 10, 11]  # the last kill was before the first checkpoint


def steps_told(directory: Path, name: str) -> list[int]:
    return [event.step for event in events_of(directory, name)]


def events_of(directory: Path, name: str) -> list[Any]:
    return list(EventAccumulator(str(directory)).Reload().Scalars(name))


def test_mlflow_gets_the_numbers_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no database
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    run(tmp_path, 0, 6, open_trackers(["mlflow"], "sample-1", tmp_path, {"seed": 0}))
    run(tmp_path, 4, 9, open_trackers(["mlflow"], "sample-1", tmp_path, {"seed": 0}))
    (found,) = mlflow.search_runs(experiment_names=["unimir"], output_format="list")
    history = mlflow.MlflowClient().get_metric_history(found.info.run_id, "text/pairs/loss")
    assert {metric.step: metric.value for metric in history} == {100 + n: 10.0 - n for n in range(9)}


def test_a_tracker_that_cannot_begin_ends_a_run_at_its_start_and_no_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    mlflow.set_tracking_uri("nowhere://x")
    with pytest.raises(ValueError, match="tracker 'mlflow' cannot begin .*nowhere"):
        open_trackers(["mlflow"], "sample-1", tmp_path, {})
    assert open_trackers(["mlflow"], "sample-1", tmp_path, {}, resumed=True) == []
    assert "warning: mlflow is told no more (" in capsys.readouterr().err


def test_what_the_environment_sets_of_trackers_goes_along_but_for_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD", "WANDB_MODE", "WANDB_API_KEY", "OTHER"):
        monkeypatch.setenv(name, "x")
    found = tracker_settings(["mlflow", "wandb"])
    assert {"MLFLOW_TRACKING_URI", "WANDB_MODE"} <= found.keys()
    assert not {"MLFLOW_TRACKING_PASSWORD", "WANDB_API_KEY", "OTHER"} & found.keys()
    assert all(name.startswith("MLFLOW_") for name in tracker_settings(["mlflow"]))
    assert tracker_settings([]) == {}


def test_wandb_gets_the_numbers_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run(tmp_path, 0, 9, open_trackers(["wandb"], "sample-1", tmp_path, {"seed": 0}))
    names = [child.name() for child in psutil.Process().children(recursive=True)]
    assert not [name for name in names if "wandb" in name]  # its service ends when all is written
    (written,) = (tmp_path / "wandb").glob("offline-run-*-sample-1/*.wandb")
    assert b"text/pairs/loss" in written.read_bytes()


def test_a_tracker_that_is_not_there_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    check_trackers(["wandb", "mlflow"])
    with pytest.raises(ValueError, match="tracker 'wandbb'; trackers are wandb, mlflow, beside TensorBoard"):
        check_trackers(["wandbb"])
    monkeypatch.setattr("unimir.config.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"tracker 'mlflow' is not installed \(pip install mlflow\)"):
        check_trackers(["mlflow"])
