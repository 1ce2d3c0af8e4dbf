"""Do configs refuse what they do not know, and survive a round trip?"""

import re

import pytest

from unimir.config import Config
from unimir.plain import from_dict, override, to_dict
from unimir.recipes import recipe

NAMES = ("sample", "tiny", "atlas", "atlas-smoke", "base", "large")


@pytest.mark.parametrize("name", NAMES)
def test_recipes_survive_a_round_trip(name: str) -> None:
    config = recipe(name)
    assert config.recipe == name
    assert from_dict(Config, to_dict(config)) == config
    assert repr(from_dict(Config, to_dict(config))) == repr(config)  # 2 and 2.0 are equal, their hashes' texts are not


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("seed=7", lambda c: c.seed == 7),
        ("stages.joint.steps=3", lambda c: c.stages[2].steps == 3),
        ("stages.0.tasks.parallel.batch_size=8", lambda c: c.stages[0].tasks[0].batch_size == 8),
        ("model.prefixes=[8, 16]", lambda c: c.model.prefixes == (8, 16)),
        ("stages.text.rates.text=1e-4", lambda c: c.stages[0].rates["text"] == 1e-4),
        ("tokenizer.path=/somewhere", lambda c: c.tokenizer.path == "/somewhere"),
        ("teacher.backbone=/somewhere", lambda c: c.teacher.backbone == "/somewhere" and c.teacher.max_tokens == 128),
        ("stages.text.rates.scale=0.1", lambda c: c.stages[0].rates["scale"] == 0.1),
        (
            "stages.text.tasks.parallel={name: other, kind: parallel}",
            lambda c: [task.name for task in c.stages[0].tasks] == ["other", "descriptions"],
        ),
    ],
)
def test_settings_change_what_they_name(setting: str, found: object) -> None:
    assert found(override(recipe("sample"), [setting]))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sed=7", "unknown key 'sed'; known keys: recipe, corpora"),
        ("stages.late.steps=1", "no member 'late'"),
        ("seed", "expected key=value"),
        ("sede.x=1", "unknown key 'sede'; known keys: recipe, corpora"),
        ("evaluation.text_to_text.metrics=[mrr@10]", "task 'text_to_text': metrics ['mrr@10']; r@K (recall) or nd"),
        ("evaluation.text_to_text.metrics=[r@0]", "metrics ['r@0']"),
        ("seed.x=1", "no member 'x' of 0"),
        ("seed={1", "setting 'seed={1': not a YAML value"),
        ("seed=2024-13-45", "setting 'seed=2024-13-45': not a YAML value"),
        ("seed=many", "seed: expected int, got 'many'"),
        ("seed=true", "seed: expected int, got True"),
        ("model.prefixes=8", "model.prefixes: expected a list"),
        ("engine.betas=[0.9]", "engine.betas: expected a list of 2, got [0.9]"),
        ("engine.betas=[0.9, 1]", "engine.betas [0.9, 1.0]; from 0 to below 1"),
        ("engine.weight_decay=-0.1", "engine.weight_decay -0.1; at least 0"),
        ("engine.grad_clip=-1", "engine.grad_clip -1.0; at least 0"),
        ("model.prefixes=[8, 4096]", "model.prefixes has 4096"),
        ("engine.zero=4", "engine.zero: 4; one of 0, 1, 2, 3"),
        ("stages.text.steps=0", "steps 0; must be positive"),
        ("stages.text.rates.text=0", "every part is frozen"),
        ("stages.text.rates={ngrams: 0.1, scale: 0.1}", "every part is frozen"),
        (
            "model.image.size=224",
            "model.image.size 224 is above prepare.image_size 64: pictures would be stored smaller",
        ),
        ("model.text.ngrams=-1", "model.text.ngrams is -1; at least 0"),
        ("model.text.ngram_min_count=2", "ngram_min_count is 2; it is of n-grams, and model.text.ngrams is 0"),
        ("model.text={ngrams: 2, ngram_min_count: 0}", "ngram_min_count is 0; must be positive"),
        ("stages.text.tasks.parallel.batch_size=1", "batch_size 1; at least 2"),
        ("stages.nlu.tasks.commands.losses={contrastive: 1.0}", "kind nlu has no counterpart to be contrasted with"),
        ("stages.text.tasks.parallel.losses={contrastive: 0}", "no loss above 0 among {'contrastive': 0.0}"),
        ("stages.text.tasks.parallel.losses.contrasive=1", "unknown losses ['contrasive']"),
        ("stages.text.tasks.parallel.losses={slots: 1.0}", "kind parallel has neither intents nor slots"),
        ("stages.text.tasks.parallel.losses={distill: 1.0}", "loss distill, but the config has no teacher"),
        ("stages.text.tasks.parallel.hard_negatives=1", "kind parallel has none, only text_text"),
        ("stages.text.tasks.descriptions.hard_negatives=1", "hard_negatives 1, but the config names no negatives"),
        ("engine.precision=bf16", "engine.zero 0 with engine.precision bf16; ZeRO 1, 2 or 3 keep the fp32 weights"),
        (
            "model.text.backbone=intfloat/multilingual-e5-small",
            "e5-small' without tokenizer.path; it knows its own tokens",
        ),
        ("restarts.keep=0", "restarts.keep 0; must be positive"),
        ("tokenizer.vocab_size=100", "tokenizer.vocab_size is 100"),
        ("prepare.max_tokens=500", "model.text.max_tokens 96 is below prepare.max_tokens 500"),
    ],
)
def test_mistakes_are_named(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        override(recipe("sample"), [setting])


def test_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(ValueError, match="recipe 'smaple'; recipes are sample, tiny, atlas, atlas-smoke, base, large"):
        recipe("smaple")
