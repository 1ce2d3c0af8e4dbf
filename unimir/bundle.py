"""A bundle: weights, config, tokenizer, labels, image preprocessing and golden vectors in one directory.

Safetensors and JSON only: loading a bundle runs no code and unpickles nothing. Knows no trainer and no service.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unimir import artifacts
from unimir.bundle_files import CONTENT, verify_bundle
from unimir.config import ModelConfig
from unimir.data.image import Preprocess
from unimir.data.text import TextTokenizer
from unimir.export import Form, export_text
from unimir.model.tokens import TokenBatch
from unimir.model.unimir import UniMIR
from unimir.plain import from_dict, to_dict
from unimir.schema import LabelSet

GOLDEN_TOLERANCE = 1e-4
"""Largest absolute difference of any component of a golden unit vector, on whatever machine loads the bundle."""

GOLDEN_TEXTS = (
    "two red boats at the beach",
    "Zeig mir bitte ein Foto von einem Hund vom letzten Monat",
    "пожалуйста найди синий дом",
    "猫的照片",
    "海辺の赤い魚",
    "سيارة خضراء في المدينة",
    "हरा पेड़ 🌳",
)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A loaded bundle, ready for `unimir.infer.Encoder`."""

    id: str
    model: UniMIR
    tokenizer: TextTokenizer
    preprocess: Preprocess
    label_sets: tuple[LabelSet, ...]
    manifest: Mapping[str, Any]
    directory: Path

    def export(self, form: Form, directory: Path | str) -> None:
        """Writes the text tower for another library, see `unimir.export`. ValueError if its form cannot hold it."""
        export_text(self.model.text, self.tokenizer, self.directory / "tokenizer.json", form, Path(directory))


def read_label_sets(path: Path) -> tuple[LabelSet, ...]:
    """Label sets of a `labels.json`, by name."""
    sets = json.loads(path.read_text(encoding="utf-8"))
    return tuple(
        LabelSet(name=name, intents=tuple(s["intents"]), slots=tuple(s["slots"])) for name, s in sorted(sets.items())
    )


def preprocess_of(model: UniMIR) -> Preprocess:
    """The image preprocessing that the image backbone's own data config asks for, at the configured size."""
    data = model.image.data_config
    return Preprocess(
        size=model.config.image.size,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation="bilinear" if data["interpolation"] == "bilinear" else "bicubic",
        crop_pct=float(data["crop_pct"]) if model.config.image.pretrained or model.config.image.checkpoint else 1.0,
    )


def save_bundle(
    directory: Path,
    model: UniMIR,
    *,
    weights: Mapping[str, Tensor],
    tokenizer_file: Path,
    label_sets: Sequence[LabelSet],
    parents: Mapping[str, str],
    config: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Writes the bundle of `weights` for `model`'s architecture and returns its id, a hash of its content."""
    artifacts.start(directory)
    model.load_state_dict(dict(weights))
    save_file({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}, directory / CONTENT[0])
    shutil.copyfile(tokenizer_file, directory / "tokenizer.json")
    preprocess = preprocess_of(model)
    # Loading must need neither the network nor the pretrained checkpoints: the architecture is written out in full.
    text = dataclasses.replace(
        model.config.text, backbone=None, pooling=model.text.pooling, arch=model.text.architecture()
    )
    image = dataclasses.replace(model.config.image, pretrained=False, checkpoint=None)
    described = {
        "model": to_dict(dataclasses.replace(model.config, text=text, image=image)),
        "label_sets": [to_dict(label_set) for label_set in label_sets],
        "preprocess": to_dict(preprocess),
    }
    (directory / "config.json").write_text(json.dumps(described, indent=1, ensure_ascii=False), encoding="utf-8")
    tokenizer = TextTokenizer.from_file(directory / "tokenizer.json", model.config.text.max_tokens)
    golden = golden_vectors(model.eval(), tokenizer, preprocess)
    save_file({name: torch.from_numpy(value) for name, value in golden.items()}, directory / "golden.safetensors")
    bundle_id = artifacts.files_id(directory, [directory / name for name in CONTENT])
    artifacts.finish(
        directory,
        kind="bundle",
        id=bundle_id,
        parents=parents,
        config=config,
        stages=list(stages),
        golden_tolerance=GOLDEN_TOLERANCE,
    )
    return bundle_id


def load_bundle(directory: Path | str, *, device: str = "cpu") -> Bundle:
    """Loads a bundle; ValueError if a file is not as it was written, or golden vectors are not reproduced."""
    directory = Path(directory)
    verify_bundle(directory)
    manifest = artifacts.read_manifest(directory, "bundle")
    try:
        described = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        label_sets = tuple(from_dict(LabelSet, values) for values in described["label_sets"])
        preprocess = from_dict(Preprocess, described["preprocess"])
        config = from_dict(ModelConfig, described["model"])
        tokenizer = TextTokenizer.from_file(directory / "tokenizer.json", config.text.max_tokens)
        model = UniMIR(config, label_sets, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)
        model.load_state_dict(load_file(directory / "model.safetensors"))
        golden = load_file(directory / "golden.safetensors")
        tolerance = float(manifest["golden_tolerance"])
    except (KeyError, TypeError, json.JSONDecodeError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"{directory}: damaged bundle ({' '.join(str(error).split())[:300]})") from error
    model = model.to(device).eval().requires_grad_(False)
    found = golden_vectors(model, tokenizer, preprocess)
    if set(golden) != set(found):
        raise ValueError(f"{directory}: damaged bundle (golden vectors of {sorted(golden)}, not {sorted(found)})")
    for name, expected in golden.items():
        difference = float(np.abs(found[name] - expected.numpy()).max())
        if not difference <= tolerance:  # also true for NaN
            raise ValueError(
                f"{directory}: bundle {manifest['id']} does not reproduce its golden {name} "
                f"(off by {difference:.2e}, tolerance {tolerance:.0e})"
            )
    return Bundle(
        id=manifest["id"],
        model=model,
        tokenizer=tokenizer,
        preprocess=preprocess,
        label_sets=label_sets,
        manifest=manifest,
        directory=directory,
    )


@torch.inference_mode()
def golden_vectors(model: UniMIR, tokenizer: TextTokenizer, preprocess: Preprocess) -> dict[str, NDArray[np.float32]]:
    """Vectors of fixed texts (plain and fused) and of generated pictures, the fingerprint of the whole path."""
    device = next(model.parameters()).device
    tokens = TokenBatch.from_lists(tokenizer.encode(GOLDEN_TEXTS)).to(device)
    features = model.encode_text(tokens, understand=True)
    pixels = np.stack([preprocess.pixels(picture) for picture in _golden_pictures()])
    return {
        "texts": features.z_BD.float().cpu().numpy(),
        "queries": model.fuse(features, tokens).float().cpu().numpy(),
        "images": model.encode_image(torch.from_numpy(pixels).to(device)).float().cpu().numpy(),
    }


def _golden_pictures() -> list[Image.Image]:
    ramp = np.linspace(0, 255, 96, dtype=np.uint8)
    gradient = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], np.uint8(128)), axis=-1)
    stripes = np.where((np.arange(96) // 12 % 2)[:, None, None] == 0, (200, 30, 30), (250, 250, 250))
    return [Image.fromarray(picture.astype(np.uint8)) for picture in (gradient, np.broadcast_to(stripes, (96, 96, 3)))]
