"""What a model is asked to see whether it answers, and as it did at first. Knows the towers' interfaces alone."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from unimir.serve.parts import Texts, Vector

QUERY = "a photo of two cats from last month"
_LEAST_COSINE = 0.9999
"""Batches of other sizes differ by rounding, and int8 by what else is in them: 0.99997 was seen."""


class Canary:
    """Remembers the first answer."""

    def __init__(self) -> None:
        self._first_D: Vector | None = None

    async def check(self, texts: Texts) -> None:
        """RuntimeError if the tower's vector is not the one that it gave first, or no unit vector."""
        found_D = (await texts.understand(QUERY)).fused_D
        first_D = found_D if self._first_D is None else self._first_D
        alike = float(found_D @ first_D) >= _LEAST_COSINE and float(found_D @ found_D) <= 2 - _LEAST_COSINE
        if not alike:  # also true for NaN
            raise RuntimeError("the text tower does not answer as it did")
        self._first_D = first_D


def white() -> bytes:
    """The smallest picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(buffer, "PNG")
    return buffer.getvalue()
