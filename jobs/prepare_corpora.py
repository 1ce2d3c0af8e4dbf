"""Prepares a recipe's corpora.

python jobs/prepare_corpora.py [--recipe sample] [--corpora FILE] [--root DIR] [--out var] [--set key=value ...]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from unimir import artifacts, job
from unimir.plain import override
from unimir.recipes import recipe


def main(args: argparse.Namespace) -> Mapping[str, Any]:
    """Prepares and returns the summary."""
    started = time.perf_counter()
    config = override(recipe(args.recipe), args.set)
    out = job.directory(args.out)
    from unimir.data.sources import corpora_of

    corpora = corpora_of(config, out, args.root, corpora=args.corpora)
    from unimir.data.prepare import prepare

    with job.cluster():
        prepared = prepare(corpora, config, out)
    manifest = artifacts.read_manifest(prepared, "prepared")
    counts = manifest["counts"].values()
    rejected: Counter[str] = Counter()
    for count in counts:
        rejected.update(count["rejected"])
    return {
        "prepared": str(prepared),
        "prepared_id": manifest["id"],
        "rows_read": sum(count["read"] for count in counts),
        "rows_kept": sum(count["kept"] for count in counts),
        "rows_rejected": rejected.total(),
        "rejected": dict(sorted(rejected.items())),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Corpora to a prepared directory.")
    parser.add_argument("--recipe", default="sample", help="a named run of unimir/recipes.py")
    parser.add_argument("--corpora", metavar="FILE", help="manifest of corpora instead of the recipe's")
    parser.add_argument("--root", metavar="DIR", help="where the manifest's relative paths start")
    parser.add_argument("--out", default="var", metavar="DIR", help="where every artifact goes")
    parser.add_argument(
        "--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE", help="changes to the recipe's config"
    )
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()
    job.run(lambda: main(arguments))
