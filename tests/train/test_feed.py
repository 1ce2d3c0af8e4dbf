"""Does every number of workers see the same examples, with the same tokens hidden, and no label moved?"""

import dataclasses
import shutil
import warnings
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unimir.artifacts import read_manifest
from unimir.bundle import preprocess_of, read_label_sets
from unimir.config import Config, Stage, Task
from unimir.data.prepared import read_kind
from unimir.plain import override
from unimir.train.driver import check_stages
from unimir.train.feed import Sources, StageFeed, TaskFeed, held_out, proxy_groups
from unimir.train.hints import Negatives, write_negatives
from unimir.train.log import rises
from unimir.train.shares import Batch
from unimir.train.tables import Ragged
from unimir.train.worker import build_objective, deciding


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
        for name in ("groups_B", "texts_B", "answers_B", "sets_B", "intents_B", "tags_T"):
            if getattr(whole, name) is not None:
                assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
        assert torch.equal(torch.cat([part.texts.ids_T for part in parts]), whole.texts.ids_T)
        assert torch.equal(torch.cat([part.texts.lengths_B for part in parts]), whole.texts.lengths_B)
        steps += 1
    assert steps == stage.steps


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=30))
def test_digests_are_equal_where_rows_are(rows: list[list[int]]) -> None:
    found = Ragged(pa.array(rows, pa.large_list(pa.int32()))).digests(np.arange(len(rows))).tolist()
    for a, b in combinations(range(len(rows)), 2):
        assert (found[a] == found[b]) == (rows[a] == rows[b])


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


@pytest.mark.parametrize(("zero", "rate", "cropped"), [(0, 0.0, False), (3, 0.0, False), (0, 1e-3, True)])
def test_a_frozen_tower_is_shown_whole_pictures_whether_kept_or_not(
    zero: Literal[0, 3], rate: float, cropped: bool, tiny_config: Config, tiny_prepared: Path
) -> None:
    """Else ZeRO 3, which keeps no vectors, would learn from other pictures than ZeRO 0."""
    config = override(
        tiny_config, [f"engine.zero={zero}", "model.image.min_crop=0.3", f"stages.joint.rates.image={rate}"]
    )
    given = sources(config, tiny_prepared)
    task, batch = next(pair for pair in StageFeed(config.stages[2], given).batches(0, 1) if pair[1].pixels is not None)
    feed = TaskFeed(task, config.stages[2], given)
    rows = feed.picture_rows[batch.rows_B.numpy()]
    whole = given.pictures().pixels(np.unique(rows[rows >= 0]), None)
    assert torch.equal(batch.pixels, whole) is not cropped


def test_held_out_batches_are_of_the_validation_split_and_always_the_same(
    tiny_config: Config, tiny_prepared: Path, tmp_path: Path
) -> None:
    stage = with_hidden_tokens(tiny_config.stages[2], 0.5)
    prepared = without_validation(tiny_prepared, tmp_path)
    assert not list(held_out(stage, sources(tiny_config, prepared), 0, 1))
    for kind in ("image_text", "parallel"):
        shutil.copytree(prepared / kind / "evaluation", prepared / kind / "validation")
    whole = sources(tiny_config, prepared)
    first, again = dict_of(held_out(stage, whole, 0, 1)), dict_of(held_out(stage, whole, 0, 1))
    assert set(first) == {"captions", "parallel"}
    shares = [dict_of(held_out(stage, whole, rank, 2)) for rank in range(2)]
    for name, batches in first.items():
        for one, two, *parts in zip(batches, again[name], *(share[name] for share in shares), strict=True):
            assert one.rows_B is not None and torch.equal(one.rows_B, two.rows_B)
            assert torch.equal(one.texts.ids_T, two.texts.ids_T) and 4 not in one.texts.ids_T  # <mask>
            assert torch.equal(torch.cat([part.rows_B for part in parts]), one.rows_B)


def without_validation(prepared: Path, directory: Path) -> Path:
    """A copy of the corpus, as of one whose manifest holds out nothing."""
    return shutil.copytree(prepared, directory / "prepared", ignore=shutil.ignore_patterns("validation"))


def dict_of(found: Iterator[tuple[Task, list[Batch]]]) -> dict[str, list[Batch]]:
    return {task.name: batches for task, batches in found}


def test_a_worker_without_pictures_encodes_one_that_nobody_looks_at(tiny_config: Config, tiny_prepared: Path) -> None:
    """So that all workers have gradients of the same parts."""
    stage = tiny_config.stages[2]
    (task,) = [task for task in stage.tasks if task.name == "queries"]
    feed = TaskFeed(task, stage, sources(tiny_config, tiny_prepared))
    rows = feed.order.batch(0)
    half = len(rows) // 2
    assert (feed.picture_rows[rows[half:]] >= 0).any()
    feed.picture_rows[rows[:half]], feed.documents = -1, feed.ids  # what has no picture has a text
    first, second = (feed.batch(0, rank, 2) for rank in range(2))
    assert first.picture_of_B is not None and (first.picture_of_B == -1).all()
    assert first.pixels is not None and len(first.pixels) == 1
    assert second.pixels is not None and len(second.pixels) > 1
    model = build_objective(tiny_config, tiny_prepared)
    model(dataclasses.replace(first, sizes=[len(first.groups_B)]))[0].backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.model.image.parameters())


def test_more_workers_than_rows_of_a_batch_are_refused(tiny_config: Config, tiny_prepared: Path) -> None:
    check_stages(tiny_config, tiny_prepared, 32)
    with pytest.raises(ValueError, match="task parallel: 32 rows a batch; 33 workers need one each"):
        check_stages(tiny_config, tiny_prepared, 33)


@pytest.mark.parametrize("picture", [None, "lost/1"])
def test_queries_that_ask_for_nothing_are_no_examples_of_retrieval(
    picture: str | None, tiny_config: Config, tiny_prepared: Path, tmp_path: Path
) -> None:
    """They would be held against a text without tokens, whose vector is no number."""
    bare = shutil.copytree(tiny_prepared, tmp_path / "bare")
    for path in (bare / "intent_query" / "train").glob("*.parquet"):
        table = pq.read_table(path)
        for name, value in (("image_id", picture), ("doc_ids", None)):
            field = table.schema.field(name)
            values = pa.array([value] * len(table), field.type)
            table = table.set_column(table.schema.get_field_index(name), field, values)
        pq.write_table(table, path)
    with pytest.raises(ValueError, match="task queries: [0-9]+ queries of split train have neither a picture"):
        check_stages(tiny_config, bare, 1)


def test_what_the_last_stage_lacks_is_said_before_the_first_begins(
    tiny_config: Config, tiny_prepared: Path, tmp_path: Path
) -> None:
    first, *_, last = tiny_config.stages
    tasks = (*last.tasks, dataclasses.replace(last.tasks[0], name="photos", sources=("flickr",)))
    config = dataclasses.replace(tiny_config, stages=(first, dataclasses.replace(last, tasks=tasks)))
    with pytest.raises(ValueError, match="task photos: .* has no image_text rows of flickr in split train"):
        check_stages(config, tiny_prepared, 1)
    unmasked = shutil.copytree(tiny_prepared, tmp_path / "unmasked")
    tokenizer = (unmasked / "tokenizer.json").read_text()
    (unmasked / "tokenizer.json").write_text(tokenizer.replace("<mask>", "<hole>"))
    config = dataclasses.replace(tiny_config, stages=(first, with_hidden_tokens(last, 0.5)))
    with pytest.raises(ValueError, match="task captions: hide 0.5; the tokenizer has no mask token"):
        check_stages(config, unmasked, 1)


def test_columns_that_grow_beyond_2_gib_have_large_types_and_others_are_not_read(tiny_prepared: Path) -> None:
    table = read_kind(tiny_prepared, "text_text", "train", ["text", "doc_ids", "image_id"])
    assert table.schema.types == [pa.large_string(), pa.large_list(pa.int32())] and len(table)


def test_pixels_are_the_same_whatever_the_number_of_threads(tiny_config: Config, tiny_prepared: Path) -> None:
    cropped = dataclasses.replace(tiny_config.model, image=dataclasses.replace(tiny_config.model.image, min_crop=0.3))
    config = dataclasses.replace(tiny_config, model=cropped)
    rows, found, threads = np.array([5, 0, 7, 2, 11]), [], torch.get_num_threads()
    filters = list(warnings.filters)
    for number in (1, 2, 8):
        torch.set_num_threads(number)
        pictures = sources(config, tiny_prepared).pictures()
        found.append(torch.cat([pictures.pixels(rows, (0, "text")), pictures.pixels(rows[:2], None)]))
    torch.set_num_threads(threads)
    assert list(warnings.filters) == filters  # those are of all threads
    assert found[0].shape[0] == 7 and not torch.equal(found[0][:2], found[0][5:])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_only_losses_measured_both_times_can_have_risen() -> None:
    assert rises({"pairs": 1.0, "few_rows": 2.0}, {"pairs": 1.25}) == {"pairs": 0.25}


def test_losses_that_mean_nothing_for_groups_held_out_are_not_measured(
    tiny_config: Config, tiny_prepared: Path, tmp_path: Path
) -> None:
    prepared = without_validation(tiny_prepared, tmp_path)
    shutil.copytree(prepared / "parallel/evaluation", prepared / "parallel/validation")
    plain = tiny_config.stages[0].tasks[0]
    tasks = (
        dataclasses.replace(plain, losses={"contrastive": 1.0, "proxy": 1.0, "anchor": 0.1}),
        dataclasses.replace(plain, name="learned", losses={"proxy": 1.0}),
    )
    stage = dataclasses.replace(tiny_config.stages[0], tasks=tasks)
    found = dict_of(held_out(stage, sources(tiny_config, prepared), 0, 1))
    assert set(found) == {"parallel"}
    assert {tuple(batch.losses) for batch in found["parallel"]} == {("contrastive",)}


def test_as_many_mined_negatives_as_there_are_are_drawn(tmp_path: Path, tiny_prepared: Path) -> None:
    mined = [[5, 6], [], [7]]
    prepared_id = read_manifest(tiny_prepared, "prepared")["id"]
    rows = iter([np.array(row, np.int32) for row in mined])
    write_negatives(tmp_path / "mined", rows, prepared=prepared_id, bundle="b", config={})
    drawn = Negatives(tmp_path / "mined", tiny_prepared).draw(np.arange(3), 4, np.random.default_rng(0))
    assert [sorted(row[row >= 0].tolist()) for row in drawn] == mined
    assert drawn.shape == (3, 4)


def test_a_run_that_diverged_is_no_best_checkpoint() -> None:
    assert deciding(1, 0.1) > deciding(1, 5.0) > deciding(1, float("nan")) >= 1 > deciding(0, 0.0)
