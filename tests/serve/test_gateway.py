"""Does the Gateway notice that its model is not the one that was checked, and is what it asks of its parts bounded?"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from unimir import artifacts
from unimir.index.connection import IndexTimeout
from unimir.index.lite import embedded
from unimir.serve import parts
from unimir.serve.canary import Canary
from unimir.serve.gateway import Gateway
from unimir.serve.parts import Retriever, TextEncoder
from unimir.serve.served import Served
from unimir.serve.settings import Settings, SlotRule
from unimir.serve.vocabulary import Vocabulary


@pytest.fixture
def encoder(tiny_bundle: Path) -> Iterator[TextEncoder]:
    """A text tower of its own, which may be damaged."""
    threads = torch.get_num_threads()
    served = Served(tiny_bundle, artifacts.read_manifest(tiny_bundle, "bundle")["id"], "catalog", ())
    yield TextEncoder(Settings(threads=1), served)
    parts._model.cache_clear()
    torch.set_num_threads(threads)


@pytest.mark.parametrize("damage", [float("nan"), 0.5])
def test_check_health_raises_when_the_canary_is_another(encoder: TextEncoder, damage: float) -> None:
    nobody: Any = None
    gateway = Gateway(Settings(threads=1), Served(Path(), "", "", ()), encoder, nobody, nobody)

    async def run() -> None:
        await gateway.check_model()
        await gateway.check_model()
        await encoder.check_health()
        with torch.no_grad():
            encoder._encoder.bundle.model.text.projection.weight += damage
        with pytest.raises(RuntimeError, match="does not answer as it did"):
            await gateway.check_model()
        with pytest.raises(RuntimeError, match="does not answer as it did"):
            await encoder.check_health()

    asyncio.run(run())


class Tower:
    """Answers with the vectors it is given."""

    def __init__(self, *vectors: list[float]) -> None:
        self.vectors = [np.array(vector, np.float32) for vector in vectors]
        self.asked = 0

    async def understand(self, text: str) -> Any:
        vector_D = self.vectors[min(self.asked, len(self.vectors) - 1)]
        self.asked += 1
        await asyncio.sleep(0.01)
        return SimpleNamespace(fused_D=vector_D)


def test_a_canary_may_drift_as_int8_does_and_no_further() -> None:
    unit = [0.6, 0.8, 0.0]
    tower: Any = Tower(unit, [0.6015, 0.7989, 0.0], [0.65, 0.76, 0.0], [1.2, 1.6, 0.0])
    canary = Canary()

    async def run() -> None:
        await canary.check(tower)
        await canary.check(tower)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="does not answer as it did"):
                await canary.check(tower)

    asyncio.run(run())


def test_many_who_ask_whether_it_is_ready_cost_one_pass() -> None:
    class Ready:
        async def check(self) -> None:
            """Always."""

    tower, nobody, index = Tower([1.0, 0.0]), None, Ready()
    gateway = Gateway(Settings(), Served(Path(), "", "", ()), tower, nobody, index)  # type: ignore[arg-type]

    async def run() -> None:
        await asyncio.gather(*(gateway.check() for _ in range(200)))
        await gateway.check()

    asyncio.run(run())
    assert tower.asked == 2


def test_names_that_take_long_to_list_keep_nobody_from_searching(collection: Path, tiny_bundle: Path) -> None:
    served = Served(tiny_bundle, artifacts.read_manifest(tiny_bundle, "bundle")["id"], "catalog", ())
    settings = Settings(data=str(collection / "milvus"))

    async def run() -> None:
        index = Retriever(settings, served)
        with pytest.raises(IndexTimeout):
            await index._ask(lambda store: asyncio.sleep(9), deadline_s=0.05)
        await index.check()
        assert index._store is not None
        await index._store.close()

    with embedded(collection / "milvus"):
        asyncio.run(run())


def test_names_that_cannot_be_read_are_not_asked_for_with_every_query() -> None:
    asked = 0

    async def read(tenant: str) -> dict[str, set[str]]:
        nonlocal asked
        asked += 1
        raise KeyError("extra.brand")

    async def run() -> None:
        names = Vocabulary(read, [SlotRule(field="place", type="name")], fresh_s=600)
        assert [await names.find("shop", "place", "Berlin") for _ in range(3)] == [None] * 3

    asyncio.run(run())
    assert asked == 1
