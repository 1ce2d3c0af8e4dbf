"""Named runs: functions that return a whole Config. The only home of tuned numbers."""

from __future__ import annotations

import dataclasses

from unimir.config import (
    Config,
    EvalTask,
    ImageConfig,
    ModelConfig,
    PrepareConfig,
    Stage,
    Task,
    TextConfig,
    TokenizerConfig,
)


def recipe(name: str) -> Config:
    """The config of a named run. ValueError lists the names."""
    recipes = {"sample": sample, "tiny": tiny}
    if name not in recipes:
        raise ValueError(f"recipe {name!r}; recipes are {', '.join(recipes)}")
    return recipes[name]()


def sample() -> Config:
    """The embedded default: generated pictures and texts in eight languages, minutes on two cores."""
    retrieval = {"contrastive": 1.0, "fused": 0.5}
    return Config(
        recipe="sample",
        tokenizer=TokenizerConfig(vocab_size=4000),
        prepare=PrepareConfig(max_tokens=96, image_size=64),
        model=ModelConfig(
            dim=128,
            prefixes=(64, 32),
            text=TextConfig(max_tokens=96, arch=_small_text(hidden=128, layers=2)),
            image=ImageConfig(name="convnext_atto", args={"depths": [1, 1, 2, 1], "dims": [32, 64, 96, 128]}, size=64),
        ),
        stages=(
            Stage(
                name="text",
                steps=150,
                tasks=(
                    Task(name="parallel", kind="parallel", batch_size=256, weight=2),
                    Task(name="descriptions", kind="text_text", batch_size=128),
                ),
                rates={"text": 2e-3},
            ),
            Stage(
                name="nlu",
                steps=100,
                tasks=(
                    Task(name="queries", kind="intent_query", batch_size=128, weight=3, losses=_NLU),
                    Task(name="commands", kind="nlu", batch_size=128, losses=_NLU),
                ),
                rates={"text": 5e-4, "nlu": 3e-3},
            ),
            Stage(
                name="joint",
                steps=500,
                tasks=(
                    Task(name="captions", kind="image_text", batch_size=256, weight=4, losses=retrieval),
                    Task(name="queries", kind="intent_query", batch_size=192, weight=2, losses={"fused": 1.0, **_NLU}),
                    Task(name="parallel", kind="parallel", batch_size=256, losses={"contrastive": 1.0, "anchor": 0.1}),
                    Task(name="commands", kind="nlu", batch_size=64, weight=0.5, losses=_NLU),
                ),
                rates={"text": 1e-3, "image": 2e-3, "nlu": 1e-3, "fusion": 2e-3},
            ),
        ),
        evaluation=(
            EvalTask(name="text_to_image", measure="text_to_image", kind="image_text"),
            EvalTask(name="image_to_text", measure="image_to_text", kind="image_text"),
            EvalTask(name="text_to_text", measure="text_to_text", kind="parallel"),
            EvalTask(name="query_to_document", measure="text_to_text", kind="text_text"),
            EvalTask(name="query_to_item", measure="query_to_item", kind="intent_query"),
            EvalTask(name="clean_to_item", measure="query_to_item", kind="image_text"),
            EvalTask(name="", measure="nlu", kind="intent_query"),
        ),
    )


def tiny() -> Config:
    """The sample cut to seconds: for tests of the path, not of the result."""
    full = sample()
    text = dataclasses.replace(full.model.text, arch=_small_text(hidden=32, layers=1))
    image = ImageConfig(name="convnext_atto", args={"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}, size=32)
    return dataclasses.replace(
        full,
        recipe="tiny",
        sample_items=200,
        tokenizer=TokenizerConfig(vocab_size=1500),
        model=dataclasses.replace(full.model, dim=32, prefixes=(16,), text=text, image=image),
        stages=tuple(_shrunk(stage) for stage in full.stages),
    )


_NLU = {"intent": 1.0, "slots": 3.0}


def _small_text(*, hidden: int, layers: int) -> dict[str, object]:
    """An XLM-R-shaped encoder from scratch; no dropout, since small corpora are seen few times and runs must repeat."""
    return {
        "model_type": "xlm-roberta",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, hidden // 32),
        "intermediate_size": 4 * hidden,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "type_vocab_size": 1,
    }


def _shrunk(stage: Stage) -> Stage:
    tasks = tuple(dataclasses.replace(task, batch_size=32) for task in stage.tasks)
    return dataclasses.replace(stage, steps=20, warmup_steps=5, tasks=tasks)
