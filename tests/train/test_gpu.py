"""On an accelerator: bf16 under ZeRO 2 learns, and a checkpoint made there goes on."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tiny import batch_of, objective

from unimir.config import EngineConfig, Stage, Task
from unimir.train.engine import Engine
from unimir.train.stages import freeze, parts, rate_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator"),
]
DEVICE = torch.device("cuda")


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setitem(os.environ, name, value)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def engine_of(weights: dict[str, torch.Tensor] | None = None) -> Engine:
    one = objective().train()
    if weights:
        one.load_state_dict(weights)
    one.to(DEVICE)
    rates = {"text": 1e-3, "ngrams": 1e-3, "image": 1e-3, "nlu": 1e-3, "fusion": 1e-3, "proxies": 1e-3}
    task = Task(name="queries", kind="intent_query", losses=batch_of(slice(0, 6), [6]).losses)
    stage = Stage(name="any", steps=40, tasks=(task,), rates=rates)
    freeze(one, stage)
    groups = [(module, rate_of(part, stage)) for part, module in parts(one)]
    return Engine(one, groups, EngineConfig(zero=2, precision="bf16"))


@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_bf16_under_zero_2_learns_and_goes_on_from_its_checkpoint() -> None:
    batch = batch_of(slice(0, 6), [6]).pinned().to(DEVICE)
    engine = engine_of()
    losses = [float(engine.step(batch, 1.0)["loss"]) for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]
    saved, moments = engine.weights(), engine.moments()
    assert {value.dtype for value in saved.values()} == {torch.float32}
    following = [float(engine.step(batch, 1.0)["loss"]) for _ in range(5)]
    engine.close()
    again = engine_of(saved)
    again.resume(moments, 20)
    assert [float(again.step(batch, 1.0)["loss"]) for _ in range(5)] == pytest.approx(following, rel=0.02)
    again.close()
