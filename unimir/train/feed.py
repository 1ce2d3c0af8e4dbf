"""Turns planned row numbers into tensors, one step ahead of the training thread.

Knows prepared tables, labels and pixels; knows neither the plan behind the row numbers nor the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from PIL import Image

from unimir.config import Config, Stage, Task
from unimir.data.image import Preprocess, decode_image
from unimir.data.text import TextTokenizer
from unimir.model.tokens import TokenBatch
from unimir.schema import LabelSet
from unimir.train.batches import Order, Partners, read_examples, read_images, rng_of, share, task_schedule
from unimir.train.losses import Batch

PIXEL_CACHE_BYTES = 512 * 2**20
"""Decoded pictures kept per worker; beyond it they are decoded again each time."""

MAX_PROXIES = 500_000
"""Groups with a learned vector each; every step computes a logit for every one of them."""


class Pictures:
    """Pixels of pictures by row of the image table."""

    def __init__(self, images: pa.Table, preprocess: Preprocess, *, min_crop: float, config: Config) -> None:
        self.ids = images["image_id"]
        self._encoded = images["image"]
        self._preprocess = preprocess
        self._min_crop = min_crop
        self._limits = config.prepare
        self._decoded: dict[int, Image.Image] = {}
        self._room = PIXEL_CACHE_BYTES

    def pixels(self, rows: NDArray[np.int64], seed: tuple[int | str, ...]) -> torch.Tensor:
        """uint8 [len(rows), size, size, 3], randomly cropped (by seed and row alone) if the recipe says so."""
        return torch.from_numpy(np.stack([self._one(int(row), seed) for row in rows]))

    def _one(self, row: int, seed: tuple[int | str, ...]) -> NDArray[np.uint8]:
        image = self._decoded.get(row)
        if image is None:
            image = decode_image(self._encoded[row].as_py(), self._limits)
            size = image.width * image.height * 3
            if size <= self._room:
                self._decoded[row] = image
                self._room -= size
        if self._min_crop >= 1.0:
            return self._preprocess.pixels(image)
        return self._preprocess.random_pixels(image, rng_of(*seed, row), self._min_crop)


class Ragged:
    """A list column laid end to end, from which rows are taken without Python lists."""

    def __init__(self, column: pa.ListArray) -> None:
        self.values: NDArray[np.int32] = column.flatten().to_numpy(zero_copy_only=False)
        self.lengths: NDArray[np.int64] = pc.list_value_length(column).fill_null(0).to_numpy().astype(np.int64)
        self.starts: NDArray[np.int64] = np.cumsum(self.lengths) - self.lengths

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


class TaskFeed:
    """Batches of one task."""

    def __init__(
        self,
        task: Task,
        stage: Stage,
        config: Config,
        prepared: Path,
        labels: Sequence[LabelSet],
        mask_id: int | None = None,
    ) -> None:
        if task.hide and mask_id is None:
            raise ValueError(f"task {task.name}: hide {task.hide}; the tokenizer has no mask token to hide with")
        table = read_examples(prepared, task, "train")
        self.mask_id = mask_id
        self.task = task
        self.table = table
        self.seed: tuple[int | str, ...] = (config.seed, stage.name, task.name)
        self.ids = Ragged(table["ids"].combine_chunks())
        self.order = Order(
            _codes(table, "lang"),
            self.ids.lengths,
            batch_size=task.batch_size,
            temperature=stage.language_temperature,
            seed=self.seed,
            pictures=_codes(table, "image_id") if task.per_picture > 1 else None,
            per_picture=task.per_picture,
        )
        self.groups = table["group"].combine_chunks().to_numpy().view(np.int64)
        self.texts = _codes(table, "text")
        self.partners = Partners.of(self.groups) if task.kind == "parallel" else None
        self.documents = Ragged(table["doc_ids"].combine_chunks()) if "doc_ids" in table.column_names else None
        self.labels = Labels(table, self.ids, labels) if "intent" in table.column_names else None
        self.picture_rows: NDArray[np.int64] | None = None

    def find_pictures(self, images: Pictures) -> None:
        """Looks up the row of every example's picture; -1 where it has none."""
        if "image_id" in self.table.column_names:
            found = pc.index_in(self.table["image_id"], images.ids.combine_chunks()).fill_null(-1)
            self.picture_rows = found.to_numpy().astype(np.int64)

    def batch(self, number: int, images: Pictures, rank: int, workers: int) -> Batch:
        """This worker's share of the task's batch with this running number."""
        rows = self.order.batch(number)
        rng = rng_of(*self.seed, number, "batch")
        partners = self.partners.draw(rows, rng) if self.partners is not None else None
        own, sizes = share(rows, rank, workers)
        mine = rows[own]
        documents, pixels, picture_of = None, None, None
        wants_contrast = _contrasts(self.task)
        if partners is not None and wants_contrast:
            documents = self.ids.tokens(partners[own])
        elif wants_contrast and self.picture_rows is not None:
            pictures = self.picture_rows[mine]
            unique, inverse = np.unique(pictures[pictures >= 0], return_inverse=True)
            picture_of = np.full(len(mine), -1, np.int64)
            picture_of[pictures >= 0] = inverse
            pixels = images.pixels(unique, (*self.seed, number)) if len(unique) else None
            if self.documents is not None and (pictures < 0).any():
                documents = self.documents.tokens(mine[pictures < 0])
        elif wants_contrast and self.documents is not None:
            documents = self.documents.tokens(mine)
        labels = self.labels
        return Batch(
            losses=self.task.losses,
            sizes=sizes,
            texts=self._texts(rows, own, rng),
            groups_B=torch.from_numpy(self.groups[mine]),
            texts_B=torch.from_numpy(self.texts[mine]),
            scale="text" if self.picture_rows is None else "image",
            documents=documents,
            pixels=pixels,
            picture_of_B=None if picture_of is None else torch.from_numpy(picture_of),
            sets_B=None if labels is None else torch.from_numpy(labels.sets[mine]),
            intents_B=None if labels is None else torch.from_numpy(labels.intents[mine]),
            tags_T=None if labels is None else torch.from_numpy(labels.tags[self.ids.positions(mine)]),
        )

    def _texts(self, rows: NDArray[np.int64], own: slice, rng: np.random.Generator) -> TokenBatch:
        """This worker's share of the texts, some tokens hidden; drawn for all shares, so that they agree."""
        texts = self.ids.tokens(rows[own])
        if self.task.hide and self.mask_id is not None:
            lengths = self.ids.lengths[rows]
            shares = np.repeat(self.task.hide * rng.random(len(rows)), lengths)
            hidden = rng.random(len(shares)) < shares
            first, last = np.concatenate([[0], np.cumsum(lengths)])[[own.start, own.stop]]
            texts.ids_T[torch.from_numpy(hidden[first:last])] = self.mask_id
        return texts


class StageFeed:
    """The batches of one stage, in order, each built in a thread while the one before is trained on."""

    def __init__(
        self,
        stage: Stage,
        config: Config,
        prepared: Path,
        label_sets: Sequence[LabelSet],
        preprocess: Preprocess,
        cache: dict[str, Pictures],
    ) -> None:
        self.schedule = task_schedule(stage)
        mask_id = TextTokenizer.from_file(prepared / "tokenizer.json", config.model.text.max_tokens).mask_id
        self.tasks = [TaskFeed(task, stage, config, prepared, label_sets, mask_id) for task in stage.tasks]
        needs_pictures = any(task.kind in ("image_text", "intent_query") and _contrasts(task) for task in stage.tasks)
        if needs_pictures and "all" not in cache:
            cache["all"] = Pictures(
                read_images(prepared), preprocess, min_crop=config.model.image.min_crop, config=config
            )
        self.images = cache.get("all")
        if needs_pictures and self.images is not None:
            for feed in self.tasks:
                feed.find_pictures(self.images)

    def batches(self, rank: int, workers: int, *, start: int = 0) -> Iterator[tuple[Task, Batch]]:
        """From step `start` on, this worker's share of every step's batch."""
        numbers = [0] * len(self.tasks)
        plan: list[tuple[int, int]] = []
        for task in self.schedule:
            plan.append((task, numbers[task]))
            numbers[task] += 1
        with ThreadPoolExecutor(1, thread_name_prefix="feed") as pool:
            ahead: list[Future[Batch]] = []
            for step in range(start, len(plan)):
                for task, number in plan[step + len(ahead) : step + 3]:
                    ahead.append(pool.submit(self.tasks[task].batch, number, self._pictures(), rank, workers))
                yield self.tasks[plan[step][0]].task, ahead.pop(0).result()

    def _pictures(self) -> Pictures:
        return self.images  # type: ignore[return-value]  # only read by tasks that have pictures


def proxy_groups(config: Config, prepared: Path) -> torch.Tensor | None:
    """The groups, int64 and sorted, of all tasks with the proxy loss; None without such a task.

    ValueError if they are more than a table should hold: then batches are large enough to do without.
    """
    tasks = [task for stage in config.stages for task in stage.tasks if task.losses.get("proxy")]
    if not tasks:
        return None
    groups = [read_examples(prepared, task, "train")["group"].combine_chunks().to_numpy() for task in tasks]
    found = np.unique(np.concatenate(groups).view(np.int64))
    if len(found) > MAX_PROXIES:
        names = ", ".join(task.name for task in tasks)
        raise ValueError(f"tasks {names}: {len(found)} groups for the proxy loss; at most {MAX_PROXIES}")
    return torch.from_numpy(found)


def _codes(table: pa.Table, column: str) -> NDArray[np.int64]:
    """The column's values as numbers, equal where the values are; a missing value is -1."""
    if column not in table.column_names:
        return np.full(len(table), -1, np.int64)
    codes: NDArray[np.int64] = (
        table[column].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64)
    )
    return codes


def _contrasts(task: Task) -> bool:
    """Whether the task's counterparts are looked at; `proxy` alone is about texts."""
    return any(task.losses.get(name) for name in ("contrastive", "fused"))
