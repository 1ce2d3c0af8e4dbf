"""A teacher's vectors of all texts that a config distils on, made once by a pass of Ray Data.

Knows the teacher as a text tower with its own tokenizer; knows no student.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from unimir import artifacts
from unimir.config import Config, Teacher, TextConfig
from unimir.data.passes import Actors, each
from unimir.data.prepared import read_kind
from unimir.data.text import TextTokenizer, tokenizer_file
from unimir.model.text_encoder import TextEncoder, file_of
from unimir.model.tokens import TokenBatch
from unimir.plain import to_dict
from unimir.schema import Split
from unimir.train.batches import of_sources

UNIT_TEXTS = 2048
_FORMAT = 2  # raise when the same teacher would give other vectors
_ACTIVATIONS = {one.__name__: one for one in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)}
_SPLITS: tuple[Split, ...] = ("train", "validation")


def teacher_vectors(config: Config, prepared: Path, out: Path, *, workers: int, gpus: int = 0) -> Path | None:
    """The artifact `out/teachers/ID` for a config with the loss `distill`, made if it is not there; None without.

    Ray must be initialised. ValueError if the teacher cannot be loaded.
    """
    tasks = [task for stage in config.stages for task in stage.tasks if task.losses.get("distill")]
    teacher = config.teacher
    if teacher is None or not tasks:
        return None
    prepared_id = artifacts.read_manifest(prepared, "prepared")["id"]
    chosen = sorted({(task.kind, task.sources) for task in tasks})
    model = [to_dict(teacher), artifacts.path_id(teacher.backbone)]
    key = artifacts.canonical_json([_FORMAT, *model, [list(map(str, pair)) for pair in chosen]])
    directory = out / "teachers" / artifacts.content_id(key, prepared_id)
    if artifacts.exists(directory):
        return directory
    found: set[str] = set()
    for task in tasks:
        for split in _SPLITS:
            table = read_kind(prepared, task.kind, split, ["source", "text"])
            found.update(table["text"].take(pa.array(of_sources(table, task))).to_pylist())
    # By length, so that a unit's texts pad each other little.
    texts = sorted(found, key=lambda text: (len(text), text))
    units = [texts[start : start + UNIT_TEXTS] for start in range(0, len(texts), UNIT_TEXTS)]
    artifacts.start(directory)
    pq.write_table(pa.table({"text": pa.array(texts, pa.large_string())}), directory / "texts.parquet")
    _write_vectors(directory / "vectors.npy", units, teacher, Actors(least=1, most=workers, num_gpus=gpus))
    artifacts.finish(
        directory,
        kind="teacher",
        id=directory.name,
        parents={"prepared": prepared_id},
        config=to_dict(teacher),
        counts={"texts": len(texts)},
    )
    return directory


def _write_vectors(path: Path, units: Sequence[list[str]], teacher: Teacher, actors: Actors) -> None:
    vectors: NDArray[np.float32] | None = None
    for at, part in each(
        [(unit,) for unit in units], functools.partial(load, teacher, bool(actors.num_gpus)), actors=actors
    ):
        if vectors is None:
            shape = (sum(map(len, units)), part.shape[1])
            vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        vectors[at * UNIT_TEXTS : at * UNIT_TEXTS + len(part)] = part
    assert vectors is not None
    vectors.flush()  # type: ignore[attr-defined]


def load(teacher: Teacher, gpu: bool = False) -> Callable[[list[str]], NDArray[np.float32]]:
    """A function from texts to the teacher's unit vectors [len(texts), dim]. ValueError if it cannot be loaded."""
    device = "cuda" if gpu else "cpu"
    tokenizer = TextTokenizer.from_file(tokenizer_file(teacher.backbone), teacher.max_tokens)
    text = TextConfig(backbone=teacher.backbone, pooling=teacher.pooling, max_tokens=teacher.max_tokens)
    tower = TextEncoder(text, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id, dim=1).to(device).eval()
    layers = [layer.to(device) for layer in _after_pooling(teacher.backbone)]

    @torch.inference_mode()
    def embed(texts: list[str]) -> NDArray[np.float32]:
        tokens = TokenBatch.from_lists(tokenizer.encode(texts)).to(device)
        z_BV: Tensor = tower(tokens).pooled_BH
        for layer in layers:
            z_BV = layer(z_BV)
        found: NDArray[np.float32] = normalize(z_BV, dim=-1).float().cpu().numpy()
        return found

    return embed


class _Normalize(nn.Module):
    def forward(self, z_BV: Tensor) -> Tensor:
        return normalize(z_BV, dim=-1)


def _after_pooling(backbone: str) -> list[nn.Module]:
    """What a teacher in sentence-transformers' form has behind its pooling. ValueError for what is not known here."""
    file = file_of(backbone, "modules.json")
    layers: list[nn.Module] = []
    for module in json.loads(file.read_text(encoding="utf-8")) if file is not None else ():
        kind = module["type"].rpartition(".")[2]
        if kind == "Dense":
            layers.append(_dense(backbone, module["path"]))
        elif kind == "Normalize":
            layers.append(_Normalize())
        elif kind not in ("Transformer", "Pooling", "Dropout"):
            raise ValueError(
                f"teacher {backbone!r} has a module {kind}; beside its pooling, Dense and Normalize can be"
            )
    return layers


def _dense(backbone: str, path: str) -> nn.Module:
    """A Dense layer's linear map and activation."""
    config, weights = file_of(backbone, f"{path}/config.json"), file_of(backbone, f"{path}/model.safetensors")
    weights = weights or file_of(backbone, f"{path}/pytorch_model.bin")
    if config is None or weights is None:
        raise ValueError(f"teacher {backbone!r}: {path} has no config.json, or no weights")
    said = json.loads(config.read_text(encoding="utf-8"))
    activation = said.get("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise ValueError(f"teacher {backbone!r}: activation {activation} of {path}; one of {', '.join(_ACTIVATIONS)}")
    linear = nn.Linear(said["in_features"], said["out_features"], bias=said.get("bias", True))
    try:
        read = load_file(weights) if weights.suffix == ".safetensors" else torch.load(weights, weights_only=True)
        linear.load_state_dict({name.removeprefix("linear."): value for name, value in read.items()})
    except Exception as error:  # of damaged files, what their readers raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"teacher {backbone!r}: the weights of {path} cannot be loaded ({reason})") from error
    return nn.Sequential(linear, _ACTIVATIONS[activation]())
