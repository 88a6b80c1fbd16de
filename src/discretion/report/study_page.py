"""The report of a study: one HTML page from its `summary.json`, every cell with a link to its own audit's page.

As an audit's page it holds no script, loads nothing, escapes every string and shows no address of a mailbox.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from discretion.errors import DataError, UsageError
from discretion.report import page, study_charts
from discretion.report.masking import Masker, shorten_home
from discretion.schema import from_json
from discretion.store import REPORT, write_private
from discretion.study.nouns import CellSummary, Effect, StudySummary

SUMMARY = "summary.json"
KINDS = (
    (
        "contrast",
        "Declared contrasts",
        "Named in the study's file before it was run; p-values are adjusted among them.",
    ),
    ("factor", "Factors", "Each level against the first one, over all cells that differ in nothing else."),
    (
        "change",
        "Each arm against its base",
        "The tuned model minus the model it came from, all training seeds together.",
    ),
)


def write(folder: Path, *, reveal: bool = False) -> Path:
    """Write `report.html` (mode 0600) into a study's folder, and into each audit's that has none; gives back its path.

    Raises `UsageError` or `DataError` when there is no summary or it cannot be read.
    """
    summary = read(folder)
    for cell in summary.cells:
        if cell.run and not (folder / cell.run / REPORT).exists():
            page.write(folder / cell.run, reveal=reveal)
    path = folder / REPORT
    write_private(path, render(summary, folder))
    return path


def read(folder: Path) -> StudySummary:
    """The summary in a study's folder."""
    try:
        return from_json(StudySummary, json.loads((folder / SUMMARY).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UsageError(f"{folder}: no {SUMMARY} there; run the study first") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{folder / SUMMARY}: not of this version ({error}); run the study again") from None


def render(summary: StudySummary, folder: Path) -> str:
    """The page as text; the same text each time."""
    css = page._packaged("page.css").strip()
    mask = Masker(())
    primary = [effect for effect in summary.effects if effect.primary]
    return _template().render(
        css=Markup(css),  # noqa: S704 - our own file
        css_hash=base64.b64encode(hashlib.sha256(css.encode()).digest()).decode(),
        study=summary,
        folder=folder.name,
        note=lambda text: shorten_home(mask.addresses(text)),
        kinds=[
            (title, words, _forests([e for e in summary.effects if e.kind == kind], summary))
            for kind, title, words in KINDS
        ],
        curves=_curves(primary, summary),
        scatters=_scatters(primary, summary),
        failed=[cell for cell in summary.cells if cell.status != "done"],
        unmeasured=_unmeasured(summary.effects),
        change=study_charts.change,
        figures=_figures,
    )


# ------------------------------------------------------------------------------------------------ pieces


def _forests(effects: Sequence[Effect], summary: StudySummary) -> list[dict[str, Any]]:
    """One forest per figure, with its effects."""
    images = []
    for probe, metric in dict.fromkeys((e.probe, e.metric) for e in effects):
        rows = [e for e in effects if (e.probe, e.metric) == (probe, metric)]
        wide, narrow = (study_charts.forest(rows, summary.tau, summary.epsilon, narrow=n) for n in (False, True))
        alt = f"{probe}, {metric}. " + " ".join(f"{e.name}: {study_charts.change(e)}, {e.verdict}." for e in rows)
        images.append({"title": f"{probe}: {metric}", "effects": rows, **page._image(wide, alt, narrow)})
    return images


def numeric(levels: Sequence[str]) -> dict[str, float]:
    """Levels to themselves as numbers; empty where one is none, or there is only one."""
    try:
        found = {level: float(level) for level in levels}
    except ValueError:
        return {}
    return found if len(found) > 1 else {}


def _steps(effect: Effect, summary: StudySummary) -> float | None:
    """How far the arm of a change was trained; None at an end whose step is not known."""
    level = effect.of["checkpoint"]
    if level != "final":
        return float(level.removeprefix("step-"))
    arm = {axis: own for axis, own in effect.of.items() if axis not in ("seed", "checkpoint")}
    return max(
        (c.steps for c in summary.cells if c.steps is not None and arm.items() <= c.coordinates.items()), default=None
    )


def _curves(effects: Sequence[Effect], summary: StudySummary) -> list[dict[str, Any]]:
    """One chart per figure and axis of numbers: a dose, or the steps of the training."""
    images = []
    for axis, levels in summary.axes.items():
        along = axis == "checkpoint"
        place = numeric(levels) if axis != "seed" else {}
        if not place and not along:
            continue
        for probe, metric in dict.fromkeys((e.probe, e.metric) for e in effects):
            series: dict[str, list[study_charts.Point]] = {}
            for e in effects:
                if (e.kind, e.probe, e.metric) == ("change", probe, metric) and study_charts.shown(e):
                    at = _steps(e, summary) if along else place[e.of[axis]]
                    if at is not None:
                        series.setdefault(_others(e, axis, summary), []).append(study_charts.Point(at, e))
            lines = {name: sorted(line, key=lambda p: p.x) for name, line in series.items() if len(line) > 1}
            if lines:
                words = "step of the training" if along else axis
                svg = study_charts.curves(lines, words, summary.epsilon)
                told = " ".join(
                    f"{name}: " + ", ".join(f"{p.x:g}: {study_charts.change(p.effect)}" for p in line) + "."
                    for name, line in lines.items()
                )
                images.append({"title": f"{probe}: {metric}, by {axis}", **page._image(svg, told)})
    return images


def _others(effect: Effect, axis: str, summary: StudySummary) -> str:
    """The arm without one axis, in levels that vary."""
    kept = [
        level for name, level in effect.of.items() if name not in (axis, "seed") and len(summary.axes.get(name, ())) > 1
    ]
    return " / ".join(kept) or "all cells"


def _scatters(effects: Sequence[Effect], summary: StudySummary) -> list[dict[str, Any]]:
    """Contextual privacy against capability at the end of training, one chart per privacy figure."""
    of_arm: dict[str, dict[tuple[str, str], Effect]] = {}
    for e in effects:
        ended = e.of.get("checkpoint", "final") == "final"
        if e.kind == "change" and e.unit == "rate" and ended and study_charts.shown(e):
            of_arm.setdefault(e.name, {})[e.probe, e.metric] = e
    images = []
    ability = next((k for own in of_arm.values() for k, e in own.items() if e.family == "capability"), None)
    private = dict.fromkeys(k for own in of_arm.values() for k, e in own.items() if e.family == "contextual privacy")
    for figure in private if ability else ():
        pairs = [(name, own[ability], own[figure]) for name, own in of_arm.items() if ability in own and figure in own]
        if pairs:
            svg = study_charts.scatter(pairs, summary.tau, summary.epsilon)
            alt = " ".join(
                f"{name}: ability {study_charts.change(x)}, privacy {study_charts.change(y)}." for name, x, y in pairs
            )
            images.append({"title": ": ".join(figure), **page._image(svg, alt)})
    return images


def _unmeasured(effects: Sequence[Effect]) -> list[tuple[str, str, int]]:
    """(figure, reason, effects) of what could not be measured."""
    counts: dict[tuple[str, str], int] = {}
    for e in effects:
        if e.reason:
            key = (f"{e.probe}: {e.metric}", e.reason.partition("most often: ")[2] or e.reason)
            counts[key] = counts.get(key, 0) + 1
    return [(figure, reason, n) for (figure, reason), n in counts.items()]


def _figures(cell: CellSummary) -> list[tuple[str, str, str]]:
    """(suite, change, verdict) of a cell's primary figures."""
    return [
        (f.probe, "not measured" if f.difference is None else page._minus(f"{100 * f.difference:+.1f}"), f.verdict)
        for f in cell.figures
    ]


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=page._finalize
    )
    tones: Mapping[str, str] = {**page.TONES, "done": "better", "failed": "worse", "waiting": "none"}
    environment.filters.update(p=page.p_value, margin=page.margin, count=page.count, tone=tones.__getitem__)
    macros = page._packaged("page.html.j2").partition("<!doctype html>")[0]
    return environment.from_string(macros + page._packaged("study.html.j2"))
