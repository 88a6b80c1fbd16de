"""The identifiers that stand in chat rows: each once, with its type, its turn, the person it goes with, and how often.

`spans` finds them in the turns of one row; `collect` goes through a set. What counts as an identifier here can be
traced to one person: names, dates and web addresses are left to `pii.py`. Nothing here logs or quotes what it found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from discretion.data.pii import NOTHING, Given, Span, find_many
from discretion.schema import Role

NOT_TRACED = frozenset(("PERSON", "DATE_TIME", "NRP", "URL", "LOCATION"))
"""Types that one person does not have alone; a `LOCATION` with a number in it, a street address, is one."""

GROUPS = {
    "EMAIL_ADDRESS": "e-mail",
    "PHONE_NUMBER": "phone",
    "LOCATION": "address",
    "CREDIT_CARD": "payment",
    "IBAN_CODE": "payment",
    "US_BANK_NUMBER": "payment",
    "ID": "record number",
}
OTHER = "other"
KINDS = (*dict.fromkeys(GROUPS.values()), OTHER)
"""What figures are split by: `GROUPS` of types, and all the rest."""
ROLES: tuple[Role, ...] = get_args(Role)

_NAME = re.compile(r"[^\W\d_a-z][^\W\d_]+(?:[ -][^\W\d_a-z][^\W\d_]+){1,2}")
_LEAST = 4
"""Letters and digits of the shortest identifier: a shorter one is hit by chance."""
# Letters and digits, but for scripts that write no blanks between words, or glue endings on: there a neighbour is none.
_SIGN = r"[^\W_\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_BEFORE = re.compile(rf"{_SIGN}[@+_-]*$")
_BEHIND = re.compile(rf"[@_-]*{_SIGN}")
# A point, a slash or a decimal comma joins figures; a point joins the parts of an e-mail address.
_FIGURES_BEFORE, _FIGURES_BEHIND = re.compile(r"\d[./]$"), re.compile(r"[./]\d|,\d\d?(?!\d)")
_PART_BEFORE, _PART_BEHIND = re.compile(r"\w\.$"), re.compile(r"\.[a-z\d]")
_COUNTRY_CODE = re.compile(r"(?<![\w.-])\+?\d{1,3}[-.]$")
_PHONE = re.compile(r"(?=.*[ ().-])\d(?:[ ().-]{0,2}\d){6,14}")


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


def standing(value: str, text: str) -> int | None:
    """Where `value` first stands in `text` by itself, as it is written; None where it stands nowhere.

    Inside a longer word, number, code or address it does not stand: `1234` is neither in `91234` nor in `1234.50`. A
    telephone number stands behind its country code too.
    """
    at = text.find(value)
    while at >= 0:
        end = at + len(value)
        if _begins(value, text[max(0, at - 8) : at]) and _ends(value, text[end : end + 8]):
            return at
        at = text.find(value, at + 1)
    return None


def _begins(value: str, before: str) -> bool:
    if not value[:1].isalnum() or (_PHONE.fullmatch(value) and _COUNTRY_CODE.search(before)):
        return True
    joined = _PART_BEFORE if "@" in value else _FIGURES_BEFORE if " " not in value else None
    return not (_BEFORE.search(before) or (joined and joined.search(before)))


def _ends(value: str, behind: str) -> bool:
    if not value[-1:].isalnum():
        return True
    joined = _PART_BEHIND if "@" in value else _FIGURES_BEHIND if " " not in value else None
    return not (_BEHIND.match(behind) or (joined and joined.match(behind)))


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
        earlier = enumerate(turns[: held.turn + 1])
        places = [(n, at) for n, (_, content) in earlier if (at := standing(value, content)) is not None]
        number, start = min([*places, (held.turn, held.start)])
        others = tuple((other.type, other.value) for other in first.values() if other.value != value)
        kept[value] = replace(held, role=turns[number][0], turn=number, start=start, name=name, others=others)
    return list(kept.values())


def _person(turns: Sequence[tuple[str, str]], people: set[str]) -> str:
    """The row's one person: a full name that the finder knows, or two or three capitalised words said in two turns."""
    full = {name for name in people if " " in name}
    if not full:
        said = [set(_NAME.findall(content)) for _, content in turns]
        full = {name for number, names in enumerate(said) for name in names if any(name in s for s in said[:number])}
    longest = [name for name in full if not any(name != other and standing(name, other) is not None for other in full)]
    return longest[0] if len(longest) == 1 else ""
