"""What every training worker runs: all stages in one loop, reading nothing but its config argument.

Knows steps, resume and reports; does not know who started it, how many others there are by design, or what a bundle is.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from unimir.bundle import preprocess_of, read_label_sets
from unimir.config import Config, Stage, from_dict
from unimir.data.text import TextTokenizer
from unimir.model.tokens import TokenBatch
from unimir.model.unimir import UniMIR
from unimir.train.engine import Engine
from unimir.train.feed import Pictures, StageFeed, proxy_groups
from unimir.train.losses import Batch, Objective
from unimir.train.stages import freeze, parts, rate_factor, rate_of

WEIGHTS = "weights.safetensors"
PROGRESS = "progress.json"
SHOW_EVERY_S = 5.0


def build_objective(config: Config, prepared: Path) -> Objective:
    """The untrained objective for a prepared corpus: equal seeds give equal weights."""
    label_sets = read_label_sets(prepared / "labels.json")
    tokenizer = TextTokenizer.from_file(prepared / "tokenizer.json", config.model.text.max_tokens)
    groups_K = proxy_groups(config, prepared)
    torch.manual_seed(config.seed)
    model = UniMIR(config.model, label_sets, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)
    return Objective(model, groups_K)


def train_stages(worker_config: Mapping[str, Any]) -> None:
    """The training function of a Ray Train worker.

    `worker_config` has `config` (a whole Config as plain values), `prepared` and `log_dir` (directories).
    """
    config = from_dict(Config, worker_config["config"])
    prepared, log_dir = Path(worker_config["prepared"]), Path(worker_config["log_dir"])
    torch.set_num_threads(int(worker_config["threads"]))
    torch.set_flush_denormal(True)  # Adam's moments of rare tokens decay into denormals, which are slow on a CPU
    objective = build_objective(config, prepared)
    reports = _resume(objective)
    cache: dict[str, Pictures] = {}
    for stage in config.stages[len(reports) :]:
        feed = StageFeed(
            stage,
            config,
            prepared,
            read_label_sets(prepared / "labels.json"),
            preprocess_of(objective.model),
            cache,
        )
        reports.append(_train_stage(stage, objective, feed, config, log_dir))
        _checkpoint(objective, reports)


def _train_stage(stage: Stage, objective: Objective, feed: StageFeed, config: Config, log_dir: Path) -> dict[str, Any]:
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    freeze(objective, stage)
    if any(task.losses.get("anchor") for task in stage.tasks):
        objective.set_anchor()
    objective.train()
    engine = Engine(objective, [(module, rate_of(part, stage)) for part, module in parts(objective)], config.engine)
    log = _Log(stage, log_dir) if rank == 0 else None
    examples, start = 0, time.perf_counter()
    for step, (task, batch) in enumerate(feed.batches(rank, workers)):
        losses = engine.step(_to(batch, engine.device), rate_factor(step, stage))
        examples += sum(batch.sizes)
        values = _mean_over_workers(losses, workers)
        if log is not None:
            log.write(step, task.name, values, examples)
    seconds = time.perf_counter() - start
    objective.load_state_dict(engine.weights())
    engine.close()
    return {
        "name": stage.name,
        "steps": stage.steps,
        "examples": examples,
        "seconds": round(seconds, 2),
        "examples_per_s": round(examples / seconds, 1),
        **(log.close() if log is not None else {}),
    }


class _Log:
    """Rank 0's progress, TensorBoard scalars, and every step's loss as a JSON line."""

    def __init__(self, stage: Stage, log_dir: Path) -> None:
        log_dir.mkdir(parents=True, exist_ok=True)
        self._stage = stage
        self._writer = SummaryWriter(str(log_dir))
        self._lines = (log_dir / f"{stage.name}.jsonl").open("w", encoding="utf-8")
        self._losses: list[float] = []
        self._started = self._shown = time.perf_counter()

    def write(self, step: int, task: str, losses: Mapping[str, float], examples: int) -> None:
        now = time.perf_counter()
        self._losses.append(losses["loss"])
        self._lines.write(json.dumps({"step": step, "task": task, **losses}) + "\n")
        for name, value in losses.items():
            self._writer.add_scalar(f"{self._stage.name}/{task}/{name}", value, step)
        self._writer.add_scalar(f"{self._stage.name}/examples_per_s", examples / (now - self._started), step)
        if now - self._shown >= SHOW_EVERY_S or step + 1 == self._stage.steps:
            self._shown = now
            self._show(step + 1, now - self._started, examples)

    def _show(self, steps: int, elapsed_s: float, examples: int) -> None:
        """A whole line each time: Ray forwards a worker's lines, and cursor movements do not survive that."""
        recent = self._losses[-20:]
        state = f"loss {sum(recent) / len(recent):.3f}, {examples / elapsed_s:.0f} examples/s"
        bar = tqdm.format_meter(
            steps, self._stage.steps, elapsed_s, ncols=100, prefix=self._stage.name, unit="step", postfix=state
        )
        sys.stderr.write(f"{bar}\n")
        sys.stderr.flush()

    def close(self) -> dict[str, float]:
        self._writer.close()
        self._lines.close()
        first, last = self._losses[:20], self._losses[-20:]
        return {"loss_first": round(sum(first) / len(first), 4), "loss_last": round(sum(last) / len(last), 4)}


def _mean_over_workers(losses: Mapping[str, Tensor], workers: int) -> dict[str, float]:
    """The global batch's losses; every worker holds its part of the mean (see Objective)."""
    values = torch.stack([loss.float() for loss in losses.values()])
    if workers > 1:
        dist.all_reduce(values)
    return dict(zip(losses, (values / workers).tolist(), strict=True))


def _to(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    moved = {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value.to(device)
        for name, value in vars(batch).items()
        if isinstance(value, (Tensor, TokenBatch))
    }
    return Batch(**{**vars(batch), **moved})


def _checkpoint(objective: Objective, reports: list[dict[str, Any]]) -> None:
    """Rank 0's directory is the checkpoint; the report is collective."""
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = None
        if ray.train.get_context().get_world_rank() == 0:
            save_file(objective.state_dict(), Path(directory) / WEIGHTS)
            (Path(directory) / PROGRESS).write_text(json.dumps(reports), encoding="utf-8")
            checkpoint = ray.train.Checkpoint.from_directory(directory)
        ray.train.report({"stages": reports}, checkpoint=checkpoint)


def _resume(objective: Objective) -> list[dict[str, Any]]:
    """Loads the last checkpoint, if any, and returns the reports of the stages it has behind it."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return []
    with checkpoint.as_directory() as directory:
        objective.load_state_dict(load_file(Path(directory) / WEIGHTS))
        reports: list[dict[str, Any]] = json.loads((Path(directory) / PROGRESS).read_text(encoding="utf-8"))
    return reports
