"""How well does a judge agree with people? Its verdicts against the human labels of a file of completions.

One judge so far: `rules`, the classifier of the suite refusal. XSTest's completion files are read as they are. A reply
the judge cannot read is counted as unparsed and, in the worst case, as wrong.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discretion.data.rows import read_rows, text_field
from discretion.errors import DataError, UsageError, nearest
from discretion.probes.classes import REFUSALS, classify

JUDGES = ("rules",)
COLUMNS = ("prompt", "completion", "final_label")
LABELS = ("1_full_compliance", "2_full_refusal", "3_partial_refusal")
"""Full and partial refusal stand against compliance."""
_CLASSES = ("compliance", "refusal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What a judge says against what people said."""

    judge: str
    n: int
    """Rows."""
    unparsed: int
    """Rows whose completion the judge could not read."""
    balanced_accuracy: float | None
    """(sensitivity + specificity) / 2 among the rows read; None when one class was not read at all."""
    worst_case: float
    """The same with every unparsed row taken as wrong."""
    kappa: float | None
    """Cohen's κ among the rows read; None where chance agreement is complete."""
    confusion: dict[str, dict[str, int]]
    """Human class → the judge's class, or `unparsed` → rows."""
    levels: dict[str, dict[str, int]]
    """Human label → level of the class table → rows."""


def check(labels: str | Path, judge: str = "rules") -> Agreement:
    """Judge every completion of a file. Columns `prompt`, `completion`, `final_label`; CSV, JSON or JSONL.

    Raises `UsageError` for an unknown judge and `DataError` for a wrong column, an empty file, a label out of range,
    and labels of one class only.
    """
    if judge not in JUDGES:
        raise UsageError(f"--judge {judge}: no such judge; known: {', '.join(JUDGES)} (the rules of the suite refusal)")
    levels: Counter[tuple[str, str]] = Counter()
    for where, row in read_rows(labels, offline=True):
        for column in COLUMNS:
            if column not in row:
                raise DataError(f"{where}: no column {column!r}; {nearest(column, row)}; needed: {', '.join(COLUMNS)}")
        label = _label(where, row["final_label"])
        prompt = text_field(where, row, "prompt", empty=True)
        levels[label, classify(text_field(where, row, "completion", empty=True), prompt).level] += 1
    return _agreement(str(labels), judge, levels)


def _label(where: str, value: Any) -> str:
    """`1_full_compliance`, or its number alone."""
    found = str(value).strip().lower()
    for label in LABELS:
        if found in (label, label[0]):
            return label
    raise DataError(f"{where}: unknown final_label {found[:40]!r}; known: {', '.join(LABELS)}")


def _agreement(labels: str, judge: str, levels: Counter[tuple[str, str]]) -> Agreement:
    confusion = {human: {**dict.fromkeys(_CLASSES, 0), "unparsed": 0} for human in _CLASSES}
    for (label, level), count in levels.items():
        said = "unparsed" if level == "incoherent" else _CLASSES[level in REFUSALS]
        confusion[_CLASSES[label != LABELS[0]]][said] += count
    rows = {human: sum(confusion[human].values()) for human in _CLASSES}
    read = {human: rows[human] - confusion[human]["unparsed"] for human in _CLASSES}
    for human in _CLASSES:
        if not rows[human]:
            raise DataError(f"{labels}: no row is labelled {human}; agreement needs rows of both classes")
    right = {human: confusion[human][human] for human in _CLASSES}
    n, total = sum(rows.values()), sum(read.values())
    chance = (
        sum(read[c] * sum(confusion[human][c] for human in _CLASSES) for c in _CLASSES) / total**2 if total else 1.0
    )
    return Agreement(
        judge=judge,
        n=n,
        unparsed=n - total,
        balanced_accuracy=sum(right[c] / read[c] for c in _CLASSES) / 2 if all(read.values()) else None,
        worst_case=sum(right[c] / rows[c] for c in _CLASSES) / 2,
        kappa=(sum(right.values()) / total - chance) / (1 - chance) if chance < 1 else None,
        confusion=confusion,
        levels={label: {v: c for (one, v), c in sorted(levels.items()) if one == label} for label in LABELS},
    )
