"""What a training run tells while it runs: a progress line, JSON lines, TensorBoard, and other trackers by name.

Knows numbers by name and step; knows neither model nor data.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

SHOW_EVERY_S = 5.0


class Tracker(Protocol):
    """Where numbers go."""

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Notes these values of a step of the whole run."""

    def close(self) -> None:
        """Sends what is still to be sent."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step's numbers."""

    number: int
    task: str
    batch: int  # the running number of the task's batch
    losses: Mapping[str, float]
    seen: int  # digest of the global batch's examples


class Log:
    """Rank 0's account of one stage; steps before `start` are those that an earlier run of it has told."""

    def __init__(
        self, stage: str, steps: int, directory: Path, *, start: int, before: int, trackers: Sequence[Tracker]
    ) -> None:
        """`before` are the steps of the stages before this one."""
        directory.mkdir(parents=True, exist_ok=True)
        self._stage, self._steps, self._before = stage, steps, before
        self._writer = SummaryWriter(str(directory), purge_step=before + start)
        self._trackers = list(trackers)
        path = directory / f"{stage}.jsonl"
        kept = path.read_text(encoding="utf-8").splitlines() if start and path.exists() else []
        # A run that was killed told steps that its last checkpoint does not hold: they are made, and told, again.
        told = [line for line in kept if line.endswith("}") and json.loads(line)["step"] < start]
        # Whole at any moment: the next kill may come before the first new line.
        fresh = path.with_suffix(".new")
        fresh.write_text("".join(f"{line}\n" for line in told), encoding="utf-8")
        fresh.replace(path)
        self._lines = path.open("a", encoding="utf-8")
        self._losses: list[float] = [json.loads(line)["loss"] for line in told]
        self._shown = time.perf_counter()

    def write(self, steps: Sequence[Step], rates: Mapping[str, float]) -> None:
        """Notes some steps, and how fast they went."""
        for step in steps:
            self._losses.append(step.losses["loss"])
            line = {"step": step.number, "task": step.task, "batch": step.batch, **step.losses, "seen": step.seen}
            self._lines.write(json.dumps(line) + "\n")
            named = {f"{self._stage}/{step.task}/{name}": value for name, value in step.losses.items()}
            self._tell(named, step.number)
        if not steps:
            return
        self._lines.flush()
        last = steps[-1].number
        self._tell({f"{self._stage}/{name}": value for name, value in rates.items()}, last)
        now = time.perf_counter()
        if now - self._shown >= SHOW_EVERY_S or last + 1 == self._steps:
            self._shown = now
            self._show(last + 1, rates)

    def _tell(self, values: Mapping[str, float], step: int) -> None:
        """All stages count on: a purge, or a tracker that takes no earlier step, would lose what came before."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, self._before + step)
        for tracker in list(self._trackers):
            try:
                tracker.write(values, self._before + step)
            except Exception as error:  # whatever its library raises: a server that is away costs no training
                self._trackers.remove(tracker)
                reason = " ".join(str(error).split())[:200]
                sys.stderr.write(f"warning: {type(tracker).__name__.strip('_').lower()} is told no more ({reason})\n")

    def _show(self, steps: int, rates: Mapping[str, float]) -> None:
        """A whole line each time: Ray forwards a worker's lines, and cursor movements do not survive that."""
        state = f"loss {self.recent():.3f}, {rates['examples_per_s']:.0f} examples/s"
        bar = tqdm.format_meter(
            steps, self._steps, rates["seconds"], ncols=100, prefix=self._stage, unit="step", postfix=state
        )
        sys.stderr.write(f"{bar}\n")
        sys.stderr.flush()

    def recent(self) -> float:
        """The mean loss of the last twenty steps."""
        last = self._losses[-20:]
        return sum(last) / max(1, len(last))

    def close(self) -> dict[str, float]:
        """The mean losses of the first and the last twenty steps."""
        self._writer.close()
        self._lines.close()
        first = self._losses[:20]
        return {"loss_first": round(sum(first) / max(1, len(first)), 4), "loss_last": round(self.recent(), 4)}


def rises(then: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """How much higher each loss is now, of tasks measured both times: with more workers some have too few rows."""
    return {task: round(now[task] - loss, 6) for task, loss in then.items() if task in now}


def open_trackers(
    names: Sequence[str], run: str, directory: Path, config: Mapping[str, Any], *, resumed: bool = False
) -> list[Tracker]:
    """The trackers of these names, which `check_trackers` has let through.

    ValueError for one that cannot begin (no key, no server); a run that is resumed goes on without it.
    """
    trackers: list[Tracker] = []
    for name in names:
        try:
            trackers.append(_TRACKERS[name](run, directory, config))
        except Exception as error:  # whatever its library raises
            reason = " ".join(str(error).split())[:200]
            if not resumed:
                raise ValueError(f"tracker {name!r} cannot begin ({reason})") from error
            sys.stderr.write(f"warning: {name} is told no more ({reason})\n")
    return trackers


def tracker_settings(names: Sequence[str]) -> dict[str, str]:
    """What this process's environment sets of these trackers, for workers of a cluster that runs already.

    Not keys and passwords: Ray shows a worker's environment to whoever sees its dashboard.
    """
    prefixes = tuple(f"{name.upper()}_" for name in names)
    named = {key: value for key, value in os.environ.items() if prefixes and key.startswith(prefixes)}
    return {key: value for key, value in named.items() if not key.endswith(("KEY", "TOKEN", "PASSWORD"))}


class _Wandb:
    def __init__(self, run: str, directory: Path, config: Mapping[str, Any]) -> None:
        import wandb

        directory.mkdir(parents=True, exist_ok=True)
        # The same id after a kill: the run goes on. Its mode (online, offline) is wandb's own WANDB_MODE.
        self._run = wandb.init(
            project="unimir", name=run, id=run, resume="allow", dir=str(directory), config=dict(config)
        )

    def write(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        import wandb

        self._run.finish()
        wandb.teardown()  # finish() does not wait for what the service has not written yet


class _Mlflow:
    def __init__(self, run: str, directory: Path, config: Mapping[str, Any]) -> None:
        import mlflow

        # Where to: MLFLOW_TRACKING_URI, as everywhere. A run of this name that was killed goes on.
        mlflow.set_experiment("unimir")
        known = mlflow.search_runs(filter_string=f"attributes.run_name = '{run}'", max_results=1, output_format="list")
        self._run = mlflow.start_run(run_id=known[0].info.run_id) if known else mlflow.start_run(run_name=run)
        if not known:
            mlflow.log_dict(dict(config), "config.json")

    def write(self, values: Mapping[str, float], step: int) -> None:
        import mlflow

        mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        import mlflow

        mlflow.end_run()


_TRACKERS: Mapping[str, Callable[[str, Path, Mapping[str, Any]], Tracker]] = {"wandb": _Wandb, "mlflow": _Mlflow}
