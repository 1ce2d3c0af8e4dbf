"""Tiny real models and batches that several rooms' tests build on."""

import dataclasses

import torch

from unimir.config import ImageConfig, ModelConfig, TextConfig
from unimir.model.rows import RowTable
from unimir.model.tokens import TokenBatch
from unimir.model.unimir import UniMIR
from unimir.schema import LabelSet
from unimir.train.losses import Objective
from unimir.train.shares import Batch

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
        text=TextConfig(arch=ARCH, max_tokens=40, token_budget=64, ngrams=2, ngram_buckets=512, ngram_min_count=2),
        image=ImageConfig(name="convnext_atto", args={"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}, size=32),
    )
    config = dataclasses.replace(config, **changes)
    return UniMIR(config, LABEL_SETS, vocab_size=100, pad_id=1).eval()


def texts(*lengths: int) -> TokenBatch:
    generator = torch.Generator().manual_seed(sum(lengths))
    return TokenBatch.from_lists([torch.randint(2, 100, (n,), generator=generator).tolist() for n in lengths])


def objective() -> Objective:
    model = build()
    torch.manual_seed(1)
    torch.nn.init.normal_(model.fusion.update.weight, std=0.1)
    return learning(Objective(model, groups_K=torch.tensor([0, 1, 2, 3, 5, 8])))


def learning(one: Objective) -> Objective:
    """Lets its row tables take gradients, as the engine does."""
    for module in one.modules():
        if isinstance(module, RowTable):
            module.weight.requires_grad_()
    return one


def gradients(one: Objective) -> dict[str, torch.Tensor]:
    """Of parameters and of row tables, dense."""
    state = one.state_dict(keep_vars=True)
    return {name: value.grad.clone().to_dense() for name, value in state.items() if value.grad is not None}


def batch_of(rows: slice, sizes: list[int]) -> Batch:
    """Six queries for pictures and texts by turns, with NLU labels; `rows` is one worker's share."""
    pictures = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    lengths, documents = [4, 7, 3, 9, 5, 6], [8, 5, 12, 4, 9, 7]
    numbers = list(range(6))[rows]
    with_picture = [i for i in numbers if i % 2 == 0]
    with_text = [i for i in numbers if i % 2]
    picture_of = torch.tensor([with_picture.index(i) if i % 2 == 0 else -1 for i in numbers])
    all_texts = [texts(n) for n in lengths]
    all_documents = [texts(n + 20) for n in documents]

    def join(parts: list) -> object:
        return type(parts[0])(torch.cat([p.ids_T for p in parts]), torch.cat([p.lengths_B for p in parts]))

    tags = [torch.arange(n) % 5 + 3 for n in lengths]
    return Batch(
        losses={"contrastive": 1.0, "fused": 0.7, "proxy": 0.4, "intent": 0.5, "slots": 0.25},
        sizes=sizes,
        texts=join([all_texts[i] for i in numbers]),
        groups_B=torch.tensor([0, 1, 2, 3, 0, 5])[rows],
        texts_B=torch.arange(6)[rows],
        scale="image",
        documents=join([all_documents[i] for i in with_text]) if with_text else None,
        pixels=pictures[with_picture] if with_picture else None,
        picture_of_B=picture_of,
        sets_B=torch.ones(6, dtype=torch.int64)[rows],
        intents_B=torch.tensor([3, 4, 3, 4, 3, 4])[rows],
        tags_T=torch.cat([tags[i] for i in numbers]),
    )
