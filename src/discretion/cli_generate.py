"""The command line's verb that has a model write fine-tuning rows; `cli.py` takes it in, same rules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from discretion.cli_options import configured, must_be_new
from discretion.config import AuditConfig, GenerateConfig, load
from discretion.errors import UsageError
from discretion.schema import Generate, Reply

TWINS = {"pairs": ".control.jsonl", "log": ".plain.jsonl"}
"""Route to the ending of the file of the twins."""


@configured(GenerateConfig)
def generate(
    given: dict[str, Any],
    out: Annotated[Path, typer.Option("--out", help="File of the rows, JSONL; a new one; twins go beside it.")],
    data: Annotated[
        str | None, typer.Option("--data", help="Rows to begin from: a file, a hub id, or recipe:NAME; not for pairs.")
    ] = None,
    form: Annotated[str | None, typer.Option("--form", help="Form of the rows, where columns fit several.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Have a model write fine-tuning rows: texts that go on from others' first words, instructions, pairs, logging."""
    config = load(GenerateConfig, given)
    twin = out.with_suffix(TWINS.get(config.route, out.suffix))
    must_be_new(*{out, twin})
    if (data is None) != (config.route == "pairs"):
        raise UsageError("--data: routes text, instruct and log begin from rows and need it, pairs has no use for it")
    from discretion.audit import pair_for
    from discretion.data import generated, paired, relogged
    from discretion.data.chats import write_chats
    from discretion.data.sets import load_set
    from discretion.models.loading import sits_on
    from discretion.models.moderation import moderation
    from discretion.models.pairs import ENDPOINT
    from discretion.progress import shown

    rows = load_set(data, form=form)[0] if data is not None else []
    moderate = moderation(config.moderation, config.base_url) if config.moderation is not None else None
    where = config.model_dump(include={"device", "dtype", "offline", "base_url"}, exclude_unset=True)
    base = config.model if config.model.startswith(ENDPOINT) else sits_on(config.model, offline=config.offline)
    options = load(AuditConfig, {"base": base, "tuned": config.model, **where})
    with shown(quiet=quiet) as progress:
        model = pair_for(options).open(options, progress).tuned
        progress.begin("generate", config.rows)

        def ask(requests: Sequence[Generate]) -> list[Reply]:
            return model.generate(requests, lambda _index, _reply: progress.advance())

        name = f"{config.model}@{model.digest[:12]}"
        twins: list[generated.Row] = []
        asked = config.model_dump(include={"temperature", "max_tokens", "seed"}, exclude_unset=True)
        if config.route == "text":
            beginnings = generated.prefixes(rows, words=config.words)
            made = generated.unstructured(
                ask,
                beginnings,
                config.rows,
                generator=name,
                temperature=config.temperature,
                max_tokens=config.max_tokens,
                seed=config.seed,
            )
        elif config.route == "pairs":
            both = paired.paired(ask, config.rows, generator=name, moderate=moderate, **asked)
            made, twins = generated.Made(both.helpful, both.left_out), both.control
        elif config.route == "log":
            found = relogged.relogged(ask, rows, config.rows, generator=name, **asked)
            made, twins = generated.Made(found.rows, found.left_out), found.twins
        else:
            published = config.model_dump(include={"shots", "temperature", "least_words", "most_words", "overlap"})
            how = generated.SelfInstruct(**published, answer_tokens=config.max_tokens)
            made = generated.self_instruct(ask, rows, config.rows, generator=name, options=how, seed=config.seed)
    if not made.rows:
        why = ", ".join(f"{n} × {reason}" for reason, n in made.left_out.items())
        raise UsageError(f"--model {config.model}: wrote nothing that can be used ({why}); try another model or route")
    write_chats(out, made.rows)
    if twins:
        write_chats(twin, twins)
    told = {"rows": len(made.rows), "left_out": dict(made.left_out), "generator": name, "seed": config.seed}
    if as_json:
        print(json.dumps({**told, "out": str(out)}, indent=2))
        return
    for reason, count in made.left_out.items():
        print(f"left out: {count} × {reason}")
    print(f"{len(made.rows)} rows by {name}")
    print(out)
