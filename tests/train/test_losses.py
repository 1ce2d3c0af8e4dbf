"""Is the objective right: InfoNCE by hand, masks, mixed counterparts, and two workers against one."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny import batch_of, build, gradients, objective, texts
from torch.nn.functional import normalize

from unimir.train.losses import Objective, Taught, bounded, contrastive
from unimir.train.shares import Batch, gather


def test_contrastive_of_two_pairs_by_hand() -> None:
    a = torch.eye(2)
    loss = contrastive(a, a, torch.eye(2, dtype=torch.bool), torch.tensor(1.0))
    assert loss.item() == pytest.approx(-math.log(math.e / (math.e + 1)))


def test_same_group_is_no_negative() -> None:
    a = torch.eye(2)
    everything = torch.ones(2, 2, dtype=torch.bool)
    assert contrastive(a, a, everything, torch.tensor(5.0)).item() == pytest.approx(0.0)


def test_contrastive_equals_the_textbook_form() -> None:
    torch.manual_seed(0)
    a, b = normalize(torch.randn(9, 4), dim=1), normalize(torch.randn(9, 4), dim=1)
    scale = torch.tensor(7.0)
    logits = (scale * a @ b.T).double()
    rows = -(logits.diagonal() - logits.logsumexp(1)).mean()
    columns = -(logits.diagonal() - logits.logsumexp(0)).mean()
    loss = contrastive(a, b, torch.eye(9, dtype=torch.bool), scale)
    assert loss.item() == pytest.approx(((rows + columns) / 2).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("start", "wanted", "end"),
    [(3.0, 200.0, 100.0), (150.0, 200.0, 150.0), (150.0, 60.0, 60.0), (3.0, 60.0, 60.0)],
    ids=["stops at the bound", "no further beyond it", "back from beyond it", "free below it"],
)
def test_a_scale_is_bounded_but_not_caught_beyond_its_bound(start: float, wanted: float, end: float) -> None:
    log_scale = torch.tensor([math.log(start)], requires_grad=True)
    optimizer = torch.optim.SGD([log_scale], lr=0.01)
    for _ in range(500):
        scale = bounded(log_scale)
        assert scale.item() <= 100 * (1 + 1e-5)
        optimizer.zero_grad()
        (scale.log() - math.log(wanted)).square().sum().backward()
        optimizer.step()
    assert log_scale.exp().item() == pytest.approx(end, rel=0.02)


def with_hard(batch: Batch) -> Batch:
    """Two mined documents for every row; one of them is of the row's own group."""
    groups_M, texts_M = (torch.stack([own, own + 1], 1).ravel() for own in (batch.groups_B, batch.texts_B))
    rows = [texts(5 + int(group) % 3) for group in groups_M]
    tokens = type(batch.texts)(torch.cat([r.ids_T for r in rows]), torch.cat([r.lengths_B for r in rows]))
    return replace(batch, hard=tokens, hard_groups_M=groups_M, hard_texts_M=texts_M)


def _worker(rank: int, sizes: list[int], store: str, out: str, cached: bool) -> None:
    torch.set_num_threads(1)  # forked: OpenMP threads of the parent are gone
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=len(sizes))
    one = objective()
    start = sum(sizes[:rank])
    loss, losses = one(replace(with_hard(batch_of(slice(start, start + sizes[rank]), sizes)), cached=cached))
    loss.backward()
    found = {name: grad / len(sizes) for name, grad in gradients(one).items()}
    zeros = {name: torch.zeros_like(p) for name, p in one.state_dict(keep_vars=True).items() if p.requires_grad}
    for name in zeros:  # what the engine does: the average over workers
        dist.all_reduce(found.setdefault(name, zeros[name]))
    values = torch.stack(list(losses.values()))
    dist.all_reduce(values)
    if rank == 0:
        torch.save({"gradients": found, "losses": values / len(sizes)}, out)
    dist.destroy_process_group()


@pytest.mark.parametrize("cached", [False, True], ids=["plain", "cached"])
@pytest.mark.parametrize("sizes", [[3, 3], [2, 4], [1, 2, 3]])
def test_workers_together_equal_one(sizes: list[int], cached: bool, tmp_path: Path) -> None:
    alone = objective()
    loss, losses = alone(with_hard(batch_of(slice(0, 6), [6])))
    loss.backward()
    arguments = (sizes, str(tmp_path / "store"), str(tmp_path / "out"), cached)
    mp.start_processes(_worker, arguments, nprocs=len(sizes), start_method="fork")
    together = torch.load(tmp_path / "out", weights_only=True)
    torch.testing.assert_close(together["losses"], torch.stack(list(losses.values())), rtol=1e-5, atol=1e-6)
    found = gradients(alone)
    whole = torch.stack([gradient.norm() for gradient in found.values()]).norm()
    for name, gradient in found.items():  # those of keys' biases are zero but for rounding
        difference = (together["gradients"][name] - gradient).norm() / gradient.norm().clamp(min=1e-4 * whole)
        assert difference < 1e-5, f"{name}: {difference}"


def test_mixed_counterparts_keep_the_order_of_rows() -> None:
    one = objective().eval()
    batch = batch_of(slice(0, 6), [6])
    mixed = one._counterparts(batch)
    assert batch.pixels is not None and batch.documents is not None
    torch.testing.assert_close(mixed[::2], one.model.encode_image(batch.pixels))
    torch.testing.assert_close(mixed[1::2], one.model.encode_text(batch.documents).z_BD)


def test_gather_alone_is_the_rows_themselves() -> None:
    rows = torch.randn(3, 2)
    assert gather(rows, [3]) is rows


def test_anchor_measures_forgetting() -> None:
    one = objective()
    one.set_anchor(objective().model.text.state_dict())
    batch = Batch(
        losses={"anchor": 1.0}, sizes=[2], texts=texts(4, 6), groups_B=torch.arange(2), texts_B=torch.arange(2)
    )
    assert one(batch)[0].item() == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        one.model.text.projection.weight.normal_()
    assert one(batch)[0].item() > 0.1
    assert "anchor" not in {name.split(".")[0] for name, _ in one.named_parameters()}


def test_the_anchor_computes_in_the_engines_precision() -> None:
    """DeepSpeed rounds the module that it is given, of which the anchor is no part."""
    one, weights = objective(), objective().model.text.state_dict()
    one.set_anchor(weights, torch.bfloat16)
    one.model.bfloat16()
    with torch.no_grad():
        one.model.text.projection.weight.normal_()
    batch = Batch(
        losses={"anchor": 1.0}, sizes=[2], texts=texts(4, 6), groups_B=torch.arange(2), texts_B=torch.arange(2)
    )
    (rounded,) = one(batch)[1].values()
    exact = objective()
    exact.set_anchor(weights)
    exact.model.load_state_dict({name: value.float() for name, value in one.model.state_dict().items()})
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact(batch)[0].item(), abs=0.03)
    assert all(value.dtype == torch.float32 for value in weights.values() if value.is_floating_point())
    assert one._anchor is not None and one._anchor(batch.texts).dtype == torch.bfloat16


def test_the_anchor_takes_a_table_without_copying_it() -> None:
    """A value that is changed in the given table is changed in the anchor: what is half a gigabyte is there once."""
    one, weights = objective(), objective().model.text.state_dict()
    one.set_anchor(weights)
    batch = Batch(
        losses={"anchor": 1.0}, sizes=[2], texts=texts(4, 6), groups_B=torch.arange(2), texts_B=torch.arange(2)
    )
    weights["ngrams.table.weight"].normal_()
    assert one(batch)[0].item() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_proxy_loss_is_normalised_softmax_over_all_groups(dtype: torch.dtype) -> None:
    """In fp32 at any precision of the model: a bf16 logit near 100 is known to half a unit."""
    one = objective().eval().to(dtype)
    batch = replace(batch_of(slice(0, 6), [6]), losses={"proxy": 1.0}, pixels=None, documents=None, picture_of_B=None)
    assert one.proxies is not None
    z_BD, weight = one.model.encode_text(batch.texts).z_BD.float(), one.proxies.weight.float()
    scale = one.log_scales[batch.scale].exp().float()
    assert scale.item() == pytest.approx(1 / 0.07, rel=1e-2)
    expected = []
    for width in (16, 8):
        proxies = normalize(weight[:, :width], dim=1)
        for row, place in enumerate([0, 1, 2, 3, 0, 4]):  # of groups 0, 1, 2, 3, 0, 5
            logits = (normalize(z_BD[row, :width], dim=0) @ proxies.T) * scale
            expected.append(logits.logsumexp(0) - logits[place])
    loss, losses = one(batch)
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)
    assert list(losses) == ["proxy"]


def test_losses_are_summed_in_fp32() -> None:
    _, losses = objective().eval().bfloat16()(batch_of(slice(0, 6), [6]))
    assert {"intent", "slots"} <= losses.keys()
    assert {name: loss.dtype for name, loss in losses.items()} == dict.fromkeys(losses, torch.float32)


def test_cached_gradients_are_those_of_the_plain_batch() -> None:
    """Several chunks on every side, rows of one group among them, dropout in every layer."""
    found = []
    for cached in (False, True):
        one = objective().train()
        one.model.text.token_budget = 20
        for part in one.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.1
        torch.manual_seed(0)
        loss, _ = one(replace(with_hard(batch_of(slice(0, 6), [6])), cached=cached))
        loss.backward()
        found.append(gradients(one))
    plain, cached_gradients = found
    assert plain.keys() == cached_gradients.keys()
    for name, gradient in plain.items():
        difference = (cached_gradients[name] - gradient).norm() / gradient.norm().clamp(min=1e-9)
        assert difference < 1e-5, f"{name}: {difference}"


def test_hard_negatives_are_further_columns_but_for_the_own_group() -> None:
    torch.manual_seed(0)
    a, b, hard = (normalize(torch.randn(n, 4), dim=1) for n in (3, 3, 5))
    same = torch.zeros(3, 5, dtype=torch.bool)
    same[1, 2] = True
    loss = contrastive(a, b, torch.eye(3, dtype=torch.bool), torch.tensor(3.0), hard, same)
    rows = torch.cat([a @ b.T, (a @ hard.T).masked_fill(same, float("-inf"))], 1) * 3
    forward = -(rows.diagonal() - rows.logsumexp(1)).mean()
    columns = (a @ b.T).T * 3
    back = -(columns.diagonal() - columns.logsumexp(1)).mean()
    assert loss.item() == pytest.approx(((forward + back) / 2).item(), rel=1e-6)


def test_a_hard_negative_that_answers_the_same_query_in_another_row_is_none() -> None:
    one = objective()
    rows = {"sizes": [2], "groups_B": torch.arange(2), "texts_B": torch.tensor([7, 8]), "losses": {"contrastive": 1.0}}

    def loss(groups: list[int], answered: list[int]) -> float:
        hard = {"hard_groups_M": torch.tensor(groups), "hard_texts_M": torch.tensor(answered)}
        return one(Batch(texts=texts(4, 6), documents=texts(3, 5), hard=texts(2, 7), **hard, **rows))[0].item()

    assert loss([4, 5], [7, 7]) == pytest.approx(loss([0, 0], [9, 9]), rel=1e-6)  # both are the first row's
    assert loss([4, 5], [7, 7]) < loss([4, 5], [9, 9])


def test_what_another_row_answers_too_is_no_wrong_answer() -> None:
    """Of two queries for one document, in groups of their own, neither is held against the other's."""
    one = objective()
    rows = {"sizes": [3], "groups_B": torch.arange(3), "texts_B": torch.arange(3), "losses": {"contrastive": 1.0}}
    batch = Batch(texts=texts(4, 6, 5), documents=texts(3, 3, 8), **rows)
    apart = one(replace(batch, answers_B=torch.tensor([5, 6, 7])))[0].item()
    assert apart == pytest.approx(one(batch)[0].item(), rel=1e-6)
    shared = one(replace(batch, answers_B=torch.tensor([5, 5, 7])))[0].item()
    assert shared == pytest.approx(one(replace(batch, groups_B=torch.tensor([0, 0, 2])))[0].item(), rel=1e-6)
    assert shared < apart
    hard = {"hard": texts(3, 7, 9), "hard_groups_M": torch.tensor([7, 8, 9]), "hard_texts_M": torch.tensor([7, 8, 9])}
    mined = replace(batch, answers_B=torch.tensor([5, 6, 7]), **hard)
    assert (
        one(replace(mined, hard_answers_M=torch.tensor([5, 3, 4])))[0].item()
        < one(replace(mined, hard_answers_M=torch.tensor([2, 3, 4])))[0].item()
    )


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_distillation_is_nothing_once_the_pupil_is_the_teacher(distance: Literal["cosine", "mse"]) -> None:
    one = Objective(build(), taught=Taught(16, distance))
    assert one.pupil is not None
    torch.nn.init.eye_(one.pupil.weight)
    own = one.model.encode_text(texts(4, 6)).z_BD.detach()
    batch = Batch(
        losses={"distill": 1.0}, sizes=[2], texts=texts(4, 6), groups_B=torch.arange(2), texts_B=torch.arange(2)
    )
    assert one(replace(batch, teacher_BV=own))[0].item() == pytest.approx(0.0, abs=1e-6)
    other = normalize(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    expected = 1 - (own * other).sum(1).mean() if distance == "cosine" else ((own - other) ** 2).mean()
    assert one(replace(batch, teacher_BV=other))[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_pictures_of_a_frozen_tower_are_kept() -> None:
    one = objective().eval()
    batch = batch_of(slice(0, 6), [6])
    assert batch.pixels is not None
    one.keep_pictures(9)
    rows = torch.tensor([7, 2, 5])
    first = one(replace(batch, kept_P=rows, fresh_F=rows))[0]
    again = one(replace(batch, kept_P=rows, fresh_F=None, pixels=None))[0]
    assert first.item() == pytest.approx(one(batch)[0].item(), rel=1e-6)
    assert again.item() == first.item()


def test_kept_pictures_have_the_dtype_of_documents() -> None:
    """Of workers that gather together, one may have pictures and another documents alone."""
    one = objective().eval()
    batch = batch_of(slice(0, 6), [6])
    one.keep_pictures(9)
    for parameter in one.parameters():
        parameter.data = parameter.data.bfloat16()
    rows = torch.tensor([7, 2, 5])
    for pixels, fresh in ((batch.pixels, rows), (None, None)):
        kept = replace(batch, kept_P=rows, fresh_F=fresh, pixels=pixels)
        assert one._counterparts(kept).dtype == torch.bfloat16
        assert one._counterparts(replace(kept, documents=None, picture_of_B=torch.arange(3))).dtype == torch.bfloat16


PEAK = """
import dataclasses, json, sys
from pathlib import Path
import torch
from tiny import LABEL_SETS, texts
from unimir.config import ImageConfig, ModelConfig, TextConfig
from unimir.model.unimir import UniMIR
from unimir.train.losses import Objective
from unimir.train.shares import Batch

rows, cached = int(sys.argv[1]), sys.argv[2] == "cached"
torch.set_num_threads(1)
arch = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 512}
config = ModelConfig(
    dim=64,
    prefixes=(32,),
    text=TextConfig(arch=arch, max_tokens=48, token_budget=48 * 64),
    image=ImageConfig(name="convnext_atto", args={"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}, size=32),
)
objective = Objective(UniMIR(config, LABEL_SETS, vocab_size=100, pad_id=1)).train()

def step(count):
    batch = Batch(
        losses={"contrastive": 1.0}, sizes=[count], texts=texts(*[48] * count), documents=texts(*[47] * count),
        groups_B=torch.arange(count) // 2, texts_B=torch.arange(count), cached=cached,
    )
    objective(batch)[0].backward()

def status(name):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024

step(2)
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
step(rows)
print(json.dumps(status("VmHWM") - before))
"""


def test_sixteen_times_the_batch_takes_hardly_more_memory_when_cached() -> None:
    def peak(rows: int, how: str) -> int:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "MALLOC_MMAP_THRESHOLD_": "65536"}
        command = [sys.executable, "-c", PEAK, str(rows), how]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(json.loads(done.stdout))

    plain = peak(64, "plain")
    assert peak(1024, "cached") <= 1.3 * plain
