"""Is the exported text side the bundle's own, and is an export that is not refused?"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import build, texts

from unimir import onnx_text
from unimir.infer import Encoder
from unimir.model.padded import PaddedText
from unimir.model.tokens import TokenBatch
from unimir.model.unimir import UniMIR
from unimir.schema import Parse

QUERIES = [
    "two red boats at the beach please",
    "猫",
    "Zeig mir bitte ein Foto von einem Hund",
    "x" * 300,
    "сини дом 🌳",
]


def padded(tokens: TokenBatch, pad_id: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    rows = tokens.ids_T.split(tokens.lengths_B.tolist())
    ids_BL = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=pad_id)
    return ids_BL, (torch.arange(ids_BL.shape[1]) < tokens.lengths_B[:, None]).long()


def stirred() -> UniMIR:
    """A model whose fusion does something, which a fresh one's does not."""
    model = build()
    for parameter in model.fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("lengths", [(3,), (5, 5), (9, 1, 4, 17, 2)])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padded_batches_give_what_ragged_ones_give(lengths: tuple[int, ...], pooling: str) -> None:
    model = stirred()
    model.text.pooling = pooling  # type: ignore[assignment]
    tokens = texts(*lengths)
    with torch.inference_mode():
        features = model.encode_text(tokens, understand=True)
        fused_BD = model.fuse(features, tokens)
        ids_BL, mask_BL = padded(tokens)
        z_BD, found_BD, intent_BI, tag_BLG = PaddedText(model, understand=True)(ids_BL, mask_BL)
        (plain_BD,) = PaddedText(model, understand=False)(ids_BL, mask_BL)
    assert features.understood is not None
    for expected, found in (
        (features.z_BD, z_BD),
        (features.z_BD, plain_BD),
        (fused_BD, found_BD),
        (features.understood.intent_BI, intent_BI),
        (features.understood.tag_TG, tag_BLG[mask_BL.bool()]),
    ):
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-4)
    assert (fused_BD - features.z_BD).abs().max() > 0.01


def test_the_graph_looks_up_the_ngrams_that_the_model_does(tmp_path: Path) -> None:
    model = stirred()
    tokens = texts(9, 1, 4, 17, 2)
    every = model.encode_text(tokens).z_BD
    assert model.text.ngrams is not None
    model.text.ngrams.keep(model.text.ngrams.count([texts(9, 4), texts(17, 4)] * 2))
    onnx_text._export(model, tmp_path)
    found = onnx_text.OnnxText(tmp_path, "fp32", pad_id=1)
    ids = [row.tolist() for row in tokens.ids_T.split(tokens.lengths_B.tolist())]
    with torch.inference_mode():
        features = model.encode_text(tokens, understand=True)
        fused_BD = model.fuse(features, tokens)
    assert (features.z_BD - every).abs().max() > 0.01
    torch.testing.assert_close(torch.from_numpy(found.vectors(ids, fused=False)), features.z_BD, atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(torch.from_numpy(found.vectors(ids, fused=True)), fused_BD, atol=2e-6, rtol=1e-4)


@pytest.fixture(scope="module")
def directory(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with its export beside it."""
    copy = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("onnx") / "bundle")
    Encoder.from_bundle(copy, backend="onnx-int8")
    return copy


def said(parse: Parse) -> object:
    return parse.intent, [(slot.start, slot.end, slot.label) for slot in parse.slots]


def test_both_precisions_are_the_bundle_within_their_bounds(directory: Path) -> None:
    written = {path: path.stat().st_mtime_ns for path in directory.parent.glob("*/*.onnx")}
    assert len(written) == 4
    torch_encoder = Encoder.from_bundle(directory)
    expected, parses = torch_encoder.encode_queries(QUERIES)
    for precision, least in onnx_text.LEAST_COSINE.items():
        encoder = Encoder.from_bundle(directory, backend=f"onnx-{precision}")
        vectors, found = encoder.encode_queries(QUERIES)
        for one, other in (
            (vectors, expected),
            (encoder.embed_texts(QUERIES), torch_encoder.embed_texts(QUERIES)),
            (encoder.embed_texts(QUERIES, as_query=True), expected),
        ):
            assert (one * other).sum(-1).min() >= least
        if precision == "fp32":
            spans = [
                [(p.intent, [(s.start, s.end, s.label) for s in p.slots]) for p in parsed] for parsed in (found, parses)
            ]
            assert spans[0] == spans[1]
        manifest = json.loads((directory.parent / "onnx-bundle" / "manifest.json").read_text())
        assert manifest["parity"][precision]["cosine_min"] >= least
        assert manifest["parents"] == {"bundle": torch_encoder.id}
    assert {path: path.stat().st_mtime_ns for path in directory.parent.glob("*/*.onnx")} == written


def test_an_export_that_is_not_the_bundle_is_refused(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(directory, tmp_path / "bundle")
    graphs = directory.parent / "onnx-bundle"

    def copied(model: UniMIR, target: Path) -> None:
        shutil.copytree(graphs, target, dirs_exist_ok=True)

    vectors = onnx_text.OnnxText.vectors
    monkeypatch.setattr(onnx_text, "_export", copied)
    monkeypatch.setattr(onnx_text.OnnxText, "vectors", lambda *args, **kwargs: -vectors(*args, **kwargs))
    with pytest.raises(ValueError, match="fp32 in ONNX Runtime is not this bundle: .*cosine_min"):
        Encoder.from_bundle(copy, backend="onnx-fp32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "onnx-bundle"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tensorrt"}, "backend 'tensorrt'; one of torch, onnx-fp32, onnx-int8"),
        ({"backend": "onnx-int8", "device": "meta"}, "runs on a CPU; device is 'meta'"),
    ],
)
def test_backends_are_never_chosen_silently(tiny_bundle: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoder.from_bundle(tiny_bundle, **options)  # type: ignore[arg-type]
