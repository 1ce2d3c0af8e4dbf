"""The corpora of a configuration: a manifest from disk, or the sample, generated once beside the run's other output.

Knows where manifests come from; what they hold is in corpora.
"""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

from unimir.config import Config
from unimir.data.corpora import Corpora, load_corpora

SAMPLE = "sample"


def corpora_of(
    config: Config, out: Path, root: Path | str | None = None, *, corpora: Path | str | None = None
) -> Corpora:
    """The corpora that `corpora`, or else the config, names; `root` is where a manifest's relative paths start."""
    named = str(corpora or config.corpora)
    if named != SAMPLE:
        return load_corpora(Path(named), root)
    from unimir.data.sample import generate

    directory = out.absolute() / "corpora" / f"{SAMPLE}-{config.sample_items}-{config.seed}"
    if not directory.exists():
        # A run killed half-way must not leave a directory that looks whole.
        unfinished = directory.with_name(directory.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        generate(unfinished, items=config.sample_items, seed=config.seed)
        unfinished.rename(directory)
    with resources.as_file(resources.files("unimir.data") / "sample_corpora.yaml") as manifest:
        return load_corpora(manifest, directory)
