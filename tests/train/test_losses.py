"""Is the objective right: InfoNCE by hand, masks, mixed counterparts, and two workers against one."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny import batch_of, objective, texts
from torch.nn.functional import normalize

from unimir.train.losses import Objective, contrastive
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


def gradients(objective: Objective) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}


def _worker(rank: int, sizes: list[int], store: str, out: str) -> None:
    torch.set_num_threads(1)  # forked: OpenMP threads of the parent are gone
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=len(sizes))
    one = objective()
    start = sum(sizes[:rank])
    loss, losses = one(batch_of(slice(start, start + sizes[rank]), sizes))
    loss.backward()
    found = {name: grad / len(sizes) for name, grad in gradients(one).items()}
    zeros = {name: torch.zeros_like(p) for name, p in one.named_parameters()}
    for name in zeros:  # what the engine does: the average over workers
        dist.all_reduce(found.setdefault(name, zeros[name]))
    values = torch.stack(list(losses.values()))
    dist.all_reduce(values)
    if rank == 0:
        torch.save({"gradients": found, "losses": values / len(sizes)}, out)
    dist.destroy_process_group()


@pytest.mark.parametrize("sizes", [[3, 3], [2, 4], [1, 2, 3]])
def test_workers_together_equal_one(sizes: list[int], tmp_path: Path) -> None:
    alone = objective()
    loss, losses = alone(batch_of(slice(0, 6), [6]))
    loss.backward()
    mp.start_processes(
        _worker, (sizes, str(tmp_path / "store"), str(tmp_path / "out")), nprocs=len(sizes), start_method="fork"
    )
    together = torch.load(tmp_path / "out", weights_only=True)
    torch.testing.assert_close(together["losses"], torch.stack(list(losses.values())), rtol=1e-5, atol=1e-6)
    for name, gradient in gradients(alone).items():
        torch.testing.assert_close(
            together["gradients"][name], gradient, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


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
    one.set_anchor()
    batch = Batch(
        losses={"anchor": 1.0}, sizes=[2], texts=texts(4, 6), groups_B=torch.arange(2), texts_B=torch.arange(2)
    )
    assert one(batch)[0].item() == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        one.model.text.projection.weight.normal_()
    assert one(batch)[0].item() > 0.1
    assert "anchor" not in {name.split(".")[0] for name, _ in one.named_parameters()}


def test_proxy_loss_is_normalised_softmax_over_all_groups() -> None:
    one = objective().eval()
    batch = replace(batch_of(slice(0, 6), [6]), losses={"proxy": 1.0}, pixels=None, documents=None)
    assert one.proxies is not None
    z_BD = one.model.encode_text(batch.texts).z_BD
    expected = []
    for width in (16, 8):
        proxies = normalize(one.proxies.weight[:, :width], dim=1)
        for row, place in enumerate([0, 1, 2, 3, 0, 4]):  # of groups 0, 1, 2, 3, 0, 5
            logits = (normalize(z_BD[row, :width], dim=0) @ proxies.T) / 0.07
            expected.append(logits.logsumexp(0) - logits[place])
    loss, losses = one(batch)
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)
    assert list(losses) == ["proxy"]
