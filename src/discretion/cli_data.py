"""The command line's verbs on data sets: screened, canaries planted and proven; `cli.py` takes them in, same rules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from discretion.cli_options import must_be_new, must_have_a_folder
from discretion.errors import UsageError
from discretion.schema import to_json

if TYPE_CHECKING:
    from discretion.data.pii import Given
    from discretion.surprise import Watch

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Data = Annotated[str, typer.Argument(metavar="DATA", help="Fine-tuning set: a file, a folder or a hub id.")]
DataForm = Annotated[str | None, typer.Option("--form", help="Form of the rows, where columns fit several.")]

Names = Annotated[Path | None, typer.Option("--names", help="Text file: people in the data, one a line.")]
Patterns = Annotated[
    list[str] | None, typer.Option("--pattern", metavar="TYPE=REGEX", help="A record number; may be repeated.")
]
TaggerName = Annotated[
    str | None,
    typer.Option("--tagger", help="A model for names and places: spacy:MODEL, or a folder with a token classifier."),
]

canaries = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Canaries: planted secrets that tell how much is memorised."
)


def screen(
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The page.")] = Path("screen.html"),
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on",
            metavar="NAME[=SHARE]",
            help="End with code 1 where more rows than this share, or any, have it: left-out, problems, copies, "
            "probes, identifiers, proactive, emotional, profile, code, call. May be given several times.",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against", metavar="SUITE=FILE", help="Also look for copies of these questions, beside the embedded ones."
        ),
    ] = None,
    form: DataForm = None,
    ranked: Annotated[int, typer.Option("--ranked", min=1, help="Rows kept, highest score first.")] = 100,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show identifiers.")] = False,
    names: Names = None,
    pattern: Patterns = None,
    tagger: TaggerName = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Also tell how surprising each row is to this local model, and which it knows."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", help="With --model: one that did not see the rows, such as its base."),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub.")] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Look at a fine-tuning set before training: format, copies, identifiers, traits; a page, no model needed."""
    from discretion.data import screen as screening
    from discretion.progress import shown
    from discretion.report import screen_page

    conditions = fail_on or []
    # Neither an unknown name nor a page without a place must come to light after an hour of reading.
    screening.check_conditions(conditions)
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name the page in it, such as {out / 'screen.html'}")
    must_have_a_folder(out)
    if reference is not None and model is None:
        raise UsageError(f"--reference {reference}: goes with --model; give the model that is to be compared with it")
    given = _given(names, pattern, tagger)
    watch = None if model is None else _watch(model, reference, reveal, offline)
    texts = [*_questions(against or [], offline)]
    done = 0
    with shown(quiet=quiet) as progress:

        def tell(rows: int) -> None:
            nonlocal done
            done += rows
            if done % 51_200 == 0:
                progress.note(f"{done:,} rows")

        found = screening.screen(
            data,
            form=form,
            offline=offline,
            probes=texts,
            given=given,
            ranked=ranked,
            reveal=reveal,
            on_rows=tell,
            look=None if watch is None else watch.look,
        )
    if watch is not None:
        found = replace(found, surprise=watch.found())
    failed = screening.failing(found, conditions)
    page = screen_page.write(found, out, failed=failed, reveal=reveal)
    if as_json:
        plain = to_json(found)
        if not reveal:
            screen_page.mask_json(plain, found)
        print(json.dumps({**plain, "failed": failed, "page": str(page)}, indent=2, ensure_ascii=False))
    else:
        print(f"{found.used} of {found.rows} rows used, read as: {found.form}")
        for what, rows in screen_page.findings(found):
            print(f"{rows:>9}  {what}")
        if found.surprise is not None:
            told = found.surprise
            print(f"{told.nats:.2f} nats a token to {told.model}; half the rows over {told.median:.2f}")
        for condition in failed:
            print(f"failed: {condition}")
        print(page)
    raise typer.Exit(1 if failed else 0)


def _watch(model: str, reference: str | None, reveal: bool, offline: bool) -> Watch:
    """Opens the models. Raises as `open_arms` does, `UsageError` for an endpoint, which scores no given text."""
    from discretion.models import loading, local
    from discretion.surprise import Watch

    for name in (model, reference or ""):
        if name.startswith("openai:"):
            raise UsageError(f"{name}: an endpoint does not score given text; name a local model")
    base = reference or loading.sits_on(model, offline=offline)
    arms = local.open_arms(base, model, offline=offline)
    decode = arms.tuned.shared.text.tokenizer.decode
    return Watch(arms.tuned, decode, None if reference is None else arms.base, reveal=reveal)


def _questions(against: list[str], offline: bool) -> Iterator[tuple[str, str]]:
    """(suite, text) of all that the embedded questions, and those of the files named, hold."""
    from discretion.probes import EMBEDDED, probe

    sources: list[tuple[str, str | None]] = [(name, None) for name in EMBEDDED]
    for pair in against:
        suite, equals, file = pair.partition("=")
        if not equals or not file:
            raise UsageError(f"--against {pair}: not SUITE=FILE; write it as refusal=prompts.csv")
        sources.append((suite, file))
    for name, where in sources:
        for item in probe(name).items(where, offline=offline):
            yield from ((name, text) for text in _strings(to_json(item)))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


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
    from discretion.data.chats import read_chats, write_all

    if not all(part.strip().isdecimal() for part in repetitions.split(",")):
        raise UsageError(f"--repetitions {repetitions}: not a list of numbers; write it as 1,2,4")
    must_be_new(out, book)
    times = [int(part) for part in repetitions.split(",")]
    items = make(seed=seed, repetitions=times, secrets=secrets, references=references)
    chats = read_chats(data, form=form)
    rows = [chats.raw for _ in chats]
    planted = plant(rows, items, seed=seed, form=chats.form)
    write_all((book, map(to_json, items)), (out, planted))
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


@canaries.command("show")
def canaries_show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, with the suite exposure in it.")],
    as_json: AsJson = False,
) -> None:
    """The distribution of the exposure, base beside tuned, by form and number of rows."""
    from discretion.probes.exposure import distribution
    from discretion.store import read_manifest, read_outcomes

    if "exposure" not in read_manifest(run).items:
        raise UsageError(
            f"{run}: the suite exposure was not asked; audit with --probes exposure --source exposure=BOOK"
        )
    found = {arm: distribution(read_outcomes(run, arm, "exposure")) for arm in ("base", "tuned")}
    if as_json:
        print(json.dumps(found, indent=2))
        return
    heads = "".join(f"{name:>8}" for name in ("least", "25 %", "median", "75 %", "most"))
    print(f"{'form':<8} {'rows':>4} {'side':<8} {'arm':<6}{heads} {'extrapolated median':>20}")
    for arm, lines in found.items():
        for line in lines:
            bits = "".join(f"{value:>8.2f}" for value in line["bits"])
            place = f"{line['form']:<8} {line['rows']:>4} {line['side']:<8} {arm:<6}"
            print(f"{place}{bits} {line['extrapolated'][2]:>20.2f}")


# ------------------------------------------------------------------------------------------------ identifiers


def _given(names: Path | None, pattern: list[str] | None, tagger: str | None) -> Given:
    """What the user knows of the data. Raises `UsageError` for what cannot be read as asked, before any work."""
    from discretion.data import pii
    from discretion.data.rows import entries

    pairs = [part.partition("=") for part in pattern or []]
    if wrong := next((kind for kind, equals, regex in pairs if not (kind and equals and regex)), None):
        raise UsageError(f"--pattern {wrong}: not TYPE=REGEX; write it as BOOKING='BK-[0-9]{{6}}'")
    listed = entries(names, "--names: no such file") if names is not None else ()
    tag = None
    if tagger is not None and tagger.startswith("spacy:"):
        tag = pii.open_spacy(tagger.removeprefix("spacy:"))
    elif tagger is not None:
        from discretion.models.tagging import open_classifier

        tag = pii.tagger(open_classifier(tagger, pii.LABELS))
    return pii.Given(names=listed, patterns={kind: regex for kind, _, regex in pairs}, tagger=tag)


def pii_check(
    labels: Annotated[Path, typer.Option("--labels", metavar="FILE", help="Labelled texts: JSON or JSONL.")],
    names: Names = None,
    pattern: Patterns = None,
    tagger: TaggerName = None,
    as_json: AsJson = False,
) -> None:
    """Hold the detector of identifiers against labelled texts: precision, recall and F1 per type."""
    from discretion.data.labels import FOUND, check, read
    from discretion.data.pii import LABELS, find_many

    given = _given(names, pattern, tagger)
    types = {*FOUND, *given.patterns, *(LABELS.values() if given.tagger else ())}
    result = check(read(labels), lambda texts: find_many(texts, given), types)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'type':<20} {'precision':>9} {'recall':>7} {'f1':>6} {'exact f1':>8} {'labels':>7} {'found':>6}")
    for kind, row in result["types"].items():
        figures = ["–" if row[key] is None else f"{row[key]:.3f}" for key in ("precision", "recall", "f1", "exact_f1")]
        print(f"{kind:<20} {figures[0]:>9} {figures[1]:>7} {figures[2]:>6} {figures[3]:>8}", end="")
        print(f"{row['n']:>8} {row['found']:>6}")
    if result["unmatched_types"]:
        print("not looked for: " + ", ".join(f"{kind} ({n})" for kind, n in result["unmatched_types"].items()))


def pii_replace(
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="New file for the rows with their identifiers replaced.")],
    key: Annotated[Path, typer.Option("--key", help="New file for the key; keep it apart from the rows.")],
    style: Annotated[str, typer.Option("--style", help="surrogate, or placeholder such as [PERSON_1].")] = "surrogate",
    scope: Annotated[
        str, typer.Option("--scope", help="One replacement per value in the dataset, or in each conversation.")
    ] = "dataset",
    names: Names = None,
    pattern: Patterns = None,
    tagger: TaggerName = None,
    as_json: AsJson = False,
) -> None:
    """Replace the identifiers of a data set by surrogates of the same shape, or by placeholders; any form of rows."""
    from discretion.data.chats import write_chats
    from discretion.data.rows import read_rows
    from discretion.data.surrogates import replace, write_key

    if style not in ("surrogate", "placeholder") or scope not in ("dataset", "conversation"):
        raise UsageError(f"--style {style} --scope {scope}: give surrogate or placeholder; dataset or conversation")
    must_be_new(out, key)
    given = _given(names, pattern, tagger)
    rows = [row for _, row in read_rows(data)]
    replaced, made = replace(rows, given, style=style, scope=scope)  # type: ignore[arg-type]
    write_key(key, made)
    with ExitStack() as undo:
        undo.callback(key.unlink)
        write_chats(out, replaced)
        undo.pop_all()
    told = {"rows": len(replaced), "replacements": len(made.originals), "out": str(out), "key": str(key)}
    print(
        json.dumps(told, indent=2) if as_json else f"{len(made.originals)} replacements in {len(replaced)} rows: {out}"
    )


def pii_restore(
    data: Data,
    key: Annotated[Path, typer.Option("--key", help="The key that was written when they were replaced.")],
    out: Annotated[Path, typer.Option("--out", help="New file for the rows as they were.")],
) -> None:
    """Put the identifiers of replaced rows back; all of the rows or some, in any order."""
    from discretion.data.chats import write_chats
    from discretion.data.rows import read_rows
    from discretion.data.surrogates import read_key, restore

    rows = restore((row for _, row in read_rows(data)), read_key(key))
    print(f"{write_chats(out, rows)} rows: {out}")
