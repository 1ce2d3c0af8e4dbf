"""Named runs on GPUs from pretrained backbones, for corpora of one's own (`--corpora`). Tuned numbers, as in recipes.

Rates and batches are starting points taken from what was published for these backbones; each docstring names where.
"""

from __future__ import annotations

from unimir.config import (
    Config,
    EngineConfig,
    EvalTask,
    ImageConfig,
    ModelConfig,
    PrepareConfig,
    Restarts,
    Stage,
    Task,
    TextConfig,
    TokenizerConfig,
)

_NLU = {"intent": 1.0, "slots": 1.0}


def base() -> Config:
    """XLM-R-base (arXiv 1911.02116) and SigLIP's ViT-B/16 (arXiv 2303.15343), on one node.

    Text: rate 2e-5 and mean pooling, as multilingual E5 base was fine-tuned (arXiv 2402.05672); its batch was 512, and
    is larger here because cached batches cost no memory. NLU: rate 5e-5 and batch 128, as JointBERT (arXiv 1902.10909).
    Joint: weight decay 1e-4 and a second beta of 0.95, as SigLIP; its rate of 1e-3 is for training from scratch, so the
    towers, which are not, move by 1e-5, at which FLYP fine-tunes CLIP's ViT-B/16 (arXiv 2212.00638).
    """
    return _recipe(
        "base",
        text="FacebookAI/xlm-roberta-base",
        image="vit_base_patch16_siglip_224",
        dim=768,
        rate=2e-5,
        engine=EngineConfig(zero=2, precision="bf16", weight_decay=1e-4, betas=(0.9, 0.95)),
    )


def large() -> Config:
    """XLM-R-large (arXiv 1911.02116) and SigLIP's ViT-L/16, on several nodes: ZeRO 2, activations computed again.

    As `base`, but for the text rate of multilingual E5 large, 1e-5 (arXiv 2402.05672).
    """
    return _recipe(
        "large",
        text="FacebookAI/xlm-roberta-large",
        image="vit_large_patch16_siglip_256",
        dim=1024,
        rate=1e-5,
        engine=EngineConfig(
            zero=2, precision="bf16", weight_decay=1e-4, betas=(0.9, 0.95), activation_checkpointing=True
        ),
    )


def _recipe(name: str, *, text: str, image: str, dim: int, rate: float, engine: EngineConfig) -> Config:
    size = int(image.rsplit("_", 1)[1])
    return Config(
        recipe=name,
        tokenizer=TokenizerConfig(path=text),
        prepare=PrepareConfig(max_tokens=128, image_size=size),
        model=ModelConfig(
            dim=dim,
            prefixes=(dim // 2, dim // 4),
            text=TextConfig(backbone=text, pooling="mean", max_tokens=128, token_budget=65_536),
            image=ImageConfig(name=image, pretrained=True, size=size, min_crop=0.9),
        ),
        stages=_stages(rate),
        engine=engine,
        restarts=Restarts(every_steps=1000, keep=2),
        evaluation=(
            EvalTask(name="text_to_image", measure="text_to_image", kind="image_text"),
            EvalTask(name="image_to_text", measure="image_to_text", kind="image_text"),
            EvalTask(name="text_to_text", measure="text_to_text", kind="parallel"),
            EvalTask(name="query_to_document", measure="text_to_text", kind="text_text"),
            EvalTask(name="query_to_item", measure="query_to_item", kind="intent_query"),
            EvalTask(name="", measure="nlu", kind="intent_query"),
        ),
    )


def _stages(rate: float) -> tuple[Stage, ...]:
    """The three stages; `rate` is the text tower's in the first."""
    parallel = Task(name="parallel", kind="parallel", batch_size=2048, cached=True)
    documents = Task(name="documents", kind="text_text", batch_size=2048, cached=True)
    queries = Task(name="queries", kind="intent_query", batch_size=128, losses=_NLU)
    commands = Task(name="commands", kind="nlu", batch_size=128, losses=_NLU)
    anchored = {"contrastive": 1.0, "anchor": 0.1}
    return (
        Stage(name="text", steps=20_000, tasks=(parallel, documents), rates={"text": rate}, warmup_steps=1000),
        Stage(
            name="nlu",
            steps=5000,
            tasks=(queries, commands),
            rates={"text": rate / 2, "nlu": 5e-5},
            warmup_steps=250,
        ),
        Stage(
            name="joint",
            steps=30_000,
            tasks=(
                Task(
                    name="captions",
                    kind="image_text",
                    batch_size=4096,
                    weight=4,
                    cached=True,
                    losses={"contrastive": 1.0, "fused": 0.5},
                ),
                Task(
                    name="queries",
                    kind="intent_query",
                    batch_size=1024,
                    weight=2,
                    cached=True,
                    losses={"fused": 1.0, **_NLU},
                ),
                Task(name="parallel", kind="parallel", batch_size=2048, cached=True, losses=anchored),
                Task(name="documents", kind="text_text", batch_size=2048, cached=True, losses=anchored),
                Task(name="commands", kind="nlu", batch_size=128, weight=0.5, losses=_NLU),
            ),
            rates={"text": 1e-5, "image": 1e-5, "nlu": 5e-5, "fusion": 1e-4},
            warmup_steps=1500,
        ),
    )
