"""Does the engine move what it should and nothing else, alike in every ZeRO stage, and go on where another stopped?"""

import gc
import importlib
import os
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny import batch_of, objective

from unimir.config import EngineConfig, Stage, Task
from unimir.model import image_encoder
from unimir.train import engine as engine_module
from unimir.train.engine import Engine
from unimir.train.losses import Objective
from unimir.train.shares import Batch, most
from unimir.train.stages import freeze, parts, rate_of

SIZES = [2, 4]
"""Rows of each worker."""
STEPS, SAVED_AT = 20, 7
ALL = {"text": 3e-3, "ngrams": 3e-3, "image": 3e-3, "nlu": 3e-3, "fusion": 3e-3, "proxies": 3e-3}
HEADS = {"nlu": 1e-3, "fusion": 1e-3}
TABLE = "model.text.ngrams.table.weight"


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What every engine imports, once for all the processes that are forked from this one."""
    with warnings.catch_warnings():  # libraries warn of each other's age
        warnings.simplefilter("ignore")
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")


def together(work: Callable[..., None], directory: Path, *arguments: object) -> None:
    mp.start_processes(_joined, (work, str(directory), arguments), nprocs=len(SIZES), start_method="fork")


def _joined(rank: int, work: Callable[..., None], directory: str, arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)  # forked: OpenMP threads of the parent are gone
    warnings.filterwarnings("ignore", category=FutureWarning, module="deepspeed|torch|typing_extensions")
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(SIZES))}
    # A worker that waits for another in vain fails, rather than hang.
    store, patience = f"file://{directory}/store", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=len(SIZES), timeout=patience)
    work(Path(directory), rank, *arguments)
    dist.destroy_process_group()


def own(rank: int, step: int = 0) -> Batch:
    """Queries for pictures and texts, by turns with texts alone: parts without a gradient are a case of its own."""
    batch = batch_of(slice(sum(SIZES[:rank]), sum(SIZES[: rank + 1])), SIZES)
    if step % 2 == 0:
        return batch
    losses = {name: batch.losses[name] for name in ("proxy", "intent", "slots")}
    return replace(batch, losses=losses, documents=None, pixels=None, picture_of_B=None)


def engine_of(
    rates: dict[str, float], config: EngineConfig, weights: dict[str, Any] | None = None, *, token_budget: int = 64
) -> Engine:
    one = objective().train()
    one.model.text.token_budget = token_budget
    if config.zero == 3:
        one.model.agree_on_passes(lambda count: most(count, torch.device("cpu")))
    if weights is not None:
        one.load_state_dict(weights)
    task = Task(name="queries", kind="intent_query", losses=own(0).losses)
    stage = Stage(name="any", steps=STEPS, tasks=(task,), rates=rates)
    freeze(one, stage)
    return Engine(one, [(module, rate_of(part, stage)) for part, module in parts(one)], config)


def losses_of(engine: Engine, rank: int, steps: range) -> list[float]:
    found = []
    for step in steps:
        loss = engine.step(own(rank, step), 1.0)["loss"].double()
        dist.all_reduce(loss)
        found.append(float(loss) / len(SIZES))
    return found


def test_deepspeed_loads_no_mlflow_and_leaves_it_to_be_imported() -> None:
    """Its import is two seconds of every worker's start."""
    code = """
import sys
from unimir.train.engine import _deepspeed
_deepspeed()
print("mlflow" in sys.modules)
import mlflow
print(mlflow.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["False", "mlflow"]


def _frozen(directory: Path, rank: int, config: EngineConfig) -> None:
    before = {name: value.clone() for name, value in objective().state_dict().items()}
    engine = engine_of(HEADS, config)
    losses_of(engine, rank, range(4))
    after = engine.weights()
    engine.close()
    if rank == 0:
        torch.save({"before": before, "after": after}, directory / "out")


def _diverged(directory: Path, rank: int, zero: int) -> None:
    engine = engine_of(ALL, EngineConfig(zero=zero))
    batch = own(rank)
    with pytest.raises(ValueError, match="is not finite after the last step; it is not saved"):
        engine.step(replace(batch, losses={**batch.losses, "contrastive": float("inf")}), 1.0)
        engine.weights()
    engine.close()


@pytest.mark.parametrize("zero", [0, 3])
def test_weights_that_are_no_numbers_are_in_no_checkpoint(zero: int, tmp_path: Path) -> None:
    """The loss before such a step was a number still."""
    together(_diverged, tmp_path, zero)


@pytest.mark.parametrize(
    "config",
    [EngineConfig(), EngineConfig(zero=1, precision="bf16"), EngineConfig(zero=3)],
    ids=["fp32", "bf16", "zero3"],
)
def test_parts_of_rate_zero_are_bit_identical_and_the_others_move(config: EngineConfig, tmp_path: Path) -> None:
    together(_frozen, tmp_path, config)
    found = torch.load(tmp_path / "out", weights_only=True)
    dtypes = {name: value.dtype for name, value in found["after"].items()}
    assert dtypes.pop("model.text.ngrams.known") == torch.uint8
    assert set(dtypes.values()) == {torch.float32}
    changed = {name for name, value in found["before"].items() if not torch.equal(value, found["after"][name])}
    assert {".".join(name.split(".")[:2]) for name in changed} == {
        "model.nlu",
        "model.fusion",
        "log_scales.image",
        "log_scales.query",
    }


def _counting(directory: Path, rank: int) -> None:
    one = objective().train()
    one.register_buffer("count", torch.tensor(301 + rank))  # as batch normalisation has; bf16 would round it
    weights = Engine(one, [(one.model.nlu, 1e-3)], EngineConfig(zero=1, precision="bf16")).weights()
    assert weights["count"].dtype == torch.int64 and weights["count"] == 301


def test_a_whole_number_of_the_state_stays_one(tmp_path: Path) -> None:
    together(_counting, tmp_path)


def _trained_then_frozen(directory: Path, rank: int) -> None:
    one = objective().train()
    task = Task(name="queries", kind="intent_query", losses=own(0).losses)
    tables = []
    for rates in (ALL, HEADS):
        stage = Stage(name="any", steps=STEPS, tasks=(task,), rates=rates)
        freeze(one, stage)
        engine = Engine(one, [(module, rate_of(part, stage)) for part, module in parts(one)], EngineConfig())
        losses_of(engine, rank, range(2))
        tables.append(engine.weights()[TABLE])
        engine.close()
    assert one.model.text.ngrams is not None
    weight = one.model.text.ngrams.table.weight
    if rank == 0:
        torch.save({"tables": tables, "gradient": weight.requires_grad or weight.grad is not None}, directory / "out")


def test_a_table_that_one_stage_trains_takes_no_gradient_in_the_next_that_freezes_it(tmp_path: Path) -> None:
    together(_trained_then_frozen, tmp_path)
    found = torch.load(tmp_path / "out", weights_only=True)
    assert torch.equal(*found["tables"]) and not found["gradient"]
    assert not torch.equal(found["tables"][0], objective().state_dict()[TABLE])


def test_temperatures_move_as_said_else_with_the_fastest_that_adamw_steps() -> None:
    task = Task(name="queries", kind="intent_query", losses=own(0).losses)
    stage = Stage(name="any", steps=1, tasks=(task,), rates={"text": 1e-3, "nlu": 2e-3, "ngrams": 0.5})
    assert rate_of("scale", stage) == 2e-3
    assert rate_of("scale", replace(stage, rates={**stage.rates, "scale": 0.1})) == 0.1
    heads = replace(stage, tasks=(replace(task, losses={"intent": 1.0}),))
    assert rate_of("scale", heads) == 0


def _steps(directory: Path, rank: int, zero: int) -> None:
    """Twenty steps in a row; on the way, what a checkpoint would hold."""
    engine = engine_of(ALL, EngineConfig(zero=zero))
    first = losses_of(engine, rank, range(SAVED_AT))
    saved = {"weights": engine.weights(), "moments": engine.moments()}
    losses = first + losses_of(engine, rank, range(SAVED_AT, STEPS))
    weights = engine.weights()
    engine.close()
    if rank == 0:
        torch.save({"losses": losses, "saved": saved, "weights": weights}, directory / f"zero{zero}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, dict[str, Any]]]:
    """Per ZeRO stage: the losses of twenty steps, a checkpoint of one in the middle, the weights at the end."""
    directory = tmp_path_factory.mktemp("zero")
    for zero in range(4):
        together(_steps, directory, zero)
        (directory / "store").unlink()
    yield {zero: torch.load(directory / f"zero{zero}", weights_only=True) for zero in range(4)}


def test_twenty_steps_are_alike_in_every_zero_stage(runs: dict[int, dict[str, Any]]) -> None:
    assert len(set(runs[0]["losses"])) == STEPS
    for zero in (1, 2, 3):
        assert runs[zero]["losses"] == pytest.approx(runs[0]["losses"], rel=1e-4)


def _uneven(directory: Path, rank: int, zero: int, cached: bool) -> None:
    """Workers whose shares need different numbers of passes; in ZeRO 3 every weight is cut up, however small."""
    settings = engine_module._settings(EngineConfig(zero=zero))
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    engine_module._settings = lambda config: settings
    image_encoder.CACHED_PICTURES = 1
    engine = engine_of(ALL, EngineConfig(zero=zero), token_budget=8)
    losses = []
    for step in range(6):
        loss = engine.step(replace(own(rank, step), cached=cached), 1.0)["loss"].double()
        losses.append(float(loss))
    held_out = float(engine.evaluate(own(rank)))
    torch.save([*losses, held_out], directory / f"zero{zero}-{rank}")


@pytest.mark.parametrize("cached", [False, True], ids=["plain", "cached"])
def test_workers_whose_shares_need_different_passes_are_together_in_zero_3(cached: bool, tmp_path: Path) -> None:
    for zero in (0, 3):
        together(_uneven, tmp_path, zero, cached)
        (tmp_path / "store").unlink()
    for rank in range(len(SIZES)):
        alone, cut = (torch.load(tmp_path / f"zero{zero}-{rank}", weights_only=True) for zero in (0, 3))
        assert cut == pytest.approx(alone, rel=1e-4)


def _resumed(directory: Path, rank: int, zero: int, saved: dict[str, Any]) -> None:
    engine = engine_of(ALL, EngineConfig(zero=zero), saved["weights"])
    engine.resume(saved["moments"], SAVED_AT)
    losses = losses_of(engine, rank, range(SAVED_AT, STEPS))
    weights = engine.weights()
    engine.close()
    if rank == 0:
        torch.save({"losses": losses, "weights": weights}, directory / "out")


@pytest.mark.parametrize("zero", range(4))
@pytest.mark.parametrize("saved", range(4))
def test_what_one_zero_stage_saved_every_other_goes_on_from(
    saved: int, zero: int, runs: dict[int, dict[str, Any]], tmp_path: Path
) -> None:
    together(_resumed, tmp_path, zero, runs[saved]["saved"])
    found = torch.load(tmp_path / "out", weights_only=True)
    assert found["losses"] == pytest.approx(runs[zero]["losses"][SAVED_AT:], rel=1e-4)
    if saved == zero:
        for name, value in runs[zero]["weights"].items():
            torch.testing.assert_close(found["weights"][name], value, rtol=0, atol=1e-6)


def _forgetful(directory: Path, rank: int, saved: dict[str, Any]) -> None:
    engine = engine_of(ALL, EngineConfig(), saved["weights"])
    losses = losses_of(engine, rank, range(SAVED_AT, STEPS))
    if rank == 0:
        torch.save(losses, directory / "out")
    with pytest.raises(ValueError, match=r"no moments of model\.text\..*: it is of another stage"):
        engine.resume({}, SAVED_AT)


def test_without_moments_a_run_is_another_one(runs: dict[int, dict[str, Any]], tmp_path: Path) -> None:
    """That the tests above can fail: weights alone are no exact restart."""
    together(_forgetful, tmp_path, runs[0]["saved"])
    losses = torch.load(tmp_path / "out", weights_only=True)
    assert losses != pytest.approx(runs[0]["losses"][SAVED_AT:], rel=1e-4)


def _bf16(directory: Path, rank: int, saved: dict[str, Any], zero: int) -> None:
    engine = engine_of(ALL, EngineConfig(zero=zero, precision="bf16"), saved["weights"])
    engine.resume(saved["moments"], SAVED_AT)
    same = {name: torch.equal(value, saved["weights"][name]) for name, value in engine.weights().items()}
    moments = engine.moments()
    exact = all(torch.equal(value, saved["moments"][name]) for name, value in moments.items())
    losses = losses_of(engine, rank, range(SAVED_AT, SAVED_AT + 3))
    types = {str(value.dtype) for name, value in engine.weights().items() if not name.endswith(".known")}  # bits
    evaluated = float(engine.evaluate(own(rank)))
    if rank == 0:
        found = {"same": same, "exact": exact, "losses": losses, "types": types, "evaluated": evaluated}
        torch.save(found, directory / "out")


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_bf16_keeps_whole_fp32_weights_and_moments(zero: int, runs: dict[int, dict[str, Any]], tmp_path: Path) -> None:
    together(_bf16, tmp_path, runs[0]["saved"], zero)
    found = torch.load(tmp_path / "out", weights_only=True)
    assert all(found["same"].values()), [name for name, same in found["same"].items() if not same]
    assert found["exact"] and found["types"] == {"torch.float32"}
    assert found["losses"] == pytest.approx(runs[0]["losses"][SAVED_AT : SAVED_AT + 3], rel=0.05)
    assert found["evaluated"] > 0


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_a_closed_engine_leaves_nothing_behind(zero: int, tmp_path: Path) -> None:
    """Else every stage would have the weights and moments of those before beside its own."""
    together(_closed, tmp_path, zero)
    assert torch.load(tmp_path / "out", weights_only=True) == [True, True]


def _closed(directory: Path, rank: int, zero: int) -> None:
    modules = []
    for _ in range(2):
        engine = engine_of(ALL, EngineConfig(zero=zero))  # type: ignore[arg-type]
        losses_of(engine, rank, range(2))
        modules.append(weakref.ref(engine._module))
        engine.close()
        del engine
    gc.collect()
    if rank == 0:
        torch.save([module() is None for module in modules], directory / "out")


def test_evaluation_changes_no_mode_and_no_weight(tmp_path: Path) -> None:
    together(_evaluated, tmp_path)
    assert torch.load(tmp_path / "out", weights_only=True) == {"modes": True, "weights": True, "repeated": True}


def _evaluated(directory: Path, rank: int) -> None:
    engine = engine_of(HEADS, EngineConfig())
    module: Objective = engine._module  # type: ignore[assignment]
    modes, before = [part.training for part in module.modules()], engine.weights()
    assert True in modes and False in modes  # frozen parts are in evaluation mode while others are trained
    first, second = float(engine.evaluate(own(rank))), float(engine.evaluate(own(rank)))
    found = {
        "modes": modes == [part.training for part in module.modules()],
        "weights": all(torch.equal(value, before[name]) for name, value in engine.weights().items()),
        "repeated": first == second,
    }
    if rank == 0:
        torch.save(found, directory / "out")
