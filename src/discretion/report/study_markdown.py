"""A study's summary as one Markdown page, tables and charts, to be kept beside a project's other texts.

It shows what the report shows and nothing that the report masks; charts are SVG files in a folder of the page's name.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from discretion.report import study_page
from discretion.report.masking import Masker, shorten_home
from discretion.report.page import p_value
from discretion.report.study_charts import change
from discretion.store import storing
from discretion.study.nouns import Effect, StudySummary

MARKED = ("regressed", "improved")
"""Verdicts that stand out."""


def write(summary: StudySummary, path: Path) -> Path:
    """The page at `path`, its charts in the folder `path` without suffix; gives back `path`.

    Raises `StorageFailure` where they cannot be written.
    """
    images = _images(summary)
    folder = path.with_suffix("")
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if images:
            folder.mkdir(exist_ok=True)
        for old in folder.glob("*.svg"):
            old.unlink()
        for name, image in images.items():
            svg = base64.b64decode(image["src"].partition(",")[2])
            (folder / f"{name}.svg").write_bytes(svg)
        path.write_text(render(summary, folder.name), encoding="utf-8")
    return path


def render(summary: StudySummary, charts: str = "") -> str:
    """The page as text; `charts` is the folder of its charts, without which it has none."""
    parts = [
        f"# Study: {_plain(summary.name)}",
        _plain(summary.about),
        (
            f"{summary.done} of {len(summary.cells)} cells are done. Digest `{summary.config[:12]}`, discretion "
            f"{summary.version}, {summary.work_seconds / 60:.0f} minutes of work. Differences of rates in points, with "
            f"95 % intervals; **bold**: a change of {100 * summary.tau:g} points or more, p adjusted."
        ),
        _table(("Axis", "Levels, the reference first"), [(a, ", ".join(levels)) for a, levels in summary.axes.items()]),
    ]
    for kind, title, words in study_page.KINDS:
        effects = [effect for effect in summary.effects if effect.kind == kind]
        if effects:
            parts += [f"## {title}", words, _declared(effects) if kind == "contrast" else _matrix(effects)]
    if charts:
        images = _images(summary).items()
        parts += ["## Charts"] if images else []
        parts += [f"![{_plain(image['title'])}]({charts}/{name}.svg)" for name, image in images]
    parts += ["## Verdicts of the audits", _verdicts(summary)]
    lost = study_page._unmeasured(summary.effects)
    if lost:
        parts += ["## What could not be measured", "Unmeasurable is not unchanged: about these the study says nothing."]
        parts.append("\n".join(f"- {_plain(figure)}, in {n} effects: {_plain(reason)}" for figure, reason, n in lost))
    open_cells = [cell for cell in summary.cells if cell.status != "done"]
    if open_cells:
        parts += ["## Cells that are not done"]
        parts.append("\n".join(f"- {_plain(c.name)}: {c.status} {_plain(c.reason)}".rstrip() for c in open_cells))
    return "\n\n".join(part for part in parts if part) + "\n"


# ------------------------------------------------------------------------------------------------ pieces


def _images(summary: StudySummary) -> dict[str, dict[str, Any]]:
    """File name to chart: forests of declared contrasts on primary figures, curves, privacy against ability."""
    primary = [effect for effect in summary.effects if effect.primary]
    forests = study_page._forests([effect for effect in primary if effect.kind == "contrast"], summary)
    made = {
        "contrasts": forests,
        "curve": study_page._curves(primary, summary),
        "privacy-ability": study_page._scatters(primary, summary),
    }
    return {f"{kind}-{n}": image for kind, images in made.items() for n, image in enumerate(images, start=1)}


def _declared(effects: Sequence[Effect]) -> str:
    rows = [
        (e.name, f"{e.probe}: {e.metric}", _shown(e), "–" if e.reason else p_value(e.p_adjusted),
         f"{e.counted} ({e.seeds})", e.verdict)
        for e in effects
    ]  # fmt: skip
    return _table(("Contrast", "Figure", "Difference [95 %]", "p, adjusted", "Pairs (seeds)", "Verdict"), rows)


def _matrix(effects: Sequence[Effect]) -> str:
    """One row per effect, one column per primary figure."""
    figures = list(dict.fromkeys((e.probe, e.metric) for e in effects if e.primary))
    of: dict[str, Mapping[tuple[str, str], Effect]] = {}
    for e in effects:
        of[e.name] = {**of.get(e.name, {}), (e.probe, e.metric): e}
    rows = [(name, *(_shown(found[f]) if f in found else "" for f in figures)) for name, found in of.items()]
    return _table(("", *(f"{probe}: {metric}" for probe, metric in figures)), rows)


def _shown(effect: Effect) -> str:
    told = "not measured" if effect.reason else change(effect)
    return f"**{told}**" if effect.verdict in MARKED and not effect.reason else told


def _verdicts(summary: StudySummary) -> str:
    arms: dict[str, Counter[str]] = {}
    for cell in summary.cells:
        if cell.verdict is not None:
            seed = cell.coordinates["seed"]
            arms.setdefault(cell.name.replace(f"/seed {seed}", ""), Counter())[cell.verdict] += 1
    return _table(("Arm", "Seeds"), [(n, ", ".join(f"{v} {k}" for v, k in c.most_common())) for n, c in arms.items()])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """One line that cannot break a table or become markup; no address of a mailbox."""
    told = shorten_home(Masker(()).addresses(text))
    for sign in ("<", ">", "|", "[[", "`"):
        told = told.replace(sign, "".join(f"\\{one}" for one in sign))
    return " ".join(told.split())
