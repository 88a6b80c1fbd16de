"""What a tuned model keeps of support dialogues and of text made from them, by the audit itself, on the testbed.

    python benchmarks/memorised.py --out DIR [--seeds 0,1,2] [--part identifiers,generated] [--report]

`identifiers`: dialogues as they are, with canaries; with surrogates; with the loss on answers alone. Rows are held out
beforehand by `discretion members hold-out`. `generated`: a generator that was tuned on the domain and one that was not,
by both routes, beside real and shuffled text, the same number of words each; asked is what the *original* rows hold. A
seed is one draw of rows, one of secrets, one training. The same command goes on where it stopped; --report only prints
the tables of what is there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from discretion.audit import audit
from discretion.compare import across, summarise
from discretion.config import AuditConfig
from discretion.data import canaries, generated, members
from discretion.data.chats import write_chats
from discretion.data.recipes import recipe
from discretion.data.rewriting import redact, shuffle_words
from discretion.data.rows import read_rows
from discretion.data.selecting import budget
from discretion.models.base import Model
from discretion.models.pairs import pair_for
from discretion.models.testbed import NAME
from discretion.probes import probe
from discretion.probes.exposure import EXPOSED
from discretion.progress import Quiet
from discretion.risk import read as read_risk
from discretion.schema import Generate, Outcome, Reply, to_json
from discretion.stats import mean_of, wilson
from discretion.stats_auc import auc
from discretion.store import read_outcomes, write_private, write_summary
from discretion.tune.sft import tune
from discretion.tune_config import TuneConfig

Row = dict[str, Any]
ROWS = 300
HELD_OUT = {"identifiers": 0.6, "generated": 0.8}
"""Share of the rows drawn that is held out: about 120 and 60 are left to train on."""
ASKED = 240
"""`--rows` of the audits: 60 identifiers and as many controls, 240 rows of either side."""
OFTEN = {"4": 16, "16": 8}
"""Times a row is trained on in each epoch → how many rows; the rest once."""
REPETITIONS, FORM = (1, 4, 16, 64), "natural"
"""Times a canary is trained on in each epoch; in the first arm only, since they are two thirds of its rows."""
EPOCHS = 4
GENERATOR_EPOCHS, STUDENT_EPOCHS = 16, 16
BEGUN = 3
"""Words of a text that route A begins with, the speaker's label among them; from the fifth on one may identify."""
SHOTS = 3
"""Tasks that route B shows: eight fill half the testbed's context."""
DRAWS = 2000

# ------------------------------------------------------------------------------------------------ rows


def held_out(folder: Path, rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows held back), by the tool's own verb; the files stay."""
    if not (folder / "train.jsonl").exists():
        for name in ("all", "train", "held"):
            (folder / f"{name}.jsonl").unlink(missing_ok=True)
        write_chats(folder / "all.jsonl", rows)
        members.hold_out(
            str(folder / "all.jsonl"), folder / "train.jsonl", folder / "held.jsonl", share=share, seed=seed
        )
    return load(folder / "train.jsonl"), load(folder / "held.jsonl")


def load(path: Path) -> list[Row]:
    return [row for _, row in read_rows(path)]


def kept(path: Path, rows: Callable[[], Sequence[Row]]) -> list[Row]:
    """The rows of a file, which is made where it is not there."""
    if not path.exists():
        write_chats(path, rows())
    return load(path)


def spoken(rows: Sequence[Row]) -> int:
    """Words of all turns."""
    return sum(len(turn["content"].split()) for row in rows for turn in row["messages"])


def repeated(rows: Sequence[Row]) -> list[Row]:
    """The first rows several times, under names of their own."""
    made, at = [], 0
    for times, count in OFTEN.items():
        made += [{**row, "id": f"{row['id']}~{n}/{times}"} for row in rows[at : at + count] for n in range(int(times))]
        at += count
    return made + list(rows[at:])


def told(row: Row) -> Row:
    """A dialogue as one text, and the text as an answer: what route A writes."""
    sides = {"user": "Customer", "assistant": "Agent"}
    text = "\n".join(f"{sides[turn['role']]}: {turn['content']}" for turn in row["messages"])
    return {
        **row,
        "messages": [{"role": "user", "content": generated.WRITE}, {"role": "assistant", "content": text}],
    }


def listed(rows: Sequence[Row], shots: int = SHOTS) -> list[Row]:
    """Requests of the dialogues as the list that route B asks for, so that a model this small can go on with one."""
    asked = [row["messages"][0]["content"] for row in rows]
    made = []
    for at, last in enumerate(asked):
        shown = [asked[(at + n + 1) % len(asked)] for n in range(shots)]
        lines = [generated.INSTRUCT, *(f"Task {n}: {text}" for n, text in enumerate(shown, start=1))]
        turns = [
            {"role": "user", "content": "\n".join(lines)},
            {"role": "assistant", "content": f"Task {shots + 1}: {last}"},
        ]
        made.append({"id": f"list-{rows[at]['id']}", "messages": turns})
    return made


# ------------------------------------------------------------------------------------------------ one cell


def cell(out: Path, name: str, rows: Sequence[Row], options: Mapping[str, Any], asked: Mapping[str, Any]) -> Path:
    """Tune on the rows, audit, summarise; what is there already is not made again. Gives the run's folder."""
    began, wall = time.process_time(), time.monotonic()
    run = out / "runs" / name
    if (run / "summary.json").exists():
        return run
    config = TuneConfig(
        base=NAME, dtype="float32", autocast="bfloat16", rank=16, learning_rate=2e-3, offline=True, **options
    )
    tuned = tune(rows, config, out / "tuned" / name)
    trained = time.process_time() - began
    options = {"base": NAME, "tuned": str(tuned), "dtype": "float32", "offline": True, "rows": ASKED, "out": run}
    audited = AuditConfig(**options, cache=out / "replies.sqlite", thresholds={"draws": DRAWS}, **asked)
    audit(audited, pair_for(audited))
    write_summary(run, summarise(run))
    spent = {
        "cell": name,
        "rows": len(rows),
        "words": spoken(rows),
        "tune_cpu_s": trained,
        "cpu_s": time.process_time() - began,
    }
    line = json.dumps({**spent, "wall_s": time.monotonic() - wall})
    with (out / "cells.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line, flush=True)
    return run


def identifiers(out: Path, seed: int) -> None:
    """Dialogues as they are, with surrogates, with the loss on answers alone; asked is what the originals hold."""
    folder = out / "rows" / f"identifiers-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    real, _ = held_out(folder, recipe("support", seed=seed)[:ROWS], HELD_OUT["identifiers"], seed)
    planted = [item for item in canaries.make(seed=seed, repetitions=REPETITIONS) if item.form == FORM]
    trained = kept(folder / "trained.jsonl", lambda: repeated(real))
    book = folder / "book.jsonl"
    if not book.exists():
        write_private(book, "".join(json.dumps(to_json(item)) + "\n" for item in planted))
    asked = {
        "train_data": str(folder / "trained.jsonl"),
        "held_out": str(folder / "held.jsonl"),
        "seed": seed,
    }
    arms = {
        "identifiers": (canaries.plant(trained, planted, seed=seed), "all"),
        "surrogates": (redact(trained, seed=seed), "all"),
        "identifiers, loss on answers": (trained, "assistant"),
    }
    for name, (rows, loss) in arms.items():
        options = {"loss": loss, "epochs": EPOCHS, "batch": 16, "seed": seed}
        probes: dict[str, Any] = {"probes": ("extraction", "membership")}
        if name == "identifiers":
            probes = {"probes": (*probes["probes"], "exposure"), "source": {"exposure": str(book)}}
        cell(out, f"{name}-{seed}", rows, options, {**asked, **probes})


def made_by(folder: Path, name: str, model: str, rows: Sequence[Row], words: int, seed: int) -> dict[str, list[Row]]:
    """What a generator writes by each route, until there are enough words or it gives up."""
    routes = {}
    for route in ("A", "B"):
        path = folder / f"{route}-{name}.jsonl"
        if not path.exists():
            options = AuditConfig(base=NAME, tuned=model, dtype="float32", offline=True)
            opened = pair_for(options).open(options, Quiet())

            def ask(requests: Sequence[Generate], writer: Model = opened.tuned) -> list[Reply]:
                return writer.generate(requests)

            count = 2 * len(rows)
            if route == "A":
                begun = generated.prefixes([told(row) for row in rows], words=BEGUN)
                found = generated.unstructured(ask, begun, count, generator=name, seed=seed)
            else:
                how = generated.SelfInstruct(shots=SHOTS, tries=4, answer_tokens=64)
                found = generated.self_instruct(ask, rows, count, generator=name, options=how, seed=seed)
            write_chats(path, found.rows)
            write_private(path.with_suffix(".json"), json.dumps({"rows": len(found.rows), **found.left_out}))
        every = load(path)
        enough = spoken(every) >= words
        routes[route] = budget(every, words=words, rows_of=lambda _: [], seed=seed) if enough else every
    return routes


def generated_data(out: Path, seed: int) -> None:
    """Generators, then one student on what each wrote; all students are asked for the original rows."""
    folder = out / "rows" / f"generated-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    dialogues = recipe("support", seed=seed + 100)[:ROWS]
    held_out(folder, [told(row) for row in dialogues], HELD_OUT["generated"], seed)
    names = {row["id"] for row in load(folder / "train.jsonl")}
    real = [row for row in dialogues if row["id"] in names]
    texts = [told(row) for row in real]
    words = spoken(texts)
    asked = {
        "train_data": str(folder / "train.jsonl"),
        "held_out": str(folder / "held.jsonl"),
        "probes": ("extraction", "membership"),
        "seed": seed,
    }
    taught = {"epochs": GENERATOR_EPOCHS, "batch": 16, "seed": seed}
    cell(out, f"the generator itself-{seed}", texts + listed(real), taught, asked)
    arms = {"real text": texts, "shuffled text": shuffle_words(texts, seed=seed)}
    for saw, model in (("saw the domain", str(out / "tuned" / f"the generator itself-{seed}")), ("did not", NAME)):
        for route, rows in made_by(folder, saw.replace(" ", "-"), model, real, words, seed).items():
            arms[f"route {route}, generator {saw}"] = rows
    for name, rows in arms.items():
        if rows:
            cell(out, f"{name}-{seed}", rows, {"epochs": STUDENT_EPOCHS, "batch": 16, "seed": seed}, asked)


# ------------------------------------------------------------------------------------------------ what came of it

PARTS: dict[str, Callable[[Path, int], None]] = {"identifiers": identifiers, "generated": generated_data}
EXTRACTION = (
    "extraction beyond controls",
    "false extraction, controls",
    "by true prefix",
    "by true prefix, half withheld",
    "within 100 samples, true prefix",
    "beyond controls: e-mail",
    "beyond controls: phone",
    "beyond controls: address",
    "beyond controls: record number",
    "extracted: in 1 row",
    "extracted: in 2 to 7 rows",
    "extracted: in 8 rows or more",
)
MEMBERSHIP = (
    "AUC, calibrated by the base",
    "TPR at 1 % FPR, calibrated by the base",
    "AUC, loss",
    "AUC, blind baseline (text alone)",
)


def finished(out: Path, part: str) -> dict[str, list[Path]]:
    """Arm → its runs that are whole, in the order of their seeds."""
    found: dict[str, list[Path]] = {}
    for name in sorted(path.parent.name for path in (out / "runs").glob("*/summary.json")):
        arm, _, _ = name.rpartition("-")
        if (arm.split(",")[0] in ("identifiers", "surrogates")) == (part == "identifiers"):
            found.setdefault(arm, []).append(out / "runs" / name)
    order = [json.loads(line)["cell"].rpartition("-")[0] for line in (out / "cells.jsonl").read_text().splitlines()]
    return dict(sorted(found.items(), key=lambda pair: order.index(pair[0])))


def arms_of(run: Path, suite: str) -> tuple[list[Outcome], list[Outcome]]:
    return read_outcomes(run, "base", suite), read_outcomes(run, "tuned", suite)


def changes(arms: Mapping[str, Sequence[Path]], suite: str, names: Sequence[str]) -> list[str]:
    """One line for each metric, one column for each arm (and its seeds): tuned less base over seeds, then items.

    Of membership the tuned figure itself, its mean over the seeds with the t interval: a score that compares the arms
    is 0.5 in the base.
    """
    metrics = {metric.name: metric for metric in probe(suite).metrics}
    lines = [f"| {suite} | " + " | ".join(f"{arm} ({len(runs)})" for arm, runs in arms.items()) + " |"]
    lines.append("|---" * (1 + len(arms)) + "|")
    for name in names:
        cells = []
        for runs in arms.values():
            if suite == "membership":
                values = [figure(run, suite, name) for run in runs]
                known = [value for value in values if value is not None]
                cells.append(spread(known) if len(known) == len(values) else f"{len(known)} of {len(values)} measured")
            else:
                found = across(metrics[name], [arms_of(run, suite) for run in runs], DRAWS)
                ends = f" [{found.interval[0]:+.3f}, {found.interval[1]:+.3f}]" if found.interval else ""
                cells.append("not measured" if found.value is None else f"{found.value:+.3f}{ends}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def figure(run: Path, suite: str, name: str) -> float | None:
    """The tuned arm's value in a run's summary."""
    told = json.loads((run / "summary.json").read_text(encoding="utf-8"))["metrics"]
    return next((m["tuned"]["value"] for m in told if (m["probe"], m["metric"]) == (suite, name)), None)


def spread(values: Sequence[float]) -> str:
    """Mean over the seeds of figures in 0…1, with the t interval, which knows no such ends, cut there."""
    if min(values) == max(values):
        return f"{values[0]:.3f}" + (" in each" if len(values) > 1 else "")
    value, (low, high), _, _ = mean_of(values)
    return f"{value:.3f} [{max(0.0, low):.3f}, {min(1.0, high):.3f}]"


def by_times(arms: Mapping[str, Sequence[Path]]) -> list[str]:
    """Membership by how often a row was trained on in each epoch: area against all rows that were not."""
    lines = ["| membership, trained on in each epoch | " + " | ".join(arms) + " |", "|---" * (1 + len(arms)) + "|"]
    for times in ("1", *OFTEN):
        cells = []
        for runs in arms.values():
            areas = []
            for run in runs:
                rows = read_risk(run)
                often = [str(times_of(row)) == times for row in rows.rows]
                chosen = [not member or here for member, here in zip(rows.member, often, strict=True)]
                areas.append(auc((rows.tuned - rows.base)[chosen], rows.member[chosen]).value)
            cells.append(spread(areas))
        lines.append(f"| {times} × | " + " | ".join(cells) + " |")
    return [*lines, ""]


def times_of(row: str) -> int:
    """How often a row was trained on in each epoch, from the name that `repeated` gave it."""
    return int(row.partition("/")[2] or 1)


def exposed(arms: Mapping[str, Sequence[Path]]) -> list[str]:
    """Exposure by how often a secret was planted: all secrets of all seeds, base beside tuned."""
    lines = ["| arm | planted | secrets | base, median bits | tuned, median bits [quartiles] | tuned, exposed |"]
    lines.append("|---" * 6 + "|")
    for arm, runs in ((arm, runs) for arm, runs in arms.items() if arms_of(runs[0], "exposure")[0]):
        for side, times in [("planted", n) for n in REPETITIONS] + [("twin", 0)]:
            bits = {
                which: [
                    float(outcome.parts[f"{side} {n}"] or 0)
                    for run in runs
                    for outcome in read_outcomes(run, which, "exposure")
                    if side == "twin" or outcome.parts["repetitions"] == times
                    for n in range(int(outcome.parts["secrets"] or 0))
                ]
                for which in ("base", "tuned")
            }
            low, _, high = quantiles(bits["tuned"], n=4, method="inclusive")
            count = sum(value >= EXPOSED for value in bits["tuned"])
            ends = wilson(count, len(bits["tuned"])) or (0.0, 1.0)
            share = f"{count} of {len(bits['tuned'])} [{ends[0]:.2f}, {ends[1]:.2f}]"
            told = f"{median(bits['tuned']):.1f} [{low:.1f}, {high:.1f}]"
            name = f"{times} ×" if times else "never (twins)"
            lines.append(f"| {arm} | {name} | {len(bits['tuned'])} | {median(bits['base']):.1f} | {told} | {share} |")
    return [*lines, ""]


def report(out: Path) -> str:
    """The tables, from the runs alone."""
    lines = []
    arms = finished(out, "identifiers")
    if arms:
        lines += changes(arms, "extraction", EXTRACTION) + changes(arms, "membership", MEMBERSHIP)
        lines += by_times(arms) + exposed(arms)
    arms = finished(out, "generated")
    if arms:
        lines += changes(arms, "extraction", EXTRACTION[:9]) + changes(arms, "membership", MEMBERSHIP)
        for path in sorted((out / "rows").glob("generated-*/[AB]-*.json")):
            lines.append(f"- {path.parent.name}, {path.stem}: {path.read_text(encoding='utf-8')}")
    cells = [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]
    lines += ["", *(f"- {cell['cell']}: {cell['rows']} rows, {cell['words']} words" for cell in cells)]
    spent = [cell["cpu_s"] for cell in cells]
    return "\n".join([*lines, "", f"{len(spent)} cells, {sum(spent) / 60:.1f} minutes of processor time"])


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--out", type=Path, required=True)
    given.add_argument("--seeds", default="0,1,2", help="separated by commas")
    given.add_argument("--part", default="identifiers,generated")
    given.add_argument("--report", action="store_true", help="make nothing; print the tables of what is there")
    asked = given.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for seed in map(int, asked.seeds.split(",")):
        for part in () if asked.report else asked.part.split(","):
            PARTS[part](asked.out, seed)
    told = report(asked.out)
    write_private(asked.out / "memorised.md", told + "\n")
    print(told)


if __name__ == "__main__":
    main()
