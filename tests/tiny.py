"""Tiny real models and batches that several rooms' tests build on."""

import torch

from unimir.config import ImageConfig, ModelConfig, TextConfig
from unimir.model.tokens import TokenBatch
from unimir.model.unimir import UniMIR
from unimir.schema import LabelSet

LABEL_SETS = (
    LabelSet(name="other", intents=("a", "b", "c"), slots=("x",)),
    LabelSet(name="search", intents=("find", "help"), slots=("content", "time")),
)
ARCH = {
    "model_type": "xlm-roberta",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "type_vocab_size": 1,
}


def build(**changes: object) -> UniMIR:
    torch.manual_seed(0)
    config = ModelConfig(
        dim=16,
        prefixes=(8,),
        text=TextConfig(arch=ARCH, max_tokens=40, token_budget=64, ngrams=2, ngram_buckets=512),
        image=ImageConfig(name="convnext_atto", args={"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}, size=32),
        **changes,
    )
    return UniMIR(config, LABEL_SETS, vocab_size=100, pad_id=1).eval()


def texts(*lengths: int) -> TokenBatch:
    generator = torch.Generator().manual_seed(sum(lengths))
    return TokenBatch.from_lists([torch.randint(2, 100, (n,), generator=generator).tolist() for n in lengths])
