"""The command line's verbs on data sets: canaries planted and proven. Same rules as `cli.py`, which takes them in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from discretion.errors import UsageError
from discretion.schema import to_json

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Data = Annotated[str, typer.Argument(metavar="DATA", help="Fine-tuning set: a file, a folder or a hub id.")]
DataForm = Annotated[str | None, typer.Option("--form", help="Form of the rows, where columns fit several.")]

canaries = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Canaries: planted secrets that tell how much is memorised."
)


@canaries.command("plant")
def canaries_plant(
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="New file for the rows with the canaries among them.")],
    book: Annotated[Path, typer.Option("--book", help="New file that says what was planted; audits need it.")],
    repetitions: Annotated[str, typer.Option("--repetitions", help="Rows per secret.")] = "1,2,4,8,16,32,64",
    secrets: Annotated[int, typer.Option("--secrets", help="Secrets for each number of rows and form.")] = 10,
    references: Annotated[int, typer.Option("--references", help="Fillings that a secret is ranked among.")] = 10_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of secrets and places.")] = 0,
    form: DataForm = None,
    as_json: AsJson = False,
) -> None:
    """Plant secrets into a fine-tuning set, each a chosen number of times, and write down which."""
    from discretion.data.canaries import make, plant
    from discretion.data.chats import load_chats, write_chats

    if not all(part.strip().isdecimal() for part in repetitions.split(",")):
        raise UsageError(f"--repetitions {repetitions}: not a list of numbers; write it as 1,2,4")
    times = [int(part) for part in repetitions.split(",")]
    items = make(seed=seed, repetitions=times, secrets=secrets, references=references)
    rows, chats = load_chats(data, form=form)
    planted = plant(rows, items, seed=seed)
    write_chats(book, map(to_json, items))
    write_chats(out, planted)
    told = {"rows": len(planted), "canary_rows": len(planted) - len(rows), "form": chats.form, "out": str(out)}
    told |= {"left_out": dict(chats.left_out), "book": str(book)}
    if as_json:
        print(json.dumps(told, indent=2))
        return
    print(f"{len(rows)} rows ({chats.form}) and {told['canary_rows']} with canaries: {out}")
    for reason, count in chats.left_out.most_common():
        print(f"left out: {count} with {reason}")
    print(f"next: tune on {out}, then discretion audit … --probes exposure --source exposure={book}")


@canaries.command("check")
def canaries_check(
    book: Annotated[Path, typer.Argument(metavar="BOOK", help="What `canaries plant` wrote down.")],
    base: Annotated[str, typer.Option("--base", help="Model that is fine-tuned: its tokenizer and template count.")],
    template: Annotated[str | None, typer.Option("--template", help="As the tuning gets it.")] = None,
    loss: Annotated[str, typer.Option("--loss", help="Where the loss falls: assistant or all.")] = "assistant",
    max_length: Annotated[int, typer.Option("--max-length", min=8, help="Tokens at which rows are cut.")] = 1024,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub.")] = False,
    as_json: AsJson = False,
) -> None:
    """Prove, without training, that every planted secret will get loss; ends with 2 where one does not."""
    from discretion.models.loading import find, load_tokenizer
    from discretion.probes.exposure import PROBE
    from discretion.schema import CanaryItem
    from discretion.tune.planted import without_loss
    from discretion.tune.tokens import text_for

    if loss not in ("assistant", "all"):
        raise UsageError(f"--loss {loss}: give assistant or all")
    items = [item for item in PROBE.items(book) if isinstance(item, CanaryItem)]
    text = text_for(load_tokenizer(find(base, offline=offline)), template, base)
    lost = without_loss(text, items, loss="all" if loss == "all" else "assistant", max_length=max_length)
    secrets = sum(len(item.planted) for item in items)
    if as_json:
        print(json.dumps({"secrets": secrets, "without_loss": lost}, indent=2))
    if lost:
        raise UsageError(
            f"{book}: {sum(lost.values())} of {secrets} secrets do not lie under the loss ({', '.join(lost)}); "
            "raise --max-length, or plant shorter ones"
        )
    if not as_json:
        print(f"all {secrets} secrets lie under the loss as a whole")
