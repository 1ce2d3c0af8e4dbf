"""How fast training is, and what keeps it: examples, tokens, padding, waiting for data, and MFU.

Knows the model's sizes and a clock; knows no loss and no plan.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from unimir.model.tokens import TokenBatch, token_chunks
from unimir.model.unimir import UniMIR
from unimir.train.shares import Batch

PEAK_FLOPS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
}
"""Dense bf16 multiply-adds a second, as two operations each, of the makers' data sheets."""


@dataclass
class Counts:
    """What this worker did in a stage, all its runs together."""

    examples: int = 0  # of all workers
    tokens: int = 0  # this worker's for each of them
    padded: int = 0  # tokens with those that only fill up
    flops: float = 0.0
    waited_s: float = 0.0
    seconds: float = 0.0


class Meter:
    """Counts what passes through one worker; rates are those of the whole stage, restarts included."""

    def __init__(self, model: UniMIR, *, trained: set[str], workers: int, device: torch.device) -> None:
        """`trained` are the parts with a learning rate: a frozen tower is passed once, a trained one three times.

        `model` is one that no engine has taken over; it is only measured.
        """
        self.counts = Counts()
        self._budget = model.text.token_budget
        self._workers = workers
        self._flops = _Flops(model, trained)
        self._peak = peak_flops(device)
        self._since = time.perf_counter()

    def restore(self, values: dict[str, float]) -> None:
        """Goes on from what `state` gave."""
        self.counts = Counts(**values)  # type: ignore[arg-type]  # whole numbers are so in JSON too

    def state(self) -> dict[str, float]:
        """The counts until now."""
        self._tick()
        return dict(vars(self.counts))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what the training thread waits for."""
        start = time.perf_counter()
        yield
        self.counts.waited_s += time.perf_counter() - start

    def count(self, batch: Batch) -> None:
        """Adds one step's batch, which lies on the host."""
        self.counts.examples += sum(batch.sizes)
        for tokens in (batch.texts, batch.documents, batch.hard):
            if tokens is not None:
                lengths = tokens.row_lengths()
                self.counts.tokens += self._workers * sum(lengths)
                self.counts.padded += self._workers * padded_tokens(tokens, self._budget)
                self.counts.flops += self._flops.of_texts(lengths)
        if batch.pixels is not None:
            self.counts.flops += self._flops.of_pictures(len(batch.pixels))

    def rates(self) -> dict[str, float]:
        """Examples and tokens a second of all workers; shares of padding and waiting; MFU; seconds."""
        self._tick()
        counts, seconds = self.counts, max(self.counts.seconds, 1e-9)
        return {
            "examples_per_s": counts.examples / seconds,
            "tokens_per_s": counts.tokens / seconds,
            "padding": 1 - counts.tokens / max(1, counts.padded),
            "data_wait": counts.waited_s / seconds,
            "mfu": counts.flops / seconds / self._peak,
            "seconds": seconds,
        }

    def _tick(self) -> None:
        now = time.perf_counter()
        self.counts.seconds += now - self._since
        self._since = now


class _Flops:
    """Operations that training needs, recomputation not counted (PaLM, arXiv 2204.02311, appendix B)."""

    def __init__(self, model: UniMIR, trained: set[str]) -> None:
        backbone = model.text.backbone
        # Counted, not looked up: layers may share their weights (ALBERT), or a token pass few of them.
        self._token = _counted(backbone, torch.zeros(1, 1, dtype=torch.long, device=backbone.device))
        self._attention = 4.0 * int(backbone.config.num_hidden_layers) * model.text.hidden_size
        self._text_passes = 3 if "text" in trained else 1
        self._image_passes = 3 if "image" in trained else 1
        self._image, self._size = model.image, model.config.image.size
        self._picture: float | None = None

    def of_texts(self, lengths: list[int]) -> float:
        """As counted on one token, which attends to itself, and the other products of attention."""
        tokens, pairs = sum(lengths), sum(length * length for length in lengths)
        return self._text_passes * (self._token * tokens + self._attention * (pairs - tokens))

    def of_pictures(self, count: int) -> float:
        """As counted on one picture."""
        if self._picture is None:
            pixels = torch.zeros(1, self._size, self._size, 3, dtype=torch.uint8, device=self._image.mean_C11.device)
            self._picture = _counted(self._image, pixels)
        return self._image_passes * self._picture * count


def _counted(tower: nn.Module, inputs: Tensor) -> float:
    """Operations of one pass forward."""
    tower = deepcopy(tower).eval()  # in training mode a pass could leave traces
    tower.requires_grad_(False)  # the counter's hooks want a gradient function of what could have a gradient
    # Attention as the products that it is: the counter knows no operations of a CPU's fused one.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tower(inputs)
    return float(counter.get_total_flops())


def padded_tokens(tokens: TokenBatch, budget: int) -> int:
    """Tokens of all chunks that the text tower makes of these, padding included."""
    lengths = tokens.row_lengths()
    return sum(len(rows) * lengths[rows[0]] for rows in token_chunks(lengths, budget))


def peak_named(name: str) -> float | None:
    """The maker's word for a GPU of this name; None for one that is not listed."""
    return next((peak for known, peak in PEAK_FLOPS.items() if re.search(rf"\b{known}\b", name)), None)


def peak_flops(device: torch.device) -> float:
    """Operations a second that the device can do: its maker's word for a known GPU, else a matrix product, timed.

    In bf16 on a GPU, in fp32 on a CPU.
    """
    gpu = device.type == "cuda"
    named = peak_named(torch.cuda.get_device_name(device)) if gpu else None
    if named is not None:
        return named
    size = 8192 if gpu else 1024
    a = torch.ones(size, size, device=device, dtype=torch.bfloat16 if gpu else torch.float32)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
