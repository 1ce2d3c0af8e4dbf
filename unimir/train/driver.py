"""Starts the training job and turns its last checkpoint into a bundle.

Knows the number of workers, storage and retries; never sees a batch.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from safetensors.torch import load_file

from unimir import artifacts
from unimir.bundle import read_label_sets, save_bundle
from unimir.config import Config, check_trackers
from unimir.plain import to_dict
from unimir.train.hints import Negatives, TeacherVectors
from unimir.train.losses import Taught
from unimir.train.process import ENVIRONMENT
from unimir.train.teach import teacher_vectors
from unimir.train.worker import PROGRESS, WEIGHTS, build_objective, train_stages


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training run."""

    bundle: Path
    bundle_id: str
    stages: list[dict[str, Any]]


def select_stages(config: Config, names: Sequence[str]) -> Config:
    """The config with only these stages, in the recipe's order. ValueError names an unknown one."""
    known = [stage.name for stage in config.stages]
    for name in names:
        if name not in known:
            raise ValueError(f"stage {name!r}; recipe {config.recipe} has {', '.join(known)}")
    return dataclasses.replace(config, stages=tuple(stage for stage in config.stages if stage.name in names))


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a run's files go, and who else is told of it: none of it changes the model."""

    out: Path
    storage: str | None = None  # of checkpoints: a path or URI that Arrow can write to; None: `out/runs`
    trackers: tuple[str, ...] = ()

    @property
    def runs(self) -> str:
        """The storage path of Ray Train, which takes no relative ones."""
        if self.storage is None:
            return str(self.out.resolve() / "runs")
        return self.storage if "://" in self.storage else str(Path(self.storage).resolve())


def train(config: Config, prepared: Path, places: Places, *, workers: int | None = None) -> Trained:
    """Trains all stages of the config on a prepared corpus and writes `out/bundles/<run>`.

    A finished run of the same config on the same corpus is returned as it is; an interrupted one goes on from its last
    checkpoint, at any number of workers: by default one for each GPU of the cluster, or without GPUs two. Ray must be
    initialised. ValueError if the cluster is too small.
    """
    check_trackers(places.trackers)
    prepared_id = artifacts.read_manifest(prepared, "prepared")["id"]
    values = to_dict(config)
    run = f"{config.recipe}-{artifacts.content_id(artifacts.canonical_json(values), prepared_id)}"
    bundle = places.out / "bundles" / run
    if not artifacts.exists(bundle):
        cpus, gpus = _resources()
        workers, threads = workers_and_threads(workers, cpus, gpus)
        if config.negatives:
            Negatives(Path(config.negatives), prepared)
        teacher = teacher_vectors(config, prepared, places.out, workers=workers, gpus=min(1, gpus))
        with _fit(config, prepared.resolve(), places, run, workers, threads, teacher).as_directory() as found:
            weights = load_file(Path(found) / WEIGHTS)
            stages = json.loads((Path(found) / PROGRESS).read_text(encoding="utf-8"))["reports"]
        taught = Taught(TeacherVectors(teacher).dim, "cosine") if teacher else None
        objective = build_objective(config, prepared, taught)
        objective.load_state_dict(weights)
        save_bundle(
            bundle,
            objective.model,
            weights=objective.model.state_dict(),
            tokenizer_file=prepared / "tokenizer.json",
            label_sets=read_label_sets(prepared / "labels.json"),
            parents={"prepared": prepared_id},
            config=values,
            stages=stages,
        )
    manifest = artifacts.read_manifest(bundle, "bundle")
    return Trained(bundle=bundle, bundle_id=manifest["id"], stages=manifest["stages"])


def _resources() -> tuple[int, int]:
    """CPUs and GPUs of the cluster."""
    found = ray.cluster_resources()
    return int(found.get("CPU", 0)), int(found.get("GPU", 0))


def workers_and_threads(workers: int | None, cpus: int, gpus: int) -> tuple[int, int]:
    """Workers on a cluster of so many CPUs and GPUs, and CPUs of each, on nodes that are alike.

    Unless asked for: one for each GPU, or without GPUs two. ValueError if there are too few for so many workers.
    """
    if workers is None:
        workers = gpus or min(2, cpus)
    if not 0 < workers <= cpus:
        raise ValueError(f"--workers {workers}; this cluster has {cpus} CPUs, and each worker needs one")
    if 0 < gpus < workers:
        raise ValueError(f"--workers {workers}; this cluster has {gpus} GPUs, and each worker needs one")
    return workers, cpus // workers


def _fit(
    config: Config, prepared: Path, places: Places, run: str, workers: int, threads: int, teacher: Path | None
) -> ray.train.Checkpoint:
    """Runs the Ray Train job and returns its last checkpoint."""
    gpu = _resources()[1] > 0
    trainer = TorchTrainer(
        train_stages,
        train_loop_config={
            "config": to_dict(config),
            "run": run,
            "prepared": str(prepared),
            "log_dir": str(places.out.resolve() / "logs" / run),
            "teacher": None if teacher is None else str(teacher.resolve()),
            "negatives": None if config.negatives is None else str(Path(config.negatives).resolve()),
            "trackers": list(places.trackers),
            "threads": threads,
        },
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": threads}),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(
            name=run,
            storage_path=places.runs,
            worker_runtime_env={"env_vars": ENVIRONMENT},
            failure_config=FailureConfig(max_failures=config.restarts.failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=config.restarts.keep,
                checkpoint_score_attribute="deciding",
                checkpoint_score_order="max",
            ),
        ),
    )
    result = trainer.fit()
    if result.checkpoint is None:
        raise RuntimeError(f"run {run} ended without a checkpoint; see {places.runs}")
    return result.checkpoint
