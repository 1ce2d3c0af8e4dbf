"""Lets torchvision be imported beside a torch build its compiled operators were not linked for.

PyPI's Linux torchvision needs CUDA libraries. Beside a CPU-only torch its operators do not load, and importing
torchvision, and with it timm and transformers' models, fails on an undeclared `torchvision::nms`. unimir uses only its
Python transforms, so the two schemas that torchvision's Python code refers to are declared and never implemented.
Where torchvision's own operators load, nothing is done. Knows nothing of models.
"""

from __future__ import annotations

import functools
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@functools.cache
def declare_missing_operators() -> Any:
    """Declares torchvision's `nms` and `qnms` unless its own library loads.

    Returns the library that keeps the declarations alive, or None where nothing was missing.
    """
    spec = find_spec("torchvision")  # finds it without importing it
    if spec is None or spec.origin is None or _loads_own_operators(Path(spec.origin).parent):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS.values():
        library.define(schema)
    return library


def _loads_own_operators(package: Path) -> bool:
    if hasattr(torch.ops.torchvision, "nms"):
        return True
    names = ["_C.so", *(f"_C{suffix}" for suffix in EXTENSION_SUFFIXES)]
    for path in (package / name for name in names):
        if path.is_file():
            try:
                torch.ops.load_library(path)
            except OSError:  # linked against libraries this torch build does not bring
                return False
            return True
    return False
