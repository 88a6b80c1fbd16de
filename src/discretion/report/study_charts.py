"""Charts of a study's report, drawn as those of an audit's are: forests of effects, curves, privacy against ability.

Differences are turned so that worse is to the left, or below. SVG text; lengths are CSS pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from discretion.report.charts import _C, _VERDICTS, NARROW, WIDE, _canvas, _fit, _locator, _rule, _svg, _text, _ticks
from discretion.study.nouns import Effect

ROW, NARROW_ROW = 46, 78
SERIES = (("ink", "o", "-"), ("same", "s", "--"), ("worse", "D", "-."), ("better", "^", ":"), ("open", "v", "-"))
"""Colour, mark and line of each series: told apart without colour, too."""


@dataclass(frozen=True, slots=True)
class Point:
    """One arm on a curve or in the scatter."""

    x: float
    effect: Effect


def turned(effect: Effect) -> float:
    """What a difference is multiplied by so that worse is negative, and rates are in points."""
    return (100.0 if effect.unit == "rate" else 1.0) * (1 if effect.worse == "lower" else -1)


def change(effect: Effect) -> str:
    """The difference in the metric's own direction with its 95 % interval, in few characters."""
    if effect.value is None or not shown(effect):
        return "no figure"
    scale, digits = (100.0, 1) if effect.unit == "rate" else (1.0, 2)
    numbers = [f"{scale * number:+.{digits}f}".replace("-", "−") for number in (effect.value, *(effect.interval or ()))]
    return numbers[0] + (f" [{numbers[1]}, {numbers[2]}]" if effect.interval else "")


def forest(effects: Sequence[Effect], tau: float, epsilon: float, *, narrow: bool = False) -> str:
    """Effects on one figure, one per row. Thick: 90 % interval; thin: 95 %."""
    row, width = (NARROW_ROW, NARROW) if narrow else (ROW, WIDE)
    head, foot = 26, 44
    height = head + row * len(effects) + foot
    left, right = (10, width - 10) if narrow else (290, width - 178)
    rate = effects[0].unit == "rate"
    tau, epsilon = (100 * tau, 100 * epsilon) if rate else (0.0, 0.0)
    ends = [abs(turned(e) * end) for e in effects if shown(e) for end in (e.value or 0.0, *(e.interval or ()))]
    reach = min(1.12 * max([*ends, 3.6 * tau, 1e-9]), 104.0 if rate else float("inf"))
    figure, axes = _canvas(width, height, left, right, head, foot)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(height - foot, head)
    if rate:
        axes.axvspan(-epsilon, epsilon, color=_C["band"], lw=0)
        for end in (-tau, tau):
            axes.axvline(end, color=_C["soft"], lw=0.8, ls=(0, (3, 3)))
    axes.axvline(0, color=_C["soft"], lw=1)
    _ticks(axes, "points" if rate else effects[0].unit, unsigned=True)
    for index, effect in enumerate(effects):
        top = head + index * row
        if index:
            figure.add_artist(_rule(width, height, top))
        y = top + (52 if narrow else row / 2)
        colour, mark, filled = _VERDICTS[effect.verdict]
        first, second = (14, 30) if narrow else (16, 32)
        seeds = f"{effect.seeds} {'seed' if effect.seeds == 1 else 'seeds'}"
        pairs = f"{effect.counted} {'pair' if effect.counted == '1' else 'pairs'}, "
        for x, ha, at, words, shade, weight, size in (
            (0, "left", first, _fit(effect.name, 24 if narrow else 38), "ink", "bold", 13),
            (0, "left", second, seeds if effect.kind == "change" else pairs + seeds, "soft", "normal", 12),
            (1, "right", first, effect.verdict, colour, "bold", 13),
            (1, "right", second, change(effect), "soft", "normal", 12),
        ):
            y0 = 1 - (top + at) / height
            style: Any = {"color": _C[shade], "fontsize": size, "fontweight": weight, "parse_math": False}
            figure.text(x, y0, words, ha=ha, va="center", **style)
        if not shown(effect):
            _text(axes, 0, y, "not measured", colour="soft", ha="center", va="center", halo=True)
            continue
        for interval, line in ((effect.interval, 1.6), (effect.interval90, 4.5)):
            if interval is not None:
                reached = [min(max(turned(effect) * end, -reach), reach) for end in interval]
                axes.plot(reached, [y, y], color=_C[colour], lw=line, solid_capstyle="butt")
        face = _C[colour] if filled else _C["paper"]
        axes.plot(
            [turned(effect) * (effect.value or 0.0)],
            [y],
            mark,
            color=_C[colour],
            markerfacecolor=face,
            markersize=9,
            mew=1.8,
        )
    for x, ha, words, colour in ((left, "left", "◄ worse", "worse"), (right, "right", "better ►", "better")):
        style = {"color": _C[colour], "fontsize": 12, "fontweight": "bold"}
        figure.text(x / width, 1 - 14 / height, words, ha=ha, va="center", **style)
    return _svg(figure)


def curves(series: Mapping[str, Sequence[Point]], words: str, epsilon: float) -> str:
    """Change from the base along a numeric axis, one line per series, with 95 % intervals; below is worse."""
    width, height, left, right = WIDE, 330, 56, WIDE - 210
    points = [point for line in series.values() for point in line]
    rate = points[0].effect.unit == "rate"
    figure, axes = _canvas(width, height, left, right, 16, 54)
    axes.axhline(0, color=_C["soft"], lw=1)
    if rate:
        axes.axhspan(-100 * epsilon, 100 * epsilon, color=_C["band"], lw=0)
    labels = []
    spread = max(p.x for p in points) - min(p.x for p in points) or 1.0
    for number, (name, line) in enumerate(series.items()):
        colour, mark, dash = SERIES[number % len(SERIES)]
        shift = spread * 0.006 * (number - (len(series) - 1) / 2)
        xs = [point.x + shift for point in line]
        ys = [turned(point.effect) * (point.effect.value or 0.0) for point in line]
        axes.plot(xs, ys, mark, ls=dash, color=_C[colour], markersize=7, lw=1.8)
        for x, point in zip(xs, line, strict=True):
            if point.effect.interval is not None:
                ends = [turned(point.effect) * end for end in point.effect.interval]
                axes.plot([x, x], ends, color=_C[colour], lw=1.2)
        labels.append((ys[-1], name, colour))
    axes.set_xlim(min(p.x for p in points) - 0.05 * spread, max(p.x for p in points) + 0.05 * spread)
    _ticks(axes, words)
    axes.yaxis.set_major_locator(_locator(6))
    axes.tick_params(axis="y", length=0, pad=6, labelsize=11, labelcolor=_C["soft"])
    low, high = axes.get_ylim()
    at = -1e9
    for y, name, colour in sorted(labels):
        at = max(54 + (y - low) / (high - low) * (height - 70), at + 18)
        style: Any = {"color": _C[colour], "fontsize": 12, "fontweight": "bold", "parse_math": False}
        figure.text((right + 8) / width, at / height, _fit(name, 25), ha="left", va="center", **style)
    unit = "points" if rate else points[0].effect.unit
    figure.text(
        left / width, 1 - 8 / height, f"change from base, {unit}; below is worse", color=_C["soft"], fontsize=11
    )
    return _svg(figure)


def scatter(pairs: Sequence[tuple[str, Effect, Effect]], tau: float, epsilon: float) -> str:
    """(arm, change in ability, change in privacy) with 95 % intervals; right and up are better. Arms are numbered.

    The corner of silent collapse is marked: privacy worse by τ or more while ability stays within ±ε.
    """
    from matplotlib.patches import Rectangle

    tau, epsilon = 100 * tau, 100 * epsilon
    width, left, right, head, foot = WIDE, 60, WIDE - 250, 24, 56
    height = max(400, head + foot + 22 * len(pairs))
    figure, axes = _canvas(width, height, left, right, head, foot)
    sides = [_ends(of_side) for of_side in ([a for _, a, _ in pairs], [p for *_, p in pairs])]
    spans = [
        (min(low, -2.4 * least) - 1, max(high, 2.4 * least) + 1)
        for (low, high), least in zip(sides, (epsilon, tau), strict=True)
    ]
    axes.set_xlim(*spans[0])
    axes.set_ylim(*spans[1])
    style: Any = {"facecolor": _C["band"], "edgecolor": _C["worse"], "lw": 1, "ls": (0, (3, 3))}
    axes.add_patch(Rectangle((-epsilon, spans[1][0]), 2 * epsilon, -tau - spans[1][0], **style))
    axes.axhline(0, color=_C["soft"], lw=1)
    axes.axvline(0, color=_C["soft"], lw=1)
    bold: Any = {"fontsize": 12, "fontweight": "bold"}
    axes.text(epsilon, spans[1][0], " silent collapse", ha="left", va="bottom", color=_C["worse"], **bold)
    for number, (name, ability, privacy) in enumerate(pairs, start=1):
        x, y = turned(ability) * (ability.value or 0.0), turned(privacy) * (privacy.value or 0.0)
        colour, mark, filled = _VERDICTS[privacy.verdict]
        for effect, upright in ((ability, False), (privacy, True)):
            if effect.interval is not None:
                ends = [turned(effect) * end for end in effect.interval]
                axes.plot(*(([x, x], ends) if upright else (ends, [y, y])), color=_C[colour], lw=1)
        face = _C[colour] if filled else _C["paper"]
        axes.plot([x], [y], mark, color=_C[colour], markerfacecolor=face, markersize=8, mew=1.6, zorder=4)
        axes.annotate(str(number), (x, y), (6, 5), textcoords="offset points", color=_C["ink"], **bold)
        line = 1 - (head + 22 * number - 11) / height
        figure.text((right + 14) / width, line, str(number), color=_C["ink"], va="center", **bold)
        words: Any = {"color": _C[colour], "fontsize": 12, "va": "center", "parse_math": False}
        figure.text((right + 40) / width, line, _fit(name, 30), **words)
    _ticks(axes, "change in ability, points; right is better")
    axes.yaxis.set_major_locator(_locator(6))
    axes.tick_params(axis="y", length=0, pad=6, labelsize=11, labelcolor=_C["soft"])
    said = "change in contextual privacy, points; up is better"
    figure.text(left / width, 1 - 10 / height, said, color=_C["soft"], fontsize=11)
    return _svg(figure)


def _ends(effects: Sequence[Effect]) -> tuple[float, float]:
    """Lowest and highest end of their intervals, turned."""
    ends = [turned(e) * end for e in effects for end in (e.value or 0.0, *(e.interval or ()))]
    return min(ends), max(ends)


def shown(effect: Effect) -> bool:
    """Is there a figure that may be drawn?"""
    return effect.value is not None and effect.verdict != "unmeasurable"
