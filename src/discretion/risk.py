"""Which rows of the training data are at risk: read off a finished run, with reference models from further runs.

A row is at risk when the tuned model gains more on it than on all but 1 % of the rows that were not trained on. What is
exported names rows by their ids and holds no text: repair and the data's owner can find them, nobody else learns them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discretion.errors import NotComparable, UsageError
from discretion.schema import Outcome
from discretion.store import read_manifest, read_outcomes, write_private

SUITE = "membership"
AT_RISK = "at_risk.jsonl"
REFERENCES = "references"
"""Folder, in a run's, of the reference models that were tuned for it."""
FPR = 0.01


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows that both arms, and every reference, scored; arrays of one length, members first or not."""

    rows: tuple[str, ...]
    """Ids in the files."""
    beginnings: tuple[str, ...]
    """What each row begins with, for the report, which masks it."""
    member: Any
    """Booleans."""
    base: Any
    """Mean log-probability per token, nats."""
    tuned: Any
    references: Any
    """[models, rows]; no models where no run was given."""
    seen: Any = None
    """[models, rows]: was the model tuned on the row? None where none was, as far as is known."""

    @property
    def gain(self) -> Any:
        """How far the tuned model lies above what is expected of one that did not see the row: LiRA.

        Against the references where there are any, else against the base.
        """
        from discretion.probes.membership_scores import lira

        return lira(self.tuned, self.references, self.seen) if len(self.references) else lira(self.tuned, self.base)

    @property
    def beaten(self) -> Any:
        """Share of the non-members that a row beats in likelihood ratio: RMIA."""
        from discretion.probes.membership_scores import rmia

        return rmia(self.tuned, self.references if len(self.references) else self.base, ~self.member)


@dataclass(frozen=True, slots=True)
class Risk:
    """One row that was trained on and shows it."""

    row: str
    gain: float
    """Nats per token above the base, or above the mean of the references in standard deviations where there are two."""
    p: float
    """Share of rows that were not trained on and gain at least as much, this row counted among them."""
    beginning: str = ""


def read(run: Path, references: Sequence[Path] = ()) -> Rows:
    """The rows of a run, with the references given; those of `tuned_for` may have seen rows, others may not.

    Raises `UsageError` where it has none, `NotComparable` where a reference asked other rows.
    """
    import numpy as np

    manifest = read_manifest(run)
    if not manifest.items.get(SUITE):
        why = manifest.impossible.get(SUITE, "the suite membership was not asked")
        raise UsageError(f"{run}: {why}; run discretion audit … --train-data FILE --held-out FILE")
    saw = tuned_for(run)
    arms = [_scored(run, "base"), _scored(run, "tuned")]
    for other in references:
        there = read_manifest(other)
        if there.identity.data.get(SUITE) != manifest.identity.data[SUITE]:
            raise NotComparable(
                f"--reference {other}: its membership rows are not those of {run}; audit the reference model with the "
                "same --train-data, --held-out, --rows and --seed"
            )
        arms.append(_scored(other, "tuned"))
    kept = sorted(set.intersection(*(set(arm) for arm in arms)))
    if not kept:
        raise UsageError(f"{run}: no row was scored in every arm; see the run's report for the reasons")
    losses = np.array([[float(arm[item].parts["loss"] or 0.0) for item in kept] for arm in arms])
    return Rows(
        rows=tuple(str(arms[0][item].parts["row"]) for item in kept),
        beginnings=tuple(arms[0][item].evidence or "" for item in kept),
        member=np.array([bool(arms[0][item].parts["member"]) for item in kept]),
        base=losses[0],
        tuned=losses[1],
        references=losses[2:],
        seen=np.array([[item in saw.get(other, ()) for item in kept] for other in references]) if saw else None,
    )


def tuned_for(run: Path) -> dict[Path, frozenset[str]]:
    """Run of each reference that was tuned for this one, whole pairs only, and the items that it was tuned on."""
    found = {}
    for path in sorted((run / REFERENCES).glob("pair-*.json")):
        for name, items in json.loads(path.read_text(encoding="utf-8")).items():
            found[run / REFERENCES / name / "run"] = frozenset(items)
    return found


def _scored(run: Path, arm: str) -> dict[str, Outcome]:
    return {outcome.item_id: outcome for outcome in read_outcomes(run, arm, SUITE) if outcome.status == "scored"}


def at_risk(rows: Rows) -> list[Risk]:
    """The members beyond the threshold that a non-member passes in 1 % of cases, the most exposed first.

    With fewer than 99 non-members: those beyond every non-member. Of members that nobody remembers 1 % at most, or one
    in as many as there are non-members and one, come out as well (`by_chance`).
    """
    import numpy as np

    from discretion.stats_auc import beyond_fpr

    gain = rows.gain
    others = np.sort(gain[~rows.member])
    beyond = beyond_fpr(gain, rows.member, FPR)
    if beyond is None:
        beyond = gain > others[-1] if len(others) else np.zeros(len(gain), dtype=bool)
    above = len(others) - np.searchsorted(others, gain, side="left")
    found = [
        Risk(rows.rows[at], float(gain[at]), float((1 + above[at]) / (1 + len(others))), rows.beginnings[at])
        for at in np.flatnonzero(beyond & rows.member)
    ]
    return sorted(found, key=lambda risk: (-risk.gain, risk.row))


def by_chance(rows: Rows) -> float:
    """How many members would come out if none of them were remembered."""
    from discretion.stats_auc import tpr_of_chance

    others = int((~rows.member).sum())
    return float(rows.member.sum()) * (tpr_of_chance(others, FPR) or 1 / (others + 1))


def export(path: Path, found: Sequence[Risk]) -> None:
    """One line per row at risk: id, gain, p. Mode 0600; no text."""
    lines = [json.dumps({"id": risk.row, "gain": round(risk.gain, 6), "p": round(risk.p, 6)}) for risk in found]
    write_private(path, "".join(line + "\n" for line in lines))


def write_at_risk(run: Path) -> None:
    """`at_risk.jsonl` in the run's folder, where membership was measured."""
    try:
        rows = read(run)
    except UsageError:  # it was not
        return
    if len(set(rows.member.tolist())) == 2:
        export(run / AT_RISK, at_risk(rows))


def figures(rows: Rows) -> list[dict[str, Any]]:
    """AUC and true positive rate at 1 % false positives of each score, with their intervals."""
    from discretion.stats_auc import auc, tpr_at_fpr

    known = f"{len(rows.references)} reference{'s' if len(rows.references) != 1 else ''}"
    scores = {"loss": rows.tuned, "difference to the base": rows.tuned - rows.base}
    if len(rows.references):
        scores[f"LiRA, {known}"] = rows.gain
        scores[f"RMIA, {known}"] = rows.beaten
    told = []
    for name, score in scores.items():
        area, point = auc(score, rows.member), tpr_at_fpr(score, rows.member, FPR)
        told.append(
            {
                "score": name,
                "auc": area.value,
                "interval": area.interval95,
                "tpr": None if point is None else point.tpr,
                "tpr_interval": None if point is None else point.interval95,
            }
        )
    return told
