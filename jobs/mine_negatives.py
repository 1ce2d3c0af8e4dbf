"""Hard negatives for a next round of training, found by a bundle.

python jobs/mine_negatives.py --bundle DIR --prepared DIR [--count 16] [--margin 0.95] [--workers MIN,MAX] [--out var]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

from unimir import artifacts, job


def main(args: argparse.Namespace) -> Mapping[str, Any]:
    """Mines and returns the summary."""
    started = time.perf_counter()
    bundle, prepared, out = map(job.directory, (args.bundle, args.prepared, args.out))
    least, most = job.workers(args.workers)
    artifacts.read_manifest(bundle, "bundle")
    artifacts.read_manifest(prepared, "prepared")
    from unimir.data.passes import Actors
    from unimir.mine import Mining, mine

    mining = Mining(count=args.count, margin=args.margin)
    with job.cluster():
        job.check_gpus(args.gpus)
        found = mine(bundle, prepared, out, mining, Actors(least=least, most=most, num_gpus=args.gpus))
    return {
        "negatives": str(found),
        "negatives_id": artifacts.read_manifest(found, "negatives")["id"],
        "seconds": round(time.perf_counter() - started, 1),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Documents that a bundle takes for a query's own, and are not.")
    parser.add_argument("--bundle", required=True, metavar="DIR", help="the bundle that searches")
    parser.add_argument("--prepared", required=True, metavar="DIR", help="the corpus it trains on next")
    parser.add_argument("--count", type=int, default=16, help="negatives of each query")
    parser.add_argument("--margin", type=float, default=0.95, help="share of the own document's cosine they stay below")
    parser.add_argument("--workers", default="1,2", metavar="MIN,MAX", help="workers of the pool, each with a CPU")
    parser.add_argument("--gpus", type=float, default=0.0, metavar="N", help="GPUs of each worker")
    parser.add_argument("--out", default="var", metavar="DIR", help="where the artifact goes")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()
    job.run(lambda: main(arguments))
