"""Does the Gateway notice that its model is not the one that was checked?"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from unimir import artifacts
from unimir.serve import parts
from unimir.serve.gateway import Gateway
from unimir.serve.parts import TextEncoder
from unimir.serve.served import Served
from unimir.serve.settings import Settings


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
        with torch.no_grad():
            encoder._encoder.bundle.model.text.projection.weight += damage
        with pytest.raises(RuntimeError, match="does not answer as it did"):
            await gateway.check_model()

    asyncio.run(run())
