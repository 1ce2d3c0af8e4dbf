"""Renders flat metrics as JSON, a table and a picture. Knows nothing of how a number was measured."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SUMMARY = ("macro", "worst")


def write_report(directory: Path, found: Mapping[str, float], about: Mapping[str, Any]) -> Path:
    """Writes report.json, report.md and, of what was measured, report.png; returns the table's path."""
    directory.mkdir(parents=True, exist_ok=True)
    values = {"about": dict(about), "metrics": dict(found)}
    (directory / "report.json").write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    tables = _by_measure(found)
    text = "\n".join(
        [*(f"{key}: {value}  " for key, value in about.items()), "", summary(found), "", _languages(tables)]
    )
    table = directory / "report.md"
    table.write_text(text + "\n", encoding="utf-8")
    if tables:
        _plot(tables, directory / "report.png")
    return table


def summary(found: Mapping[str, float]) -> str:
    """A Markdown table: every measure's mean over languages and worst language, beside its lexical baseline."""
    lines = ["| measure | macro | worst | worst language | lexical macro |", "|---|---|---|---|---|"]
    tables = _by_measure(found)
    for name, row in tables.items():
        if _is_lexical(name):
            continue
        langs = {lang: value for lang, value in row.items() if lang not in _SUMMARY}
        worst = min(langs, key=lambda lang: langs[lang]) if langs else ""
        lexical = tables.get(_lexical_name(name), {}).get("macro")
        beside = "" if lexical is None else f"{lexical:.3f}"
        lines.append(f"| {name} | {row['macro']:.3f} | {row['worst']:.3f} | {worst} | {beside} |")
    return "\n".join(lines)


def _by_measure(found: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """TASK.METRIC -> aggregate -> value."""
    tables: dict[str, dict[str, float]] = defaultdict(dict)
    for name, value in found.items():
        measure, _, aggregate = name.rpartition(".")
        tables[measure][aggregate] = value
    return dict(tables)


def _is_lexical(measure: str) -> bool:
    return measure.split(".")[0].endswith("_lexical")


def _lexical_name(measure: str) -> str:
    task, _, metric = measure.partition(".")
    return f"{task.removesuffix('_plain')}_lexical.{metric}"


def _languages(tables: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table with a row per language and a column per measure."""
    measures = [name for name in tables if not _is_lexical(name)]
    langs = sorted({lang for name in measures for lang in tables[name]} - set(_SUMMARY))
    lines = [f"| language | {' | '.join(measures)} |", "|---" * (len(measures) + 1) + "|"]
    for lang in langs:
        cells = (f"{tables[name][lang]:.3f}" if lang in tables[name] else "" for name in measures)
        lines.append(f"| {lang} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _plot(tables: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """One bar per measure (mean over languages), a dot per language, and the lexical baseline as a line."""
    from matplotlib.figure import Figure  # the object interface: no display, no global state

    measures = [name for name in tables if not _is_lexical(name)]
    figure = Figure(figsize=(9, 1.2 + 0.34 * len(measures)), layout="constrained")
    axes = figure.add_subplot()
    for row, name in enumerate(measures):
        axes.barh(row, tables[name]["macro"], color="#9db8d9", label="mean over languages" if row == 0 else None)
        langs = [value for lang, value in tables[name].items() if lang not in _SUMMARY]
        axes.scatter(
            langs, [row] * len(langs), s=9, color="#1f3b63", zorder=3, label="one language" if row == 0 else None
        )
        lexical = tables.get(_lexical_name(name), {}).get("macro")
        if lexical is not None:
            label = "lexical baseline" if row == 0 else None
            axes.plot([lexical] * 2, [row - 0.4, row + 0.4], color="#c0392b", linewidth=2, zorder=4, label=label)
    axes.set_yticks(range(len(measures)), measures, fontsize=8)
    axes.set_xlim(0, 1.0)
    axes.invert_yaxis()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)
