"""The identifiers that stand in chat rows: each once, with its type, its turn, the person it goes with, and how often.

`spans` finds them in the turns of one row; `collect` goes through a set. What counts as an identifier here can be
traced to one person: names, dates and web addresses are left to `pii.py`. Nothing here logs or quotes what it found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from discretion.data.pii import NOTHING, Given, Span, find_many

NOT_TRACED = frozenset(("PERSON", "DATE_TIME", "NRP", "URL", "LOCATION"))
"""Types that one person does not have alone; a `LOCATION` with a number in it, a street address, is one."""

_NAME = re.compile(r"[^\W\d_a-z][^\W\d_]+(?:[ -][^\W\d_a-z][^\W\d_]+){1,2}")
_LEAST = 4
"""Letters and digits of the shortest identifier: a shorter one is hit by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One identifier, at the first place where it stands."""

    value: str
    type: str
    """In Presidio's names."""
    role: str
    """Of the turn in which it stands first in its row."""
    messages: tuple[tuple[str, str], ...]
    """(role, content) of the row's turns."""
    turn: int
    start: int
    """Characters of the turn before it."""
    name: str = ""
    """The person of the row, where exactly one is found."""
    others: tuple[tuple[str, str], ...] = ()
    """(type, value) of the row's other identifiers."""
    rows: int = 1
    """Rows of the set in which it stands."""


def traced(text: str, span: Span) -> bool:
    """Is this span an identifier that belongs to one person?"""
    value = text[span.start : span.end]
    if sum(map(str.isalnum, value)) < _LEAST:
        return False
    return span.type not in NOT_TRACED or (span.type == "LOCATION" and any(map(str.isdigit, value)))


def collect(rows: Iterable[Mapping[str, Any]], given: Given = NOTHING, *, batch: int = 256) -> dict[str, Held]:
    """value → the identifier, for all identifiers of the rows' turns, in the order in which they come."""
    found: dict[str, Held] = {}
    for turns, spans in spans_of(rows, given, batch=batch):
        for held in _of_row(turns, spans):
            known = found.get(held.value)
            found[held.value] = held if known is None else replace(known, rows=known.rows + 1)
    return found


def spans_of(
    rows: Iterable[Mapping[str, Any]], given: Given = NOTHING, *, batch: int = 256
) -> Iterator[tuple[tuple[tuple[str, str], ...], list[tuple[Span, ...]]]]:
    """((role, content) of a row's turns, the spans of each turn), row by row; looked at a batch at a time."""
    waiting: list[tuple[tuple[str, str], ...]] = []

    def looked_at() -> Iterator[tuple[tuple[tuple[str, str], ...], list[tuple[Span, ...]]]]:
        spans = iter(find_many([content for turns in waiting for _, content in turns], given))
        for turns in waiting:
            yield turns, [next(spans) for _ in turns]

    for row in rows:
        waiting.append(tuple((turn["role"], turn["content"]) for turn in row["messages"]))
        if len(waiting) == batch:
            yield from looked_at()
            waiting = []
    yield from looked_at()


def _of_row(turns: tuple[tuple[str, str], ...], spans: Sequence[Sequence[Span]]) -> list[Held]:
    first: dict[str, Held] = {}
    people: set[str] = set()
    for number, ((role, content), own) in enumerate(zip(turns, spans, strict=True)):
        for span in own:
            value = content[span.start : span.end]
            if span.type == "PERSON":
                people.add(value)
            elif traced(content, span) and value not in first:
                first[value] = Held(
                    value=value, type=span.type, role=role, messages=turns, turn=number, start=span.start
                )
    name = _person(turns, people)
    kept = {}
    for value, held in first.items():
        # It may stand in an earlier turn where nothing gave it away as an identifier.
        number = next(n for n, (_, content) in enumerate(turns) if value in content)
        start = turns[number][1].index(value)
        others = tuple((other.type, other.value) for other in first.values() if other.value != value)
        kept[value] = replace(held, role=turns[number][0], turn=number, start=start, name=name, others=others)
    return list(kept.values())


def _person(turns: Sequence[tuple[str, str]], people: set[str]) -> str:
    """The row's one person: a full name that the finder knows, or two or three capitalised words said in two turns."""
    full = {name for name in people if " " in name}
    if not full:
        said = [set(_NAME.findall(content)) for _, content in turns]
        full = {name for number, names in enumerate(said) for name in names if any(name in s for s in said[:number])}
    longest = [name for name in full if not any(name != other and name in other for other in full)]
    return longest[0] if len(longest) == 1 else ""
