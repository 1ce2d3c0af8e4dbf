"""Embeds a catalog of pictures and texts into a Milvus collection, and shows it to readers once it is whole.

python jobs/embed_catalog.py --bundle DIR [--catalog sample|MANIFEST|FILES] [--milvus URI] [--name catalog] [--out var]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unimir import artifacts, job
from unimir.config import BACKENDS


def main(args: argparse.Namespace) -> Mapping[str, Any]:
    """Runs the job and returns its summary."""
    if args.rollback:
        return _rollback(args)
    if args.bundle is None:
        raise ValueError("--bundle: say which bundle embeds the catalog")
    # A mistake is answered before the slow part: imports, a cluster, a server.
    least, most = job.workers(args.workers)
    artifacts.read_manifest(job.directory(args.bundle), "bundle")
    from unimir.data.passes import Actors
    from unimir.data.sources import catalog_of

    out = job.directory(args.out)
    actors = Actors(least=least, most=most, num_gpus=args.gpus)
    catalog = catalog_of(args.catalog, out, root=args.root, items=args.items, seed=0)
    from unimir.index.embed import Embedding, embed

    with _milvus(args.milvus, out) as uri, job.cluster():
        if args.milvus is None and not job.alone():
            raise ValueError(
                "--milvus: the embedded index is for one machine, and this cluster has, or starts, more; name a server"
            )
        job.check_gpus(args.gpus)
        embedding = Embedding(
            catalog=catalog,
            bundle=job.directory(args.bundle),
            uri=uri,
            out=out,
            name=args.name,
            tenant=args.tenant,
            backend=args.backend,
            device="cuda" if args.gpus else "cpu",
            keep=args.keep,
            delete_missing=args.delete_missing,
            preview=args.preview,
            dry_run=args.dry_run,
        )
        result = embed(embedding, actors)
    if result["rows_rejected"]:
        print(f"warning: {result['rows_rejected']} rows rejected, see {result['report']}", file=sys.stderr)
    return result


def _rollback(args: argparse.Namespace) -> Mapping[str, Any]:
    from unimir.index.store import Store
    from unimir.index.versions import rollback

    started = time.perf_counter()
    with _milvus(args.milvus, job.directory(args.out)) as uri:
        collection = rollback(Store(uri), args.name)
    seconds = round(time.perf_counter() - started, 1)
    return {
        "collection": collection,
        "alias": args.name,
        "bundle_id": collection.rpartition("_")[2],
        "seconds": seconds,
    }


@contextmanager
def _milvus(uri: str | None, out: Path) -> Iterator[str]:
    """The server that the user named, or the embedded one below `out`."""
    from unimir.index.lite import embedded
    from unimir.index.store import Store

    if uri is not None:
        Store(uri).close()  # says so at once if nobody is there
        yield uri
        return

    with embedded(out / "milvus") as own:
        yield own


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A catalog to a collection that can be searched.")
    parser.add_argument("--bundle", metavar="DIR", help="the bundle that embeds")
    parser.add_argument("--catalog", default="sample", help="sample, a manifest (.yaml), or files")
    parser.add_argument("--root", metavar="DIR", help="where the manifest's relative paths start")
    parser.add_argument("--items", type=int, default=5000, help="size of the sample catalog")
    parser.add_argument("--milvus", metavar="URI", help="a Milvus server; default: the embedded one below --out")
    parser.add_argument("--name", default="catalog", help="the alias that readers follow")
    parser.add_argument("--tenant", default="", help="whose items these are")
    parser.add_argument("--workers", default="1,2", metavar="MIN,MAX", help="bounds of the pool of workers")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs of each worker")
    parser.add_argument("--backend", default="torch", choices=BACKENDS, help="what runs the text tower")
    parser.add_argument("--keep", type=int, default=1, help="older versions to keep for a rollback")
    parser.add_argument("--delete-missing", action="store_true", help="delete items that left the catalog")
    parser.add_argument("--preview", type=int, default=128, help="pixels of the pictures kept for people; 0: none")
    parser.add_argument("--dry-run", action="store_true", help="compare, but embed and write nothing")
    parser.add_argument("--rollback", action="store_true", help="move the alias back to the version before")
    parser.add_argument("--out", default="var", metavar="DIR", help="where every artifact goes")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()
    job.run(lambda: main(arguments))
