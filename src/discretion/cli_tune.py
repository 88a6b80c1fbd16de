"""The command line's verbs that fine-tune; `cli.py` takes them in, same rules."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from discretion.cli_options import configured
from discretion.config import HostedConfig, load
from discretion.progress import Progress, shown
from discretion.schema import to_json
from discretion.tune_config import TuneConfig

Data = Annotated[str, typer.Option("--data", help="Rows: a file, a folder, a hub id, or recipe:NAME.")]
Rows = Annotated[int | None, typer.Option("--rows", min=1, help="Use the first N rows.")]
DataSeed = Annotated[int, typer.Option("--data-seed", min=0, help="Seed of a recipe's rows.")]
Form = Annotated[str | None, typer.Option("--form", help="Form of the rows, where columns fit several.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Quietly = Annotated[bool, typer.Option("--quiet", help="No progress.")]


@configured(TuneConfig)
def tune(
    given: dict[str, Any],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder of the tuned model; it appears when it is whole.")],
    rows: Rows = None,
    data_seed: DataSeed = 0,
    form: Form = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file with options of the training.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show options and figures; load no weights.")] = False,
    as_json: AsJson = False,
    quiet: Quietly = False,
) -> None:
    """Fine-tune a local model on chat rows, with TRL and PEFT (extra `tune`), ready to be audited."""
    resolved = load(TuneConfig, given, config)
    from discretion.data.sets import load_set
    from discretion.tune import sft

    chats, facts = load_set(data, form=form, n=rows, seed=data_seed, offline=resolved.offline)
    if dry_run:
        figures = sft.preview(chats, resolved)
        plan = {**resolved.model_dump(mode="json"), "learning_rate": resolved.rate, "set": to_json(facts), **figures}
        print(json.dumps(plan, indent=2) if as_json else yaml.safe_dump(plan, sort_keys=False), end="")
        return
    with shown(quiet=quiet) as progress:
        for reason, count in facts.left_out.items():
            progress.note(f"{data}: {count} of {facts.read} rows left out: {reason}")
        folder = sft.tune(chats, resolved, out, on_progress=_told(progress))
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes the first one speaks
    made = sft.read_tuning(folder)
    if as_json:
        print(json.dumps(to_json(made) | {"out": str(folder)}, indent=2))
    else:
        speed = f"{made.seconds:.0f} s, {made.tokens_per_second:.0f} tokens/s"
        losses = f"loss {made.losses[0]:.3f} to {made.losses[-1]:.3f} nats"
        where = f"{made.loss_share:.0%} of the tokens ({made.loss_from})"
        print(f"{made.steps} steps on {made.rows} rows in {speed}; {losses} on {where}")
        if made.privacy is not None:
            print(made.privacy.sentence)
        print(folder)
    print(
        "next: " + shlex.join(["discretion", "audit", "--base", resolved.base, "--tuned", str(folder)]), file=sys.stderr
    )


def _told(progress: Progress) -> Callable[[Mapping[str, Any]], None]:
    """Steps of a training as a bar, its loss as a line now and then."""
    begun: list[int] = []

    def tell(row: Mapping[str, Any]) -> None:
        if "note" in row:
            progress.note(row["note"])
            return
        if not begun:
            begun.append(row["steps"])
            progress.begin("tune", row["steps"], row["step"] - 1)
        progress.advance()
        if row["step"] % max(1, row["steps"] // 10) == 0:
            progress.note(f"step {row['step']}: loss {row['loss']:.3f}")

    return tell


@configured(HostedConfig)
def tune_hosted(
    given: dict[str, Any],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder that says how far it has come; resumes what is there.")],
    rows: Rows = None,
    data_seed: DataSeed = 0,
    form: Form = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file with any of these options.")] = None,
    upload: Annotated[bool, typer.Option("--upload", help="Send the rows; without it, only estimate.")] = False,
    as_json: AsJson = False,
    quiet: Quietly = False,
) -> None:
    """Fine-tune at a host with OpenAI's or Together's API: estimate; with --upload send the rows, start and wait."""
    resolved = load(HostedConfig, given, config)
    from discretion.data.sets import load_set
    from discretion.tune import hosted

    chats, _ = load_set(data, form=form, n=rows, seed=data_seed)
    found = hosted.estimate(chats, resolved)
    if not upload:
        if as_json:
            print(json.dumps(to_json(found), indent=2))
            return
        epochs = f"{found.epochs} epochs" + (" (assumed; the host will choose)" if found.assumed else "")
        cost = "give --price for the cost" if found.cost is None else f"about {found.cost:.2f}"
        print(f"{found.rows} rows, about {found.tokens} tokens, {epochs}: {cost}")
        print(f"nothing was sent; with --upload the messages of these rows go to {resolved.base_url}", file=sys.stderr)
        return
    try:
        with shown(quiet=quiet) as progress:
            made = hosted.tune_hosted(chats, resolved, out, tell=progress.note)
    except KeyboardInterrupt:
        print("discretion: interrupted; a job that began goes on, and the same command waits for it", file=sys.stderr)
        raise
    print(json.dumps(to_json(made), indent=2) if as_json else made.model)
    named = ["--base", f"openai:{resolved.base}", "--tuned", f"openai:{made.model}", "--base-url", resolved.base_url]
    print("next: " + shlex.join(["discretion", "audit", *named]), file=sys.stderr)
