"""Prepared tables as arrays: ragged tokens, labels as columns of the heads, pictures as pixels.

Knows neither batches nor the plan behind row numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from PIL import Image

from unimir.data.hashing import combine
from unimir.data.image import Preprocess, decode_stored
from unimir.model.tokens import TokenBatch
from unimir.schema import LabelSet
from unimir.train.batches import rng_of

PIXEL_CACHE_BYTES = 512 * 2**20
"""Decoded pictures kept per worker; beyond it they are decoded again each time."""


class Pictures:
    """Pixels of pictures by row of the image table."""

    def __init__(self, images: pa.Table, preprocess: Preprocess, *, min_crop: float) -> None:
        self.ids = images["image_id"].cast(pa.large_string()).combine_chunks()
        self._encoded = images["image"]
        self._preprocess = preprocess
        self._min_crop = min_crop
        self._decoded: dict[int, Image.Image] = {}
        self._room = PIXEL_CACHE_BYTES
        self._threads = torch.get_num_threads()  # Pillow decodes and resizes without the interpreter's lock
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="pictures")

    def pixels(self, rows: NDArray[np.int64], seed: tuple[int | str, ...] | None) -> torch.Tensor:
        """uint8 [len(rows), size, size, 3], randomly cropped (by seed and row alone) if recipe and caller say so."""
        pixels = np.empty((len(rows), self._preprocess.size, self._preprocess.size, 3), np.uint8)

        def make(places: NDArray[np.int64]) -> None:
            for place in places.tolist():
                pixels[place] = self._one(int(rows[place]), seed)

        parts = np.array_split(np.arange(len(rows)), self._threads)
        for done in [self._pool.submit(make, part) for part in parts if len(part)]:
            done.result()
        return torch.from_numpy(pixels)

    def _one(self, row: int, seed: tuple[int | str, ...] | None) -> NDArray[np.uint8]:
        image = self._decoded.get(row)
        if image is None:
            image = decode_stored(self._encoded[row].as_py())
            size = image.width * image.height * 3
            if size <= self._room:  # threads may take the last room together: a picture each too many
                self._decoded[row] = image
                self._room -= size
        if seed is None or self._min_crop >= 1.0:
            return self._preprocess.pixels(image)
        return self._preprocess.random_pixels(image, rng_of(*seed, row), self._min_crop)


class Ragged:
    """A list column laid end to end, from which rows are taken without Python lists."""

    def __init__(self, column: pa.LargeListArray) -> None:
        self.values: NDArray[np.int32] = column.flatten().to_numpy(zero_copy_only=False)
        self.lengths: NDArray[np.int64] = pc.list_value_length(column).fill_null(0).to_numpy().astype(np.int64)
        self.starts: NDArray[np.int64] = np.cumsum(self.lengths) - self.lengths

    def digests(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """One int64 hash a row, of its elements in their order."""
        lengths = self.lengths[rows]
        ends = np.cumsum(lengths)
        places = 1 + np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)
        hashes = combine(self.values[self.positions(rows)].astype(np.uint64), places.astype(np.uint64))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes)])  # modulo 2**64
        return torch.from_numpy((sums[ends] - sums[ends - lengths]).view(np.int64))

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in `values` of all elements of the rows, in order."""
        lengths = self.lengths[rows]
        shift = self.starts[rows] - (np.cumsum(lengths) - lengths)
        positions: NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(shift, lengths)
        return positions

    def tokens(self, rows: NDArray[np.int64]) -> TokenBatch:
        """The rows as a token batch."""
        ids = self.values[self.positions(rows)].astype(np.int64)
        return TokenBatch(torch.from_numpy(ids), torch.from_numpy(self.lengths[rows]))


def codes(table: pa.Table, column: str) -> NDArray[np.int64]:
    """The column's values as numbers, equal where the values are; -1 for a missing value, or without such a column."""
    if column not in table.column_names:
        return np.full(len(table), -1, np.int64)
    found: NDArray[np.int64] = (
        table[column].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64)
    )
    return found


class Labels:
    """Intents and token tags of NLU rows as columns of the heads."""

    def __init__(self, table: pa.Table, tokens: Ragged, label_sets: Sequence[LabelSet]) -> None:
        numbers = {s.name: i for i, s in enumerate(label_sets)}
        intents = {(s.name, name): i for i, (s, name) in enumerate((s, n) for s in label_sets for n in s.intents)}
        tags = {(s.name, name): i for i, (s, name) in enumerate((s, n) for s in label_sets for n in s.tags)}
        names = table["label_set"].to_pylist()
        self.sets = np.array([numbers[name] for name in names], np.int64)
        self.intents = np.array(
            [intents[key] for key in zip(names, table["intent"].to_pylist(), strict=True)], np.int64
        )
        outside = np.array([tags[name, "O"] for name in names], np.int64)
        self.tags = np.repeat(outside, tokens.lengths)
        for row, slots in enumerate(table["token_slots"].to_pylist()):
            for slot in slots or ():
                start = tokens.starts[row] + slot["start"]
                self.tags[start] = tags[names[row], f"B-{slot['label']}"]
                self.tags[start + 1 : tokens.starts[row] + slot["end"]] = tags[names[row], f"I-{slot['label']}"]
