"""The fine-tuning sets of the field as chat rows: by recipe, by file or by hub id, with ids of their own.

`load_set` knows the documented columns of EmpatheticDialogues, TweetSumm, Schema-Guided Dialogue and MultiWOZ, ABCD,
Bitext support and OpenCodeInstruct, and plain text files; anything else goes through `chats`, form by form. Nothing is
downloaded but what a hub id names, and nothing is dropped in silence: `SetFacts.left_out` counts it.
"""

from __future__ import annotations

import difflib
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from discretion.data import chats
from discretion.data.recipes import SIZES, recipe
from discretion.data.rows import content_id, read_lines, read_rows
from discretion.errors import DataError, nearest

Row = dict[str, Any]
Turns = list[dict[str, str]]
RECIPE = "recipe:"
"""What the name of an embedded set begins with."""
RECIPE_ROWS = 1000
"""Rows of a recipe when no number is given."""


@dataclass(frozen=True, slots=True)
class SetFacts:
    """What was read: the manifest of a set."""

    source: str
    form: str
    read: int
    """Rows, or dialogues, seen."""
    used: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason to how many."""


@dataclass(frozen=True, slots=True)
class SetForm:
    """One public set in one of its published shapes."""

    name: str
    columns: frozenset[str]
    """All must be there in the first row."""
    row: Callable[[Mapping[str, Any]], tuple[str, Turns]]
    """A dialogue to its own id ('' for none) and its turns; raises any error of lookup or type where it is none."""
    keep: tuple[str, ...] = ()
    """Columns that stay with the row, for stratified samples."""
    once: bool = False
    """The set repeats a row for each label on it; the same turns count once."""


def load_set(
    source: str, *, form: str | None = None, n: int | None = None, seed: int = 0, offline: bool = False
) -> tuple[list[Row], SetFacts]:
    """The rows of `recipe:NAME`, a file, a folder or a hub id, the first `n` of them.

    `form` names a form, in any case, where the columns fit several. `seed` is that of a recipe. Raises `DataError` in
    one line, also for an `n` above the rows that there are.
    """
    if source.startswith(RECIPE):
        wanted = n or RECIPE_ROWS
        made = recipe(source.removeprefix(RECIPE), seed=seed, n=max(wanted, SIZES[0]))[:wanted]
        return made, SetFacts(source, "recipe", len(made), len(made))
    form = None if form is None else _named(source, form)
    if Path(source).suffix.lower() == ".txt" and Path(source).is_file():
        rows, facts = _texts(source, form)
    else:
        found = _special(source, form, offline)
        if found is None:
            rows, read = chats.load_chats(source, form=form, offline=offline)
            facts = SetFacts(source, read.form, read.read, read.used, dict(read.left_out))
        else:
            rows, facts = found
    if n is not None and n > len(rows):
        raise DataError(
            f"{source}: {n} rows are asked for, {len(rows)} can be used; ask for no more, or give more rows"
        )
    return rows[:n], facts


def _named(source: str, asked: str) -> str:
    """The name of a form as it is written here, from one in any case."""
    names = [form.name for form in (*FORMS, *chats.FORMS)]
    known = {name.lower(): name for name in (*names, EMPATHETIC, LINES)} | {a.lower(): n for a, n in ALSO.items()}
    if asked.lower() in known:
        return known[asked.lower()]
    close = difflib.get_close_matches(asked.lower(), known, n=1)
    raise DataError(f"{source}: unknown form {asked!r}; {nearest(known[close[0]] if close else asked, known.values())}")


# ------------------------------------------------------------------------------------------------ the shapes

_SIDES = {"user": "user", "customer": "user", "agent": "assistant", "system": "assistant", "assistant": "assistant"}
_TAGGED = re.compile(r"^\s*(user|agent):[ \t]*", re.IGNORECASE | re.MULTILINE)


def _turns(said: Iterable[tuple[str, str]]) -> Turns:
    """(side, text) to turns: what one side says in a row is one turn, and what follows the last answer is left out."""
    turns: Turns = []
    for side, text in said:
        role, text = _SIDES[side.lower()], text.strip()
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n{text}"
        else:
            turns.append({"role": role, "content": text})
    while turns and turns[-1]["role"] != "assistant":
        turns.pop()
    return turns


def _empathetic_chat(row: Mapping[str, Any]) -> tuple[str, Turns]:
    return str(row["conv_id"]), _turns((turn["role"], turn["content"]) for turn in row["conversations"])


def _tweetsumm_tuned(row: Mapping[str, Any]) -> tuple[str, Turns]:
    _, *parts = _TAGGED.split(row["conversation"])
    return "", _turns(zip(parts[::2], parts[1::2], strict=True))


def _dialogstudio(row: Mapping[str, Any]) -> tuple[str, Turns]:
    said = []
    for turn in row["log"]:
        for side, column in (("user", "user utterance"), ("agent", "system response")):
            if turn[column].strip():
                said.append((side, turn[column]))
    return str(row["original dialog id"]), _turns(said)


def _guided(row: Mapping[str, Any]) -> tuple[str, Turns]:
    """SGD and MultiWOZ 2.2: a list of turns, or on the hub one list per field with speakers 0 and 1."""
    turns = row["turns"]
    if isinstance(turns, Mapping):
        sides = ("user", "system")
        said = [(sides[s], u) for s, u in zip(turns["speaker"], turns["utterance"], strict=True)]
    else:
        said = [(turn["speaker"], turn["utterance"]) for turn in turns]
    return str(row["dialogue_id"]), _turns(said)


def _abcd(row: Mapping[str, Any]) -> tuple[str, Turns]:
    """Without the agent's button presses, which nobody said."""
    return str(row["convo_id"]), _turns((side, text) for side, text, *_ in row["original"] if side != "action")


def _asked(question: str, answer: str) -> Callable[[Mapping[str, Any]], tuple[str, Turns]]:
    return lambda row: (str(row.get("id") or ""), _turns((("user", row[question]), ("agent", row[answer]))))


FORMS = (
    SetForm(
        "EmpatheticDialogues, chats",
        frozenset(("conv_id", "situation", "emotion", "conversations")),
        _empathetic_chat,
        ("emotion",),
    ),
    SetForm("TweetSumm, tuned", frozenset(("conversation", "summary")), _tweetsumm_tuned),
    SetForm("DialogStudio", frozenset(("original dialog id", "log")), _dialogstudio),
    SetForm("Schema-Guided Dialogue", frozenset(("dialogue_id", "services", "turns")), _guided, ("services",)),
    SetForm("ABCD", frozenset(("convo_id", "original")), _abcd),
    SetForm(
        "Bitext",
        frozenset(("instruction", "response", "intent", "category")),
        _asked("instruction", "response"),
        ("intent", "category"),
        once=True,
    ),
    SetForm(
        "OpenCodeInstruct",
        frozenset(("id", "input", "output", "generation_algorithm")),
        _asked("input", "output"),
        ("domain", "average_test_score"),
    ),
)
EMPATHETIC = "EmpatheticDialogues"
"""The official CSV files: one line per utterance."""
PARAGRAPHS, LINES = "plain text", "plain text, lines"
"""Of a text file: a text is a paragraph, blank lines between them; or a line."""
ALSO = {"GSM8K": "question, answer"}
"""A set that is known by another name than its form."""
_HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance"


# ------------------------------------------------------------------------------------------------ reading


def _special(source: str, asked: str | None, offline: bool) -> tuple[list[Row], SetFacts] | None:
    """The rows of one of `FORMS`; None where neither name nor columns are of any."""
    named = {form.name: form for form in FORMS}
    if asked == EMPATHETIC or _is_official(source):
        return _collected(source, SetForm(EMPATHETIC, frozenset(), _empathetic_chat, ("emotion",)), _official(source))
    rows = _rows(source, offline)
    first = next(rows, None)
    if first is None:
        return None
    form = named.get(asked or "") or next((f for f in FORMS if asked is None and f.columns <= first.keys()), None)
    if form is None and _in_splits(source):
        raise DataError(f"{source}: the columns are of no set that comes in splits; give its rows as JSONL")
    if form is None:
        return None
    lacking = sorted(form.columns - first.keys())
    if lacking:
        raise DataError(f"{source}: no column {lacking[0]!r} of {form.name}; {nearest(lacking[0], first)}")
    return _collected(source, form, _again(first, rows))


def _again(first: Mapping[str, Any], rest: Iterator[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    yield first
    yield from rest


def _rows(source: str, offline: bool) -> Iterator[Mapping[str, Any]]:
    """As `read_rows`, and ABCD's one object of splits (`FILE:train`, also gzipped)."""
    if _in_splits(source):
        file, colon, name = source.rpartition(":")
        yield from _split(Path(file if colon else source), name if colon else "")
        return
    yield from (row for _, row in read_rows(source, offline=offline))


def _in_splits(source: str) -> bool:
    path, _, split = source.partition(".json")
    return source.split(":")[0].endswith(".json.gz") or (split.startswith(":") and Path(f"{path}.json").is_file())


def _split(path: Path, split: str) -> list[Mapping[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
            splits = json.load(stream)
    except (OSError, ValueError, EOFError, RecursionError, zlib.error) as error:
        raise DataError(f"{path}: no readable JSON ({type(error).__name__}); give the file as published") from None
    if not isinstance(splits, dict) or not isinstance(splits.get(split), list):
        known = ", ".join(splits) if isinstance(splits, dict) else "none"
        raise DataError(f"{path}: holds no split {split!r} (splits: {known}); give {path}:SPLIT")
    rows = splits[split]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: the split {split!r} is no list of dialogues; give the file as published")
    return list(rows)


def _is_official(source: str) -> bool:
    path = Path(source)
    if path.suffix != ".csv" or not path.is_file():
        return False
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as stream:
            return stream.readline().startswith(_HEADER)
    except OSError:
        return False  # told, with its reason, where the rows are read


def _official(source: str) -> Iterator[Mapping[str, Any]]:
    """Utterances of one `conv_id` as one dialogue; whoever speaks first is the user.

    The files write commas as `_comma_` and quote nothing, so that a line is cut at its commas and nowhere else.
    """
    talks: dict[str, list[list[str]]] = {}
    for where, line in read_lines(source)[1:]:
        cells = line.split(",")
        if len(cells) < 6:
            raise DataError(f"{where}: {len(cells)} cells, at least 6 are needed; give the official file")
        if not cells[1].strip().isdecimal():
            raise DataError(f"{where}: utterance_idx is no number; give the official file")
        talks.setdefault(cells[0], []).append(cells)
    for name, lines in talks.items():
        ordered = sorted(lines, key=lambda cells: int(cells[1]))
        yield {
            "conv_id": name,
            "emotion": ordered[0][2],
            "conversations": [
                {
                    "role": "user" if cells[4] == ordered[0][4] else "assistant",
                    "content": cells[5].replace("_comma_", ","),
                }
                for cells in ordered
            ],
        }


def _texts(source: str, asked: str | None) -> tuple[list[Row], SetFacts]:
    """The texts of a `.txt` file, each one assistant turn; ids as those of a `text` column with the same content."""
    form = asked or PARAGRAPHS
    if form not in (PARAGRAPHS, LINES):
        raise DataError(f"{source}: a text file holds no rows of the form {form!r}; name {PARAGRAPHS!r} or {LINES!r}")
    lines = [line for _, line in read_lines(source)]
    every = lines if form == LINES else re.split(r"\n(?:[^\S\n]*\n)+", "\n".join(lines))
    texts = [text.strip("\n") for text in every if text.strip()]
    rows: list[Row] = []
    copies: Counter[str] = Counter()
    for text in texts:
        if len(text) > chats.LONGEST:
            continue
        turns = [{"role": "assistant", "content": text}]
        name = content_id("chat", turns)
        copies[name] += 1
        rows.append({"id": name if copies[name] == 1 else f"{name}~{copies[name]}", "messages": turns})
    long = f"more than {chats.LONGEST:,} characters"
    if not rows:
        raise DataError(
            f"{source}: none of {len(texts)} texts can be used ({long}); give shorter ones, or name {LINES!r}"
        )
    left_out = {long: len(texts) - len(rows)} if len(rows) < len(texts) else {}
    return rows, SetFacts(source, form, len(texts), len(rows), left_out)


def _collected(source: str, form: SetForm, dialogues: Iterable[Mapping[str, Any]]) -> tuple[list[Row], SetFacts]:
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    read = 0
    for dialogue in dialogues:
        read += 1
        try:
            own, turns = form.row(dialogue)
        except (AttributeError, KeyError, TypeError, ValueError):
            left_out["not of the set's form"] += 1
            continue
        if not any(turn["role"] == "assistant" and turn["content"] for turn in turns):
            left_out["no answer in it"] += 1
            continue
        name = f"{_slug(form.name)}-{own}" if own else content_id(_slug(form.name), turns)
        seen[name] += 1
        if form.once and seen[name] > 1:
            left_out["the same row again, for another label"] += 1
            continue
        kept = {column: _plain(dialogue[column]) for column in form.keep if column in dialogue}
        rows.append({"id": name if seen[name] == 1 else f"{name}~{seen[name]}", "messages": turns, **kept})
    if not rows:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "no rows"
        raise DataError(f"{source}: nothing of {form.name} can be used ({why}); give the set as published")
    return rows, SetFacts(source, form.name, read, len(rows), dict(left_out))


def _plain(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower())
