"""A bundle's text tower for sentence-transformers or Hugging Face.

python jobs/export_bundle.py --bundle DIR --to DIR [--form sentence-transformers|hf]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from unimir import artifacts, job


def main(args: argparse.Namespace) -> Mapping[str, Any]:
    """Exports and returns the summary."""
    artifacts.read_manifest(job.directory(args.bundle), "bundle")
    from unimir.bundle import load_bundle

    bundle = load_bundle(job.directory(args.bundle))
    bundle.export(args.form, job.directory(args.to))
    return {"bundle_id": bundle.id, "form": args.form, "exported": args.to}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A bundle's text tower for other libraries.")
    parser.add_argument("--bundle", required=True, metavar="DIR", help="the bundle")
    parser.add_argument("--to", required=True, metavar="DIR", help="a new directory")
    parser.add_argument("--form", default="sentence-transformers", help="sentence-transformers or hf")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()
    job.run(lambda: main(arguments))
