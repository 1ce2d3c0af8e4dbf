"""Is the model right: shapes, ragged batches, fusion, label sets, the torchvision declaration."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny import ARCH, LABEL_SETS, build, texts
from torch.nn.functional import normalize
from transformers import BertConfig, BertModel

from unimir.bundle import preprocess_of
from unimir.config import ImageConfig, ModelConfig, TextConfig
from unimir.model.image_encoder import CACHED_PICTURES, ImageEncoder
from unimir.model.rows import RowTable
from unimir.model.text_encoder import TextEncoder, check_arch, own_pooling
from unimir.model.tokens import TokenBatch, token_chunks
from unimir.model.unimir import UniMIR


@pytest.fixture(scope="module")
def model() -> UniMIR:
    return build()


def test_ragged_batch_equals_rows_alone(model: UniMIR) -> None:
    lengths = (3, 17, 1, 40, 17, 8, 40, 2)
    batch = texts(*lengths)
    together = model.encode_text(batch, understand=True)
    starts = batch.lengths_B.cumsum(0) - batch.lengths_B
    for row, length in enumerate(lengths):
        own = slice(int(starts[row]), int(starts[row]) + length)
        alone = model.encode_text(TokenBatch(batch.ids_T[own], batch.lengths_B[row : row + 1]), understand=True)
        torch.testing.assert_close(together.z_BD[row], alone.z_BD[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.understood.tag_TG[own], alone.understood.tag_TG, atol=1e-5, rtol=1e-5)


def test_vectors_have_unit_length(model: UniMIR) -> None:
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    for vectors in (model.encode_text(texts(5, 9)).z_BD, model.encode_image(pixels)):
        assert vectors.shape[1] == 16
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))


def test_untrained_fusion_is_the_plain_vector(model: UniMIR) -> None:
    tokens = texts(5, 9, 30)
    features = model.encode_text(tokens, understand=True)
    torch.testing.assert_close(model.fuse(features, tokens), features.z_BD)


def test_understanding_leaves_the_plain_vector_bit_identical(model: UniMIR) -> None:
    tokens = texts(5, 9, 30)
    assert torch.equal(model.encode_text(tokens).z_BD, model.encode_text(tokens, understand=True).z_BD)


def test_retrieval_gradient_reaches_the_nlu_heads_through_fusion() -> None:
    model = build()
    torch.nn.init.normal_(model.fusion.update.weight)
    tokens = texts(5, 9)
    model.fuse(model.encode_text(tokens, understand=True), tokens).sum().backward()
    assert model.nlu.tags.weight.grad is not None and model.nlu.tags.weight.grad.abs().sum() > 0
    assert model.nlu.intents.weight.grad is not None and model.nlu.intents.weight.grad.abs().sum() > 0


def test_labels_compete_only_within_their_own_set(model: UniMIR) -> None:
    tokens = texts(4, 6)
    features = model.encode_text(tokens, understand=True)
    sets_B = torch.tensor([0, 1])
    found = features.understood
    intents, tags = model.nlu.within_sets(found.intent_BI, found.tag_TG, sets_B, tokens.rows_T)
    intents, tags = intents.softmax(-1), tags.softmax(-1)
    assert torch.all(intents[0, 3:] == 0) and torch.all(intents[1, :3] == 0)
    assert torch.all(tags[:4, 3:] == 0) and torch.all(tags[4:, :3] == 0)


def test_parts_cover_every_parameter_once(model: UniMIR) -> None:
    parts = [parameter for _, module in model.parts() for parameter in module.parameters()]
    assert len({id(p) for p in parts}) == len(parts)
    assert {id(p) for p in parts} == {id(p) for p in model.parameters()}
    tables = [one for _, module in model.parts() for one in module.modules() if isinstance(one, RowTable)]
    assert [id(one) for one in tables] == [id(one) for one in model.modules() if isinstance(one, RowTable)] != []


def test_unknown_query_label_set_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="'nope' is not among the label sets"):
        build(query_label_set="nope")


def test_fusion_is_told_by_slots_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"'contnet'\]: label set 'search' has .*; name those that say"):
        build(content_slots=("contnet",))
    build(content_slots=())


def test_tokenizer_larger_than_the_backbone_is_a_clear_error() -> None:
    text = TextConfig(arch={**ARCH, "vocab_size": 50}, max_tokens=40)
    config = ModelConfig(dim=16, text=text, image=ImageConfig(name="convnext_atto", size=32))
    with pytest.raises(ValueError, match="tokenizer has 100 tokens, the text backbone 50"):
        UniMIR(config, LABEL_SETS, vocab_size=100, pad_id=1)


@given(st.lists(st.integers(1, 60), max_size=80), st.integers(1, 2000))
@settings(deadline=None)
def test_token_chunks_cover_rows_once_within_the_budget_with_little_padding(lengths: list[int], budget: int) -> None:
    chunks = [[lengths[row] for row in chunk] for chunk in token_chunks(lengths, budget)]
    assert sorted(row for chunk in token_chunks(lengths, budget) for row in chunk) == list(range(len(lengths)))
    assert [length for chunk in chunks for length in chunk] == sorted(lengths, reverse=True)
    for chunk, after in zip(chunks, [*chunks, []][1:], strict=True):
        filled = len(chunk) * chunk[0]
        assert len(chunk) == 1 or (filled <= budget and 32 * (filled - sum(chunk)) <= budget)
        if after:  # no chunk ends before it must
            filled += chunk[0]
            assert filled > budget or 32 * (filled - sum(chunk) - after[0]) > budget


def test_torchvision_timm_and_transformers_import_beside_this_torch() -> None:
    """In a fresh process, as a Ray worker is one: importing the model's package is all it takes."""
    code = (
        "import unimir.model, timm, torchvision\n"
        "from transformers import XLMRobertaModel\n"
        "from timm.data import create_transform\n"
        "create_transform((3, 32, 32))\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_an_image_backbone_is_read_from_a_local_checkpoint(tmp_path: Path) -> None:
    """Whether the checkpoint has a classifier or not; preprocessing is then what the backbone was trained with."""
    arch = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for classes in (0, 10):
        trained = timm.create_model("convnext_atto", num_classes=classes, **arch).eval()
        save_file(trained.state_dict(), tmp_path / f"{classes}.safetensors")
        config = ImageConfig(
            name="convnext_atto", args=arch, size=32, checkpoint=str(tmp_path / f"{classes}.safetensors")
        )
        tower = ImageEncoder(config, dim=4).eval()
        for name, value in tower.backbone.state_dict().items():
            assert torch.equal(value, trained.state_dict()[name]), name
        assert tower(pixels).shape == (2, 4)
    model = build(image=config)
    assert preprocess_of(model).crop_pct == model.image.data_config["crop_pct"] < 1
    assert preprocess_of(build()).crop_pct == 1


def test_an_image_checkpoint_of_another_architecture_is_a_clear_error(tmp_path: Path) -> None:
    save_file({"nothing": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors.*is no checkpoint of convnext_atto"):
        ImageEncoder(ImageConfig(name="convnext_atto", checkpoint=str(tmp_path / "other.safetensors")), dim=4)


def test_backbones_that_are_not_there_are_clear_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("nobody/nothing", str(tmp_path)):
        with pytest.raises(ValueError, match=f"text backbone '{name}' cannot be loaded"):
            TextEncoder(TextConfig(backbone=name), vocab_size=100, pad_id=1, dim=8)
    with pytest.raises(ValueError, match="image backbone 'resnet19'; timm has no model of this name"):
        ImageEncoder(ImageConfig(name="resnet19"), dim=4)


@pytest.mark.parametrize("kind", ["no file", "bytes.pt", "directory"])
def test_an_image_checkpoint_that_is_none_is_a_clear_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path if kind == "directory" else tmp_path / kind
    if kind == "bytes.pt":
        path.write_bytes(b"hello")
    with pytest.raises(ValueError, match="no checkpoint that can be read"):
        ImageEncoder(ImageConfig(name="convnext_atto", checkpoint=str(path)), dim=4)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "lcnet_035", "hgnetv2_b0", "convnext_atto"])
def test_image_backbones_with_a_hidden_layer_behind_their_features(name: str) -> None:
    tower = ImageEncoder(ImageConfig(name=name, size=32), dim=4).eval()
    assert tower(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("swin_tiny_patch4_window7_224", {"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2]}),
        ("swinv2_tiny_window8_256", {"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2]}),
        ("eva02_tiny_patch14_224", {"embed_dim": 16, "depth": 1, "num_heads": 2}),
        ("beitv2_base_patch16_224", {"embed_dim": 16, "depth": 1, "num_heads": 2}),
        ("vit_base_patch16_rope_reg1_gap_256", {"embed_dim": 16, "depth": 1, "num_heads": 2}),
        ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
    ],
)
def test_image_backbones_bear_rounded_weights(name: str, args: dict[str, Any]) -> None:
    """As DeepSpeed rounds them: parameters, and not the constants that some keep in fp32."""
    torch.manual_seed(0)
    size = int(name.rpartition("_")[2]) if name[-3:].isdigit() else 32
    tower = ImageEncoder(ImageConfig(name=name, args=args, size=size), dim=4).eval()
    pixels = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    exact = normalize(tower(pixels), dim=-1)
    for parameter in tower.parameters():
        parameter.data = parameter.data.bfloat16()
    vectors = tower(pixels)
    assert vectors.dtype == torch.bfloat16
    torch.testing.assert_close(normalize(vectors.float(), dim=-1), exact, atol=0.05, rtol=0)
    vectors.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tower.projection.parameters())


@pytest.mark.parametrize("learning", [True, False])
def test_pictures_of_a_cached_batch_are_encoded_in_chunks_with_a_gradient_or_without(learning: bool) -> None:
    """A run that trains in chunks must not be killed by its first evaluation."""
    tower = build().image.train()
    pixels = torch.randint(0, 256, (CACHED_PICTURES + 5, 32, 32, 3), dtype=torch.uint8)
    sizes: list[int] = []
    tower.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    with torch.set_grad_enabled(learning):
        chunks = tower(pixels, cached=True)
        assert sizes == [CACHED_PICTURES, 5]
        torch.testing.assert_close(chunks, tower(pixels), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"hidden_act": "geluu"}, "cannot be built .*geluu"),
        ({"num_hidden_layers": "2"}, "cannot be built .*num_hidden_layers"),
        ({"max_position_embeddings": 40}, "max_tokens 40; text backbone xlm-roberta has 38 positions"),
    ],
)
def test_architectures_that_cannot_be_are_clear_errors(arch: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextEncoder(TextConfig(arch={**ARCH, **arch}, max_tokens=40), vocab_size=100, pad_id=1, dim=8)


def test_keys_of_an_architecture_are_those_that_it_uses() -> None:
    check_arch(TextConfig(arch={"model_type": "modernbert", "hidden_size": 8, "global_attn_every_n_layers": 2}))
    check_arch(TextConfig(arch={"model_type": "distilbert", "dim": 8, "n_layers": 1, "hidden_size": 8}))
    with pytest.raises(ValueError, match="model.text.arch: unknown key 'n_layers'; keys of bert: .*num_hidden_layers"):
        check_arch(TextConfig(arch={"model_type": "bert", "n_layers": 1}))


def test_a_damaged_text_backbone_is_a_clear_error(tmp_path: Path) -> None:
    build().text.backbone.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="text backbone .* cannot be loaded"):
        TextEncoder(TextConfig(backbone=str(tmp_path), max_tokens=40), vocab_size=100, pad_id=1, dim=8)


def test_arguments_that_an_image_backbone_lacks_are_a_clear_error() -> None:
    with pytest.raises(ValueError, match="'resnet18' with {'depth': 3} cannot be made .*unexpected keyword"):
        ImageEncoder(ImageConfig(args={"depth": 3}), dim=4)


def test_a_tokenizer_that_pads_otherwise_than_the_backbone_is_refused(tmp_path: Path) -> None:
    build().text.backbone.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pads with token 0, text backbone .* with 1; tokenizer.path must be"):
        TextEncoder(TextConfig(backbone=str(tmp_path), max_tokens=40), vocab_size=100, pad_id=0, dim=8)
    sizes = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=100, pad_token_id=0, **sizes)).save_pretrained(tmp_path / "bert")
    # As Multilingual MiniLM, a BERT with XLM-R's tokenizer: where positions do not depend on it, any token may pad.
    TextEncoder(TextConfig(backbone=str(tmp_path / "bert"), max_tokens=40), vocab_size=100, pad_id=1, dim=8)


def test_pooling_is_the_backbones_own_by_name_as_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the layout of Hugging Face's cache, offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("says", "none", "unknown"):
        (tmp_path / f"models--x--{name}" / "refs").mkdir(parents=True)
        (tmp_path / f"models--x--{name}" / "refs" / "main").write_text("c0")
    told = tmp_path / "models--x--says" / "snapshots" / "c0" / "1_Pooling" / "config.json"
    for file, text in ((told, '{"pooling_mode_cls_token": true}'), (marker(tmp_path), "")):
        file.parent.mkdir(parents=True)
        file.write_text(text)
    assert own_pooling("x/says") == own_pooling(str(told.parent.parent)) == "cls"
    assert own_pooling("x/none") == own_pooling(str(tmp_path)) == own_pooling(None) == "mean"
    with pytest.raises(ValueError, match="'x/unknown': its 1_Pooling/config.json is not in the cache"):
        own_pooling("x/unknown")


def marker(cache: Path) -> Path:
    """Where the cache notes that a model has no such file."""
    return cache / "models--x--none" / ".no_exist" / "c0" / "1_Pooling" / "config.json"


def test_more_tokens_than_a_backbone_has_positions_are_refused(tmp_path: Path) -> None:
    build().text.backbone.save_pretrained(tmp_path)  # 42 positions, of which RoBERTa uses 40
    TextEncoder(TextConfig(backbone=str(tmp_path), max_tokens=40), vocab_size=100, pad_id=1, dim=8)
    with pytest.raises(ValueError, match="max_tokens 41; text backbone .* has 40 positions"):
        TextEncoder(TextConfig(backbone=str(tmp_path), max_tokens=41), vocab_size=100, pad_id=1, dim=8)
