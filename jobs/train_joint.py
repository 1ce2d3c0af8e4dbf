"""Prepares a corpus, trains the three stages, evaluates the bundle.

python jobs/train_joint.py [--recipe sample] [--corpora FILE] [--out var] [--workers N] [--cpus N] [--gpus N]
                           [--storage URI] [--track wandb,mlflow] [--set key=value ...]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from typing import Any

from unimir import artifacts, job
from unimir.config import check_trackers
from unimir.plain import override
from unimir.recipes import recipe
from unimir.train.hardware import Wanted


def main(args: argparse.Namespace) -> Mapping[str, Any]:
    """Runs the whole path and returns its summary."""
    started = time.perf_counter()
    # A mistake is answered before the slow part: imports and a cluster.
    config = override(recipe(args.recipe), args.set)
    out = job.directory(args.out)
    trackers = tuple(filter(None, args.track.split(",")))
    check_trackers(trackers)
    wanted = Wanted(workers=args.workers, cpus=args.cpus, gpus=args.gpus, grows=job.grows())
    from unimir.data.sources import corpora_of

    corpora = corpora_of(config, out, corpora=args.corpora, root=args.root)
    from unimir.data.prepare import prepare
    from unimir.evaluate import evaluate
    from unimir.evaluate_checks import check
    from unimir.infer import Encoder
    from unimir.report import summary, write_report
    from unimir.train.driver import Places, select_stages, train

    if args.stages:
        config = select_stages(config, args.stages.split(","))
    with job.cluster():
        prepared = prepare(corpora, config, out)
        check(prepared, config)
        places = Places(out=out, storage=args.storage, trackers=trackers)
        trained = train(config, prepared, places, wanted)
    device = "cpu" if args.gpus == 0 else job.device()
    found = evaluate(Encoder.from_bundle(trained.bundle, device=device), prepared, config, progress=_say)
    prepared_id = artifacts.read_manifest(prepared, "prepared")["id"]
    about = {"recipe": config.recipe, "bundle": trained.bundle_id, "prepared": prepared_id}
    table = write_report(out / "reports" / trained.bundle.name, found, about)
    print(f"\n{summary(found)}\n\nper language: {table}", file=sys.stderr)
    return {
        "bundle": str(trained.bundle),
        "bundle_id": trained.bundle_id,
        "prepared": str(prepared),
        "stages": trained.stages,
        "metrics": {name: round(value, 6) for name, value in found.items()},
        "seconds": round(time.perf_counter() - started, 1),
    }


def _say(name: str) -> None:
    print(f"evaluating {name}", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Corpora to a trained, evaluated bundle.")
    parser.add_argument("--recipe", default="sample", help="a named run of unimir/recipes.py")
    parser.add_argument("--corpora", metavar="FILE", help="manifest of corpora instead of the recipe's")
    parser.add_argument("--root", metavar="DIR", help="where the manifest's relative paths start")
    parser.add_argument("--out", default="var", metavar="DIR", help="where every artifact goes")
    parser.add_argument("--workers", type=int, metavar="N", help="training workers; one for each GPU, or two without")
    parser.add_argument("--cpus", type=int, metavar="N", help="CPUs of each worker, also of machines still to start")
    parser.add_argument("--gpus", type=int, metavar="N", help="GPUs of each worker, 0 or 1; those there are used")
    parser.add_argument("--storage", metavar="URI", help="where checkpoints go (s3://..., gs://..., a path)")
    parser.add_argument("--track", default="", metavar="NAMES", help="wandb,mlflow: trackers beside TensorBoard")
    parser.add_argument("--stages", default="", help="some of the recipe's stages, by name, comma-separated")
    parser.add_argument(
        "--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE", help="changes to the recipe's config"
    )
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()
    job.run(lambda: main(arguments))
