"""Pair, test, verdict: from two lists of outcomes to the figures and the verdict of `summary.json`.

Arms are joined by item id and every lost pair is counted. What each figure and verdict means is fixed in
`docs/statistics.md`; nothing here asks a model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from discretion import stats, stats_auc
from discretion.config import Thresholds
from discretion.errors import NotComparable
from discretion.probes import probe as suite_named
from discretion.probes.base import Metric, Probe
from discretion.schema import (
    SCHEMA_VERSION,
    ArmFigure,
    Difference,
    Flip,
    Identity,
    Manifest,
    MetricSummary,
    Outcome,
    Summary,
)
from discretion.store import differing, read_manifest, read_outcomes
from discretion.verdicts import EXIT_CODES, SMALL_ON_OTHER_SCALES, adjust, audit_verdicts, decide, sentence

MINIMUM_PARSED = 0.80
"""Under this share of scored items in either arm, a suite is unmeasurable (method, rule 5)."""
MAXIMUM_FAILED = 0.02
"""Over this share of errors in either arm, a suite is unmeasurable (method, rule 5)."""
FLIP = 0.5
"""Smallest change of an item's value that is shown as a flip."""


@dataclass(frozen=True)
class Suite:
    """One probe's outcomes in both arms."""

    probe: Probe
    base: Sequence[Outcome]
    tuned: Sequence[Outcome]
    asked: int
    """Items planned; more than there are outcomes where the run was cut short."""
    impossible: str = ""
    """Why these models cannot be asked this probe."""


# ------------------------------------------------------------------------------------------------ one run


def summarise(run: Path) -> Summary:
    """The summary of a run folder, from its manifest and outcomes alone; also of a run that was cut short."""
    manifest = read_manifest(run)
    suites = [
        Suite(
            suite_named(name),
            read_outcomes(run, "base", name),
            read_outcomes(run, "tuned", name),
            asked,
            manifest.impossible.get(name, ""),
        )
        for name, asked in manifest.items.items()
    ]
    summary = judge(suites, thresholds_of(manifest), limited=_limited(manifest))
    return replace(summary, judge=manifest.judge)


def _limited(manifest: Manifest) -> bool:
    """Was only a subset of the items asked?"""
    asked = manifest.identity.config
    return asked.get("limit") is not None or bool(asked.get("limits"))


def thresholds_of(manifest: Manifest) -> Thresholds:
    """The thresholds that were declared before the run."""
    return Thresholds.model_validate(manifest.identity.config["thresholds"])


def compare_runs(first: Path, second: Path) -> Summary:
    """The tuned arm of the first run against the tuned arm of the second, as if they were base and tuned.

    Raises `NotComparable`, naming the fields, when the runs differ in anything but their models.
    """
    a, b = read_manifest(first), read_manifest(second)
    same = [field.name for field in fields(Identity) if field.name not in ("base", "tuned")]
    changed = differing(
        {key: getattr(a.identity, key) for key in same}, {key: getattr(b.identity, key) for key in same}
    )
    if changed:
        raise NotComparable(
            f"{first} and {second}: the runs differ in {', '.join(changed)}; give runs of the same probes and settings"
        )
    suites = [
        Suite(
            suite_named(name),
            read_outcomes(first, "tuned", name),
            read_outcomes(second, "tuned", name),
            asked,
            a.impossible.get(name) or b.impossible.get(name, ""),
        )
        for name, asked in a.items.items()
    ]
    summary = judge(suites, thresholds_of(a), limited=_limited(a))
    return replace(summary, judge=a.judge)


def judge(suites: Sequence[Suite], thresholds: Thresholds, *, limited: bool = False) -> Summary:
    """Figures, adjusted p-values and verdicts of all suites together."""
    metrics: list[MetricSummary] = []
    flips: list[Flip] = []
    for suite in suites:
        metrics += compare(suite, thresholds)
        flips += _flips(suite)
    metrics = decide(adjust(metrics), thresholds)
    verdicts = audit_verdicts(metrics)
    return Summary(
        schema_version=SCHEMA_VERSION,
        verdict=verdicts[0],
        verdicts=verdicts,
        exit_code=EXIT_CODES[verdicts[0]],
        sentence=sentence(verdicts[0], metrics),
        metrics=tuple(metrics),
        flips=tuple(flips),
        limited=limited,
        complete=all(suite.impossible or len(suite.base) == len(suite.tuned) == suite.asked for suite in suites),
    )


# ------------------------------------------------------------------------------------------------ one suite


def compare(suite: Suite, thresholds: Thresholds) -> list[MetricSummary]:
    """Every metric of one suite, before p-values are adjusted and verdicts given."""
    base = {outcome.item_id: outcome for outcome in suite.base}
    tuned = {outcome.item_id: outcome for outcome in suite.tuned}
    figures = [_compare_metric(metric, suite, base, tuned, thresholds) for metric in suite.probe.metrics]
    reason = suite.impossible or _unmeasurable(suite, {figure.metric: figure for figure in figures})
    if base or tuned:
        # A metric that no item enters, such as a condition that was not asked for, is not in the suite's table.
        figures = [figure for figure in figures if figure.n or figure.primary]
    lost = "no pair was scored in both arms"
    return [replace(f, reason=reason or f.reason or ("" if f.kept else lost)) for f in figures]


def _unmeasurable(suite: Suite, figures: Mapping[str, MetricSummary]) -> str:
    """Why the suite says nothing about these two models (method, rule 5); empty when it does."""
    for arm, outcomes in (("base", suite.base), ("tuned", suite.tuned)):
        status = Counter(outcome.status for outcome in outcomes)
        failed = status["failed"] + suite.asked - len(outcomes)
        if failed > MAXIMUM_FAILED * suite.asked:
            why = Counter(_kind(outcome) for outcome in outcomes if outcome.status == "failed").most_common(1)
            mostly = f", most often: {why[0][0]}" if why else ", as they were not asked yet"
            return f"{failed} of {suite.asked} items failed in the {arm} arm{mostly} (at most {MAXIMUM_FAILED:.0%} may)"
        if status["scored"] < MINIMUM_PARSED * suite.asked:
            return (
                f"only {status['scored']} of {suite.asked} answers of the {arm} arm could be scored "
                f"({MINIMUM_PARSED:.0%} needed)"
            )
    for control in suite.probe.metrics:
        found, ceiling = figures[control.name].base, control.ceiling
        low, value = found.interval[0] if found.interval else 0.0, found.value or 0.0
        if ceiling is not None and value >= ceiling.limit and low > ceiling.chance:
            return f"{ceiling.words} ({control.name}: {value:.2f}, interval from {low:.2f})"
    ability = suite.probe.ability
    if ability is None:
        return ""
    own = figures[ability.metric]
    arms = [("base", own.base, suite.base, "nothing there to lose")]
    if ability.speaks:
        arms.append(("tuned model", own.tuned, suite.tuned, "what withholds everything is not discreet"))
    for arm, figure, outcomes, so in arms:
        chance = ability.chance(outcomes)
        if figure.interval is None or figure.interval[0] <= chance:
            shown = "not measured" if figure.value is None else f"{figure.value:.2f}"
            end = "" if figure.interval is None else f", interval from {figure.interval[0]:.2f}"
            return f"the {arm} is at chance in {ability.words} ({shown}{end}; chance {chance:.2f}): {so}"
    return ""


def _is_companion(metric: Metric, probe: Probe) -> bool:
    return probe.ability is not None and probe.ability.speaks and metric.name == probe.ability.metric


def _compare_metric(
    metric: Metric,
    suite: Suite,
    base: Mapping[str, Outcome],
    tuned: Mapping[str, Outcome],
    thresholds: Thresholds,
) -> MetricSummary:
    asked = {i for i in base.keys() | tuned.keys() if _applies(metric, base.get(i)) or _applies(metric, tuned.get(i))}
    # Items without an outcome in either arm say nothing about which metrics they belong to: all of them.
    unseen = suite.asked - len(base.keys() | tuned.keys())
    kept = sorted(i for i in asked if _scored(metric, base.get(i)) and _scored(metric, tuned.get(i)))
    base, tuned, absent = _ranked(metric, base, tuned, kept)
    kept = [i for i in kept if _scored(metric, base[i]) and _scored(metric, tuned[i])]
    lost = Counter(_loss(base.get(i), tuned.get(i)) for i in asked.difference(kept))
    if unseen:
        lost["not asked yet"] += unseen
    clusters = sorted({base[i].cluster for i in kept})
    paired = _paired(metric, [base[i] for i in kept], [tuned[i] for i in kept], thresholds.draws) if kept else None
    # The difference is of the pairs kept, and so is what it is relative to.
    start = _value(metric, [base[i] for i in kept]) if kept else 0.0
    arms = [[outcome for i, outcome in arm.items() if i in asked] for arm in (base, tuned)]
    bounds = None if absent else _worst_case(metric, arms[0], arms[1], len(asked) + unseen)
    b = _figure(metric, arms[0], len(asked) + unseen, thresholds.draws, bounds and bounds.base)
    t = _figure(metric, arms[1], len(asked) + unseen, thresholds.draws, bounds and bounds.tuned)
    difference = Difference(
        value=_number(paired.value) if paired else None,
        interval=_interval(paired.interval95) if paired else None,
        interval90=_interval(paired.interval90) if paired else None,
        bounds=bounds and bounds.difference,
        p=_number(paired.p) if paired else None,
        p_adjusted=None,
        method=paired.method if paired else "none",
        relative=_number(paired.value / start) if paired and start else None,
    )
    scale = 1.0 if metric.unit == "rate" else SMALL_ON_OTHER_SCALES
    return MetricSummary(
        probe=suite.probe.name,
        metric=metric.name,
        family=suite.probe.family,
        primary=metric.primary,
        bias=metric.bias,
        companion=_is_companion(metric, suite.probe),
        worse=metric.worse,
        unit=metric.unit,
        base=b,
        tuned=t,
        difference=difference,
        n=len(asked) + unseen,
        kept=len(kept),
        clusters=len(clusters),
        lost=dict(sorted(lost.items())),
        verdict="inconclusive",
        minimum_detectable=_number(stats.minimum_detectable(paired.standard_error, alpha=thresholds.alpha))
        if paired
        else None,
        n_to_settle=stats.n_to_settle(
            paired.value,
            paired.standard_error,
            len(kept),
            tau=thresholds.tau * scale,
            epsilon=thresholds.epsilon * scale,
            alpha=thresholds.alpha,
        )
        if paired
        else None,
        reason=absent,
    )


def _ranked(
    metric: Metric, base: Mapping[str, Outcome], tuned: Mapping[str, Outcome], kept: Sequence[str]
) -> tuple[Mapping[str, Outcome], Mapping[str, Outcome], str]:
    """Both arms with the numbers of a joint metric as their margins, and why there are none."""
    if metric.joint is None or not kept:
        return base, tuned, ""
    both = [i for i in base if i in tuned and base[i].status == tuned[i].status == "scored"]
    numbers = metric.joint([base[i] for i in both], [tuned[i] for i in both])
    absent, pairs = (numbers, ()) if isinstance(numbers, str) else ("", numbers)
    found = [dict(zip(both, of_arm, strict=True)) for of_arm in pairs] or [{}, {}]
    first, second = (
        {i: replace(o, margin=n.get(i)) for i, o in arm.items()} for arm, n in zip((base, tuned), found, strict=True)
    )
    return first, second, absent


def joined(
    metric: Metric, base: Sequence[Outcome], tuned: Sequence[Outcome]
) -> tuple[Sequence[Outcome], Sequence[Outcome]]:
    """The arms of one audit as `across` reads them: with the numbers of a joint metric as their margins."""
    if metric.joint is None:
        return base, tuned
    first, second = ({outcome.item_id: outcome for outcome in arm} for arm in (base, tuned))
    kept = [i for i in first if _scored(metric, first[i]) and _scored(metric, second.get(i))]
    one, other, _ = _ranked(metric, first, second, kept)
    return list(one.values()), list(other.values())


def _applies(metric: Metric, outcome: Outcome | None) -> bool:
    return outcome is not None and bool(metric.tally(outcome))


def _scored(metric: Metric, outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.status == "scored" and bool(metric.tally(outcome))


def _loss(base: Outcome | None, tuned: Outcome | None) -> str:
    """Why a pair was lost, in one phrase."""
    for arm, outcome in (("base", base), ("tuned", tuned)):
        if outcome is None:
            return f"{arm}: not asked yet"
        if outcome.status != "scored":
            return f"{arm} {outcome.status}: {_kind(outcome)}"
    return "does not enter this metric in one arm"


def _kind(outcome: Outcome) -> str:
    """The kind of a reason: `too long` of `too long: 1203 tokens, context 512`."""
    return (outcome.reason or "").partition(":")[0]


# ------------------------------------------------------------------------------------------------ figures


def _paired(metric: Metric, base: Sequence[Outcome], tuned: Sequence[Outcome], draws: int) -> stats.Paired:
    single = len({outcome.cluster for outcome in base}) == len(base)
    if metric.curve:
        curves = (_scores(metric, base), _scores(metric, tuned), _labels(metric, base))
        clusters = [outcome.cluster for outcome in base]
        if metric.at_fpr is not None:
            return stats_auc.tpr_difference(*curves, metric.at_fpr, clusters, draws=draws)
        if single:
            return stats_auc.auc_difference(*curves)
        return stats_auc.clustered_auc_difference(*curves, clusters, draws=draws)
    tables = _tables(metric, base, tuned)
    return stats.paired(
        *tables.arms,
        draws=draws,
        combine=tables.combine,
        binary=metric.paired_item and single,
        bounds=_ratio_bounds(metric),
    )


def _value(metric: Metric, outcomes: Sequence[Outcome]) -> float:
    if metric.at_fpr is not None:
        return stats_auc.tpr(_scores(metric, outcomes), _labels(metric, outcomes), metric.at_fpr)
    if metric.auc:
        return _point(metric, outcomes)[0]
    tables = _tables(metric, outcomes)
    return stats.estimate(tables.arms[0], tables.combine)


def _point(metric: Metric, outcomes: Sequence[Outcome]) -> tuple[float, tuple[float, float] | None]:
    """One arm's area, or its rate at a false positive rate, with the interval."""
    scores, labels = _scores(metric, outcomes), _labels(metric, outcomes)
    if metric.at_fpr is None:
        area = stats_auc.auc(scores, labels)
        return area.value, area.interval95
    found = stats_auc.tpr_at_fpr(scores, labels, metric.at_fpr)
    return (math.nan, None) if found is None else (found.tpr, found.interval95)


def _figure(
    metric: Metric, outcomes: Sequence[Outcome], asked: int, draws: int, bounds: tuple[float, float] | None
) -> ArmFigure:
    """One arm's figure over what it scored, whatever became of the other arm."""
    scored = [outcome for outcome in outcomes if _scored(metric, outcome)]
    status = Counter(outcome.status for outcome in outcomes)
    value = low_high = None
    numerator = denominator = None
    if scored and metric.curve:
        value, low_high = _point(metric, scored)
    elif scored:
        tables = _tables(metric, scored)
        (table,) = tables.arms
        value = stats.estimate(table, tables.combine)
        low_high = stats.interval(table, draws=draws, combine=tables.combine, bounds=_ratio_bounds(metric))
        if table.numerator.shape[1] == 1:
            numerator, denominator = float(table.numerator.sum()), float(table.denominator.sum())
    return ArmFigure(
        value=_number(value),
        n=asked,
        unparsed=status["unparsed"],
        failed=asked - status["scored"] - status["unparsed"],
        interval=_interval(low_high),
        numerator=numerator,
        denominator=denominator,
        bounds=bounds,
    )


class Tables(NamedTuple):
    """One table per arm, clusters and strata in the same order in all."""

    arms: list[stats.ClusterTable]
    lost: list[Any]
    """Per arm, what was not measured of the denominators, `[strata]`."""
    combine: stats.Combine | None


def _tables(metric: Metric, *arms: Sequence[Outcome]) -> Tables:
    clusters = {name: row for row, name in enumerate(sorted({o.cluster for arm in arms for o in arm}))}
    if metric.pooled is not None:
        return Tables([_pooled(metric.pooled, clusters, arm) for arm in arms], [], None)
    tallies = [[(clusters[o.cluster], metric.tally(o)) for o in arm] for arm in arms]
    strata = {name: col for col, name in enumerate(sorted({s for arm in tallies for _, t in arm for s in t}))}
    tables, losses = [], []
    for arm in tallies:
        sums = np.zeros((3, len(clusters), len(strata)))
        for row, tally in arm:
            for stratum, cell in tally.items():
                sums[:, row, strata[stratum]] += cell
        tables.append(stats.ClusterTable(sums[0], sums[1]))
        losses.append(sums[2].sum(axis=0))
    named = metric.combine
    if named is None:
        return Tables(tables, losses, None)
    return Tables(tables, losses, lambda ratios: named({name: ratios[..., col] for name, col in strata.items()}))


def _pooled(
    pooled: Callable[[Sequence[Outcome]], tuple[float, float] | None],
    clusters: Mapping[str, int],
    outcomes: Sequence[Outcome],
) -> stats.ClusterTable:
    table = stats.ClusterTable(np.zeros((len(clusters), 1)), np.zeros((len(clusters), 1)))
    members: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        members.setdefault(outcome.cluster, []).append(outcome)
    for name, of_cluster in members.items():
        cell = pooled(of_cluster)
        if cell is not None:
            table.numerator[clusters[name], 0], table.denominator[clusters[name], 0] = cell
    return table


def _scores(metric: Metric, outcomes: Sequence[Outcome]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([next(iter(metric.tally(outcome).values())).numerator for outcome in outcomes])


def _labels(metric: Metric, outcomes: Sequence[Outcome]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.array(["positive" in metric.tally(outcome) for outcome in outcomes])


def _worst_case(metric: Metric, base: Sequence[Outcome], tuned: Sequence[Outcome], asked: int) -> stats.Bounds | None:
    """What everything that was not measured could do at most; None for a figure without bounds."""
    if metric.curve or metric.pooled is not None or _ratio_bounds(metric) is None or not base or not tuned:
        return None
    tables = _tables(metric, base, tuned)
    losses = []
    for table, lost, arm in zip(tables.arms, tables.lost, (base, tuned), strict=True):
        # Items that were never asked weigh as much as those that were.
        whole = (table.denominator.sum(axis=0) + lost) * asked / len(arm)
        losses.append(whole - table.denominator.sum(axis=0))
    return stats.worst_case(tables.arms[0], tables.arms[1], losses[0], losses[1], combine=tables.combine)


def _ratio_bounds(metric: Metric) -> tuple[float, float] | None:
    """Between what a stratum's ratio lies: rates, also those that `combine` makes another figure of; nats have none."""
    return (0.0, 1.0) if metric.unit == "rate" or metric.combine is not None else None


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _interval(ends: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if ends is None or not all(map(math.isfinite, ends)) else (float(ends[0]), float(ends[1]))


@dataclass(frozen=True)
class Across:
    """One figure minus another over several trainings; None for what could not be measured."""

    value: float | None
    interval: tuple[float, float] | None
    interval90: tuple[float, float] | None
    p: float | None
    seed_share: float | None
    """Share of the variance that comes from the trainings."""
    method: str
    items: int
    """Items scored on both sides, all pairs together; `lost` are those that were not."""
    lost: int


def across(metric: Metric, pairs: Sequence[tuple[Sequence[Outcome], Sequence[Outcome]]], draws: int) -> Across:
    """Second minus first, over pairs of arms that were asked the same: pairs are resampled, then clusters of items.

    The arms are as `joined` gives them.
    One pair alone says nothing about other trainings: its interval is over clusters, and `method` says so.
    """
    kept, lost = [], 0
    for first, second in pairs:
        a, b = ({outcome.item_id: outcome for outcome in arm} for arm in (first, second))
        asked = {i for i in a.keys() | b.keys() if _applies(metric, a.get(i)) or _applies(metric, b.get(i))}
        both = sorted(i for i in asked if _scored(metric, a.get(i)) and _scored(metric, b.get(i)))
        lost += len(asked) - len(both)
        if both:
            kept.append(([a[i] for i in both], [b[i] for i in both]))
    items = sum(len(first) for first, _ in kept)
    if len(kept) < len(pairs) or not kept:
        return Across(None, None, None, None, None, "none: a pair has no item scored on both sides", items, lost)
    if len(kept) == 1 or metric.curve:
        each = [_paired(metric, *pair, draws) for pair in kept]
        if len(each) > 1:
            values = [one.value for one in each]
            if min(values) < max(values):
                errors = [one.standard_error for one in each if math.isfinite(one.standard_error)]
                value, wide, narrow, p = stats.mean_of(values, errors)
                ends = _possible(metric, wide), _possible(metric, narrow)
                method = f"t over {len(each)} pairs of trainings, and the error of the items they share"
                return Across(value, *ends, p, None, method, items, lost)
        # Figures that are equal to the last digit, such as areas of 1, have no spread to tell an interval from.
        one = max(each, key=lambda found: found.p or 0.0)
        told = "one training" if len(each) == 1 else f"{len(each)} trainings that do not differ"
        method = f"{told}, over items alone: {one.method}"
        ends = _interval(one.interval95), _interval(one.interval90)
        return Across(_number(one.value), *ends, _number(one.p), None, method, items, lost)
    tables = _tables(metric, *(arm for pair in kept for arm in pair))
    seeds = stats.hierarchical_bootstrap(
        list(zip(tables.arms[::2], tables.arms[1::2], strict=True)),
        draws=draws,
        combine=tables.combine,
        bounds=_ratio_bounds(metric),
    )
    ends = _possible(metric, seeds.interval95), _possible(metric, seeds.interval90)
    method = f"hierarchical bootstrap over {len(kept)} pairs of trainings, then clusters"
    return Across(_number(seeds.value), *ends, _number(seeds.p), _number(seeds.seed_share), method, items, lost)


def _possible(metric: Metric, ends: tuple[float, float] | None) -> tuple[float, float] | None:
    """An interval from a normal or a t, cut where a difference of rates or areas cannot lie."""
    found = _interval(ends)
    if found is None or not (metric.curve or (metric.unit == "rate" and metric.combine is None)):
        return found
    return max(found[0], -1.0), min(found[1], 1.0)


def _flips(suite: Suite) -> list[Flip]:
    base = {outcome.item_id: outcome for outcome in suite.base}
    flips = []
    for t in suite.tuned:
        b = base.get(t.item_id)
        if b is None or b.value is None or t.value is None or abs(t.value - b.value) < FLIP:
            continue
        flips.append(
            Flip(
                probe=suite.probe.name,
                item_id=t.item_id,
                cluster=t.cluster,
                worse=(t.value > b.value) == (suite.probe.worse == "higher"),
                base_value=b.value,
                tuned_value=t.value,
                base_evidence=b.evidence,
                tuned_evidence=t.evidence,
            )
        )
    return flips
