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
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from safetensors.torch import load_file

from unimir import artifacts
from unimir.bundle import read_label_sets, save_bundle
from unimir.config import Config, to_dict
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


def train(config: Config, prepared: Path, out: Path, *, workers: int) -> Trained:
    """Trains all stages of the config on a prepared corpus and writes `out/bundles/<run>`.

    A finished run of the same config on the same corpus is returned as it is; an interrupted one goes on from its last
    checkpoint, at any number of workers. Ray must be initialised. ValueError if the cluster is too small.
    """
    prepared_id = artifacts.read_manifest(prepared, "prepared")["id"]
    values = to_dict(config)
    run = f"{config.recipe}-{artifacts.content_id(artifacts.canonical_json(values), prepared_id)}"
    bundle = out / "bundles" / run
    if not artifacts.exists(bundle):
        checkpoint_dir = _fit(config, prepared.resolve(), out.resolve(), run, workers)
        objective = build_objective(config, prepared)
        objective.load_state_dict(load_file(checkpoint_dir / WEIGHTS))
        save_bundle(
            bundle,
            objective.model,
            weights=objective.model.state_dict(),
            tokenizer_file=prepared / "tokenizer.json",
            label_sets=read_label_sets(prepared / "labels.json"),
            parents={"prepared": prepared_id},
            config=values,
            stages=json.loads((checkpoint_dir / PROGRESS).read_text(encoding="utf-8")),
        )
    manifest = artifacts.read_manifest(bundle, "bundle")
    return Trained(bundle=bundle, bundle_id=manifest["id"], stages=manifest["stages"])


def _fit(config: Config, prepared: Path, out: Path, run: str, workers: int) -> Path:
    """Runs the Ray Train job and returns a local directory with its last checkpoint."""
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if not 0 < workers <= cpus:
        raise ValueError(f"--workers {workers}; this cluster has {cpus} CPUs, and each worker needs one")
    gpu = torch.cuda.is_available()
    threads = max(1, cpus // workers)
    trainer = TorchTrainer(
        train_stages,
        train_loop_config={
            "config": to_dict(config),
            "prepared": str(prepared),
            "log_dir": str(out / "logs" / run),
            "threads": threads,
        },
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": threads}),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(
            name=run,
            storage_path=str(out / "runs"),
            failure_config=FailureConfig(max_failures=2),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    result = trainer.fit()
    if result.checkpoint is None:
        raise RuntimeError(f"run {run} ended without a checkpoint; see {out / 'runs' / run}")
    return Path(result.checkpoint.to_directory(str(out / "runs" / run / "last")))
