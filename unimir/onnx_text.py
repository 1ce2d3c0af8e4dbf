"""The text side of a bundle in ONNX Runtime: exported beside the bundle, its parity with PyTorch measured and stored.

Knows one bundle; knows no text, no picture and no label's name.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from unimir import artifacts
from unimir.bundle import GOLDEN_TEXTS, Bundle
from unimir.model.padded import PaddedText
from unimir.model.unimir import UniMIR

Precision = Literal["fp32", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
LEAST_COSINE: Mapping[Precision, float] = {"fp32": 1 - 1e-6, "int8": 0.999}
"""Between every vector of ONNX Runtime and PyTorch's; an export below is refused."""
_GRAPHS = {"documents": ("vectors",), "queries": ("vectors", "fused", "intents", "tags")}
_PROBE_LENGTHS = (3, 5, 9, 17, 33, 64, 128, 256)


class OnnxText:
    """Runs the exported text side on a CPU. Threads as in PyTorch at the time of loading."""

    def __init__(self, directory: Path, precision: Precision, pad_id: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Its threads spin between operators, which is fast; after the last one they would take a core from others.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        self._pad_id = pad_id
        self._sessions = {
            name: onnxruntime.InferenceSession(_file(directory, name, precision), options, ["CPUExecutionProvider"])
            for name in _GRAPHS
        }

    def vectors(self, ids: Sequence[Sequence[int]], *, fused: bool) -> NDArray[np.float32]:
        """Unit vectors [B, D] of token ids per text."""
        wanted = ("queries", "fused") if fused else ("documents", "vectors")
        return self._run(wanted[0], ids, [wanted[1]])[0]

    def understand(self, ids: Sequence[Sequence[int]]) -> tuple[NDArray[np.float32], ...]:
        """Plain and fused vectors [B, D], intent logits [B, I] and tag logits [T, G], T laid end to end."""
        *found, tag_BLG = self._run("queries", ids, ["vectors", "fused", "intents", "tags"])
        return *found, np.concatenate([tag_BLG[row, : len(own)] for row, own in enumerate(ids)])

    def _run(self, graph: str, ids: Sequence[Sequence[int]], outputs: list[str]) -> list[NDArray[np.float32]]:
        lengths_B = np.fromiter(map(len, ids), np.int64, len(ids))
        ids_BL = np.full((len(ids), lengths_B.max()), self._pad_id, np.int64)
        for row, own in enumerate(ids):
            ids_BL[row, : len(own)] = own
        mask_BL = (np.arange(ids_BL.shape[1]) < lengths_B[:, None]).astype(np.int64)
        found: list[NDArray[np.float32]] = self._sessions[graph].run(outputs, {"ids": ids_BL, "mask": mask_BL})
        return found


def open_exported(directory: Path, bundle: Bundle, precision: str) -> OnnxText:
    """The export of the bundle at `directory`, in one of its precisions; made now, or found from before.

    ValueError if its vectors are not those of the bundle (LEAST_COSINE), or the packages for it are not installed.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}; one of {', '.join(PRECISIONS)}")
    if find_spec("onnxruntime") is None or find_spec("onnxscript") is None:
        raise ValueError("backend onnx needs the packages onnx, onnxruntime and onnxscript")
    target = directory.parent / f"onnx-{directory.name}"  # not what a pattern such as sample-* means
    if not _is_of(target, bundle.id):
        unfinished = artifacts.start(target.with_name(f".{target.name}.{os.getpid()}"))
        try:
            _make(unfinished, bundle)
            if not _is_of(target, bundle.id):  # another process may have been first
                artifacts.replace(unfinished, target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    parity = artifacts.read_manifest(target, "onnx")["parity"][precision]
    if not parity["cosine_min"] >= LEAST_COSINE[precision]:  # also true for NaN
        raise ValueError(f"bundle {bundle.id}: {precision} in ONNX Runtime is not this bundle: {json.dumps(parity)}")
    return OnnxText(target, precision, bundle.tokenizer.pad_id)


def _is_of(target: Path, bundle_id: str) -> bool:
    return artifacts.exists(target) and artifacts.read_manifest(target, "onnx")["parents"]["bundle"] == bundle_id


def _file(directory: Path, graph: str, precision: Precision) -> Path:
    return directory / f"{graph}.{precision}.onnx"


def _make(directory: Path, bundle: Bundle) -> None:
    _export(bundle.model, directory)
    pad_id = bundle.tokenizer.pad_id
    artifacts.finish(
        directory,
        kind="onnx",
        id=artifacts.files_id(directory, directory.glob("*.onnx")),
        parents={"bundle": bundle.id},
        parity={precision: _parity(bundle, OnnxText(directory, precision, pad_id)) for precision in PRECISIONS},
    )


def _export(model: UniMIR, directory: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    attention = model.text.backbone.config._attn_implementation
    model.text.backbone.set_attn_implementation("eager")  # the fused kernel has no ONNX form with a mask
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=2)
    example = torch.full((2, 8), 5, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64)
    try:
        for name, outputs in _GRAPHS.items():
            plain = _file(directory, name, "fp32")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporter's own deprecations
                torch.onnx.export(
                    PaddedText(model, understand=name == "queries").eval(),
                    example,
                    plain,
                    input_names=["ids", "mask"],
                    output_names=list(outputs),
                    dynamic_shapes={"ids_BL": {0: batch, 1: length}, "mask_BL": {0: batch, 1: length}},
                    dynamo=True,
                    external_data=False,
                    verbose=False,
                )
                # 7 bits: without VNNI the 8-bit kernels of AVX2 saturate.
                logging.disable(logging.WARNING)  # it advises, on the root logger, what changes nothing here
                quantize_dynamic(
                    plain,
                    _file(directory, name, "int8"),
                    per_channel=True,
                    reduce_range=True,
                    weight_type=QuantType.QInt8,
                )
    finally:
        logging.disable(logging.NOTSET)
        model.text.backbone.set_attn_implementation(attention)


def _parity(bundle: Bundle, runtime: OnnxText) -> dict[str, Any]:
    """How far the export is from PyTorch on texts of many lengths and languages."""
    from unimir.model.tokens import TokenBatch

    longest = bundle.tokenizer.max_tokens
    flat = [token for ids in bundle.tokenizer.encode(GOLDEN_TEXTS) for token in ids[1:-1]]
    ids = bundle.tokenizer.encode(GOLDEN_TEXTS)
    ids += [[ids[0][0], *(flat * 40)[: length - 2], ids[0][-1]] for length in _PROBE_LENGTHS if length <= longest]
    tokens = TokenBatch.from_lists(ids)
    with torch.inference_mode():
        features = bundle.model.encode_text(tokens, understand=True)
        fused_BD = bundle.model.fuse(features, tokens).numpy()
    assert features.understood is not None
    _, found_BD, intent_BI, tag_TG = runtime.understand(ids)
    pairs = {"vectors": (features.z_BD.numpy(), runtime.vectors(ids, fused=False)), "fused": (fused_BD, found_BD)}
    cosines = {name: float((a * b).sum(-1).min()) for name, (a, b) in pairs.items()}
    return {
        "cosine_min": min(cosines.values()),
        "cosine_min_by_output": cosines,
        "difference_max": max(float(np.abs(a - b).max()) for a, b in pairs.values()),
        "intents_equal": float((features.understood.intent_BI.numpy().argmax(-1) == intent_BI.argmax(-1)).mean()),
        "tags_equal": float((features.understood.tag_TG.numpy().argmax(-1) == tag_TG.argmax(-1)).mean()),
        "texts": len(ids),
    }
