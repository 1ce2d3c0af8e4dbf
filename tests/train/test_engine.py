"""Does the engine move what it should, and nothing else?"""

import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny import batch_of, objective

from unimir.config import EngineConfig, Stage, Task
from unimir.train.engine import Engine
from unimir.train.stages import freeze, parts, rate_of

SIZES = [2, 4]
"""Rows of each worker."""


def _frozen(rank: int, directory: str) -> None:
    torch.set_num_threads(1)  # forked: OpenMP threads of the parent are gone
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(SIZES))}
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=len(SIZES))
    own = slice(sum(SIZES[:rank]), sum(SIZES[: rank + 1]))
    one = objective().train()
    before = {name: value.clone() for name, value in one.state_dict().items()}
    task = Task(name="queries", kind="intent_query", losses=batch_of(own, SIZES).losses)
    stage = Stage(name="heads", steps=4, tasks=(task,), rates={"nlu": 1e-3, "fusion": 1e-3})
    freeze(one, stage)
    engine = Engine(one, [(module, rate_of(part, stage)) for part, module in parts(one)], EngineConfig())
    for _ in range(stage.steps):
        engine.step(batch_of(own, SIZES), 1.0)
    after = engine.weights()
    if rank == 0:
        torch.save({"before": before, "after": after}, f"{directory}/out")
    dist.destroy_process_group()


def test_parts_of_rate_zero_are_bit_identical_and_the_others_move(tmp_path: Path) -> None:
    mp.start_processes(_frozen, (str(tmp_path),), nprocs=len(SIZES), start_method="fork")
    found = torch.load(tmp_path / "out", weights_only=True)
    changed = {name for name, value in found["before"].items() if not torch.equal(value, found["after"][name])}
    assert {".".join(name.split(".")[:2]) for name in changed} == {
        "model.nlu",
        "model.fusion",
        "log_scales.image",
        "log_scales.query",
    }
