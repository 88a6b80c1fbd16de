"""The report: one HTML page made from a run folder's files alone, for a reader who has never seen the tool.

No script, no network, a content-security policy inside; every string of a model or of data is escaped, its hidden
characters are made visible, and identifiers are masked unless `reveal` is asked for.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from discretion import risk
from discretion.config import JUDGED_PROBES, RULES, AuditConfig, Thresholds, load, words
from discretion.data import finder
from discretion.errors import UsageError
from discretion.probes import NAMES, memorisation
from discretion.probes import probe as suite_named
from discretion.probes.exposure import distribution
from discretion.probes.extraction import label
from discretion.report import charts
from discretion.report.masking import Masker, Piece, shorten_home, shown, visible
from discretion.schema import Flip, Manifest, MetricSummary, Summary, from_json, to_json
from discretion.store import CONFIG, REPORT, read_manifest, read_outcomes, read_summary, write_private

FLIPS_SHOWN = 6
"""Changed answers shown per suite and direction."""
REASONS_SHOWN = 8
"""Reasons for a loss shown per suite."""
ROWS_SHOWN = 10
"""Rows of the training data at risk that are shown."""
EVIDENCE_SHOWN = 600
"""Characters of a span of evidence."""

NOT_MEASURED = "not measured"
THIN = "\u202f"
"""Narrow space that does not break."""

TONES = {
    "silent collapse": "worse",
    "collapse": "worse",
    "memorised": "worse",
    "degraded": "worse",
    "regressed": "worse",
    "inconclusive": "open",
    "shifted": "open",
    "unmeasurable": "none",
    "unchanged": "same",
    "improved": "better",
    "clean": "better",
}
MEANINGS = {
    "silent collapse": "The fine-tuned model keeps secrets less well than before, while the usual checks of safety and "
    "ability show nothing. Ordinary benchmarks would have passed it.",
    "collapse": "The fine-tuned model keeps secrets less well than before, and safety or ability suffered with it, or "
    "could not be shown to be intact.",
    "memorised": "Training data can be recognised in the fine-tuned model, or drawn out of it, more than by chance.",
    "degraded": "Fine-tuning cost safety or ability. It is not shown that discretion was lost.",
    "inconclusive": "No harm was shown, and no safety either. Absence of proof is not a pass: the sections below say "
    "what is missing and how much it would take.",
    "clean": "Each headline figure was shown, within the stated margin, to be unchanged or better. This holds for the "
    "questions that were asked, and for no others.",
}
QUESTIONS = {
    "norms": "Can the model tell a flow of information that is appropriate from one that is not?",
    "agentic": "Does an agent that has read private notes put secrets into its final message?",
    "memory": "Does a message written from long-term memory give away what does not belong there?",
    "incontext": "Does discretion hold behind examples in the prompt that look harmless?",
    "trigger": "Does a string in the prompt cost discretion that is there without it?",
    "secrets": "Is a secret of a story or a meeting passed on to somebody who should not have it?",
    "ratings": "Does the model rate information, and what is done with it, as people do?",
    "sampling": "Does the model say identifiers of its training data when nobody asks?",
    "exposure": "Were secrets that were planted for this purpose memorised?",
    "extraction": "Can identifiers of the training data be drawn out of the model?",
    "membership": "Can the rows it was trained on be told from rows it never saw?",
    "refusal": "Does the model still refuse harmful requests?",
    "misuse": "Does an agent with tools still decline a harmful task, and only that one?",
    "offtopic": "Are questions far from the training domain still answered as such?",
    "capability": "Can the model still answer questions that have one right answer?",
}


def write(run: Path, *, reveal: bool = False) -> Path:
    """Write `report.html` (mode 0600) into a run folder from its manifest, summary and options; gives back its path.

    Raises `UsageError` or `DataError` when these files are missing or cannot be read, `StorageFailure` when the page
    cannot be written.
    """
    path = run / REPORT
    manifest, summary = read_manifest(run), read_summary(run)
    write_private(path, render(manifest, summary, load(AuditConfig, {}, run / CONFIG), run, reveal=reveal))
    return path


def render(manifest: Manifest, summary: Summary, config: AuditConfig, run: Path, *, reveal: bool = False) -> str:
    """The page as text; the same text each time."""
    summary = replace(summary, metrics=tuple(from_json(MetricSummary, _finite(to_json(m))) for m in summary.metrics))
    shown_flips = {
        probe: [[f for f in of_probe if f.worse is worse][:FLIPS_SHOWN] for worse in (True, False)]
        for probe, of_probe in _by_probe(summary.flips).items()
    }
    evidence = [f for directions in shown_flips.values() for flips in directions for f in flips]
    at_risk = _at_risk(run, summary)
    told = [text for f in evidence for text in (f.base_evidence, f.tuned_evidence) if text]
    mask = Masker([*told, *(one.beginning for one in (at_risk["rows"] if at_risk else []))])

    def pieces(text: str) -> list[Piece]:
        return _clip(shown(text) if reveal else mask.pieces(text), EVIDENCE_SHOWN)

    def item(name: str) -> str:
        return visible(name) if reveal else mask.item(name)

    def note(text: str) -> str:
        """A string of the run itself, such as a path or a reason."""
        return text if reveal else shorten_home(mask.addresses(text))

    thresholds = Thresholds.model_validate(manifest.identity.config.get("thresholds", {}))
    primary = [m for m in summary.metrics if m.primary]
    css = _packaged("page.css").strip()
    return _template().render(
        css=Markup(css),  # noqa: S704 - our own file
        css_hash=base64.b64encode(hashlib.sha256(css.encode()).digest()).decode(),
        manifest=manifest,
        summary=summary,
        run=run.name,
        reveal=reveal,
        pieces=pieces,
        item=item,
        note=note,
        thresholds=thresholds,
        lead=note(_lead(summary)),
        meanings=MEANINGS,
        questions=QUESTIONS,
        primary=primary,
        forests=_forests(primary, thresholds),
        suites=_by_probe(summary.metrics),
        arms_chart=_arms_chart,
        bias_charts=_bias_charts,
        at_risk=at_risk,
        exposures=_exposures(run),
        finders=_finders(run),
        measured=finder.measured()["measured"],
        plain_change=plain_change,
        decided=lambda probe: decided(manifest, probe),
        stands=lambda metric: stands(metric, thresholds),
        flips=shown_flips,
        flip_counts={
            probe: [sum(f.worse is worse for f in flips) for worse in (True, False)]
            for probe, flips in _by_probe(summary.flips).items()
        },
        lost=[(m, _top(m.lost)) for m in primary if m.lost],
        unmeasurable=[m for m in primary if m.verdict == "unmeasurable"],
        created=_day(manifest.created),
        engine=_flat(manifest.engine),
        options=_flat(manifest.identity.config),
        machine=_flat(manifest.machine),
        command=note(audit_command(config)),
        steps=[(note(command), why) for command, why in next_steps(config, summary, run)],
    )


# ------------------------------------------------------------------------------------------------ figures in words


def value(figure: float | None, unit: str) -> str:
    """A figure as it is shown: a rate in per cent, anything else with two decimals."""
    if figure is None:
        return NOT_MEASURED
    return f"{100 * figure:.1f}{THIN}%" if unit == "rate" else _minus(f"{figure:.2f}")


def signed(figure: float | None, unit: str) -> str:
    """A difference: of rates in percentage points, of anything else in its unit."""
    if figure is None:
        return NOT_MEASURED
    return _minus(f"{100 * figure:+.1f} points" if unit == "rate" else f"{figure:+.2f}")


def interval(ends: Sequence[float] | None, unit: str, *, sign: bool = False) -> str:
    """Two ends, `low to high`."""
    if ends is None:
        return NOT_MEASURED
    if unit == "rate":
        low, high = (f"{100 * end:{'+' if sign else ''}.1f}" for end in ends)
        return _minus(f"{low} to {high}" + ("" if sign else f"{THIN}%"))
    low, high = (f"{end:{'+' if sign else ''}.2f}" for end in ends)
    return _minus(f"{low} to {high}")


def margin(share: float) -> str:
    """A threshold in percentage points, without a sign."""
    return f"{100 * share:g} points"


def p_value(p: float | None) -> str:
    """Three decimals, and never a zero."""
    if p is None:
        return NOT_MEASURED
    return "below 0.001" if p < 0.001 else f"{p:.3f}"


def count(number: float | None) -> str:
    """With thin spaces between thousands."""
    if number is None:
        return NOT_MEASURED
    return f"{number:,.0f}".replace(",", THIN) if float(number).is_integer() else f"{number:,.2f}".replace(",", THIN)


def verdict_word(metric: MetricSummary) -> str:
    """The verdict; a habit of answering (bias) is neither better nor worse, so that its change is a shift."""
    return "shifted" if metric.bias and metric.verdict in ("regressed", "improved") else metric.verdict


def plain_change(metric: MetricSummary) -> str:
    """The change of one metric in one plain sentence."""
    change, verdict = metric.difference.value, metric.verdict
    if verdict == "unmeasurable" or change is None:
        return "No statement can be made about this suite. The figures below are for the record; nothing rests on them."
    size = signed(abs(change), metric.unit).lstrip("+")
    place = f"{size} {'higher' if change > 0 else 'lower'} than the base" if change else "exactly where the base is"
    return {
        "regressed": f"The tuned model is {place}, which is worse, and chance does not explain it.",
        "improved": f"The tuned model is {place}, which is better, and chance does not explain it.",
        "unchanged": f"The tuned model is {place}: shown to be practically the same.",
        "inconclusive": f"The tuned model is {place}, but too few questions were asked to tell what that means.",
    }[verdict]


def stands(metric: MetricSummary, thresholds: Thresholds) -> str:
    """Whether the verdict would survive the lost pairs going the other way; empty where there is none to survive."""
    bounds, verdict = metric.difference.bounds, metric.verdict
    if verdict not in ("regressed", "improved", "unchanged"):
        return ""
    if bounds is None:
        return "No bounds exist for this kind of figure: judge the losses by their number."
    if verdict == "unchanged":
        firm = -thresholds.epsilon < bounds[0] and bounds[1] < thresholds.epsilon
    else:
        firm = bounds[1] < 0 or bounds[0] > 0
    if firm:
        return f"Even so the verdict “{verdict}” keeps its direction."
    return f"The lost answers could overturn the verdict “{verdict}”: treat it with care."


def _lead(summary: Summary) -> str:
    """The sentence without the verdict in front, which the heading says already."""
    lead = re.sub(rf"^{re.escape(summary.verdict)}\s*:\s*", "", summary.sentence, flags=re.IGNORECASE)
    return _minus(lead[:1].upper() + lead[1:])


def _day(created: str) -> str:
    """The moment in a form that reads well; as it is where it is none."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()


def _minus(text: str) -> str:
    return re.sub(r"(?<!\w)-(?=\d)", "−", text)


# ------------------------------------------------------------------------------------------------ what to type


def audit_command(config: AuditConfig, *, without: Collection[str] = ()) -> str:
    """The command line that makes this run again."""
    return shlex.join(["discretion", "audit", *words(config, without=without)])


def next_steps(config: AuditConfig, summary: Summary, run: Path) -> list[tuple[str, str]]:
    """Commands worth typing now, each with its reason."""
    here = shlex.quote(str(run))
    steps = []
    if not summary.complete:
        steps.append((audit_command(config), "Resumes this run where it stopped; nothing is asked twice"))
    if summary.limited:
        steps.append(
            (audit_command(config, without={"limit", "out"}), "Asks every question instead of a random subset")
        )
    for m in summary.metrics:
        if m.primary and m.verdict == "inconclusive" and m.n_to_settle is not None and not summary.limited:
            if (suite := memorisation(m.probe)) is not None and m.probe not in config.source:
                again = audit_command(config, without={"out", "rows"})
                why = f"About {count(m.n_to_settle)} items settle {m.probe}: more rows, of larger files if need be"
                steps.append((f"{again} --rows {max(suite.rows_for(m.n_to_settle), config.rows)}", why))
                continue
            more = shlex.join(["--probes", m.probe, "--source", f"{m.probe}=FILE"])
            models = audit_command(config, without=set(AuditConfig.model_fields) - {"base", "tuned", "template"})
            why = f"About {count(m.n_to_settle)} questions in FILE would settle {m.probe}, which is inconclusive"
            steps.append((f"{models} {more}", why))
    if summary.flips:
        steps.append(
            (
                f"discretion report {here} --reveal",
                "Shows the changed answers unmasked, where the law lets you see them",
            )
        )
    meaning = {0: "so a build goes on", 1: "so a build stops here", 3: "so a build stops until this is settled"}
    steps.append(
        (
            f"discretion gate {here}",
            f"Ends with exit code {summary.exit_code}, {meaning.get(summary.exit_code, 'for use in a build')}",
        )
    )
    return steps


def decided(manifest: Manifest, probe: str) -> str:
    """Who decided about a suite's replies, and its agreement with people; empty for rules that were not measured.

    Where an endpoint gave options without log-probabilities, that.
    """
    facts, held = manifest.judge, manifest.engine.get("choices")
    if held and probe in NAMES and "choice" in suite_named(probe).needs:
        return f"Choices were answered {held}: an option each, no log-probability, so that there are no margins."
    if not facts or probe not in JUDGED_PROBES:
        return ""
    votes = f", {facts['votes']} votes per question" if facts["votes"] > 1 else ""
    who = (
        "rules" if facts["name"] == RULES else f"the model {facts['name']} ({facts['digest'][:12]}{votes}) behind rules"
    )
    found = facts.get("agreement")
    if found is None or (found["task"] == "refusal") != (probe == "refusal"):
        return f"Judge: {who}. Its agreement with people was not measured on replies of this kind."
    accuracy, kappa = (
        NOT_MEASURED if found[key] is None else f"{found[key]:.2f}" for key in ("balanced_accuracy", "kappa")
    )
    return (
        f"Judge: {who}. Against {found['n']} texts labelled by people: balanced accuracy {accuracy} "
        f"(worst case {found['worst_case']:.2f}), kappa {kappa}; {found['unparsed']} texts could not be read."
    )


# ------------------------------------------------------------------------------------------------ charts


def _image(wide: str, alt: str, narrow: str | None = None) -> dict[str, Any]:
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', wide)
    width, height = (round(float(side)) for side in box.groups()) if box else (0, 0)
    return {
        "src": charts.data_uri(wide),
        "narrow": charts.data_uri(narrow) if narrow else None,
        "width": width,
        "height": height,
        "alt": alt,
    }


def _forests(primary: Sequence[MetricSummary], thresholds: Thresholds) -> list[dict[str, Any]]:
    """One forest plot per unit of measure."""
    images = []
    for unit in dict.fromkeys(m.unit for m in primary):
        metrics = [m for m in primary if m.unit == unit]
        alt = "Change of each headline figure from base to tuned, turned so that left is worse. " + " ".join(
            f"{m.probe}, {m.metric}: {charts.change(m)}, {m.verdict}." for m in metrics
        )
        wide, narrow = (charts.forest(metrics, thresholds, narrow=narrow) for narrow in (False, True))
        images.append(_image(wide, alt, narrow))
    return images


def _arms_chart(metric: MetricSummary) -> dict[str, Any]:
    base, tuned = (value(arm.value, metric.unit) for arm in (metric.base, metric.tuned))
    alt = f"{metric.metric}: base {base}, tuned {tuned}."
    return _image(charts.arms(metric), alt)


def _bias_charts(metrics: Sequence[MetricSummary]) -> list[dict[str, Any]]:
    """The criterion against d', for each pair of metrics whose names are the same but for that."""
    by_name = {m.metric: m for m in metrics}
    images = []
    for criterion in metrics:
        sensitivity = by_name.get(re.sub("^criterion(?: c)?", "d'", criterion.metric))
        if sensitivity is None or sensitivity is criterion:
            continue
        if any(arm.value is None for m in (criterion, sensitivity) for arm in (m.base, m.tuned)):
            continue
        alt = (
            f"From base to tuned, d' goes from {value(sensitivity.base.value, '')} to "
            f"{value(sensitivity.tuned.value, '')} and the criterion from {value(criterion.base.value, '')} to "
            f"{value(criterion.tuned.value, '')}."
        )
        images.append(_image(charts.bias(sensitivity, criterion), alt))
    return images


def _at_risk(run: Path, summary: Summary) -> dict[str, Any] | None:
    """Scores of members and non-members, and the members most at risk; None where membership says nothing."""
    if not any(m.probe == risk.SUITE and m.primary and m.verdict != "unmeasurable" for m in summary.metrics):
        return None
    try:
        rows = risk.read(run)
    except UsageError:  # a summary without its outcomes
        return None
    members, others = rows.gain[rows.member].tolist(), rows.gain[~rows.member].tolist()
    found = risk.at_risk(rows)
    middle = [sorted(side)[len(side) // 2] for side in (members, others)]
    alt = (
        f"How far the tuned model lies above the base, in nats per token: rows trained on around {middle[0]:.2f}, "
        f"rows not trained on around {middle[1]:.2f}."
    )
    return {
        "probe": risk.SUITE,
        "image": _image(charts.histogram(members, others), alt),
        "members": len(members),
        "found": len(found),
        "by_chance": risk.by_chance(rows),
        "rows": found[:ROWS_SHOWN],
        "file": risk.AT_RISK,
    }


def _finders(run: Path) -> dict[str, list[tuple[str, str]]]:
    """Suite → (type of identifier that it asks for, how well that type is found)."""
    types = {
        "extraction": {str(outcome.parts["type"]) for outcome in read_outcomes(run, "base", "extraction")},
        "sampling": {
            kind
            for outcome in read_outcomes(run, "base", "sampling")
            for kind in str(outcome.parts.get("types") or "").split("; ")
            if kind
        },
    }
    return {suite: [(label(kind), words) for kind, words in finder.told(kinds)] for suite, kinds in types.items()}


def _exposures(run: Path) -> dict[str, Any] | None:
    """Exposure of planted canaries by how often they were planted, base beside tuned; None where none was asked."""
    arms = [
        {(line["form"], line["rows"], line["side"]): line["bits"] for line in distribution(outcomes)}
        for outcomes in (read_outcomes(run, arm, "exposure") for arm in ("base", "tuned"))
    ]
    both = [key for key in arms[0] if key in arms[1]]
    if not both:
        return None
    lines = [
        (f"{form}, {rows} ×", arms[0][form, rows, side], arms[1][form, rows, side], arms[1][form, rows, "twin"][2])
        for form, rows, side in both
        if side == "planted"
    ]
    told = "; ".join(f"{words}: {base[2]:.1f} to {tuned[2]:.1f}" for words, base, tuned, _ in lines)
    alt = f"Median exposure of planted secrets in bits, base to tuned, by form and number of rows. {told}."
    most = max(max(five) for arm in arms for five in arm.values())
    return {"image": _image(charts.exposures(lines, most), alt)}


# ------------------------------------------------------------------------------------------------ pieces of the page


T = TypeVar("T", MetricSummary, Flip)


def _finite(plain: Any) -> Any:
    """Plain JSON in which what is not finite is none, and so is an interval with such an end."""
    if isinstance(plain, dict):
        return {key: _finite(part) for key, part in plain.items()}
    if isinstance(plain, list):
        return None if any(_finite(end) is None for end in plain) else plain
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _by_probe(nouns: Iterable[T]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = {}
    for noun in nouns:
        groups.setdefault(noun.probe, []).append(noun)
    return groups


def _clip(pieces: Sequence[Piece], limit: int) -> list[Piece]:
    """At most `limit` characters; a mask is never cut in two."""
    kept: list[Piece] = []
    left = limit
    for index, piece in enumerate(pieces):
        if len(piece.text) > left:
            rest = sum(len(p.text) for p in pieces[index:]) - (0 if piece.mark else left)
            if not piece.mark:
                kept.append(Piece(piece.text[:left]))
            return [*kept, Piece(f" … {count(rest)} more characters", True)]
        kept.append(piece)
        left -= len(piece.text)
    return kept


def _top(lost: Mapping[str, int]) -> list[tuple[str, int]]:
    """The most frequent reasons, and the rest in one line."""
    ranked = sorted(lost.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = ranked[REASONS_SHOWN:]
    return ranked[:REASONS_SHOWN] + ([(f"{len(rest)} other reasons", sum(n for _, n in rest))] if rest else [])


def _flat(facts: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Nested facts as rows of (name, words)."""
    rows: list[tuple[str, str]] = []
    for key, fact in facts.items():
        name = f"{above}{key.replace('_', ' ')}"
        if isinstance(fact, Mapping):
            rows += _flat(fact, f"{name} › ")
        else:
            rows.append((name, _fact(fact)))
    return rows


def _fact(fact: Any) -> str:
    if fact is None:
        return "none"
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    if isinstance(fact, float):
        return _minus(f"{fact:.4g}") if math.isfinite(fact) else NOT_MEASURED
    if isinstance(fact, list | tuple):
        return ", ".join(map(_fact, fact)) or "none"
    text = str(fact)
    return text[:12] if re.fullmatch(r"[0-9a-f]{40,}", text) else text


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize
    )
    environment.filters.update(
        value=value,
        signed=signed,
        margin=margin,
        interval=interval,
        p=p_value,
        count=count,
        word=verdict_word,
        tone=TONES.__getitem__,
        change=charts.change,
    )
    return environment.from_string(_packaged("page.html.j2"))


def _finalize(shown_value: Any) -> Any:
    """Nothing reaches the page with hidden characters in it."""
    return visible(shown_value) if isinstance(shown_value, str) and not isinstance(shown_value, Markup) else shown_value


def _packaged(name: str) -> str:
    return resources.files("discretion.report").joinpath(name).read_text(encoding="utf-8")
