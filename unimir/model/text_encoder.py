"""The text tower: ragged token batches in, vectors of the shared space, pooled and token states out.

Knows no tokenizer, no label and no loss. Suffixes as in tokens.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, PretrainedConfig

from unimir.config import TextConfig
from unimir.model.ngrams import NgramEmbedding
from unimir.model.tokens import TokenBatch, token_chunks


@dataclass(frozen=True)
class TextStates:
    """One pass of the text tower: unit vectors, pooled hidden vectors and, if asked for, token states."""

    z_BD: Tensor
    pooled_BH: Tensor
    states_TH: Tensor | None  # in the order of `TokenBatch.ids_T`


class TextEncoder(nn.Module):
    """A Hugging Face encoder with masked pooling and a projection to the shared space, and hashed n-grams beside it."""

    def __init__(self, config: TextConfig, *, vocab_size: int, pad_id: int, dim: int) -> None:
        super().__init__()
        self.token_budget = config.token_budget
        self.passes: Callable[[int], int] = int  # of the passes that a batch needs, how many are made: see UniMIR
        self.pad_id = pad_id
        if config.backbone is not None:
            # fp32 always explicit: half-precision products are about 100 times slower on a CPU, and transformers
            # would keep a half-precision checkpoint in half precision. Engines cast down where it pays.
            self.backbone = _pretrained(config)
        else:
            self.backbone = _from_scratch(config, vocab_size, pad_id)
        _check_positions(self.backbone, config)
        self.pooling = config.pooling or own_pooling(config.backbone)
        if getattr(self.backbone, "pooler", None) is not None:
            self.backbone.pooler = None  # pooled by mean or first token instead; unused weights would only be saved
        known = self.backbone.get_input_embeddings().num_embeddings
        if known < vocab_size:
            raise ValueError(
                f"the tokenizer has {vocab_size} tokens, the text backbone {known}; they do not belong together"
            )
        own_pad = self.backbone.config.pad_token_id if _counts_from_padding(self.backbone) else pad_id
        if config.backbone is not None and own_pad != pad_id:
            raise ValueError(
                f"the tokenizer pads with token {pad_id}, text backbone {config.backbone!r} with {own_pad}; "
                "tokenizer.path must be the backbone's own"
            )
        self.hidden_size = int(self.backbone.config.hidden_size)
        self.projection = nn.Linear(self.hidden_size, dim, bias=False)
        self.ngrams, self.widen = None, None
        if config.ngrams:
            self.ngrams = NgramEmbedding(
                longest=config.ngrams, buckets=config.ngram_buckets, dim=dim, least=config.ngram_min_count
            )
            self.widen = nn.Linear(dim, self.hidden_size, bias=False)

    def architecture(self) -> dict[str, Any]:
        """The backbone's configuration, enough to build it again without its weights."""
        config = cast(dict[str, Any], self.backbone.config.to_dict())
        volatile = ("_name_or_path", "transformers_version", "dtype", "architectures")
        return {key: value for key, value in config.items() if key not in volatile}

    def forward(self, tokens: TokenBatch, *, states: bool = False, cached: bool = False) -> TextStates:
        """Unit vectors [B, D], pooled hidden vectors [B, H] and, if asked, token states [T, H].

        The n-grams are added on both ways out: to the states, and with equal weight to the vector. With `cached`, a
        chunk's activations are not kept but computed again for its gradient, so that memory does not grow with the
        batch but by its vectors: what GradCache does (arXiv 2101.06983), as one graph.
        """
        pooled_BH, states_TH = self._encode(tokens, states, cached and torch.is_grad_enabled())
        z_BD = normalize(self.projection(pooled_BH), dim=-1)
        if self.ngrams is None or self.widen is None:
            return TextStates(z_BD, pooled_BH, states_TH)
        grams_TD = self.ngrams(tokens).to(z_BD.dtype)
        sums_BD = z_BD.new_zeros(z_BD.shape).index_add(0, tokens.rows_T, grams_TD)
        z_BD = normalize(z_BD + normalize(sums_BD, dim=-1), dim=-1)
        pooled_BH = pooled_BH + self.widen(sums_BD / tokens.lengths_B[:, None])
        return TextStates(z_BD, pooled_BH, None if states_TH is None else states_TH + self.widen(grams_TD))

    def _encode(self, tokens: TokenBatch, states: bool, cached: bool) -> tuple[Tensor, Tensor | None]:
        """The backbone's pooled vectors [B, H] and, if asked, token states [T, H].

        Rows are encoded in length-sorted chunks under the token budget, so that little of the work is padding.
        """
        lengths = tokens.row_lengths()
        starts_B = tokens.lengths_B.cumsum(0) - tokens.lengths_B
        pooled, row_order, flat, position_order = [], [], [], []
        chunks = list(token_chunks(lengths, self.token_budget))
        chunks += [chunks[-1][-1:]] * (self.passes(len(chunks)) - len(chunks))  # a row again, its vectors not taken
        for rows in chunks:
            rows_b = torch.tensor(rows, device=tokens.ids_T.device)
            offsets_L = torch.arange(lengths[rows[0]], device=tokens.ids_T.device)
            mask_bL = offsets_L < tokens.lengths_B[rows_b][:, None]
            positions_bL = (starts_B[rows_b][:, None] + offsets_L).masked_fill(~mask_bL, 0)
            ids_bL = tokens.ids_T[positions_bL].masked_fill(~mask_bL, self.pad_id)
            # Without padding no mask is passed, which lets attention take its fastest path.
            attention = None if lengths[rows[0]] == lengths[rows[-1]] else mask_bL.long()
            if cached:
                found = checkpoint(self._chunk, ids_bL, attention, mask_bL, states, use_reentrant=False)
            else:
                found = self._chunk(ids_bL, attention, mask_bL, states)
            pooled.append(found[0])
            row_order.append(rows_b)
            if states:
                flat.append(found[1])
                position_order.append(positions_bL[mask_bL])
        pooled_BH = torch.cat(pooled)[torch.cat(row_order)[: len(lengths)].argsort()]
        states_TH = torch.cat(flat)[torch.cat(position_order)[: len(tokens.ids_T)].argsort()] if states else None
        return pooled_BH, states_TH

    def _chunk(
        self, ids_bL: Tensor, attention_bL: Tensor | None, mask_bL: Tensor, states: bool
    ) -> tuple[Tensor, Tensor | None]:
        """One padded chunk: pooled vectors [b, H] and, if asked for, the states of its tokens, row by row."""
        h_bLH = self.backbone(input_ids=ids_bL, attention_mask=attention_bL).last_hidden_state
        return self._pool(h_bLH, mask_bL), h_bLH[mask_bL] if states else None

    def _pool(self, h_bLH: Tensor, mask_bL: Tensor) -> Tensor:
        if self.pooling == "cls":
            return h_bLH[:, 0]
        weights_bL1 = (mask_bL / mask_bL.sum(1, keepdim=True)).unsqueeze(-1).to(h_bLH.dtype)
        return (h_bLH * weights_bL1).sum(1)


def _pretrained(config: TextConfig) -> Any:
    """The backbone of a name or path. ValueError if there is none."""
    try:
        return AutoModel.from_pretrained(config.backbone, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:  # of damaged files, what their readers raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"text backbone {config.backbone!r} cannot be loaded ({reason})") from error


def _from_scratch(config: TextConfig, vocab_size: int, pad_id: int) -> Any:
    """The backbone of an architecture, untrained. ValueError if it cannot be built."""
    arch = {"model_type": "xlm-roberta", **config.arch}
    arch.setdefault("vocab_size", vocab_size)
    arch.setdefault("pad_token_id", pad_id)
    # RoBERTa counts positions from pad_id + 1.
    arch.setdefault("max_position_embeddings", config.max_tokens + pad_id + 1)
    try:
        return AutoModel.from_config(AutoConfig.for_model(**arch), dtype=torch.float32)
    except Exception as error:  # whatever a model class says of values that it has no use for
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"model.text.arch {dict(config.arch)} cannot be built ({reason})") from error


def check_arch(config: TextConfig) -> None:
    """ValueError for a key of `arch` that its architecture does not have: transformers would keep it, and not use it.

    Not asked of a bundle's, in which all is written that a published configuration had.
    """
    if config.backbone is not None:
        return
    model_type = config.arch.get("model_type", "xlm-roberta")
    try:
        plain = AutoConfig.for_model(model_type)
    except ValueError as error:
        raise ValueError(f"model.text.arch.model_type {model_type!r}; transformers has no such model") from error
    known = {*plain.to_dict(), *plain.attribute_map}
    # Older names, which become others (ModernBERT's global_attn_every_n_layers), stand in the source alone.
    source = inspect.getsource(type(plain))
    if unknown := [key for key in config.arch if key not in known and f'"{key}"' not in source]:
        own = sorted(known - set(PretrainedConfig().to_dict()))
        raise ValueError(f"model.text.arch: unknown key {unknown[0]!r}; keys of {model_type}: {', '.join(own)}")


def _check_positions(backbone: Any, config: TextConfig) -> None:
    """ValueError if the backbone has fewer positions than texts have tokens."""
    positions = getattr(backbone.config, "max_position_embeddings", None)
    if positions is not None and _counts_from_padding(backbone):
        positions -= backbone.config.pad_token_id + 1
    if positions is not None and config.max_tokens > positions:
        name = backbone.config.model_type if config.backbone is None else repr(config.backbone)
        raise ValueError(f"max_tokens {config.max_tokens}; text backbone {name} has {positions} positions")


def _counts_from_padding(backbone: Any) -> bool:
    """Whether positions are counted from the padding token's id on, as RoBERTa does; for others a mask is enough."""
    return "roberta" in backbone.config.model_type


def own_pooling(backbone: str | None) -> Literal["mean", "cls"]:
    """How a backbone in sentence-transformers' form says that it is pooled; mean where it says nothing.

    ValueError if it is pooled in another way, or is loaded by name and what it says cannot be fetched.
    """
    file = file_of(backbone, "1_Pooling/config.json") if backbone is not None else None
    if file is None:
        return "mean"
    said = json.loads(file.read_text(encoding="utf-8"))
    if "pooling_mode" in said:  # as of sentence-transformers 5.5
        chosen = [said["pooling_mode"]] if isinstance(said["pooling_mode"], str) else list(said["pooling_mode"])
    else:
        modes = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        chosen = [modes.get(key, key) for key, value in said.items() if value is True and key != "include_prompt"]
    if chosen not in (["mean"], ["cls"]):
        raise ValueError(f"{file}: pooling {', '.join(chosen) or 'none'}; mean or cls can be taken over")
    return cast(Literal["mean", "cls"], chosen[0])


def file_of(backbone: str, name: str) -> Path | None:
    """A file of a backbone's directory or repository, None if it has none of this name.

    ValueError if the backbone is loaded by name, and whether there is such a file cannot be found out.
    """
    if Path(backbone).exists():
        return Path(backbone) / name if (Path(backbone) / name).is_file() else None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    if (kept := try_to_load_from_cache(backbone, name)) is not None:
        return Path(kept) if isinstance(kept, str) else None  # what is not a path says that the model has no such file
    try:
        return Path(hf_hub_download(backbone, name))
    except RemoteEntryNotFoundError:
        return None
    except Exception as error:  # offline, a proxy, a licence not accepted: the weights may be in the cache all the same
        advice = "; say its pooling, mean or cls" if name.startswith("1_Pooling") else ""
        raise ValueError(
            f"text backbone {backbone!r}: its {name} is not in the cache and cannot be fetched{advice}"
        ) from error
