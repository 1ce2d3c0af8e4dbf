"""Evaluates a bundle on the evaluation split of a recipe's corpora.

python jobs/evaluate.py --bundle DIR [--recipe NAME] [--corpora FILE] [--root DIR] [--out DIR]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from typing import Any

from unimir import artifacts, job
from unimir.config import Config
from unimir.plain import from_dict, override
from unimir.recipes import recipe


def main(args: argparse.Namespace) -> Mapping[str, Any]:
    """Evaluates, writes the report and returns its summary."""
    started = time.perf_counter()
    bundle = job.directory(args.bundle)
    trained = artifacts.read_manifest(bundle, "bundle")
    base = recipe(args.recipe) if args.recipe else from_dict(Config, trained["config"])
    config = override(base, args.set)
    out = job.directory(args.out)
    from unimir.data.prepare import prepare
    from unimir.data.sources import corpora_of
    from unimir.evaluate import evaluate
    from unimir.evaluate_checks import check_own
    from unimir.infer import Encoder
    from unimir.report import summary, write_report

    encoder = Encoder.from_bundle(bundle, device=job.device())
    with job.cluster():
        prepared = prepare(corpora_of(config, out, args.root, corpora=args.corpora), config, out)
    if not (args.recipe or args.corpora):
        check_own(bundle, prepared)
    found = evaluate(encoder, prepared, config, progress=lambda name: print(f"evaluating {name}", file=sys.stderr))
    about = {"recipe": config.recipe, "bundle": encoder.id, "prepared": prepared.name}
    table = write_report(out / "reports" / f"{bundle.name}-on-{prepared.name}", found, about)
    print(f"\n{summary(found)}\n\nper language: {table}", file=sys.stderr)
    return {
        "bundle": str(bundle),
        "bundle_id": encoder.id,
        "prepared": str(prepared),
        "report": str(table),
        "metrics": {name: round(value, 6) for name, value in found.items()},
        "seconds": round(time.perf_counter() - started, 1),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A bundle to numbers per language.")
    parser.add_argument("--bundle", required=True, metavar="DIR", help="a bundle that training wrote")
    parser.add_argument(
        "--recipe", help="whose corpora and evaluation tasks; default: those the bundle was trained with"
    )
    parser.add_argument("--corpora", metavar="FILE", help="manifest of corpora instead of the recipe's")
    parser.add_argument("--root", metavar="DIR", help="where the manifest's relative paths start")
    parser.add_argument("--out", default="var", metavar="DIR", help="where prepared data and the report go")
    parser.add_argument(
        "--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE", help="changes to the recipe's config"
    )
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()
    job.run(lambda: main(arguments))
