"""Starts the training job and turns its last checkpoint into a bundle.

Knows storage, retries and what must be right before anything starts; never sees a batch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.train
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from safetensors.torch import load_file

from unimir import artifacts
from unimir.bundle import read_label_sets, save_bundle
from unimir.config import LOSSES, Config, Task, check_trackers
from unimir.data.prepared import read_images, read_kind
from unimir.data.text import TextTokenizer
from unimir.model.text_encoder import check_arch
from unimir.model.tokens import TokenBatch
from unimir.model.unimir import UniMIR
from unimir.plain import to_dict
from unimir.schema import Split
from unimir.train.batches import of_sources, read_examples
from unimir.train.feed import contrasts
from unimir.train.hardware import ANY, Hardware, Node, Wanted, shared_out
from unimir.train.hints import Negatives, TeacherVectors
from unimir.train.log import tracker_settings
from unimir.train.losses import Taught
from unimir.train.process import environment
from unimir.train.snapshot import KeepWhole, mend
from unimir.train.stages import REACHED, parts, rate_of
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


def train(config: Config, prepared: Path, places: Places, wanted: Wanted = ANY) -> Trained:
    """Trains all stages of the config on a prepared corpus and writes `out/bundles/<run>`.

    A finished run of the same config on the same corpus is returned as it is; an interrupted one goes on from its last
    checkpoint, at any number of workers. Ray must be initialised. ValueError if the cluster is too small, or for what
    is wrong in any stage, before the first one begins.
    """
    check_trackers(places.trackers)
    prepared_id = artifacts.read_manifest(prepared, "prepared")["id"]
    run = f"{config.recipe}-{identity(config, prepared_id)}"
    bundle = places.out / "bundles" / run
    if not artifacts.exists(bundle):
        hardware = shared_out(_nodes(), wanted)
        check(config, prepared, hardware)
        teacher = teacher_vectors(config, prepared, places.out, workers=hardware.workers, gpus=hardware.gpus)
        with _fit(config, prepared.resolve(), places, run, hardware, teacher).as_directory() as found:
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
            config=to_dict(config),
            stages=stages,
        )
    manifest = artifacts.read_manifest(bundle, "bundle")
    return Trained(bundle=bundle, bundle_id=manifest["id"], stages=manifest["stages"])


def identity(config: Config, prepared_id: str) -> str:
    """What a run is known by: all that changes its model, and nothing of how often it is saved, cut up or judged."""
    values = to_dict(config)
    for part in ("restarts", "evaluation", "eval_split"):
        del values[part]
    for name in ("zero", "compile", "activation_checkpointing"):
        del values["engine"][name]
    named = [config.model.text.backbone, config.model.image.checkpoint, config.negatives]
    named.append(config.teacher.backbone if config.teacher else None)
    # A path may hold something else tomorrow.
    files = [artifacts.path_id(name) if name else None for name in named]
    return artifacts.content_id(artifacts.canonical_json([values, files]), prepared_id)


def check(config: Config, prepared: Path, hardware: Hardware) -> None:
    """ValueError for whatever a worker could not do, in the first stage or in the last."""
    if config.negatives:
        Negatives(Path(config.negatives), prepared)
    if config.engine.precision == "bf16" and not hardware.gpus:
        raise ValueError(
            "engine.precision bf16, but no GPUs; CPUs are a hundred times slower with it than with fp32 "
            "(where machines start when asked for: --gpus 1 --cpus N)"
        )
    check_stages(config, prepared, hardware.workers)
    check_arch(config.model.text)
    # Built once more after training, rather than kept: it would take its memory all the while.
    objective = build_objective(config, prepared)
    _check_rates(config, {part for part, _ in parts(objective)})
    if not 0 < config.model.image.min_crop <= 1:
        raise ValueError(f"model.image.min_crop {config.model.image.min_crop}; above 0, at most 1")
    _check_text(objective.model, config.model.text.max_tokens)
    side = config.model.image.size
    kept = [type(one).__name__ for one in objective.modules() if getattr(one, "running_var", None) is not None]
    for stage in config.stages if kept else ():
        pictured = [task for task in stage.tasks if task.kind in ("image_text", "intent_query")]
        if rate_of("image", stage) and any(task.cached for task in pictured):
            raise ValueError(
                f"stage {stage.name}: cached, and image backbone {config.model.image.name!r} has {kept[0]}, whose "
                "statistics would be of a chunk; a backbone that normalises by layer, or cached: false"
            )
    if config.engine.precision == "bf16" and kept:
        raise ValueError(
            f"image backbone {config.model.image.name!r} has {kept[0]}, whose running statistics stay in fp32; "
            "engine.precision fp32, or a backbone that normalises by layer"
        )
    tower = objective.model.eval().image
    for parameter in tower.parameters() if config.engine.precision == "bf16" else ():
        parameter.data = parameter.data.bfloat16()  # as the engine does, in a stage that may be the last
    try:
        with torch.no_grad():
            tower(torch.zeros(1, side, side, 3, dtype=torch.uint8))
    except Exception as error:  # whatever a backbone says of a size that is not its own
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"image backbone {config.model.image.name!r} takes no {side} pixels ({reason})") from error
    if config.engine.activation_checkpointing:
        try:
            objective.model.checkpoint_activations()
        except Exception as error:  # a ValueError of transformers, an assertion of timm
            raise ValueError(f"engine.activation_checkpointing: {' '.join(str(error).split())[:200]}") from error


def _check_text(model: UniMIR, longest: int) -> None:
    """ValueError for a text backbone that takes no text of `longest` tokens, or attends to what only fills up."""
    both = [[0] * longest, [0] * max(1, longest - 1)]  # alike enough to be padded together
    try:
        with torch.no_grad():
            text = model.eval().text
            together, alone = text(TokenBatch.from_lists(both)), text(TokenBatch.from_lists(both[1:]))
    except Exception as error:  # whatever a backbone says of inputs or of places that it does not have
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the text backbone takes no {longest} tokens ({type(error).__name__}: {reason})") from error
    difference = float((together.z_BD[1] - alone.z_BD[0]).abs().max())
    if not difference < 1e-3:  # also true for NaN
        raise ValueError(f"the text backbone gives a padded text another vector than alone (by {difference:.1e})")


def _check_rates(config: Config, there: set[str]) -> None:
    """ValueError for a task whose losses move nothing in its stage, or hold texts against proxies never learned.

    And for rates, weights and temperatures that are no such thing.
    """
    learned = False
    names = [stage.name for stage in config.stages]
    if len(set(names)) < len(names) or not all(re.fullmatch(r"[\w.-]+", name) for name in names):
        raise ValueError(f"stages {names}; each a name of its own, of letters, digits, . _ -, for its log is called so")
    for stage in config.stages:
        weights = {"language_temperature": stage.language_temperature}
        weights |= {f"rate of {part}": rate for part, rate in stage.rates.items()}
        weights |= {f"loss {loss} of {task.name}": value for task in stage.tasks for loss, value in task.losses.items()}
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"stage {stage.name}: {name} is {weight}; at least 0, and finite")
        moving = {part for part in there if rate_of(part, stage) > 0}
        learned |= "proxies" in moving
        for task in stage.tasks:
            where, losses = f"stage {stage.name}, task {task.name}", [name for name in LOSSES if task.losses.get(name)]
            reached = set().union(*(REACHED[name] for name in losses)) & there - {"scale"}  # a temperature is no end
            if task.kind not in ("image_text", "intent_query") or not contrasts(task):
                reached.discard("image")
            if not reached & moving:
                raise ValueError(
                    f"{where}: {', '.join(losses)} would move {', '.join(sorted(reached))}, of which none has a rate"
                )
            if "proxy" in losses and not learned:
                raise ValueError(f"{where}: proxy, but no stage up to this one has a rate for proxies")


def check_stages(config: Config, prepared: Path, workers: int) -> None:
    """ValueError for a task that could not begin when its stage does.

    Because of too few rows, nothing to hide tokens with, or queries that ask for nothing.
    """
    tokenizer = TextTokenizer.from_file(prepared / "tokenizer.json", config.model.text.max_tokens)
    for task in (task for stage in config.stages for task in stage.tasks):
        if task.hide and tokenizer.mask_id is None:
            raise ValueError(f"task {task.name}: hide {task.hide}; the tokenizer has no mask token to hide with")
        size = min(task.batch_size, len(read_examples(prepared, task, "train", [])))
        if size < workers:
            raise ValueError(f"task {task.name}: {size} rows a batch; {workers} workers need one each")
        for split in ("train", "validation"):
            if bare := _without_item(prepared, task, split):
                raise ValueError(
                    f"task {task.name}: {bare} queries of split {split} have neither a picture nor a document; its "
                    "losses (contrastive, fused) need one: leave out their source, or these losses"
                )


def _without_item(prepared: Path, task: Task, split: Split) -> int:
    """Queries that ask for nothing, of a task that holds queries against what they ask for."""
    if task.kind != "intent_query" or not contrasts(task):
        return 0
    table = read_kind(prepared, task.kind, split, ["source", "image_id", "doc_ids"])
    pictures = read_images(prepared)["image_id"].cast(pa.large_string()).combine_chunks()
    bare = pc.and_not(pc.is_null(table["doc_ids"]), pc.is_in(table["image_id"], pictures)).to_numpy()
    return int(bare[of_sources(table, task)].sum())


def _nodes() -> list[Node]:
    """CPUs and GPUs of the cluster's machines."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in found]


def _fit(
    config: Config, prepared: Path, places: Places, run: str, hardware: Hardware, teacher: Path | None
) -> ray.train.Checkpoint:
    """Runs the Ray Train job and returns its last checkpoint."""
    gpu = hardware.gpus > 0
    mend(places.runs, run)
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
            "threads": hardware.cpus,
        },
        scaling_config=ScalingConfig(
            num_workers=hardware.workers, use_gpu=gpu, resources_per_worker={"CPU": hardware.cpus}
        ),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(
            name=run,
            storage_path=places.runs,
            callbacks=[KeepWhole()],
            worker_runtime_env={"env_vars": environment(gpu) | tracker_settings(places.trackers)},
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
