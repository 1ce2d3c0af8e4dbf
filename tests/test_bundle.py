"""Does a bundle carry everything, refuse damage, and give the same vectors by every way in?"""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from unimir import artifacts
from unimir.bundle import load_bundle
from unimir.bundle_files import CONTENT
from unimir.infer import Encoder

TEXTS = [
    "two red boats at the beach",
    "猫",
    "صورة قطة سوداء",
    "zeig mir bitte ein Foto von einem blauen Haus " * 3,
    "x",
]


@pytest.fixture(scope="module")
def encoder(tiny_bundle: Path) -> Encoder:
    return Encoder.from_bundle(tiny_bundle)


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def test_batching_does_not_change_vectors(encoder: Encoder) -> None:
    together = encoder.embed_texts(TEXTS, as_query=True)
    alone = np.concatenate([encoder.embed_texts([text], as_query=True) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_one_pass_gives_vectors_and_parses(encoder: Encoder) -> None:
    vectors, parses = encoder.encode_queries(TEXTS)
    np.testing.assert_allclose(vectors, encoder.embed_texts(TEXTS, as_query=True), atol=1e-6)
    assert parses == encoder.parse(TEXTS)
    for text, parse in zip(TEXTS, parses, strict=True):
        assert parse.label_set == "search" and 0 < parse.intent_score <= 1
        for slot in parse.slots:
            assert slot.text == parse.text[slot.start : slot.end] and slot.text in text


@given(st.text(min_size=1, max_size=40))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_embedded_or_refused(encoder: Encoder, text: str) -> None:
    try:
        vectors, (parse,) = encoder.encode_queries([text])
    except ValueError as error:
        assert "empty once normalised" in str(error) or "not valid Unicode" in str(error)
        return
    assert np.isfinite(vectors).all() and vectors.shape == (1, encoder.dim)
    assert all(parse.text[slot.start : slot.end] == slot.text for slot in parse.slots)


def test_images_by_bytes_and_by_picture(encoder: Encoder) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 40, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    by_bytes, by_picture = encoder.embed_images([buffer.getvalue()]), encoder.embed_images([picture])
    np.testing.assert_array_equal(by_bytes, by_picture)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "1", "I;16", "CMYK"])
def test_pictures_are_the_same_however_they_are_handed_over(encoder: Encoder, mode: str) -> None:
    """With a camera's note of how it was held, and whatever a file's colours are."""
    pixels = np.random.default_rng(0).integers(0, 255, (48, 40, 3), dtype=np.uint8)
    grey = mode == "I;16"
    picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if grey else Image.fromarray(pixels).convert(mode)
    if "A" in mode:
        picture.putalpha(Image.fromarray(pixels[..., 1]))
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    if mode == "CMYK":
        picture.save(buffer, "JPEG", quality=95, exif=exif)
    else:
        picture.save(buffer, "PNG", exif=exif)
    opened = Image.open(io.BytesIO(buffer.getvalue()))
    np.testing.assert_allclose(encoder.embed_images([opened]), encoder.embed_images([buffer.getvalue()]), atol=1e-6)
    assert np.abs(encoder.embed_images([picture]) - encoder.embed_images([opened])).max() > 1e-3  # it was turned


def test_prefixes_are_unit_vectors_of_their_own(encoder: Encoder) -> None:
    full, prefix = encoder.embed_texts(TEXTS), encoder.embed_texts(TEXTS, dimensions=16)
    np.testing.assert_allclose(np.linalg.norm(prefix, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(prefix * np.linalg.norm(full[:, :16], axis=1)[:, None], full[:, :16], atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.embed_texts(["fine", " \u200b "]), "text 1: .* is empty once normalised"),
        (lambda e: e.embed_texts(["\ud800"]), "not valid Unicode"),
        (lambda e: e.embed_images([b"no picture"]), "image 0: "),
        (
            lambda e: e.embed_images(["cat.jpg"]),
            "image 0: 'cat.jpg'; expected the bytes of a picture, or a Pillow image",
        ),
        (lambda e: e.embed_texts("two cats"), "'two cats' is one text; expected a list"),
        (lambda e: e.parse("cats"), "'cats' is one text; expected a list"),
        (lambda e: e.embed_texts(["a"], dimensions=5), "dimensions 5; this bundle allows 16, 32"),
        (lambda e: e.parse(["a"], label_set="nope"), "label_set 'nope'; this bundle has search"),
    ],
)
def test_mistakes_are_clear_errors(encoder: Encoder, call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(encoder)  # type: ignore[operator]


def test_nothing_in_nothing_out(encoder: Encoder) -> None:
    assert encoder.embed_texts([]).shape == encoder.embed_images([]).shape == (0, encoder.dim)
    assert encoder.parse([]) == []


def sealed(bundle: Path) -> None:
    """Lets a changed bundle's manifest say that it was made so."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["id"] = artifacts.files_id(bundle, [bundle / name for name in CONTENT])
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_changes_that_golden_vectors_do_not_show_are_found(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("word_embeddings.weight"))
    weights[name][-1] += 1.0
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(ValueError, match="damaged bundle .its files make"):
        load_bundle(copy)


def test_golden_vectors_are_all_there(copy: Path) -> None:
    golden = load_file(copy / "golden.safetensors")
    save_file({"texts": golden["texts"]}, copy / "golden.safetensors")
    with pytest.raises(ValueError, match=r"damaged bundle \(golden vectors of \['texts'\], not \['images', 'queries'"):
        load_bundle(copy)


@pytest.mark.parametrize("content", ["[]", "{}", '{"label_sets": 3, "preprocess": [], "model": {}}'])
def test_a_configuration_of_another_form_is_a_clear_error(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content)
    sealed(copy)
    with pytest.raises(ValueError, match="damaged bundle|expected"):
        load_bundle(copy)


def test_changed_weights_do_not_reproduce_the_golden_vectors(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["text.projection.weight"] += 0.05 * torch.randn_like(weights["text.projection.weight"])
    save_file(weights, copy / "model.safetensors")
    sealed(copy)
    with pytest.raises(ValueError, match=r"does not reproduce its golden \w+ .*tolerance 1e-04"):
        load_bundle(copy)


def test_nan_weights_are_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["image.projection.weight"][:] = float("nan")
    save_file(weights, copy / "model.safetensors")
    sealed(copy)
    with pytest.raises(ValueError, match="golden images"):
        load_bundle(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "golden.safetensors"])
def test_damaged_files_are_clear_errors(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"damaged bundle|tokenizer"):
        load_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(ValueError, match=f"lacks {name}"):
        load_bundle(copy)


def test_unknown_config_key_is_a_clear_error(copy: Path) -> None:
    described = json.loads((copy / "config.json").read_text())
    described["model"]["layers"] = 3
    (copy / "config.json").write_text(json.dumps(described))
    sealed(copy)
    with pytest.raises(ValueError, match="unknown key 'layers'"):
        load_bundle(copy)


def test_no_manifest_no_bundle(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    with pytest.raises(ValueError, match="not a bundle artifact"):
        load_bundle(copy)


def test_a_pickle_beside_the_weights_is_never_read(copy: Path) -> None:
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n.")
    load_bundle(copy)
