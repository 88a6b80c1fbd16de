"""What a study writes to disk: one result per step of work, and one summary. Frozen, plain JSON (`schema.to_json`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from discretion.schema import AuditVerdict, Direction, Family, MetricVerdict

StepKind = Literal["tune", "base", "audit"]
CellStatus = Literal["done", "failed", "waiting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """`results/<kind>-<digest>.json`: what became of one step. The digest names all that could change it."""

    digest: str
    kind: StepKind
    status: Literal["done", "failed"]
    reason: str = ""
    """Why it failed, one line."""
    attempts: int = 1
    """Times it was begun in the session that ended it; more than one where workers were lost."""
    seconds: float = 0.0
    """Wall time of the attempt that ended it."""
    found: Mapping[str, Any] = field(default_factory=dict)
    """What the work gave back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFigure:
    """One metric of one cell, out of its audit's summary."""

    probe: str
    metric: str
    base: float | None
    tuned: float | None
    difference: float | None
    verdict: MetricVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSummary:
    """One cell in the study's summary."""

    name: str
    coordinates: Mapping[str, str]
    """Axis to level."""
    digest: str
    """Of its audit."""
    status: CellStatus
    reason: str = ""
    run: str = ""
    """Folder of its audit, from the study's folder."""
    rows: int
    """Rows it was tuned on."""
    steps: int | None = None
    """Of its whole training; None where that is not known."""
    seconds: float = 0.0
    """Tuning and audit together; a step that cells share counts in each."""
    verdict: AuditVerdict | None = None
    figures: tuple[CellFigure, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One figure here minus the same figure there, over matched pairs of cells."""

    kind: Literal["change", "factor", "contrast"]
    """`change`: tuned − base of one arm. `factor`: one level − the reference. `contrast`: as declared in the file."""
    name: str
    axis: str = ""
    """Of a factor's effect."""
    of: Mapping[str, str]
    """Coordinates that are the same in all cells on this side, as far as they are; lists joined by commas."""
    minus: Mapping[str, str]
    """The same of the other side; empty for `change`, whose other side is the base."""
    probe: str
    metric: str
    family: Family
    primary: bool
    worse: Direction
    unit: str
    value: float | None
    interval: tuple[float, float] | None
    """95 %."""
    interval90: tuple[float, float] | None
    p: float | None
    p_adjusted: float | None
    """Holm among declared contrasts on primary metrics; Benjamini-Hochberg within the other kinds."""
    pairs: int
    """Matched pairs of cells that are done, each pair of trainings once."""
    planned: int | None = None
    """Such pairs that the study is to have; None in summaries of earlier versions."""
    seeds: int
    """Different tuning seeds among them."""
    items: int
    """Items scored on both sides, all pairs together."""
    lost: int
    """Items that were not scored on both sides, all pairs together."""
    seed_share: float | None
    """Share of the variance that comes from the tuning."""
    method: str
    verdict: MetricVerdict
    reason: str = ""
    """Why it is unmeasurable."""

    @property
    def counted(self) -> str:
        """Pairs for a person: `3`, or `2 of 3` where some are missing."""
        return str(self.pairs) if self.planned in (None, self.pairs) else f"{self.pairs} of {self.planned}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySummary:
    """`summary.json` of a study."""

    schema_version: int
    name: str
    about: str
    config: str
    """Digest of the study file's contents as understood."""
    version: str
    complete: bool
    """Every cell is done."""
    axes: Mapping[str, tuple[str, ...]]
    """Axis to levels, in the order of the file; the first is the reference, of checkpoints `final`."""
    cells: tuple[CellSummary, ...]
    effects: tuple[Effect, ...]
    tau: float
    epsilon: float
    work_seconds: float
    """Wall time of all steps added up, each counted once."""

    @property
    def done(self) -> int:
        """Cells that are."""
        return sum(cell.status == "done" for cell in self.cells)
