"""Turns planned row numbers into tensors, two steps ahead of the training thread.

Knows prepared tables, labels and pixels; knows neither the plan behind the row numbers nor the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from unimir.config import Config, Stage, Task
from unimir.data.hashing import hash_strings
from unimir.data.image import Preprocess
from unimir.data.prepared import read_images, read_kind
from unimir.data.text import TextTokenizer
from unimir.model.tokens import TokenBatch
from unimir.schema import LabelSet, Split
from unimir.train.batches import (
    Order,
    Partners,
    of_sources,
    read_examples,
    rng_of,
    share,
    task_batches,
    task_schedule,
)
from unimir.train.hints import Negatives, TeacherVectors
from unimir.train.shares import Batch
from unimir.train.tables import Labels, Pictures, Ragged, codes

AHEAD = 3
"""Batches under way: one that is trained on, two that are made."""
HELD_OUT = 2
"""Batches of every task by which a checkpoint is judged."""
KEPT_BYTES = 2 * 2**30
"""Vectors of a frozen image tower's pictures, on every worker; with more it encodes them anew each time."""
_USED = ("group", "lang", "ids", "image_id", "doc_ids", "label_set", "intent", "token_slots")
"""Columns that make batches: tokens of what is said, not the words."""
MAX_PROXIES = 500_000
"""Groups with a learned vector each; every step computes a logit for every one of them."""


@dataclass
class Sources:
    """What all feeds of a run read from, each opened once."""

    config: Config
    prepared: Path
    label_sets: Sequence[LabelSet]
    preprocess: Preprocess
    negatives: Negatives | None = None
    teacher: TeacherVectors | None = None
    _pictures: list[Pictures] = field(default_factory=list)

    def __post_init__(self) -> None:
        tokenizer = TextTokenizer.from_file(self.prepared / "tokenizer.json", self.config.model.text.max_tokens)
        self.mask_id = tokenizer.mask_id

    def pictures(self) -> Pictures:
        """All pictures of the corpus."""
        if not self._pictures:
            min_crop = self.config.model.image.min_crop
            self._pictures.append(Pictures(read_images(self.prepared), self.preprocess, min_crop=min_crop))
        return self._pictures[0]


class TaskFeed:
    """Batches of one task."""

    def __init__(self, task: Task, stage: Stage, sources: Sources, *, split: Split = "train") -> None:
        """ValueError if the corpus has nothing for the task."""
        table = read_examples(sources.prepared, task, split, _USED)
        self.mask_id = sources.mask_id
        self.task = task
        self.seed: tuple[int | str, ...] = (sources.config.seed, stage.name, task.name)
        self.ids = Ragged(table["ids"].combine_chunks())
        self.order = Order(
            codes(table, "lang"),
            self.ids.lengths,
            batch_size=task.batch_size,
            temperature=stage.language_temperature,
            seed=self.seed,
            pictures=codes(table, "image_id") if task.per_picture > 1 else None,
            per_picture=task.per_picture,
        )
        self.groups = table["group"].combine_chunks().to_numpy().view(np.int64)
        # Texts can be most of a corpus: they are looked at part by part, and not kept.
        rows = read_kind(sources.prepared, task.kind, split, ["source", "text"])
        texts, kept = rows["text"], of_sources(rows, task)
        hashes = np.concatenate([hash_strings(part) for part in texts.chunks]).view(np.int64)
        self.texts = hashes[kept]
        self.partners = Partners.of(self.groups) if task.kind == "parallel" else None
        self.documents = Ragged(table["doc_ids"].combine_chunks()) if "doc_ids" in table.column_names else None
        self.labels = Labels(table, self.ids, sources.label_sets) if "intent" in table.column_names else None
        self.images: Pictures | None = None
        if "image_id" in table.column_names and contrasts(task):
            self.images = sources.pictures()
            found = pc.index_in(table["image_id"], self.images.ids).fill_null(-1)
            self.picture_rows = found.to_numpy().astype(np.int64)  # of every example; -1 where it has none
        self.frozen = stage.rates.get("image", 0.0) == 0
        self.crops = split == "train" and not self.frozen  # a frozen tower is shown the same, kept or encoded anew
        self.sent: set[int] = set()  # pictures of a frozen tower whose pixels have been in a batch
        self.hard = _Hard(sources, task, split, hashes) if task.hard_negatives else None
        wants_teacher = task.losses.get("distill") and sources.teacher is not None
        self.taught = sources.teacher.rows_of(texts)[kept] if wants_teacher and sources.teacher else None
        self.teacher = sources.teacher

    def batch(self, number: int, rank: int, workers: int) -> Batch:
        """This worker's share of the task's batch with this running number."""
        rows = self.order.batch(number)
        rng = rng_of(*self.seed, number, "batch")
        partners = self.partners.draw(rows, rng) if self.partners is not None else None
        own, sizes = share(rows, rank, workers)
        mine = rows[own]
        batch = Batch(
            losses=self.task.losses,
            sizes=sizes,
            texts=self._texts(rows, own, rng),
            groups_B=torch.from_numpy(self.groups[mine]),
            texts_B=torch.from_numpy(self.texts[mine]),
            rows_B=torch.from_numpy(mine),
            scale="text" if self.images is None else "image",
            cached=self.task.cached,
        )
        changes: dict[str, Any] = {}
        if contrasts(self.task):
            changes |= self._counterparts(rows, own, None if partners is None else partners[own], number)
        if self.hard is not None:
            changes |= self.hard.of(rows, own, rng)
        if self.labels is not None:
            changes["sets_B"] = torch.from_numpy(self.labels.sets[mine])
            changes["intents_B"] = torch.from_numpy(self.labels.intents[mine])
            changes["tags_T"] = torch.from_numpy(self.labels.tags[self.ids.positions(mine)])
        if self.taught is not None and self.teacher is not None:
            changes["teacher_BV"] = torch.from_numpy(self.teacher.vectors(self.taught[mine]))
        return replace(batch, **changes)

    def _counterparts(
        self, rows: NDArray[np.int64], own: slice, partners: NDArray[np.int64] | None, number: int
    ) -> dict[str, Any]:
        """What the texts are held against: partners, pictures, documents, or pictures and documents by turns."""
        mine = rows[own]
        if partners is not None:
            return {"documents": self.ids.tokens(partners), "answers_B": self.ids.digests(partners)}
        if self.images is None:
            if self.documents is None:
                return {}
            return {"documents": self.documents.tokens(mine), "answers_B": self.documents.digests(mine)}
        pictures = self.picture_rows[mine]
        unique, inverse = np.unique(pictures[pictures >= 0], return_inverse=True)
        picture_of = np.full(len(mine), -1, np.int64)
        picture_of[pictures >= 0] = inverse
        answers = torch.from_numpy(pictures.copy())
        if self.documents is not None:
            answers[torch.from_numpy(pictures < 0)] = self.documents.digests(mine[pictures < 0])
        found: dict[str, Any] = {"picture_of_B": torch.from_numpy(picture_of), "answers_B": answers}
        if not len(unique) and not self.frozen:
            # Whoever has no picture encodes one of the others': all workers then have gradients of the same parts, in
            # the same order, as DeepSpeed's reduction needs.
            unique = self.picture_rows[rows][self.picture_rows[rows] >= 0][:1]
        if len(unique) and self.frozen:
            found |= self._once(unique, number)
        elif len(unique):
            found["pixels"] = self.images.pixels(unique, (*self.seed, number) if self.crops else None)
        with_text = mine[pictures < 0]
        if not len(with_text):
            with_text = rows[self.picture_rows[rows] < 0][:1]  # likewise
        if self.documents is not None and len(with_text):
            found["documents"] = self.documents.tokens(with_text)
        return found

    def _once(self, unique: NDArray[np.int64], number: int) -> dict[str, Any]:
        """Pictures of a frozen tower, with the pixels of those that it has not seen."""
        assert self.images is not None
        fresh = np.array([row for row in unique.tolist() if row not in self.sent], np.int64)
        self.sent.update(fresh.tolist())
        found = {"kept_P": torch.from_numpy(unique)}
        if len(fresh):
            found |= {"fresh_F": torch.from_numpy(fresh), "pixels": self.images.pixels(fresh, None)}
        return found

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


class _Hard:
    """Mined documents of one task's queries."""

    def __init__(self, sources: Sources, task: Task, split: Split, texts: NDArray[np.int64]) -> None:
        table = read_kind(sources.prepared, task.kind, split, ["source", "group", "doc_ids"])
        self._count = task.hard_negatives
        self._documents = Ragged(table["doc_ids"].combine_chunks())
        self._groups, self._texts = table["group"].combine_chunks().to_numpy().view(np.int64), texts
        self._kept = of_sources(table, task)  # the task's rows among all of their kind, of which negatives are told
        self._mined = sources.negatives if split == "train" else None

    def of(self, rows: NDArray[np.int64], own: slice, rng: np.random.Generator) -> dict[str, Any]:
        """So many documents for each of this worker's rows: mined ones, and where they are too few, any."""
        drawn = rng.integers(0, len(self._groups), (len(rows), self._count))
        if self._mined is not None:
            mined = self._mined.draw(self._kept[rows], self._count, rng)
            drawn = np.where(mined >= 0, mined, drawn)
        chosen = drawn[own].ravel()
        return {
            "hard": self._documents.tokens(chosen),
            "hard_groups_M": torch.from_numpy(self._groups[chosen]),
            "hard_texts_M": torch.from_numpy(self._texts[chosen]),
            "hard_answers_M": self._documents.digests(chosen),
        }


class StageFeed:
    """The batches of one stage, in order, built in a thread while those before are trained on."""

    def __init__(self, stage: Stage, sources: Sources) -> None:
        self.plan = task_batches(task_schedule(stage))
        self.tasks = [TaskFeed(task, stage, sources) for task in stage.tasks]
        # What one task has sent, the others need not send.
        sent: set[int] = set()
        # In ZeRO 3 a frozen tower's passes, too, are made by all workers together.
        keeps = sources.config.engine.zero < 3 and 4 * self.kept_pictures * sources.config.model.dim <= KEPT_BYTES
        for feed in self.tasks:
            feed.sent, feed.frozen = sent, feed.frozen and keeps

    @property
    def kept_pictures(self) -> int:
        """Pictures that a frozen image tower may be asked for; 0 if it is trained, or not asked."""
        return max((len(task.images.ids) for task in self.tasks if task.frozen and task.images is not None), default=0)

    def batches(self, rank: int, workers: int, *, start: int = 0) -> Iterator[tuple[Task, Batch]]:
        """From step `start` on, this worker's share of every step's batch."""
        pin = torch.cuda.is_available()

        def build(task: int, number: int) -> Batch:
            batch = self.tasks[task].batch(number, rank, workers)
            return batch.pinned() if pin else batch

        with ThreadPoolExecutor(1, thread_name_prefix="feed") as pool:
            ahead: list[Future[Batch]] = []
            for step in range(start, len(self.plan)):
                for task, number in self.plan[step + len(ahead) : step + AHEAD]:
                    ahead.append(pool.submit(build, task, number))
                yield self.tasks[self.plan[step][0]].task, ahead.pop(0).result()


def held_out(stage: Stage, sources: Sources, rank: int, workers: int) -> Iterator[tuple[Task, list[Batch]]]:
    """A few batches of every task that has rows in the validation split, nothing hidden; always the same.

    Without the losses that mean nothing there: no proxy was learned for a group held out, and an anchor is another one
    in every stage. Tasks that have no others are left out.
    """
    for task in stage.tasks:
        losses = {name: weight for name, weight in task.losses.items() if weight and name not in ("proxy", "anchor")}
        rows = read_kind(sources.prepared, task.kind, "validation", ["source"])
        size = min(task.batch_size, len(of_sources(rows, task)))
        if not losses or size < max(2, workers):
            continue
        feed = TaskFeed(replace(task, hide=0.0, losses=losses), stage, sources, split="validation")
        feed.frozen = False
        numbers = range(min(HELD_OUT, feed.order.batches_per_epoch))
        yield task, [feed.batch(number, rank, workers) for number in numbers]


def proxy_groups(config: Config, prepared: Path) -> torch.Tensor | None:
    """The groups, int64 and sorted, of all tasks with the proxy loss; None without such a task.

    ValueError if they are more than a table should hold: then batches are large enough to do without.
    """
    tasks = [task for stage in config.stages for task in stage.tasks if task.losses.get("proxy")]
    if not tasks:
        return None
    groups = [read_examples(prepared, task, "train", ["group"])["group"].combine_chunks().to_numpy() for task in tasks]
    found = np.unique(np.concatenate(groups).view(np.int64))
    if len(found) > MAX_PROXIES:
        names = ", ".join(task.name for task in tasks)
        raise ValueError(f"tasks {names}: {len(found)} groups for the proxy loss; at most {MAX_PROXIES}")
    return torch.from_numpy(found)


def contrasts(task: Task) -> bool:
    """Whether the task's counterparts are looked at; `proxy` alone is about texts."""
    return any(task.losses.get(name) for name in ("contrastive", "fused"))
