"""The table a terminal shows: one line per primary metric."""

from __future__ import annotations

from discretion.schema import ArmFigure, MetricSummary, Summary

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
