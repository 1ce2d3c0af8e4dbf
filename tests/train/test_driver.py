"""Is training right as a whole: it learns, goes on when killed, is the same at one and two workers, refuses
mistakes."""

import contextlib
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import batch_of, build

from unimir import artifacts
from unimir.config import Config, EngineConfig
from unimir.plain import override
from unimir.train.driver import Places, check, identity, select_stages, train
from unimir.train.hardware import Hardware, Wanted
from unimir.train.throughput import Meter
from unimir.train.worker import ANCHOR, WEIGHTS, _Notes, build_objective

MODEL = "model.safetensors"


def losses(run: Path, stage: str) -> list[dict[str, float]]:
    (log,) = (run / "logs").glob(f"*/{stage}.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_every_stage_reports_and_the_text_loss_falls(tiny_bundle: Path) -> None:
    stages = artifacts.read_manifest(tiny_bundle, "bundle")["stages"]
    assert [stage["name"] for stage in stages] == ["text", "nlu", "joint"]
    told = "name steps examples seconds examples_per_s tokens_per_s padding data_wait mfu held_out forgotten"
    for stage in stages:
        assert set(stage) == {*told.split(), "loss_first", "loss_last"}
        assert stage["examples"] >= stage["steps"] * 2
        assert 0 <= stage["padding"] < 0.5 and 0 <= stage["data_wait"] <= 1 and 0 < stage["mfu"] < 1
    lines = stages and tiny_bundle.parent.parent
    text = [line["loss"] for line in losses(lines, "text") if line["task"] == "parallel"]
    assert sum(text[-4:]) < sum(text[:4])


def test_tensorboard_events_are_there(tiny_run: Path) -> None:
    assert list((tiny_run / "logs").glob("*/events.out.tfevents.*"))


def test_what_later_stages_are_held_to_is_what_the_first_one_has_learned(tiny_run: Path) -> None:
    found = [path.parent for path in (tiny_run / "runs").glob("*/checkpoint_*/progress.json")]
    first, _, last = sorted(found, key=lambda path: len(json.loads((path / "progress.json").read_text())["reports"]))
    learned, kept = load_file(first / WEIGHTS), load_file(last / ANCHOR)
    assert kept and kept.keys() == {name.removeprefix("model.text.") for name in learned if "model.text." in name}
    for name, value in kept.items():
        assert torch.equal(value, learned[f"model.text.{name}"]), name


def test_a_finished_run_is_returned_as_it_is(tiny_run: Path, tiny_prepared: Path, tiny_config: Config) -> None:
    (bundle,) = (tiny_run / "bundles").iterdir()
    before = (bundle / "manifest.json").stat().st_mtime_ns
    again = train(tiny_config, tiny_prepared, Places(out=tiny_run), Wanted(workers=2))
    assert again.bundle == bundle
    assert (bundle / "manifest.json").stat().st_mtime_ns == before


def test_one_worker_sees_what_two_see_and_moves_only_what_has_a_rate(
    tiny_run: Path, tiny_prepared: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = select_stages(tiny_config, ["text"])
    trained = train(config, tiny_prepared, Places(out=tmp_path), Wanted(workers=1))
    before, after = build_objective(config, tiny_prepared).model.state_dict(), load_file(trained.bundle / MODEL)
    for name, value in before.items():
        moves = name.startswith("text.") and value.is_floating_point()
        assert torch.equal(value, after[name]) != moves, name
    together, alone = losses(tiny_run, "text"), losses(tmp_path, "text")
    assert len(together) == len(alone) == 20
    for two, one in zip(together, alone, strict=True):
        assert one["task"] == two["task"]
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


def test_zero_3_at_two_workers_sees_and_learns_the_same(
    tiny_run: Path, tiny_prepared: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = dataclasses.replace(select_stages(tiny_config, ["text"]), engine=EngineConfig(zero=3))
    train(config, tiny_prepared, Places(out=tmp_path), Wanted(workers=2))
    for plain, cut in zip(losses(tiny_run, "text"), losses(tmp_path, "text"), strict=True):
        assert (cut["task"], cut["seen"]) == (plain["task"], plain["seen"])
        assert cut["loss"] == pytest.approx(plain["loss"], rel=1e-4)


def test_an_unknown_tracker_is_a_clear_error(tiny_prepared: Path, tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tracker 'wandbb'; trackers are wandb, mlflow, beside TensorBoard"):
        train(tiny_config, tiny_prepared, Places(out=tmp_path, trackers=("wandbb",)), Wanted(workers=1))


def test_too_many_workers_is_a_clear_error(tiny_prepared: Path, tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--workers 9; this cluster has 2 CPUs"):
        train(tiny_config, tiny_prepared, Places(out=tmp_path), Wanted(workers=9))


def test_unknown_stage_is_a_clear_error(tiny_config: Config) -> None:
    with pytest.raises(ValueError, match="stage 'jiont'; recipe tiny has text, nlu, joint"):
        select_stages(tiny_config, ["jiont"])


def test_negatives_of_another_corpus_are_refused_before_anything_starts(
    tiny_prepared: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = dataclasses.replace(tiny_config, negatives=str(tmp_path))
    with pytest.raises(ValueError, match="not a negatives artifact"):
        train(config, tiny_prepared, Places(out=tmp_path), Wanted(workers=2))


def test_what_changes_no_model_changes_no_run_and_what_does_is_another(tiny_config: Config, tmp_path: Path) -> None:
    def changed(*settings: str) -> str:
        return identity(override(tiny_config, settings), "corpus")

    own = identity(tiny_config, "corpus")
    for setting in ("restarts.failures=9", "restarts.every_steps=7", "engine.zero=2", "evaluation=[]"):
        assert changed(setting) == own, setting
    for setting in ("seed=1", "engine.grad_clip=2", "stages.text.steps=21", "engine={zero: 1, precision: bf16}"):
        assert changed(setting) != own, setting
    assert identity(tiny_config, "another") != own
    backbone = tmp_path / "backbone"
    backbone.mkdir()
    settings = (f"model.text.backbone={backbone}", f"tokenizer.path={backbone}")
    (backbone / "model.safetensors").write_bytes(b"one")
    before = changed(*settings)
    (backbone / ".lock").touch()
    assert changed(*settings) == before
    (backbone / "model.safetensors").write_bytes(b"two")
    assert changed(*settings) != before  # the same path, another model


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["engine={zero: 1, precision: bf16}"], "engine.precision bf16, but no GPUs"),
        (["model.image={name: vit_tiny_patch16_224, size: 32}"], "'vit_tiny_patch16_224' takes no 32 pixels"),
        (["stages.joint.tasks.captions.sources=[flickr]"], "task captions: .* has no image_text rows of flickr in"),
        (
            ["stages.joint.tasks.captions.sources=[sample_captions, captoins]"],
            "no image_text rows of captoins in split",
        ),
        (
            ["stages.joint.rates={image: 2e-3, fusion: 2e-3}"],
            "stage joint, task parallel: contrastive, anchor would move text, of which none has a rate",
        ),
        (
            ["stages.text.tasks.parallel.losses.proxy=1"],
            "stage text, task parallel: proxy, but no stage up to this one has a rate for proxies",
        ),
        (
            ["engine.activation_checkpointing=true", "model.image={name: hrnet_w18_small, size: 32}"],
            "engine.activation_checkpointing: gradient checkpointing not supported",
        ),
        (["model.text.arch.num_layers=4"], "model.text.arch: unknown key 'num_layers'; keys of xlm-roberta: .*num_hid"),
        (["stages.joint.rates.text=-1e-3"], "stage joint: rate of text is -0.001; at least 0, and finite"),
        (["stages.text.language_temperature=-0.5"], "stage text: language_temperature is -0.5; at least 0, and finite"),
        (["stages.text.tasks.parallel.losses.contrastive=.nan"], "loss contrastive of parallel is nan; at least 0"),
        (["model.image.min_crop=0"], "model.image.min_crop 0.0; above 0, at most 1"),
        (
            ["stages.text.rates={scale: 1e-3, image: 1e-3}"],
            "contrastive would move .*, of which none has a rate",
        ),
        (
            ["stages.joint.tasks.captions.cached=true", "model.image={name: resnet10t, size: 32}"],
            "stage joint: cached, and image backbone 'resnet10t' has BatchNorm",
        ),
        (["model.text.arch={model_type: t5, d_model: 32, num_layers: 1}"], "the text backbone takes no .* tokens"),
        (
            ["model.text.arch={model_type: fnet, hidden_size: 32, num_hidden_layers: 1, intermediate_size: 32}"],
            "the text backbone gives a padded text another vector than alone",
        ),
        (["model.text.arch.model_type=bart5"], "model_type 'bart5'; transformers has no such model"),
    ],
)
def test_what_a_later_stage_could_not_do_is_said_before_the_first(
    settings: list[str], message: str, tiny_config: Config, tiny_prepared: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(override(tiny_config, settings), tiny_prepared, Places(out=tmp_path), Wanted(workers=1))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["text", "a/b", ""])
def test_a_stage_is_called_as_its_log_can_be(tiny_config: Config, tiny_prepared: Path, name: str) -> None:
    text, other, *rest = tiny_config.stages
    config = dataclasses.replace(tiny_config, stages=(text, dataclasses.replace(other, name=name), *rest))
    with pytest.raises(ValueError, match=r"stages \['text', .*; each a name of its own"):
        check(config, tiny_prepared, Hardware(workers=1, cpus=1, gpus=0))


def test_a_loss_that_is_no_number_ends_training_before_it_is_saved() -> None:
    notes = _Notes(None, Meter(build(), trained={"text"}, workers=1, device=torch.device("cpu")), 1)
    batch = dataclasses.replace(batch_of(slice(0, 6), [6]), rows_B=torch.arange(6))
    notes.add(0, "pairs", 0, {"loss": torch.tensor(1.0)}, batch)
    notes.flush()
    notes.add(1, "pairs", 1, {"loss": torch.tensor(float("nan"))}, batch)
    with pytest.raises(ValueError, match=r"step 1, task pairs: losses \{'loss': nan\}; no step can follow"):
        notes.flush()


def test_a_tower_that_bears_no_rounding_is_found_before_the_first_stage(
    tiny_config: Config, tiny_prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = "{embed_dim: 8, depths: [2, 2], num_heads: [1, 2], img_size: 56}"
    swin = f"model.image={{name: swin_tiny_patch4_window7_224, size: 56, args: {args}}}"
    config = override(tiny_config, ["engine={zero: 1, precision: bf16}", swin])
    check(config, tiny_prepared, Hardware(workers=1, cpus=1, gpus=1))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which is what it needs
    with pytest.raises(ValueError, match="'swin_tiny_patch4_window7_224' takes no 56 pixels .*dtype"):
        check(config, tiny_prepared, Hardware(workers=1, cpus=1, gpus=1))


def test_batch_normalisation_in_bf16_is_refused(tiny_config: Config, tiny_prepared: Path) -> None:
    config = override(tiny_config, ["engine={zero: 1, precision: bf16}", "model.image={name: resnet10t, size: 32}"])
    with pytest.raises(ValueError, match="'resnet10t' has BatchNorm.*, whose running statistics stay in fp32"):
        check(config, tiny_prepared, Hardware(workers=1, cpus=1, gpus=1))
