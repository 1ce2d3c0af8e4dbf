"""Does every number of workers see the same examples, with the same tokens hidden, and no label moved?"""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from unimir.bundle import preprocess_of, read_label_sets
from unimir.config import Config, Stage, Task
from unimir.train.feed import Sources, StageFeed, proxy_groups
from unimir.train.shares import Batch
from unimir.train.worker import build_objective


def batches(config: Config, stage: Stage, prepared: Path, rank: int = 0, workers: int = 1) -> Iterator[Batch]:
    for _, batch in StageFeed(stage, sources(config, prepared)).batches(rank, workers):
        yield batch


def sources(config: Config, prepared: Path) -> Sources:
    preprocess = preprocess_of(build_objective(config, prepared).model)
    return Sources(config, prepared, read_label_sets(prepared / "labels.json"), preprocess)


def with_hidden_tokens(stage: Stage, hide: float) -> Stage:
    return dataclasses.replace(stage, tasks=tuple(dataclasses.replace(task, hide=hide) for task in stage.tasks))


@pytest.mark.parametrize("workers", [2, 3])
def test_the_shares_of_all_workers_are_the_batch_of_one(workers: int, tiny_config: Config, tiny_prepared: Path) -> None:
    stage = with_hidden_tokens(tiny_config.stages[2], 0.5)
    alone = batches(tiny_config, stage, tiny_prepared)
    shares = [batches(tiny_config, stage, tiny_prepared, rank, workers) for rank in range(workers)]
    steps = 0
    for whole, *parts in zip(alone, *shares, strict=True):
        for name in ("groups_B", "texts_B", "sets_B", "intents_B", "tags_T"):
            if getattr(whole, name) is not None:
                assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
        assert torch.equal(torch.cat([part.texts.ids_T for part in parts]), whole.texts.ids_T)
        assert torch.equal(torch.cat([part.texts.lengths_B for part in parts]), whole.texts.lengths_B)
        steps += 1
    assert steps == stage.steps


def test_hidden_tokens_are_masks_up_to_the_share_asked_for(tiny_config: Config, tiny_prepared: Path) -> None:
    stage = tiny_config.stages[1]
    hidden = total = 0
    for plain, masked in zip(
        batches(tiny_config, stage, tiny_prepared),
        batches(tiny_config, with_hidden_tokens(stage, 0.6), tiny_prepared),
        strict=True,
    ):
        assert plain.tags_T is not None and masked.tags_T is not None
        assert torch.equal(plain.tags_T, masked.tags_T)
        changed = plain.texts.ids_T != masked.texts.ids_T
        assert set(masked.texts.ids_T[changed].tolist()) <= {4}  # <mask>
        hidden, total = hidden + int(changed.sum()), total + len(changed)
    assert 0.25 < hidden / total < 0.35  # half of 0.6 on average


def test_too_many_groups_for_proxies_are_refused(
    tiny_config: Config, tiny_prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimir.train.feed.MAX_PROXIES", 3)
    task = dataclasses.replace(tiny_config.stages[0].tasks[0], losses={"proxy": 1.0})
    stage = dataclasses.replace(tiny_config.stages[0], tasks=(task,))
    with pytest.raises(ValueError, match=r"tasks parallel: \d+ groups for the proxy loss; at most 3"):
        proxy_groups(dataclasses.replace(tiny_config, stages=(stage,)), tiny_prepared)


def test_proxy_groups_are_all_groups_of_the_tasks_that_ask(tiny_config: Config, tiny_prepared: Path) -> None:
    assert proxy_groups(tiny_config, tiny_prepared) is None
    task = dataclasses.replace(tiny_config.stages[0].tasks[0], losses={"proxy": 1.0})
    stage = dataclasses.replace(tiny_config.stages[0], tasks=(task,))
    groups = proxy_groups(dataclasses.replace(tiny_config, stages=(stage,)), tiny_prepared)
    assert groups is not None
    assert torch.equal(groups, groups.unique(sorted=True))
    for batch in batches(tiny_config, stage, tiny_prepared):
        assert torch.isin(batch.groups_B, groups).all()
        assert batch.documents is None  # the proxy loss alone asks for no counterpart


def test_pictures_of_a_frozen_tower_come_once(tiny_config: Config, tiny_prepared: Path) -> None:
    stage = tiny_config.stages[2]
    stage = dataclasses.replace(stage, rates={**stage.rates, "image": 0.0})
    feed = StageFeed(stage, sources(tiny_config, tiny_prepared))
    asked, sent = set(), []
    for _, batch in feed.batches(0, 1):
        if batch.kept_P is None:
            continue
        assert batch.picture_of_B is not None and batch.picture_of_B.max() == len(batch.kept_P) - 1
        asked.update((batch.scale, int(row)) for row in batch.kept_P)
        if batch.fresh_F is not None and batch.pixels is not None:
            assert len(batch.fresh_F) == len(batch.pixels)
            sent += batch.fresh_F.tolist()
    tasks = sum(task.images is not None for task in feed.tasks)
    assert sent and set(sent) == {row for _, row in asked}
    assert max(sent.count(row) for row in set(sent)) <= tasks  # once for each task that looks at it
    assert feed.kept_pictures > max(sent)


def test_held_out_batches_are_of_the_validation_split_and_always_the_same(
    tiny_config: Config, tiny_prepared: Path, tmp_path: Path
) -> None:
    stage = with_hidden_tokens(tiny_config.stages[2], 0.5)
    assert not list(StageFeed(stage, sources(tiny_config, tiny_prepared)).held_out(0, 1))  # the sample has none
    prepared = shutil.copytree(tiny_prepared, tmp_path / "prepared")
    for kind in ("image_text", "parallel"):
        shutil.copytree(prepared / kind / "evaluation", prepared / kind / "validation")
    feed = StageFeed(stage, sources(tiny_config, prepared))
    first, again = dict_of(feed.held_out(0, 1)), dict_of(feed.held_out(0, 1))
    assert set(first) == {"captions", "parallel"}
    shares = [dict_of(feed.held_out(rank, 2)) for rank in range(2)]
    for name, batches in first.items():
        for one, two, *parts in zip(batches, again[name], *(share[name] for share in shares), strict=True):
            assert one.rows_B is not None and torch.equal(one.rows_B, two.rows_B)
            assert torch.equal(one.texts.ids_T, two.texts.ids_T) and 4 not in one.texts.ids_T  # <mask>
            assert torch.equal(torch.cat([part.rows_B for part in parts]), one.rows_B)


def dict_of(found: Iterator[tuple[Task, list[Batch]]]) -> dict[str, list[Batch]]:
    return {task.name: batches for task, batches in found}
