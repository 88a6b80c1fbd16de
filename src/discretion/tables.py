"""The tables a terminal shows: an audit's primary metrics, a study's cells, a study's effects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from discretion.schema import ArmFigure, MetricSummary, Summary
from discretion.study.nouns import StudySummary

HEADER = ("suite", "metric", "base", "tuned", "change [95 %]", "p (Holm)", "verdict")


def metrics_table(summary: Summary) -> str:
    """Aligned plain text, 80 to 110 columns wide, with a line for each stamp the figures carry."""
    rows = [HEADER, *(_row(m) for m in summary.metrics if m.primary)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("─" * width for width in widths))
    if summary.limited:
        lines.append("limited: only a random subset of the items was asked (--limit)")
    if not summary.complete:
        lines.append("incomplete: some items have no outcome yet; the same audit command goes on")
    lines += [f"{m.probe}: {m.reason}" for m in summary.metrics if m.primary and m.reason]
    return "\n".join(lines)


def _row(m: MetricSummary) -> tuple[str, ...]:
    d = m.difference
    change = "not measured"
    if d.value is not None and d.interval is not None:
        change = f"{100 * d.value:+.1f} [{100 * d.interval[0]:+.1f}, {100 * d.interval[1]:+.1f}]"
    p = "" if d.p_adjusted is None or m.reason else f"{d.p_adjusted:.2g}"
    return (m.probe, m.metric, _arm(m.base), _arm(m.tuned), change, p, m.verdict)


def _arm(figure: ArmFigure) -> str:
    if figure.value is None:
        return "–"
    lost = figure.unparsed + figure.failed
    return f"{100 * figure.value:.1f} %" + (f" ({lost} of {figure.n} lost)" if lost else "")


def study_plan_table(told: Mapping[str, Any]) -> list[str]:
    """Lines on a study's cells (`study.run.as_json`): state and cost of each, then of all."""
    cells = told["cells"]
    wide = max(len(cell["name"]) for cell in cells)
    lines = [
        f"{cell['name']:<{wide}}  {cell['status']:<7}  {cell['rows']:>6} rows  about {cell['train_tokens']:>9} tokens "
        f"trained  {cell['audit_items']:>6} items" + (f"  {cell['reason']}" if cell["reason"] else "")
        for cell in cells
    ]
    kinds = told["steps"]
    left = (
        "" if told["seconds_left"] is None else f", about {told['seconds_left']:.0f} s of work by those that are done"
    )
    lines.append(
        f"{len(cells)} cells: {kinds['tune']} trainings, {kinds['audit']} audits, {kinds['base']} bases; "
        f"{told['steps_left']} steps left{left}"
    )
    unknown = list(dict.fromkeys(name for cell in cells for name in cell["not_counted"]))
    if unknown:
        where = sum(bool(cell["not_counted"]) for cell in cells)
        lines.append(f"items of {', '.join(unknown)} come from the training data and are not counted ({where} cells)")
    return lines


def effects_table(summary: StudySummary) -> list[str]:
    """Lines on a study's effects on primary metrics, declared contrasts first; then what is not done."""
    order = ("contrast", "factor", "change")
    rows = [("effect", "suite", "metric", "difference [95 %]", "p (adj.)", "pairs", "verdict")]
    for effect in sorted((e for e in summary.effects if e.primary), key=lambda e: order.index(e.kind)):
        shown = "not measured"
        scale = 100 if effect.unit == "rate" else 1
        if effect.value is not None and not effect.reason:
            ends = effect.interval
            shown = f"{scale * effect.value:+.1f}"
            shown += f" [{scale * ends[0]:+.1f}, {scale * ends[1]:+.1f}]" if ends else " [no interval]"
        p = "" if effect.p_adjusted is None or effect.reason else f"{effect.p_adjusted:.2g}"
        name = f"{effect.name} − base" if effect.kind == "change" else effect.name
        rows.append((name, effect.probe, effect.metric, shown, p, effect.counted, effect.verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return lines + [f"{cell.name}: {cell.status} {cell.reason}" for cell in summary.cells if cell.status != "done"]
