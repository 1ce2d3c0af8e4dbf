"""What an evaluation needs of a corpus, said before anything is trained or embedded.

Knows tables and tasks; knows no model and no measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from unimir import artifacts
from unimir.config import Config, EvalTask
from unimir.data.prepared import read_kind
from unimir.schema import Kind, Split

KINDS_OF: Mapping[str, tuple[Kind, ...]] = {
    "text_to_image": ("image_text", "intent_query"),
    "image_to_text": ("image_text", "intent_query"),
    "text_to_text": ("parallel", "text_text"),
    "query_to_item": ("image_text", "intent_query"),
    "nlu": ("nlu", "intent_query"),
}
"""Rows that have what a measure asks for, and is asked."""


def check(prepared: Path, config: Config) -> None:
    """ValueError for an evaluation task that the corpus has no rows for, or whose rows cannot be judged together."""
    for at, task in enumerate(config.evaluation):
        _check_task(task, config.evaluation[:at])
        rows = _rows(prepared, task, config.eval_split)
        label_sets = _label_sets(rows)
        wanted = f" of {', '.join(task.sources)}" if task.sources else ""
        if not label_sets:
            raise ValueError(
                f"evaluation task {task.name!r}: {prepared} has no {task.kind} rows{wanted} in split "
                f"{config.eval_split} (--set evaluation=[] evaluates nothing)"
            )
        # One that is in training alone is there for the baseline, or for the pool.
        tables = (rows, _rows(prepared, task, "train")) if task.sources else ()
        known = {name for table in tables for name in pc.unique(table["source"]).to_pylist()}
        if absent := set(task.sources) - known:
            raise ValueError(
                f"evaluation task {task.name!r}: no {task.kind} row of {', '.join(sorted(absent))} in split "
                f"{config.eval_split}, nor in train"
            )
        if task.kind == "parallel" and len(pc.unique(rows["lang"])) < 2:
            raise ValueError(f"evaluation task {task.name!r}: its rows are of one language, it asks across languages")
        if task.measure != "nlu":
            continue
        if len(label_sets) > 1:
            raise ValueError(
                f"evaluation task {task.name!r} mixes the label sets {', '.join(label_sets)}; name sources of one"
            )
        if not _label_sets(_rows(prepared, task, "train")):
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


def _check_task(task: EvalTask, before: Sequence[EvalTask]) -> None:
    """ValueError for what no corpus could make right."""
    if task.kind not in KINDS_OF[task.measure]:
        kinds = ", ".join(KINDS_OF[task.measure])
        raise ValueError(f"evaluation task {task.name!r}: {task.measure} of kind {task.kind}; it is of {kinds}")
    for limit in ("max_queries", "max_lexical_rows"):
        if getattr(task, limit) < 1:
            raise ValueError(f"evaluation task {task.name!r}: {limit} {getattr(task, limit)}; at least 1")
    if task.pool == "all" and (task.measure == "image_to_text" or task.kind == "parallel" or task.measure == "nlu"):
        raise ValueError(
            f"evaluation task {task.name!r}: pool all; {task.measure} of kind {task.kind} has only held-out candidates"
        )
    # Names of metrics begin with the task's; those of understanding differ from all others.
    if any(task.name == other.name and (task.measure == "nlu") == (other.measure == "nlu") for other in before):
        raise ValueError(f"evaluation tasks: the name {task.name!r} comes twice, and one would hide the other")


def _rows(prepared: Path, task: EvalTask, split: Split) -> pa.Table:
    """What of the task's rows says whether they can be judged."""
    table = read_kind(prepared, task.kind, split, ["source", "lang", "label_set"])
    return table.filter(pc.is_in(table["source"], pa.array(task.sources))) if task.sources else table


def _label_sets(table: pa.Table) -> list[str]:
    """The label sets of the rows; of a kind without any, one without a name if there are rows."""
    if "label_set" not in table.column_names:
        return [""] if len(table) else []
    return sorted(pc.unique(table["label_set"]).to_pylist())
