"""One model against specialists: the joint bundle of a recipe beside bundles that were trained on one skill alone.

python tests/bench/specialists.py --data ../shared/data [--recipe atlas] [--share 0.5] [--seeds 0 1] [--out DIR]
A specialist makes the steps that the joint run makes of its tasks, on the same batches, at the same rates, with the
losses of its skill alone (no anchor, no fusion). `--share` is the part of the recipe's steps that is made. Started
again with the same --out, it goes on where it was. Prints one JSON object: per measure joint, alone (means over seeds),
their ratio, that of each seed, and the ratio's 95 % interval over languages drawn anew (both models on the same ones):
what a measure's few languages or queries leave open.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from unimir import job
from unimir.config import Config, EvalTask, Stage, Task
from unimir.data.prepare import prepare
from unimir.data.sources import corpora_of
from unimir.evaluate import evaluate
from unimir.infer import Encoder
from unimir.recipes import recipe
from unimir.train.batches import task_schedule
from unimir.train.driver import Places, train
from unimir.train.hardware import Wanted


@dataclasses.dataclass(frozen=True)
class Skill:
    """What a specialist learns, and by which of the report's measures it is judged."""

    kinds: tuple[str, ...]
    losses: tuple[str, ...]
    parts: tuple[str, ...]
    measures: tuple[str, ...]


PerLanguage = list[dict[str, float]]  # a measure's value per language, of each seed's model

SKILLS = {
    "text_to_image": Skill(
        ("image_text",), ("contrastive", "proxy"), ("text", "ngrams", "image", "proxies", "scale"), ("text_to_image",)
    ),
    "text_to_text": Skill(("parallel", "text_text"), ("contrastive",), ("text", "ngrams", "scale"), ("text_to_text",)),
    "nlu": Skill(("nlu", "intent_query"), ("intent", "slots"), ("text", "ngrams", "nlu"), ("nlu",)),
}


def shortened(config: Config, share: float) -> Config:
    """The config with this part of its steps."""
    stages = tuple(dataclasses.replace(stage, steps=max(1, round(share * stage.steps))) for stage in config.stages)
    return dataclasses.replace(config, stages=stages)


def judged(config: Config, skill: Skill) -> tuple[EvalTask, ...]:
    """The report's blocks that judge the skill."""
    return tuple(task for task in config.evaluation if task.measure in skill.measures)


def specialist(config: Config, name: str) -> Config:
    """The config of a model that is trained for one skill: of each of its tasks as many batches, and the same ones."""
    skill = SKILLS[name]
    stages = []
    for stage in config.stages:
        steps = Counter(task_schedule(stage))
        tasks = [_of_skill(task, skill, steps[number]) for number, task in enumerate(stage.tasks)]
        kept = tuple(task for task in tasks if task is not None)
        if kept:
            rates = {part: rate for part, rate in stage.rates.items() if part in skill.parts}
            total = int(sum(task.weight for task in kept))
            stages.append(dataclasses.replace(stage, steps=total, tasks=kept, rates=rates))
    if not stages:
        raise ValueError(
            f"{sum(stage.steps for stage in config.stages)} steps have none of {name}; make --share larger"
        )
    return dataclasses.replace(
        config, recipe=f"{config.recipe}-{name}", stages=tuple(stages), evaluation=judged(config, skill)
    )


def _of_skill(task: Task, skill: Skill, steps: int) -> Task | None:
    losses = {name: weight for name, weight in task.losses.items() if name in skill.losses}
    if task.kind not in skill.kinds or not losses or not steps:
        return None
    return dataclasses.replace(task, losses=losses, weight=steps)


def steps_by_task(stages: tuple[Stage, ...]) -> dict[str, int]:
    """Steps of each task in each stage."""
    return {
        f"{stage.name}.{stage.tasks[number].name}": count
        for stage in stages
        for number, count in sorted(Counter(task_schedule(stage)).items())
    }


def measured(config: Config, prepared: Path, out: Path, workers: int) -> dict[str, dict[str, float]]:
    """Trains the config and gives each of its measures per language."""
    with job.cluster():
        trained = train(config, prepared, Places(out=out), Wanted(workers=workers))
    kept = out / "found" / f"{trained.bundle.name}.json"
    if not kept.exists():
        found = evaluate(
            Encoder.from_bundle(trained.bundle), prepared, config, progress=lambda name: print(name, file=sys.stderr)
        )
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(found))
    per_language: dict[str, dict[str, float]] = {}
    for name, value in json.loads(kept.read_text()).items():
        measure, _, lang = name.rpartition(".")
        if lang not in ("macro", "worst") and "_lexical" not in measure:
            per_language.setdefault(measure, {})[lang] = value
    return per_language


def beside(joint: PerLanguage, alone: PerLanguage, draws: int = 10_000) -> dict[str, Any]:
    """Means over seeds and languages, and their ratio.

    Also the ratio of each seed, and its interval by the bootstrap over languages (Efron, 1979), paired.
    """
    langs = sorted(alone[0])
    values = np.array([[[found[lang] for lang in langs] for found in runs] for runs in (joint, alone)])  # model, seed
    ours, theirs = values.mean((1, 2))
    drawn = values.mean(1)[:, np.random.default_rng(0).integers(len(langs), size=(draws, len(langs)))].mean(2)
    drawn = drawn[:, drawn[1] > 0]
    interval = np.quantile(drawn[0] / drawn[1], (0.025, 0.975)).tolist() if drawn.size else None
    return {
        "joint": round(float(ours), 4),
        "alone": round(float(theirs), 4),
        "ratio": round(float(ours / theirs), 3) if theirs else None,
        "ratios": [round(float(j / a), 3) if a else None for j, a in values.mean(2).T],
        "interval": interval and [round(end, 3) for end in interval],
    }


def compared(args: argparse.Namespace) -> dict[str, Any]:
    """For each seed the joint model first, then each specialist; all on the corpus of the recipe's own seed."""
    out = Path(args.out)
    config = shortened(recipe(args.recipe), args.share)
    with job.cluster():
        prepared = prepare(corpora_of(config, out, corpora=None, root=args.data), config, out)
    joint = dataclasses.replace(
        config, evaluation=tuple(task for skill in SKILLS.values() for task in judged(config, skill))
    )
    planned = steps_by_task(joint.stages)
    configs = {"joint": joint, **{name: specialist(config, name) for name in SKILLS}}
    for alone in configs.values():
        for task, steps in steps_by_task(alone.stages).items():
            assert planned[task] == steps, f"{task}: {steps} steps alone, {planned[task]} in the joint run"
    found: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in configs}
    for seed in args.seeds:
        for name, of_seed in configs.items():
            found[name].append(measured(dataclasses.replace(of_seed, seed=seed), prepared, out, args.workers))
    table = {
        name: {
            measure: beside([run[measure] for run in found["joint"]], [run[measure] for run in found[name]])
            for measure in found[name][0]
        }
        for name in SKILLS
    }
    return {"recipe": args.recipe, "share": args.share, "seeds": args.seeds, "steps": planned, "skills": table}


def main() -> None:
    """Compares and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, metavar="DIR", help="the root of the recipe's manifest")
    parser.add_argument("--recipe", default="atlas")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--out", metavar="DIR", default=tempfile.mkdtemp(prefix="specialists-"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="of weights and batches")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # what Ray passes on of its workers
        found = compared(args)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
