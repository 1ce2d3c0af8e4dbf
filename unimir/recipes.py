"""Named runs: functions that return a whole Config. With recipes_pretrained, the only home of tuned numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

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
from unimir.plain import override
from unimir.recipes_pretrained import base, large


def recipe(name: str) -> Config:
    """The config of a named run. ValueError lists the names."""
    recipes = {run.__name__.replace("_", "-"): run for run in (sample, tiny, atlas, atlas_smoke, base, large)}
    if name not in recipes:
        raise ValueError(f"recipe {name!r}; recipes are {', '.join(recipes)}")
    return override(recipes[name](), [])  # every number of the type that is declared: a run's name is their hash


def sample() -> Config:
    """The embedded default: generated pictures and texts in eight languages, minutes on two cores."""
    retrieval = {"contrastive": 1.0, "fused": 0.5}
    return Config(
        recipe="sample",
        tokenizer=TokenizerConfig(vocab_size=8000),
        prepare=PrepareConfig(max_tokens=96, image_size=64),
        model=ModelConfig(
            dim=128,
            prefixes=(64, 32),
            text=TextConfig(max_tokens=96, arch=_small_text(hidden=128, layers=2)),
            image=ImageConfig(
                name="convnext_atto",
                args={"depths": [1, 1, 2, 1], "dims": [32, 64, 96, 128], "kernel_sizes": 3},
                size=64,
            ),
        ),
        stages=(
            Stage(
                name="text",
                steps=120,
                tasks=(
                    Task(name="parallel", kind="parallel", batch_size=256, weight=2),
                    Task(name="descriptions", kind="text_text", batch_size=96),
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
                steps=700,
                tasks=(
                    Task(name="captions", kind="image_text", batch_size=128, weight=4, losses=retrieval),
                    Task(name="queries", kind="intent_query", batch_size=96, weight=2, losses={"fused": 1.0, **_NLU}),
                    Task(name="parallel", kind="parallel", batch_size=128, losses={"contrastive": 1.0, "anchor": 0.1}),
                    Task(name="commands", kind="nlu", batch_size=32, weight=0.5, losses=_NLU),
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
            EvalTask(name="", measure="nlu", kind="intent_query", max_lexical_rows=4000),
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


def atlas() -> Config:
    """Open data in 117 languages: emoji, photos, news, command pages and annotated commands; up to an hour, 2 cores."""
    return Config(
        recipe="atlas",
        corpora="atlas",
        tokenizer=TokenizerConfig(vocab_size=12_000, train_texts=300_000),
        prepare=PrepareConfig(max_tokens=64, image_size=64),
        model=ModelConfig(
            dim=128,
            prefixes=(64,),
            text=TextConfig(
                max_tokens=64,
                arch=_small_text(hidden=128, layers=2, head=64, widening=2),
                ngrams=3,
                ngram_buckets=1_048_576,
                ngram_min_count=2,
            ),
            image=ImageConfig(
                name="convnext_atto",
                args={"depths": [1, 1, 2, 1], "dims": [32, 64, 128, 192], "kernel_sizes": 3},
                size=32,
            ),
        ),
        stages=_atlas_stages(),
        evaluation=_atlas_evaluation(),
    )


def atlas_smoke() -> Config:
    """The path of atlas on its real data in minutes; its numbers mean nothing."""
    full = atlas()
    text = dataclasses.replace(full.model.text, arch=_small_text(hidden=64, layers=1), ngram_buckets=262_144)
    image = ImageConfig(name="convnext_atto", args={"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}, size=32)
    return dataclasses.replace(
        full,
        recipe="atlas-smoke",
        tokenizer=TokenizerConfig(vocab_size=8000, train_texts=20_000),
        prepare=dataclasses.replace(full.prepare, image_size=32),
        model=dataclasses.replace(full.model, dim=32, prefixes=(16,), text=text, image=image),
        stages=tuple(_shrunk(stage) for stage in full.stages),
        evaluation=tuple(
            dataclasses.replace(task, max_queries=5, max_lexical_rows=2000)
            for task in full.evaluation
            if task.name not in ("emoji_keyword", "ntrex")  # the slowest, and as emoji_name and tldr measure
        ),
    )


_NLU = {"intent": 1.0, "slots": 3.0}
_ATLAS_NLU = {"intent": 1.0, "slots": 5.0}
_EMOJI_WORDS = (
    Task(
        name="emoji_name", kind="image_text", sources=("emoji_name",), batch_size=1024, hide=0.3, losses={"proxy": 2.0}
    ),
    Task(name="emoji_keyword", kind="image_text", sources=("emoji_keyword",), batch_size=1024, losses={"proxy": 2.0}),
)
# In the joint stage tasks take turns under one AdamW: whose gradients are small beside the others' learns slowly.
_EMOJI: dict[str, Any] = {"per_picture": 4, "losses": {"contrastive": 5.0, "proxy": 5.0, "fused": 1.5}}
_TEXT_LOSSES = {"contrastive": 2.0, "anchor": 0.1}
_HIDDEN: dict[str, Any] = {"hide": 0.5, "losses": _ATLAS_NLU}
_XSID = Task(
    name="xsid",
    kind="nlu",
    sources=("xsid_train", "xsid_valid", "xsid_valid_ba", "xsid_valid_muc", "xsid_valid_st"),
    batch_size=128,
    weight=8,
    **_HIDDEN,
)
_OTHER_NLU = (
    Task(name="snips", kind="nlu", sources=("snips",), batch_size=96, weight=0.5, **_HIDDEN),
    Task(name="hwu64", kind="nlu", sources=("hwu64",), batch_size=96, **_HIDDEN),
    Task(name="clinc150", kind="nlu", sources=("clinc150",), batch_size=96, losses={"intent": 1.0}),
    Task(name="homeassistant", kind="nlu", sources=("homeassistant",), batch_size=96, **_HIDDEN),
    Task(name="composed_other", kind="nlu", sources=("composed_other",), batch_size=64, weight=0.5, **_HIDDEN),
    Task(name="composed_parse", kind="intent_query", batch_size=96, **_HIDDEN),
)
_ATLAS_TEXT = (
    Task(name="ntrex", kind="parallel", sources=("ntrex",), batch_size=128, weight=2.5),
    Task(name="tldr", kind="text_text", sources=("tldr",), batch_size=128, weight=2, hide=0.3),
    Task(name="tldr_parallel", kind="parallel", sources=("tldr_parallel",), batch_size=128, weight=0.5),
    Task(name="afriqa", kind="text_text", sources=("afriqa",), batch_size=48, weight=0.5),
)


def _small_text(*, hidden: int, layers: int, head: int = 32, widening: int = 4) -> dict[str, object]:
    """An XLM-R-shaped encoder from scratch."""
    return {
        "model_type": "xlm-roberta",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, hidden // head),
        "intermediate_size": widening * hidden,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "type_vocab_size": 1,
    }


def _shrunk(stage: Stage) -> Stage:
    tasks = tuple(dataclasses.replace(task, batch_size=32) for task in stage.tasks)
    return dataclasses.replace(stage, steps=20, warmup_steps=5, tasks=tasks)


def _atlas_stages() -> tuple[Stage, ...]:
    name, keyword = _EMOJI_WORDS
    rehearsed = zip((name, keyword, *_ATLAS_TEXT[:2]), (1, 2, 1.5, 1), strict=True)
    texts = zip(_ATLAS_TEXT, (3.9, 2.4, 0.6, 0.6), strict=True)
    joint = {"text": 1e-3, "ngrams": 0.02, "image": 2e-3, "nlu": 1e-3, "fusion": 2e-3, "proxies": 2e-3, "scale": 0.1}
    return (
        Stage(
            name="text",
            steps=2330,
            tasks=(dataclasses.replace(name, weight=3), dataclasses.replace(keyword, weight=13), *_ATLAS_TEXT),
            rates={"text": 1e-3, "ngrams": 0.03, "proxies": 1e-2, "scale": 0.1},
        ),
        Stage(
            name="nlu",
            steps=1140,
            # Rehearsal and rates below the joint stage's: else more of the text stage is lost than that wins back.
            tasks=(_XSID, *_OTHER_NLU, *(dataclasses.replace(task, weight=weight) for task, weight in rehearsed)),
            rates={"text": 5e-4, "ngrams": 0.005, "nlu": 3e-3, "scale": 0.1},
            language_temperature=0.3,
        ),
        Stage(
            name="joint",
            steps=2882,
            tasks=(
                dataclasses.replace(name, weight=3, **_EMOJI),
                dataclasses.replace(keyword, weight=6.5, **_EMOJI),
                Task(name="photos", kind="image_text", sources=("photo_class",), batch_size=128, weight=1),
                Task(
                    name="composed",
                    kind="intent_query",
                    batch_size=160,
                    weight=2.5,
                    hide=0.2,
                    losses={"fused": 1.0, **_ATLAS_NLU},
                ),
                dataclasses.replace(_XSID, weight=5.6),
                *(dataclasses.replace(task, weight=0.25) for task in _OTHER_NLU),
                *(dataclasses.replace(task, weight=weight, losses=_TEXT_LOSSES) for task, weight in texts),
            ),
            rates=joint,
        ),
    )


def _atlas_evaluation() -> tuple[EvalTask, ...]:
    return (
        EvalTask(
            name="emoji_name",
            measure="text_to_image",
            kind="image_text",
            sources=("emoji_name",),
            pool="all",
            max_queries=200,
        ),
        EvalTask(
            name="emoji_keyword",
            measure="text_to_image",
            kind="image_text",
            sources=("emoji_keyword",),
            pool="all",
            metrics=("ndcg@10",),
            max_queries=100,
        ),
        EvalTask(
            name="photo_class",
            measure="text_to_image",
            kind="image_text",
            sources=("photo_class",),
            metrics=("ndcg@10",),
        ),
        EvalTask(
            name="tldr", measure="text_to_text", kind="text_text", sources=("tldr",), pool="all", metrics=("r@10",)
        ),
        EvalTask(name="ntrex", measure="text_to_text", kind="parallel", sources=("ntrex",), max_queries=100),
        EvalTask(name="xsid", measure="nlu", kind="nlu", sources=_XSID.sources),
        EvalTask(
            name="composed",
            measure="query_to_item",
            kind="intent_query",
            sources=("composed",),
            pool="all",
            metrics=("r@10",),
        ),
        EvalTask(
            name="composed_photo",
            measure="query_to_item",
            kind="intent_query",
            sources=("composed_photo",),
            metrics=("ndcg@10",),
        ),
        EvalTask(name="search", measure="nlu", kind="intent_query"),
    )
