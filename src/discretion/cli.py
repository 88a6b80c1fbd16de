"""The command line: one short function per verb, options made from the configuration's fields.

Progress and errors go to stderr, results to stdout; the report's path is the last line. Exit codes: 0 measured,
1 gate failed, 2 usage, 3 inconclusive, 4 run-time failure, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from discretion import __version__
from discretion.cli_data import canaries, pii_check, pii_replace, pii_restore, screen
from discretion.cli_generate import generate
from discretion.cli_judge import judges
from discretion.cli_members import members
from discretion.cli_options import configured
from discretion.cli_tune import tune, tune_hosted
from discretion.config import AuditConfig, Settings, StudyRunConfig, load, read
from discretion.errors import EXIT_FAILURE, EXIT_INTERRUPTED, DiscretionError, UsageError
from discretion.progress import shown
from discretion.schema import Summary, to_json
from discretion.tables import effects_table, metrics_table, study_plan_table
from discretion.tune_config import EmbeddedConfig

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

app.add_typer(judges, name="judge")

pii = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Identifiers in text.")
app.add_typer(pii, name="pii")
pii.command("check")(pii_check)
pii.command("replace")(pii_replace)
pii.command("restore")(pii_restore)
app.add_typer(canaries, name="canaries")
app.command()(screen)
app.command()(generate)
app.command()(tune)
app.command("tune-hosted")(tune_hosted)
app.add_typer(members, name="members")

studies = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Many fine-tunings, audited alike, from a file."
)
app.add_typer(studies, name="study")

testbed = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The embedded chat model.")
app.add_typer(testbed, name="testbed")

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
RunFolderPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]
StudyFile = Annotated[Path, typer.Argument(metavar="FILE", help="The study, as YAML.")]
StudyOut = Annotated[Path | None, typer.Option("--out", help="The study's folder; studies/<name> by default.")]
Quietly = Annotated[bool, typer.Option("--quiet", help="No progress.")]


def main() -> None:
    """Every expected failure is one line on stderr and its documented exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Threads that spin while they wait stand in each other's way wherever something else runs too: one busy neighbour
    # on two cores made an audit ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except DiscretionError as error:
        print(f"discretion: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception:
        # Python's own exit code for a crash is 1, which a gate would read as a proven regression.
        traceback.print_exc()
        sys.exit(EXIT_FAILURE)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """What did this fine-tuning do to my model's discretion, and is it proven?"""
    if version:
        print(f"discretion {__version__}")
        raise typer.Exit


# ------------------------------------------------------------------------------------------------ verbs


@app.command()
@configured(EmbeddedConfig, into="tuning")
@configured(AuditConfig)
def audit(
    given: dict[str, Any],
    tuning: dict[str, Any],
    config: Annotated[Path | None, typer.Option("--config", help="YAML file with any of these options.")] = None,
    gate: Annotated[bool, typer.Option("--gate", help="End with the verdict's exit code.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be computed; load no weights.")] = False,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show identifiers in the report.")] = False,
    as_json: AsJson = False,
    quiet: Quietly = False,
) -> None:
    """Audit a fine-tuned model against its base, write the report, print the verdict.

    Without --base and --tuned: fine-tune the embedded testbed on an embedded set first, and audit that.
    """
    settings = None if config is None else read(config)
    unnamed = given["base"] is None and given["tuned"] is None
    if unnamed and (settings is None or settings.values.keys().isdisjoint({"base", "tuned"})):
        given |= _embedded_pair(tuning, given, settings, dry_run=dry_run, quiet=quiet)
    elif unused := next((name for name, value in tuning.items() if value is not None), None):
        raise UsageError(f"--{unused.replace('_', '-')}: has no effect on models that are named; leave it out")
    resolved = load(AuditConfig, given, settings)
    from discretion import audit as auditing
    from discretion.compare import summarise
    from discretion.report.page import write
    from discretion.risk import write_at_risk
    from discretion.store import write_summary

    pair = auditing.pair_for(resolved)
    if dry_run:
        _print_plan(auditing.dry_run(resolved, pair), as_json)
        return
    try:
        with shown(quiet=quiet) as progress:
            run = auditing.audit(resolved, pair, progress)
            progress.note("statistics and report")
            summary = summarise(run)
            write_summary(run, summary)
            write_at_risk(run)
            page = write(run, reveal=reveal)
    except KeyboardInterrupt:
        print("discretion: interrupted; what was measured is kept, and the same command resumes it", file=sys.stderr)
        raise
    _print_summary(summary, as_json, page)
    print(f"next: discretion gate {run}", file=sys.stderr)
    if gate:
        raise typer.Exit(summary.exit_code)


def _embedded_pair(
    tuning: Mapping[str, Any], given: Mapping[str, Any], settings: Settings | None, *, dry_run: bool, quiet: bool
) -> dict[str, str]:
    from discretion.audit import plan
    from discretion.models.testbed import NAME

    made = load(EmbeddedConfig, tuning)
    if dry_run:
        return {"base": NAME, "tuned": NAME}
    # What cannot be asked is told before the minutes of a tuning.
    plan(load(AuditConfig, {**given, "base": NAME, "tuned": f"{NAME}, tuned"}, settings))
    from discretion.tune.embedded import tuned_testbed

    with shown(quiet=quiet) as progress:
        return {"base": NAME, "tuned": str(tuned_testbed(made, Path("runs/tuned"), progress))}


@app.command()
def compare(first: RunFolderPath, second: RunFolderPath, as_json: AsJson = False) -> None:
    """Compare the tuned models of two runs over the same probes, the first as if it were the base."""
    from discretion.compare import compare_runs

    _print_summary(compare_runs(first, second), as_json)


@app.command()
def report(
    run: RunFolderPath,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show identifiers.")] = False,
) -> None:
    """Make summary and report anew from a run's outcomes, also of a run that was cut short; asks no model."""
    from discretion.compare import summarise
    from discretion.report.page import write
    from discretion.risk import write_at_risk
    from discretion.store import write_summary

    write_summary(run, summarise(run))
    write_at_risk(run)
    print(write(run, reveal=reveal))


@app.command()
def export(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="A run's folder.")] = None,
    jsonl: Annotated[Path | None, typer.Option("--jsonl", metavar="FILE", help="One object per item and arm.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="One line per item and arm.")] = None,
    inspect: Annotated[
        Path | None, typer.Option("--inspect", metavar="DIR", help="Logs that Inspect reads, one per suite and arm.")
    ] = None,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show identifiers.")] = False,
) -> None:
    """Write a run's outcomes for other tools. With RUN after the option and nothing else, the files lie in the run."""
    from discretion import export as doors

    given = [path for path in (jsonl, csv, inspect) if path is not None]
    if not given or (run is None and len(given) > 1):
        raise UsageError("export: needs a run and where to write; type: discretion export RUN --jsonl FILE")
    if run is None:
        run = given[0]
        jsonl, csv, inspect = (
            path and run / "export" / name
            for path, name in ((jsonl, "outcomes.jsonl"), (csv, "outcomes.csv"), (inspect, "inspect"))
        )

    def note(text: str) -> None:
        print(f"discretion: {text}", file=sys.stderr)

    if jsonl is not None:
        doors.write_jsonl(run, jsonl, reveal=reveal, note=note)
        print(jsonl)
    if csv is not None:
        doors.write_csv(run, csv, reveal=reveal, note=note)
        print(csv)
    if inspect is not None:
        for path in doors.write_inspect(run, inspect, reveal=reveal, note=note):
            print(path)


@app.command()
def gate(run: RunFolderPath, as_json: AsJson = False) -> None:
    """End with the verdict's exit code: 0 clean, 1 got worse, 3 inconclusive."""
    from discretion.store import read_summary

    summary = read_summary(run)
    print(json.dumps({"verdict": summary.verdict, "exit_code": summary.exit_code}) if as_json else summary.sentence)
    raise typer.Exit(summary.exit_code)


@app.command("list")
def list_probes(as_json: AsJson = False) -> None:
    """The probes, what each measures, and what it asks of a model."""
    from discretion.probes import NAMES
    from discretion.probes import probe as suite_named

    rows = [
        {
            "probe": name,
            "family": probe.family,
            "version": probe.version,
            "primary": next(m.name for m in probe.metrics if m.primary),
            "metrics": [m.name for m in probe.metrics],
            "needs": sorted(probe.needs),
        }
        for name, probe in ((name, suite_named(name)) for name in NAMES)
    ]
    if as_json:
        print(json.dumps({"probes": rows}, indent=2))
        return
    for row in rows:
        needs = ", ".join(row["needs"]) or "what the suite asked needs"
        print(f"{row['probe']:<11} {row['family']:<19} {row['primary']:<36} needs {needs}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this installation: libraries, device, hub access, and every scorer against replies of known truth."""
    from discretion.doctor import examine

    checks = examine()
    if as_json:
        print(json.dumps({"checks": [check._asdict() for check in checks]}, indent=2))
    else:
        for check in checks:
            print(f"{'ok ' if check.ok else 'BAD'} {check.name:<22} {check.found}")
    raise typer.Exit(0 if all(check.ok for check in checks) else EXIT_FAILURE)


def _planned(file: Path, out: Path | None, *, here: bool = False) -> Any:
    """The plan of a study; `here` is one that this machine is to carry out."""
    from discretion.study import cells, effects, memory
    from discretion.study.config import read

    config = read(file)
    plan = cells.plan(config, out or Path("studies") / config.name)
    effects.named_metrics(plan)
    if here:
        memory.check(plan)
    return plan


@studies.command("plan")
def study_plan(file: StudyFile, out: StudyOut = None, as_json: AsJson = False) -> None:
    """The cells of a study and what they cost; trains nothing, asks no model, writes nothing."""
    _print_study(_planned(file, out, here=True), as_json)


@studies.command("status")
def study_status(file: StudyFile, out: StudyOut = None, as_json: AsJson = False) -> None:
    """Which cells are done, which failed and why, and what is left."""
    _print_study(_planned(file, out), as_json)


@studies.command("run")
@configured(StudyRunConfig)
def study_run(given: dict[str, Any], file: StudyFile, as_json: AsJson = False, quiet: Quietly = False) -> None:
    """Carry out what is missing of a study, then write its summary and its report. Ends with 4 where a cell failed."""
    how = load(StudyRunConfig, given)
    from discretion.report import study_page
    from discretion.study import effects, run

    plan = _planned(file, how.out, here=how.ray is None)
    try:
        with shown(quiet=quiet) as progress:
            for line in study_plan_table(run.as_json(plan, run.results_of(plan))):
                progress.note(line)
            results = run.run(plan, how, progress)
            progress.note("statistics and report")
            summary = effects.summarise(plan, results)
            effects.write(plan, summary)
            page = study_page.write(plan.out)
    except KeyboardInterrupt:
        print("discretion: interrupted; what is done is kept, and the same command goes on", file=sys.stderr)
        raise
    if as_json:
        print(json.dumps({**to_json(summary), "report": str(page)}, indent=2))
    else:
        print("\n".join(effects_table(summary)))
        print(page)
    if not summary.complete:
        raise typer.Exit(EXIT_FAILURE)


@studies.command("report")
def study_report(
    file: StudyFile,
    out: StudyOut = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write tables and charts into this file as well, to be kept.")
    ] = None,
) -> None:
    """The summary and the report of a study as far as it is done, also while it is carried out."""
    from discretion.report import study_markdown, study_page
    from discretion.study import effects, run

    plan = _planned(file, out)
    if not any((plan.out / name).exists() for name in ("results", study_page.SUMMARY)):
        raise UsageError(f"{plan.out}: no study there; run it first: discretion study run {file}")
    summary = effects.summarise(plan, run.results_of(plan))
    kept = study_page.read(plan.out) if (plan.out / study_page.SUMMARY).exists() else summary
    if kept.done > summary.done:
        # weights, a probe or the file were changed since: what was measured before them is not thrown away
        print(f"{plan.out}: {kept.done} cells were done before something changed; they are shown", file=sys.stderr)
        summary = kept
    else:
        effects.write(plan, summary)
    if markdown is not None:
        print(study_markdown.write(summary, markdown))
    print(study_page.write(plan.out))


def _print_study(plan: Any, as_json: bool) -> None:
    from discretion.study import run

    told = run.as_json(plan, run.results_of(plan))
    print(json.dumps(told, indent=2) if as_json else "\n".join(study_plan_table(told)))


@testbed.command("build")
def build_testbed(
    out: Annotated[Path, typer.Option("--out", help="Folder of the training; the same command continues it.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of weights and text.")] = 0,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Fewer steps than the recipe's.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    compiled: Annotated[bool, typer.Option("--compile", help="Needs a C++ compiler on a CPU; quicker.")] = False,
    quiet: Quietly = False,
) -> None:
    """Train the embedded testbed anew from a seed, with its curve and its card; hours on a CPU."""
    from dataclasses import replace

    from discretion.store import make_private
    from discretion.tune.stream import Recipe
    from discretion.tune.testbed import build, draw_curve, finish

    if out.is_file():
        raise UsageError(f"--out {out}: is a file; give an empty or a new folder")
    make_private(out)
    recipe = Recipe(seed=seed)
    if steps is not None:
        recipe = replace(recipe, steps=steps)
    with shown(quiet=quiet) as progress:

        def told(row: Mapping[str, Any]) -> None:
            progress.note("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))

        build(out, recipe=recipe, device=device, compiled=compiled, on_progress=told)
        progress.note("measuring the finished model on held-out items")
        finish(out)
    print(draw_curve(out))
    print(out / "shipped")
    print(f"next: discretion audit --base {out / 'shipped'} --tuned TUNED", file=sys.stderr)


def _print_plan(plan: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(plan, indent=2))
        return
    about = "about " if plan["estimated"] else ""
    for name, probe in plan["probes"].items():
        print(
            f"{name:<11} {probe['items']:>7} items {probe['clusters']:>7} clusters "
            f"{about}{probe['tokens']:>12} tokens  from {probe['source']}"
        )
    if about:
        print("tokens are estimated at four characters each: an endpoint shows no tokenizer")


def _print_summary(summary: Summary, as_json: bool, page: Path | None = None) -> None:
    if as_json:
        print(json.dumps({**to_json(summary), "report": None if page is None else str(page)}, indent=2))
        return
    print(metrics_table(summary))
    print(summary.sentence)
    if page is not None:
        print(page)
