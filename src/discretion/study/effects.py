"""From the outcomes of finished cells to the effects of a study: changes, factors, contrasts, with their intervals.

An effect compares matched pairs of cells, equal in all but what is compared, item by item; a pair of trainings counts
once. Its interval resamples the pairs (and with them the training seeds), then clusters of items, the same clusters in
every pair. What a suite could not measure in one of the cells is not measured in the effect.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from discretion import __version__, stats
from discretion.audit import ARMS
from discretion.compare import Across, across, joined
from discretion.config import AuditConfig, Thresholds
from discretion.errors import ConfigError, nearest
from discretion.probes import probe as suite_named
from discretion.probes.base import Metric, Probe
from discretion.schema import SCHEMA_VERSION, MetricVerdict, Outcome, Summary, digest, to_json
from discretion.store import SUMMARY, read_outcomes, read_summary, write_private
from discretion.study.cells import FINAL, Cell, Plan, matched
from discretion.study.nouns import CellFigure, CellSummary, Effect, StepResult, StudySummary
from discretion.verdicts import SMALL_ON_OTHER_SCALES

Pair = tuple[Cell, Cell | None]
"""A cell, and the one it is compared with; None is its own base."""


@dataclass
class _Finished:
    """Cells whose audits are there, and what they hold."""

    out: Path
    summaries: dict[str, Summary] = field(default_factory=dict)
    """Digest to summary."""

    def outcomes(self, cell: Cell, arm: str, probe: str, *, replies: bool = False) -> list[Outcome]:
        run = self.out / "runs" / cell.digest[:16]
        return read_outcomes(run, arm, probe) if replies else _outcomes(run, arm, probe)


@cache
def _outcomes(run: Path, arm: str, probe: str) -> list[Outcome]:
    """Outcomes without their replies, which take most of the room."""
    return [replace(outcome, replies=()) for outcome in read_outcomes(run, arm, probe)]


def summarise(plan: Plan, results: Mapping[str, StepResult]) -> StudySummary:
    """The summary of a study as far as it is done. Raises `ConfigError` for a metric in the file that no suite has."""
    finished = _Finished(plan.out)
    for cell in plan.cells:
        result = results.get(cell.digest)
        if result is not None and result.status == "done":
            finished.summaries[cell.digest] = read_summary(plan.out / "runs" / cell.digest[:16])
    thresholds = plan.config.audit_options(next(iter(plan.config.models)), "x").thresholds
    effects = _Effects(plan, finished, thresholds, named_metrics(plan))
    found = [*effects.changes(), *effects.factors(), *effects.contrasts()]
    _outcomes.cache_clear()
    return StudySummary(
        schema_version=SCHEMA_VERSION,
        name=plan.config.name,
        about=plan.config.about,
        config=digest(_plain(plan)),
        version=__version__,
        complete=all(cell.digest in finished.summaries for cell in plan.cells),
        axes=_axes(plan),
        cells=tuple(_cell(cell, finished, results) for cell in plan.cells),
        effects=tuple(_adjusted(found, thresholds)),
        tau=thresholds.tau,
        epsilon=thresholds.epsilon,
        work_seconds=sum(result.seconds for result in results.values()),
    )


def write(plan: Plan, summary: StudySummary) -> Path:
    """`summary.json` into the study's folder; gives back its path."""
    path = plan.out / SUMMARY
    write_private(path, json.dumps(to_json(summary), indent=1, ensure_ascii=False) + "\n")
    return path


def _plain(plan: Plan) -> list[Any]:
    return [[cell.name, cell.digest] for cell in plan.cells]


def _axes(plan: Plan) -> dict[str, tuple[str, ...]]:
    axes = dict(plan.config.axes())
    if plan.config.checkpoints:
        kept = {cell.coordinates["checkpoint"] for cell in plan.cells} - {FINAL}
        axes["checkpoint"] = (FINAL, *sorted(kept, key=lambda name: int(name.removeprefix("step-"))))
    return axes


def named_metrics(plan: Plan) -> set[tuple[str, str]]:
    """(suite, metric) that the file names beside the primary ones.

    Raises `ConfigError` for one that no audit of the study has, with the nearest.
    """
    audits = [AuditConfig.model_validate(s.job["options"]) for s in plan.steps.values() if s.kind == "audit"]
    asked = {name for options in audits for name in options.probes}
    known = {(name, metric.name) for name in asked for metric in suite_named(name).metrics}
    extra = set()
    for named in plan.config.metrics:
        probe, _, metric = named.partition(":")
        if (probe.strip(), metric.strip()) not in known:
            raise ConfigError(f"metrics: no figure {named!r}; {nearest(named, (f'{p}: {m}' for p, m in known))}")
        extra.add((probe.strip(), metric.strip()))
    return extra


def _cell(cell: Cell, finished: _Finished, results: Mapping[str, StepResult]) -> CellSummary:
    result, summary = results.get(cell.digest), finished.summaries.get(cell.digest)
    steps = [results[step] for step in cell.steps if step in results and results[step].kind != "base"]
    trained = results.get(cell.steps[0])
    figures = [
        CellFigure(
            probe=m.probe,
            metric=m.metric,
            base=m.base.value,
            tuned=m.tuned.value,
            difference=m.difference.value,
            verdict=m.verdict,
        )
        for m in (summary.metrics if summary else ())
        if m.primary
    ]
    return CellSummary(
        name=cell.name,
        coordinates=dict(cell.coordinates),
        digest=cell.digest,
        status=result.status if result else "waiting",
        reason=result.reason if result else "",
        run=f"runs/{cell.digest[:16]}" if summary else "",
        rows=cell.rows,
        steps=trained.found.get("steps") if trained else None,
        seconds=sum(step.seconds for step in steps),
        verdict=summary.verdict if summary else None,
        figures=tuple(figures),
    )


# ------------------------------------------------------------------------------------------------ effects


@dataclass(frozen=True)
class _Effects:
    plan: Plan
    finished: _Finished
    thresholds: Thresholds
    extra: set[tuple[str, str]]

    def changes(self) -> list[Effect]:
        """tuned − base of every arm, its seeds together."""
        arms: dict[tuple[tuple[str, str], ...], list[Cell]] = defaultdict(list)
        for cell in self.plan.cells:
            arms[tuple((a, level) for a, level in cell.coordinates.items() if a != "seed")].append(cell)
        found = []
        for cells in arms.values():
            name = cells[0].name.replace(f"/seed {cells[0].coordinates['seed']}", "")
            found += self._over("change", name, [(cell, None) for cell in cells])
        return found

    def factors(self) -> list[Effect]:
        """Each level of each axis against the first, over all cells that have a partner."""
        found = []
        for axis, (reference, *levels) in _axes(self.plan).items():
            # A model has a base of its own: its tuned figure minus another model's says nothing of the tuning.
            if axis in ("seed", "model"):
                continue
            for level in levels:
                pairs = self._matched({axis: (level,)}, {axis: (reference,)})
                found += self._over("factor", f"{axis}: {level} − {reference}", pairs, axis=axis)
        return found

    def contrasts(self) -> list[Effect]:
        """Those declared in the file, also where no cell of them is done: what was declared is counted."""
        found = []
        for contrast in self.plan.config.contrasts:
            found += self._over("contrast", contrast.name, self._matched(contrast.of, contrast.minus))
        return found

    def _matched(self, of: Mapping[str, tuple[str, ...]], minus: Mapping[str, tuple[str, ...]]) -> list[Pair]:
        """Matched cells, the first of those that come from the same two trainings: one training is one draw."""
        pairs: dict[tuple[str, str], Pair] = {}
        for cell, other in matched(self.plan.cells, of, minus):
            pairs.setdefault((cell.steps[0], other.steps[0]), (cell, other))
        return list(pairs.values())

    def _over(self, kind: Any, name: str, planned: Sequence[Pair], *, axis: str = "") -> list[Effect]:
        there = self.finished.summaries
        done = [pair for pair in planned if all(cell is None or cell.digest in there for cell in pair)]
        if not done and kind != "contrast":
            return []
        asked = [AuditConfig.model_validate(self.plan.steps[cell.digest].job["options"]) for cell, _ in planned]
        return [
            self._effect(kind, name, planned, done, axis, suite_named(probe), metric)
            for probe in dict.fromkeys(probe for options in asked for probe in options.probes)
            for metric in suite_named(probe).metrics
            if metric.primary or (probe, metric.name) in self.extra
        ]

    def _effect(
        self,
        kind: Any,
        name: str,
        planned: Sequence[Pair],
        pairs: Sequence[Pair],
        axis: str,
        probe: Probe,
        metric: Metric,
    ) -> Effect:
        # Some joint metrics read the tokens; the primary ones are made of parts.
        whole = metric.joint is not None and not metric.primary

        def arms(cell: Cell) -> Sequence[Sequence[Outcome]]:
            found = joined(metric, *(self.finished.outcomes(cell, a, probe.name, replies=whole) for a in ARMS))
            return [[replace(o, replies=()) for o in arm] for arm in found] if whole else found

        asked = []
        for cell, other in pairs:
            base, tuned = arms(cell)
            asked.append((base if other is None else arms(other)[1], tuned))
        found = across(metric, asked, self.thresholds.draws)
        reason = self._unmeasurable(pairs, probe, metric) or ("" if found.items else "no item was scored on both sides")
        if not pairs:
            reason = f"none of its {len(planned)} pairs is done"
            found = replace(found, method="none: no pair is done")
        return Effect(
            kind=kind,
            name=name,
            axis=axis,
            of=_common([cell for cell, _ in pairs or planned]),
            minus=_common([other for _, other in pairs or planned if other is not None]),
            probe=probe.name,
            metric=metric.name,
            family=probe.family,
            primary=metric.primary,
            worse=metric.worse,
            unit=metric.unit,
            value=found.value,
            interval=found.interval,
            interval90=found.interval90,
            p=found.p,
            p_adjusted=None,
            pairs=len(pairs),
            planned=len(planned),
            seeds=len({cell.coordinates["seed"] for cell, _ in pairs}),
            items=found.items,
            lost=found.lost,
            seed_share=found.seed_share,
            method=found.method,
            verdict=_verdict(found, metric, self.thresholds, reason),
            reason=reason,
        )

    def _unmeasurable(self, pairs: Sequence[Pair], probe: Probe, metric: Metric) -> str:
        cells = {cell.digest: cell for pair in pairs for cell in pair if cell is not None}
        reasons: Counter[str] = Counter()
        for found in cells:
            for m in self.finished.summaries[found].metrics:
                if (m.probe, m.metric) == (probe.name, metric.name) and m.verdict == "unmeasurable":
                    reasons[m.reason] += 1
        if not reasons:
            return ""
        return f"unmeasurable in {reasons.total()} of {len(cells)} cells, most often: {reasons.most_common(1)[0][0]}"


def _common(cells: Sequence[Cell]) -> dict[str, str]:
    """Axis to levels, where these cells do not have all of the same axis apart: one level, or several joined."""
    return {
        axis: ", ".join(dict.fromkeys(cell.coordinates[axis] for cell in cells))
        for axis in (cells[0].coordinates if cells else ())
    }


def _verdict(found: Across, metric: Metric, thresholds: Thresholds, reason: str) -> MetricVerdict:
    """Before p-values are adjusted; `_adjusted` may take a change back."""
    if reason or found.value is None:
        return "unmeasurable"
    scale = 1.0 if metric.unit == "rate" else SMALL_ON_OTHER_SCALES
    if found.p is not None and found.p < thresholds.alpha and abs(found.value) >= thresholds.tau * scale:
        return "regressed" if (found.value > 0) == (metric.worse == "higher") else "improved"
    return "unchanged" if stats.equivalent(found.interval90, thresholds.epsilon * scale) else "inconclusive"


def _adjusted(effects: Sequence[Effect], thresholds: Thresholds) -> list[Effect]:
    """Holm over declared contrasts on primary metrics; Benjamini-Hochberg over the rest, kind by kind."""
    adjusted: dict[int, float] = {}
    for kind in ("contrast", "factor", "change"):
        for primary in (True, False):
            at = [i for i, e in enumerate(effects) if e.kind == kind and e.primary is primary]
            adjust = stats.holm if kind == "contrast" and primary else stats.benjamini_hochberg
            # What was declared and could not be measured counts all the same, with p = 1.
            ps: list[float | None] = [1.0 if effects[i].reason else effects[i].p for i in at]
            adjusted.update(zip(at, adjust(ps), strict=True))
    found = []
    for i, effect in enumerate(effects):
        p = None if effect.p is None else adjusted[i]
        verdict = effect.verdict
        if verdict in ("regressed", "improved") and (p is None or p >= thresholds.alpha):
            verdict = "inconclusive"
        found.append(replace(effect, p_adjusted=p, verdict=verdict))
    return found
