"""The text tower in the forms of other libraries: sentence-transformers, and Hugging Face.

Knows a text tower and its tokenizer; knows no bundle. What is exported is the plain text vector: pictures, parsing and
query fusion have no place in these forms.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors.torch import save_file

from unimir import artifacts
from unimir.data.text import TextTokenizer
from unimir.model.text_encoder import TextEncoder

Form = Literal["sentence-transformers", "hf"]
FORMS: tuple[Form, ...] = get_args(Form)


def export_text(
    tower: TextEncoder, tokenizer: TextTokenizer, tokenizer_json: Path, form: Form, directory: Path
) -> None:
    """Writes the tower to a new or empty directory. ValueError if the form cannot hold it, or something lies there.

    `sentence-transformers`: what `SentenceTransformer(directory)` loads: backbone, pooling, projection, unit length.
    `hf`: what `AutoModel` and `AutoTokenizer` load: the backbone; the projection lies beside it, in
    `projection.safetensors`, for whoever pools and projects by hand.
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r}; one of {', '.join(FORMS)}")
    if tower.ngrams is not None:
        raise ValueError(f"form {form!r} cannot hold hashed n-grams; train with model.text.ngrams=0 to export")
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory}: not empty; an export would mix with what is there")
    directory = directory.resolve()
    # At its place once it is whole: without the last files it would load, and give other vectors.
    unfinished = artifacts.start(directory.with_name(f".{directory.name}.{os.getpid()}"))
    try:
        tower.backbone.save_pretrained(unfinished)
        _write_tokenizer(unfinished, tokenizer, tokenizer_json)
        weight = tower.projection.weight.detach().cpu().contiguous()
        if form == "hf":
            save_file({"weight": weight}, unfinished / "projection.safetensors")
        else:
            _write_modules(unfinished, tower, tokenizer.max_tokens)
            save_file({"linear.weight": weight}, unfinished / "2_Dense" / "model.safetensors")
        unfinished.rename(directory)  # in place of an empty one, of no other
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_tokenizer(directory: Path, tokenizer: TextTokenizer, tokenizer_json: Path) -> None:
    """The tokenizer, which pads and cuts on the right, and takes `<s>` or `[MASK]` in a text for text, as ours does."""
    from transformers import PreTrainedTokenizerFast

    names = {f"{role}_token": name for role, name in tokenizer.specials.items()}
    PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_json),
        model_max_length=tokenizer.max_tokens,
        split_special_tokens=True,
        padding_side="right",
        truncation_side="right",
        **names,
    ).save_pretrained(directory)


def _write_modules(directory: Path, tower: TextEncoder, max_tokens: int) -> None:
    """The files by which sentence-transformers knows which modules follow each other."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (path, kind) in enumerate(kinds.items())
    ]
    written: dict[str, Mapping[str, Any] | Sequence[Any]] = {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": max_tokens, "do_lower_case": False},
        "config_sentence_transformers.json": {"similarity_fn_name": "cosine"},
        "1_Pooling/config.json": {
            "word_embedding_dimension": tower.hidden_size,
            "pooling_mode_cls_token": tower.pooling == "cls",
            "pooling_mode_mean_tokens": tower.pooling == "mean",
        },
        "2_Dense/config.json": {
            "in_features": tower.projection.in_features,
            "out_features": tower.projection.out_features,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    }
    for path in kinds:
        (directory / path).mkdir(exist_ok=True)
    for name, values in written.items():
        (directory / name).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
