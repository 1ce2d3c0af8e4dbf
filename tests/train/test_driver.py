"""Is training right as a whole: it learns, repeats, is the same at one and two workers, freezes, refuses mistakes."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unimir import artifacts
from unimir.config import Config
from unimir.train.driver import select_stages, train
from unimir.train.worker import build_objective


def losses(run: Path, stage: str) -> list[dict[str, float]]:
    (log,) = (run / "logs").glob(f"*/{stage}.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_every_stage_reports_and_the_text_loss_falls(tiny_bundle: Path) -> None:
    stages = artifacts.read_manifest(tiny_bundle, "bundle")["stages"]
    assert [stage["name"] for stage in stages] == ["text", "nlu", "joint"]
    for stage in stages:
        assert set(stage) == {"name", "steps", "examples", "seconds", "examples_per_s", "loss_first", "loss_last"}
        assert stage["examples"] >= stage["steps"] * 2
    lines = stages and tiny_bundle.parent.parent
    text = [line["loss"] for line in losses(lines, "text") if line["task"] == "parallel"]
    assert sum(text[-4:]) < sum(text[:4])


def test_tensorboard_events_are_there(tiny_run: Path) -> None:
    assert list((tiny_run / "logs").glob("*/events.out.tfevents.*"))


def test_a_finished_run_is_returned_as_it_is(tiny_run: Path, tiny_prepared: Path, tiny_config: Config) -> None:
    (bundle,) = (tiny_run / "bundles").iterdir()
    before = (bundle / "manifest.json").stat().st_mtime_ns
    again = train(tiny_config, tiny_prepared, tiny_run, workers=2)
    assert again.bundle == bundle
    assert (bundle / "manifest.json").stat().st_mtime_ns == before


def test_same_seed_same_bundle_and_one_worker_sees_the_same(
    tiny_run: Path, tiny_bundle: Path, tiny_prepared: Path, tiny_config: Config, tmp_path: Path
) -> None:
    first_id = artifacts.read_manifest(tiny_bundle, "bundle")["id"]
    assert train(tiny_config, tiny_prepared, tmp_path / "again", workers=2).bundle_id == first_id
    only_text = select_stages(tiny_config, ["text"])
    train(only_text, tiny_prepared, tmp_path / "alone", workers=1)
    together, alone = losses(tiny_run, "text"), losses(tmp_path / "alone", "text")
    assert len(together) == len(alone) == 20
    for two, one in zip(together, alone, strict=True):
        assert one["task"] == two["task"]
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


def test_a_part_of_rate_zero_is_bit_identical(tiny_prepared: Path, tiny_config: Config, tmp_path: Path) -> None:
    stage = dataclasses.replace(tiny_config.stages[2], steps=4, rates={"nlu": 1e-3, "fusion": 1e-3})
    config = dataclasses.replace(tiny_config, stages=(stage,))
    trained = train(config, tiny_prepared, tmp_path, workers=2)
    before = build_objective(config, tiny_prepared).model.state_dict()
    after = load_file(trained.bundle / "model.safetensors")
    for name, value in before.items():
        frozen = name.startswith(("text.", "image."))
        assert torch.equal(value, after[name]) == frozen or not value.is_floating_point(), name


def test_too_many_workers_is_a_clear_error(tiny_prepared: Path, tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--workers 9; this cluster has 2 CPUs"):
        train(tiny_config, tiny_prepared, tmp_path, workers=9)


def test_unknown_stage_is_a_clear_error(tiny_config: Config) -> None:
    with pytest.raises(ValueError, match="stage 'jiont'; recipe tiny has text, nlu, joint"):
        select_stages(tiny_config, ["jiont"])
