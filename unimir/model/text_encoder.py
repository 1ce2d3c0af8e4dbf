"""The text tower: ragged token batches in, pooled vectors and token states out.

Knows no tokenizer, no label and no loss. Shape suffixes in model/: B rows, L padded length, T tokens of all rows laid
end to end, H hidden size, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig

from unimir.config import TextConfig


@dataclass(frozen=True)
class TokenBatch:
    """Texts as one row of token ids laid end to end: `ids_T` int64 and `lengths_B` int64, which sum to T."""

    ids_T: Tensor
    lengths_B: Tensor

    @classmethod
    def from_lists(cls, ids: list[list[int]]) -> TokenBatch:
        """From token ids per text; every text has at least one token."""
        lengths = torch.tensor([len(row) for row in ids], dtype=torch.int64)
        return cls(torch.tensor([token for row in ids for token in row], dtype=torch.int64), lengths)

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device."""
        return TokenBatch(self.ids_T.to(device, non_blocking=True), self.lengths_B.to(device, non_blocking=True))

    @property
    def rows_T(self) -> Tensor:
        """The row each token belongs to, int64."""
        rows_B = torch.arange(len(self.lengths_B), device=self.lengths_B.device)
        return rows_B.repeat_interleave(self.lengths_B, output_size=len(self.ids_T))


def token_chunks(lengths: list[int], token_budget: int) -> Iterator[list[int]]:
    """Row numbers in chunks of similar length, the longest rows first; padded, a chunk stays within the budget.

    A single row longer than the budget is a chunk of its own.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    start = 0
    while start < len(order):
        size = max(1, token_budget // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


class TextEncoder(nn.Module):
    """A Hugging Face encoder with masked pooling and a projection to the shared space."""

    def __init__(self, config: TextConfig, *, vocab_size: int, pad_id: int, dim: int) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.token_budget = config.token_budget
        self.pad_id = pad_id
        if config.backbone is not None:
            # fp32 always explicit: half-precision products are about 100 times slower on a CPU, and transformers
            # would keep a half-precision checkpoint in half precision. Engines cast down where it pays.
            self.backbone = AutoModel.from_pretrained(config.backbone, dtype=torch.float32, trust_remote_code=False)
        else:
            self.backbone = AutoModel.from_config(_architecture(config, vocab_size, pad_id), dtype=torch.float32)
        if getattr(self.backbone, "pooler", None) is not None:
            self.backbone.pooler = None  # pooled by mean or first token instead; unused weights would only be saved
        known = self.backbone.get_input_embeddings().num_embeddings
        if known < vocab_size:
            raise ValueError(
                f"the tokenizer has {vocab_size} tokens, the text backbone {known}; they do not belong together"
            )
        self.hidden_size = int(self.backbone.config.hidden_size)
        self.projection = nn.Linear(self.hidden_size, dim, bias=False)

    def architecture(self) -> dict[str, Any]:
        """The backbone's configuration, enough to build it again without its weights."""
        config = cast(dict[str, Any], self.backbone.config.to_dict())
        volatile = ("_name_or_path", "transformers_version", "dtype", "architectures")
        return {key: value for key, value in config.items() if key not in volatile}

    def forward(self, tokens: TokenBatch, *, states: bool = False) -> tuple[Tensor, Tensor | None]:
        """Pooled hidden vectors [B, H] and, if asked, token states [T, H] in the order of `tokens.ids_T`.

        Rows are encoded in length-sorted chunks under the token budget, so that little of the work is padding.
        """
        lengths = tokens.lengths_B.tolist()
        starts_B = tokens.lengths_B.cumsum(0) - tokens.lengths_B
        pooled, row_order, flat, position_order = [], [], [], []
        for rows in token_chunks(lengths, self.token_budget):
            rows_b = torch.tensor(rows, device=tokens.ids_T.device)
            offsets_L = torch.arange(lengths[rows[0]], device=tokens.ids_T.device)
            mask_bL = offsets_L < tokens.lengths_B[rows_b][:, None]
            positions_bL = (starts_B[rows_b][:, None] + offsets_L).masked_fill(~mask_bL, 0)
            ids_bL = tokens.ids_T[positions_bL].masked_fill(~mask_bL, self.pad_id)
            # Without padding no mask is passed, which lets attention take its fastest path.
            attention = None if lengths[rows[0]] == lengths[rows[-1]] else mask_bL.long()
            h_bLH = self.backbone(input_ids=ids_bL, attention_mask=attention).last_hidden_state
            pooled.append(self._pool(h_bLH, mask_bL))
            row_order.append(rows_b)
            if states:
                flat.append(h_bLH[mask_bL])
                position_order.append(positions_bL[mask_bL])
        pooled_BH = torch.cat(pooled)[torch.cat(row_order).argsort()]
        states_TH = torch.cat(flat)[torch.cat(position_order).argsort()] if states else None
        return pooled_BH, states_TH

    def _pool(self, h_bLH: Tensor, mask_bL: Tensor) -> Tensor:
        if self.pooling == "cls":
            return h_bLH[:, 0]
        weights_bL1 = (mask_bL / mask_bL.sum(1, keepdim=True)).unsqueeze(-1).to(h_bLH.dtype)
        return (h_bLH * weights_bL1).sum(1)


def _architecture(config: TextConfig, vocab_size: int, pad_id: int) -> PretrainedConfig:
    arch = {"model_type": "xlm-roberta", **config.arch}
    arch.setdefault("vocab_size", vocab_size)
    arch.setdefault("pad_token_id", pad_id)
    # RoBERTa counts positions from pad_id + 1.
    arch.setdefault("max_position_embeddings", config.max_tokens + pad_id + 1)
    return AutoConfig.for_model(**arch)
