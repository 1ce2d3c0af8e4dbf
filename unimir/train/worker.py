"""What every training worker runs: all stages in one loop, reading nothing but its config argument.

Knows steps, resume and reports; does not know who started it, how many others there are by design, or what a bundle is.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from unimir.bundle import preprocess_of, read_label_sets
from unimir.config import Config, Stage, Task
from unimir.data.text import TextTokenizer
from unimir.model.unimir import UniMIR
from unimir.plain import from_dict
from unimir.train.batches import digest, rng_of
from unimir.train.engine import Engine
from unimir.train.feed import Sources, StageFeed, held_out, proxy_groups
from unimir.train.hints import Negatives, TeacherVectors
from unimir.train.log import Log, Step, open_trackers, rises
from unimir.train.losses import Objective, Taught
from unimir.train.ngrams import count_ngrams
from unimir.train.process import set_up_process
from unimir.train.shares import Batch, most
from unimir.train.stages import anchored, freeze, parts, rate_factor, rate_of
from unimir.train.throughput import Meter

WEIGHTS, MOMENTS, ANCHOR = "weights.safetensors", "moments.safetensors", "anchor.safetensors"
PROGRESS = "progress.json"
NOTE_EVERY = 10
"""Steps whose losses are read from the device, and summed over workers, at once: each reading waits for it."""


@dataclass
class Progress:
    """How far a run is: reports of finished stages, and the state of the one under way."""

    reports: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0  # of the stage under way
    counts: dict[str, float] = field(default_factory=dict)  # of its meter


def build_objective(config: Config, prepared: Path, taught: Taught | None = None) -> Objective:
    """The untrained objective for a prepared corpus: equal seeds give equal weights."""
    label_sets = read_label_sets(prepared / "labels.json")
    tokenizer = TextTokenizer.from_file(prepared / "tokenizer.json", config.model.text.max_tokens)
    groups_K = proxy_groups(config, prepared)
    torch.manual_seed(config.seed)
    model = UniMIR(config.model, label_sets, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)
    return Objective(model, groups_K, taught)


def train_stages(worker_config: Mapping[str, Any]) -> None:
    """The training function of a Ray Train worker.

    `worker_config` has `config` (a whole Config as plain values), `run` (its name), `prepared` and `log_dir`
    (directories), `teacher` and `negatives` (a directory, or None), `trackers` (names) and `threads`.
    """
    set_up_process(int(worker_config["threads"]))
    run = _Run(worker_config)
    try:
        run.train()
    finally:
        run.close()


class _Run:
    """One worker's run over all stages, from the last checkpoint on."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        context = ray.train.get_context()
        self._rank, self._workers = context.get_world_rank(), context.get_world_size()
        self._device = ray.train.torch.get_device()
        self._config = from_dict(Config, values["config"])
        self._prepared, self._log_dir = Path(values["prepared"]), Path(values["log_dir"])
        teacher = TeacherVectors(Path(values["teacher"])) if values["teacher"] else None
        distance = self._config.teacher.distance if self._config.teacher else "cosine"
        taught = None if teacher is None else Taught(teacher.dim, distance)
        # Never itself trained, for an engine leaves its own cut up and rounded. Between stages it takes weights, not
        # copies, for those it had, which the anchor keeps: a table of n-grams can be half a gigabyte.
        self._objective = build_objective(self._config, self._prepared, taught)
        self._moments: dict[str, Tensor] = {}  # of the stage under way
        self._anchor: dict[str, Tensor] = {}
        self._progress = Progress()
        self._begin_or_resume()
        negatives = values["negatives"]
        self._sources = Sources(
            self._config,
            self._prepared,
            read_label_sets(self._prepared / "labels.json"),
            preprocess_of(self._objective.model),
            Negatives(Path(negatives), self._prepared) if negatives else None,
            teacher,
        )
        names = values["trackers"] if self._rank == 0 else ()
        resumed = self._progress != Progress()
        self._trackers = open_trackers(names, values["run"], self._log_dir, values["config"], resumed=resumed)

    def train(self) -> None:
        """All stages that are not behind it."""
        while len(self._progress.reports) < len(self._config.stages):
            self._stage(self._config.stages[len(self._progress.reports)])

    def close(self) -> None:
        """Ends what other processes wait for."""
        for tracker in self._trackers:
            tracker.close()

    def _stage(self, stage: Stage) -> None:
        feed = StageFeed(stage, self._sources)
        objective, engine = self._begin(stage, feed)
        start = self._progress.step
        trained = {part for part, rate in stage.rates.items() if rate > 0}
        meter = Meter(self._objective.model, trained=trained, workers=self._workers, device=self._device)
        meter.restore(self._progress.counts)
        notes = _Notes(self._log(stage, start), meter, self._workers)
        every = self._config.restarts.every_steps
        for step, (task, batch) in enumerate(self._steps(feed, meter, start), start):
            torch.manual_seed(int(rng_of(self._config.seed, stage.name, step, self._rank).integers(2**62)))
            losses = engine.step(batch.to(self._device), rate_factor(step, stage))
            notes.add(step, task.name, feed.plan[step][1], losses, batch)
            if every and (step + 1) % every == 0 and step + 1 < stage.steps:
                notes.flush()
                self._progress = replace(self._progress, step=step + 1, counts=meter.state())
                self._save(engine, stage, notes.recent(self._held_out(engine, stage)))
        notes.flush()
        losses_held_out = self._held_out(engine, stage)
        forgotten = self._forgotten(engine)
        self._objective.load_state_dict(engine.weights(), assign=True)
        engine.close()
        report = {
            "name": stage.name,
            "steps": stage.steps,
            "examples": meter.counts.examples,
            **{name: round(value, 4) for name, value in meter.rates().items()},
            "held_out": losses_held_out,
            "forgotten": forgotten,
            **notes.close(),
        }
        self._progress = Progress([*self._progress.reports, report])
        self._save(None, stage, notes.recent(losses_held_out))

    def _begin(self, stage: Stage, feed: StageFeed) -> tuple[Objective, Engine]:
        """A copy of the objective in a fresh engine."""
        config = self._config
        objective = deepcopy(self._objective)
        objective.to(self._device).train()
        freeze(objective, stage)
        if len(self._progress.reports) < 2 and not self._progress.step:
            # Later stages are held to what the first one has learned, and that one to what it began with.
            self._anchor = self._objective.model.text.state_dict()
        if anchored(stage):
            objective.set_anchor(self._anchor, torch.bfloat16 if config.engine.precision == "bf16" else torch.float32)
        if feed.kept_pictures:
            objective.keep_pictures(feed.kept_pictures)
        if config.engine.zero == 3 and self._workers > 1:
            objective.model.agree_on_passes(partial(most, device=self._device))
        if config.engine.activation_checkpointing:
            objective.model.checkpoint_activations()
        if config.engine.compile:
            objective.model.compile_backbones()
        engine = Engine(objective, [(part, rate_of(name, stage)) for name, part in parts(objective)], config.engine)
        if self._progress.step:
            engine.resume(self._moments, self._progress.step)
            self._moments = {}
        return objective, engine

    def _steps(self, feed: StageFeed, meter: Meter, start: int) -> Iterator[tuple[Task, Batch]]:
        """The feed's steps, and how long they were waited for."""
        batches = feed.batches(self._rank, self._workers, start=start)
        while True:
            with meter.waiting():
                found = next(batches, None)
            if found is None:
                return
            meter.count(found[1])
            yield found

    def _held_out(self, engine: Engine, stage: Stage) -> dict[str, float]:
        """The loss of every task on the validation split; tasks without such rows are left out."""
        losses = {}
        for task, batches in held_out(stage, self._sources, self._rank, self._workers):
            found = torch.stack([engine.evaluate(batch.to(self._device)).double() for batch in batches]).mean()
            if self._workers > 1:
                dist.all_reduce(found)
            losses[task.name] = round(float(found) / self._workers, 6)
        return losses

    def _forgotten(self, engine: Engine) -> dict[str, float]:
        """By how much the held-out loss of every earlier stage's tasks has risen since that stage ended."""
        risen: dict[str, float] = {}
        for stage, report in zip(self._config.stages, self._progress.reports, strict=False):
            now = self._held_out(engine, stage) if report["held_out"] else {}
            risen |= {f"{stage.name}.{task}": rise for task, rise in rises(report["held_out"], now).items()}
        return risen

    def _log(self, stage: Stage, start: int) -> Log | None:
        if self._rank:
            return None
        before = sum(one.steps for one in self._config.stages[: len(self._progress.reports)])
        return Log(stage.name, stage.steps, self._log_dir, start=start, before=before, trackers=self._trackers)

    def _save(self, engine: Engine | None, stage: Stage, loss: float) -> None:
        """Rank 0's directory is the checkpoint; the report is collective. With an engine, within the stage."""
        weights = self._objective.state_dict() if engine is None else engine.weights()
        moments = {} if engine is None else engine.moments()
        score = deciding(len(self._progress.reports) - (engine is None), loss)
        with tempfile.TemporaryDirectory() as temporary:
            checkpoint = None
            if self._rank == 0:
                directory = Path(temporary)
                save_file(weights, directory / WEIGHTS)
                if engine is not None:
                    save_file(moments, directory / MOMENTS)
                if any(map(anchored, self._config.stages)):
                    save_file(self._anchor, directory / ANCHOR)
                (directory / PROGRESS).write_text(json.dumps(asdict(self._progress)), encoding="utf-8")
                checkpoint = ray.train.Checkpoint.from_directory(directory)
            metrics = {"stage": stage.name, "step": self._progress.step or stage.steps, "deciding": score}
            ray.train.report(metrics, checkpoint=checkpoint)

    def _begin_or_resume(self) -> None:
        """Loads the last checkpoint, or learns what comes before the first step."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            count_ngrams(self._objective.model.text.ngrams, self._config, self._prepared, self._device)
            return
        with checkpoint.as_directory() as found:
            directory = Path(found)
            self._progress = Progress(**json.loads((directory / PROGRESS).read_text(encoding="utf-8")))
            self._objective.load_state_dict(load_file(directory / WEIGHTS), assign=True)
            if self._progress.step:
                self._moments = load_file(directory / MOMENTS)
            self._anchor = load_file(directory / ANCHOR) if (directory / ANCHOR).exists() else {}


class _Notes:
    """Losses of some steps on their way from the device to the log, summed over workers."""

    def __init__(self, log: Log | None, meter: Meter, workers: int) -> None:
        self._log, self._meter, self._workers = log, meter, workers
        self._steps: list[tuple[int, str, int, list[str], int]] = []
        self._values: list[Tensor] = []

    def add(self, step: int, task: str, number: int, losses: Mapping[str, Tensor], batch: Batch) -> None:
        """Notes one step."""
        assert batch.rows_B is not None
        self._steps.append((step, task, number, list(losses), digest(batch.rows_B.numpy())))
        self._values.append(torch.stack([loss.double() for loss in losses.values()]))
        if len(self._steps) == NOTE_EVERY:
            self.flush()

    def flush(self) -> None:
        """Sends them on. Collective."""
        if not self._steps:
            return
        seen = torch.tensor([digest for *_, digest in self._steps], dtype=torch.float64)
        values = torch.cat([seen.to(self._values[0].device), *self._values])  # one copy: each waits for the device
        if self._workers > 1:
            dist.all_reduce(values)
        numbers = iter(values.tolist())
        digests, steps = [next(numbers) for _ in self._steps], []
        for (step, task, number, names, _), rows in zip(self._steps, digests, strict=True):
            # Every worker holds its part of the mean (see Objective), and its part of the examples.
            losses = {name: next(numbers) / self._workers for name in names}
            if not all(map(math.isfinite, losses.values())):  # alike on all workers, and in no checkpoint yet
                raise ValueError(f"step {step}, task {task}: losses {losses}; no step can follow (are rates too high?)")
            steps.append(Step(number=step, task=task, batch=number, losses=losses, seen=int(rows) % 2**31))
        self._steps, self._values = [], []
        if self._log is not None:
            self._log.write(steps, self._meter.rates())

    def recent(self, held_out: Mapping[str, float]) -> float:
        """The loss to judge by: held out, or where nothing is, that of the last steps."""
        if held_out:
            return sum(held_out.values()) / len(held_out)
        return self._log.recent() if self._log is not None else 0.0

    def close(self) -> dict[str, float]:
        """What the log has to say at the end of the stage."""
        return self._log.close() if self._log is not None else {}


def deciding(stages: int, loss: float) -> float:
    """What checkpoints are kept by, the highest first: a later stage wins, then the lower loss; NaN is the worst."""
    return stages + (1 / (2 + max(0.0, loss)) if math.isfinite(loss) else 0.0)
