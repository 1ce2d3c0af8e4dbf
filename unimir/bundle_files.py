"""A bundle's files, without loading what is in them: what its id is a hash of, and the configuration of its model.

Imports no torch: who only names a bundle, or starts others that load it, need not wait for one.
"""

from __future__ import annotations

import json
from pathlib import Path

from unimir import artifacts
from unimir.config import ModelConfig
from unimir.plain import from_dict

CONTENT = ("model.safetensors", "config.json", "tokenizer.json")
"""What a bundle's id is a hash of. Not the golden vectors: they follow from these, but for a machine's rounding."""
FILES = (*CONTENT, "golden.safetensors")


def read_model_config(directory: Path) -> ModelConfig:
    """The configuration of a bundle's model, without its weights; ValueError if there is no bundle."""
    artifacts.read_manifest(directory, "bundle")
    try:
        described = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        return from_dict(ModelConfig, described["model"])
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{directory}: damaged bundle ({error})") from error


def verify_bundle(directory: Path) -> None:
    """ValueError unless the bundle's files are, byte for byte, those it was made of. Loads nothing."""
    bundle_id = artifacts.read_manifest(directory, "bundle")["id"]
    for name in FILES:
        if not (directory / name).is_file():
            raise ValueError(f"{directory}: the bundle lacks {name}")
    found = artifacts.files_id(directory, [directory / name for name in CONTENT])
    if found != bundle_id:
        raise ValueError(f"{directory}: damaged bundle (its files make {found}, its manifest says {bundle_id})")
