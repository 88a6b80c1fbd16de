"""The command line's verbs on members: rows held back before training, rows at risk after. Same rules as `cli.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from discretion.cli_options import must_be_new

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]

members = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Membership: rows held back, rows that the model gives away."
)


@members.command("hold-out")
def hold_out(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Fine-tuning set: a file, a folder or a hub id.")],
    train: Annotated[Path, typer.Option("--train", help="New file for the rows to train on.")],
    held_out: Annotated[Path, typer.Option("--held-out", help="New file for the rows that must not be trained on.")],
    share: Annotated[float, typer.Option("--share", min=0.0, max=1.0, help="Share of the rows held back.")] = 0.1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draw.")] = 0,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hold rows back at random before training, so that membership can be measured afterwards."""
    from discretion.data.members import hold_out as divide

    must_be_new(train, held_out)
    told = divide(data, train, held_out, share=share, seed=seed, offline=offline)
    if as_json:
        print(json.dumps(told, indent=2))
        return
    print(f"{told['train']} rows to train on: {train}")
    print(f"{told['held_out']} rows held back: {held_out}")
    for reason, count in told["left_out"].items():
        print(f"left out: {count} with {reason}")
    print(f"next: tune on {train}, then discretion audit … --train-data {train} --held-out {held_out}")


@members.command("references")
def references(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Pairs; each row is unseen by one of each.")] = 2,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Tune reference models as the audited one was, on random halves of both files, for LiRA and RMIA."""
    from discretion.progress import shown
    from discretion.references import make

    with shown(quiet=quiet) as progress:
        folder = make(run, pairs, progress)
    print(f"next: discretion members show {run}")
    print(folder)


@members.command("show")
def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    reference: Annotated[
        list[Path] | None,
        typer.Option("--reference", help="Run of a model tuned on other rows, over the same files; several times."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the ids of the rows at risk: JSONL.")] = None,
    as_json: AsJson = False,
) -> None:
    """How well members are told from non-members, and which rows are at risk; asks no model.

    References that `members references` tuned for this run are used by themselves.
    """
    from discretion import risk

    rows = risk.read(run, [*risk.tuned_for(run), *(reference or ())])
    found, told = risk.at_risk(rows), risk.figures(rows)
    if out is not None:
        risk.export(out, found)
    summary: dict[str, Any] = {
        "members": int(rows.member.sum()),
        "non_members": int((~rows.member).sum()),
        "at_risk": len(found),
        "by_chance": risk.by_chance(rows),
        "scores": told,
    }
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    for row in told:
        low, high = row["interval"] or (float("nan"),) * 2
        rate = "needs 99 non-members"
        if row["tpr"] is not None:
            ends = row["tpr_interval"]
            rate = f"{row['tpr']:.3f} " + (f"[{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "(an interval needs 299)")
        print(f"{row['score']:<24} AUC {row['auc']:.3f} [{low:.3f}, {high:.3f}]   TPR at 1 % FPR {rate}")
    print(f"{len(found)} of {summary['members']} rows at risk; {summary['by_chance']:.1f} would come out by chance")
    if out is not None:
        print(out)
