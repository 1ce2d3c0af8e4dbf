"""Are the rates right that training tells of itself, and do its savings change nothing but time and memory?"""

import time
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch._dynamo
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ARCH, LABEL_SETS, batch_of, build, gradients, learning, objective, texts
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from unimir.config import ImageConfig
from unimir.model.unimir import UniMIR
from unimir.recipes import recipe
from unimir.train.losses import Objective
from unimir.train.throughput import Meter, padded_tokens, peak_flops, peak_named


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 200))
@settings(deadline=None)
def test_padding_is_what_length_sorted_chunks_add(lengths: list[int], budget: int) -> None:
    padded = padded_tokens(texts(*lengths), budget)
    assert sum(lengths) <= padded <= len(lengths) * max(lengths)
    if len(set(lengths)) == 1 or budget < min(lengths):
        assert padded == sum(lengths)


def test_a_meter_counts_and_goes_on_from_its_state() -> None:
    batch = batch_of(slice(0, 6), [6])
    meter = Meter(build(), trained={"text", "image"}, workers=1, device=torch.device("cpu"))
    for _ in range(2):
        meter.count(batch)
        with meter.waiting():
            time.sleep(0.01)
    found, rates = meter.state(), meter.rates()
    assert found["examples"] == 12
    assert batch.documents is not None
    assert found["tokens"] == 2 * (len(batch.texts.ids_T) + len(batch.documents.ids_T))
    assert (
        rates["data_wait"] == pytest.approx(found["waited_s"] / rates["seconds"], rel=0.1) and found["waited_s"] >= 0.02
    )
    assert rates["mfu"] > 0 and rates["padding"] == pytest.approx(1 - found["tokens"] / found["padded"])
    again = Meter(build(), trained={"text"}, workers=1, device=torch.device("cpu"))
    again.restore(found)
    again.count(batch)
    assert again.state()["examples"] == 18 and again.counts.seconds > found["seconds"]


def test_tokens_are_those_of_all_workers_however_many_they_were() -> None:
    batch, tokens = batch_of(slice(0, 6), [6]), 0
    counts: dict[str, float] = {}
    for workers in (1, 3):
        meter = Meter(build(), trained={"text"}, workers=workers, device=torch.device("cpu"))
        meter.restore(counts)
        meter.count(batch)
        counts = meter.state()
        assert batch.documents is not None
        tokens += workers * (len(batch.texts.ids_T) + len(batch.documents.ids_T))
        rates = meter.rates()
        assert counts["tokens"] == tokens
        assert rates["tokens_per_s"] == pytest.approx(tokens / rates["seconds"])
        assert rates["padding"] == pytest.approx(1 - tokens / counts["padded"])


def test_attention_over_a_picture_is_counted() -> None:
    image = ImageConfig(name="vit_tiny_patch16_224", args={"depth": 2, "embed_dim": 32, "num_heads": 2}, size=224)
    model = build(image=image)
    batch = replace(batch_of(slice(0, 6), [6]), pixels=torch.zeros(1, 224, 224, 3, dtype=torch.uint8))
    meter = Meter(model, trained=set(), workers=1, device=torch.device("cpu"))
    meter.count(replace(batch, texts=texts(1), documents=None))
    tokens, width, layers = 1 + 14 * 14, 32, 2
    products = 2 * tokens * width * width * (3 + 1 + 4 + 4) + 4 * tokens * tokens * width
    patches = 2 * 14 * 14 * width * 16 * 16 * 3
    assert meter.counts.flops == pytest.approx(layers * products + patches, rel=0.02)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA GeForce RTX 4090", None),
        ("Tesla T4", None),
    ],
)
def test_a_gpu_is_known_by_its_whole_name(name: str, peak: float | None) -> None:
    assert peak_named(name) == peak


@pytest.mark.parametrize("arch", [ARCH, {**ARCH, "model_type": "albert", "num_hidden_layers": 6}])
def test_operations_are_those_that_torch_counts(arch: dict[str, Any]) -> None:
    """A backbone's own matrix products and attention, forward; three times as much to train. ALBERT shares layers."""
    model = build(text=replace(build().config.text, arch=arch))
    tokens = texts(*[40] * 8)
    model.text.token_budget = 40 * 8
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.text._encode(tokens, False, False)
    batch = replace(batch_of(slice(0, 6), [6]), texts=tokens, documents=None, pixels=None)
    for trained, passes in (({"text"}, 3), (set(), 1)):
        meter = Meter(model, trained=trained, workers=1, device=torch.device("cpu"))
        meter.count(batch)
        assert meter.counts.flops == pytest.approx(passes * counter.get_total_flops(), rel=0.05)


def test_peak_of_this_machine_is_a_rate() -> None:
    assert 1e9 < peak_flops(torch.device("cpu")) < 1e14


def test_activation_checkpointing_changes_no_gradient() -> None:
    found = []
    for saving in (False, True):
        one: Objective = objective().train()
        if saving:
            one.model.checkpoint_activations()
        one(batch_of(slice(0, 6), [6]))[0].backward()
        found.append(gradients(one))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["base", "large"])
def test_recipes_for_gpus_step_and_are_metered_at_their_own_shape_of_picture(name: str) -> None:
    """Their towers, cut to one layer; SigLIP's attention pooling is what the counter of operations must bear."""
    config = recipe(name)
    text = replace(config.model.text, backbone=None, arch=ARCH)
    image = replace(config.model.image, pretrained=False, args={"depth": 1, "embed_dim": 32, "num_heads": 2})
    model = UniMIR(replace(config.model, text=text, image=image), LABEL_SETS, vocab_size=100, pad_id=1)
    batch = batch_of(slice(0, 6), [6])
    pictures = torch.randint(0, 256, (len(batch.pixels), image.size, image.size, 3), dtype=torch.uint8)
    batch = replace(batch, pixels=pictures, cached=True)
    meter = Meter(model, trained={"text", "image"}, workers=1, device=torch.device("cpu"))
    meter.count(batch)
    assert meter.counts.flops > 0
    one = Objective(model, groups_K=torch.tensor([0, 1, 2, 3, 5, 8])).train()
    loss, _ = one(batch)
    loss.backward()
    assert torch.isfinite(loss) and all(p.grad.isfinite().all() for p in model.image.parameters() if p.requires_grad)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the compiler's own look at its inputs
def test_compiling_changes_no_gradient_and_compiles_a_row_of_blocks_once() -> None:
    """By the compiler's front end and autograd alone: its back end needs a compiler of the machine."""
    deep = {"text": replace(build().config.text, arch={**ARCH, "num_hidden_layers": 7})}
    found, graphs = [], torch._dynamo.utils.counters["stats"]
    for compiled in (False, True):
        torch._dynamo.reset()
        graphs.clear()
        one = learning(Objective(build(**deep), groups_K=torch.tensor([0, 1, 2, 3, 5, 8]))).train()
        if compiled:
            one.model.compile_backbones("aot_eager")
        one(batch_of(slice(0, 6), [6]))[0].backward()
        found.append(gradients(one))
        counted = graphs["unique_graphs"]
        # Seven layers of text, with a mask and without one; four stages of pictures, each of its own width.
        assert counted == 0 if not compiled else 0 < counted <= 2 + 4, counted
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-7)
