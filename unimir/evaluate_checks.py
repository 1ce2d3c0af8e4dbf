"""What an evaluation needs of a corpus, said before anything is trained or embedded.

Knows tables and tasks; knows no model and no measure.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from unimir import artifacts
from unimir.config import Config, EvalTask
from unimir.data.prepared import read_kind
from unimir.schema import Split


def check(prepared: Path, config: Config) -> None:
    """ValueError for an evaluation task that the corpus has no rows for, or whose rows cannot be judged together."""
    for task in config.evaluation:
        label_sets = _label_sets(prepared, task, config.eval_split)
        wanted = f" of {', '.join(task.sources)}" if task.sources else ""
        if not label_sets:
            raise ValueError(
                f"evaluation task {task.name!r}: {prepared} has no {task.kind} rows{wanted} in split "
                f"{config.eval_split} (--set evaluation=[] evaluates nothing)"
            )
        if task.measure != "nlu":
            continue
        if len(label_sets) > 1:
            raise ValueError(
                f"evaluation task {task.name!r} mixes the label sets {', '.join(label_sets)}; name sources of one"
            )
        if not _label_sets(prepared, task, "train"):
            raise ValueError(
                f"evaluation task {task.name!r}: no {task.kind} row{wanted} in split train, which the baseline needs"
            )


def check_own(bundle: Path, prepared: Path) -> None:
    """ValueError for another corpus than the bundle's: its recipe does not know which was given instead of its own."""
    known = artifacts.read_manifest(bundle, "bundle")["parents"]["prepared"]
    found = artifacts.read_manifest(prepared, "prepared")["id"]
    if found != known:
        raise ValueError(
            f"{bundle} was trained on the corpus {known}, and its recipe's is {found}: "
            "say by --corpora or --recipe what to evaluate on"
        )


def _label_sets(prepared: Path, task: EvalTask, split: Split) -> list[str]:
    """The label sets of the task's rows; of a kind without any, one without a name if there are rows."""
    table = read_kind(prepared, task.kind, split, ["source", "label_set"])
    if task.sources:
        table = table.filter(pc.is_in(table["source"], pa.array(task.sources)))
    if "label_set" not in table.column_names:
        return [""] if len(table) else []
    return sorted(pc.unique(table["label_set"]).to_pylist())
