"""Transforms that choose rows: mix, sample, drop, match, hold out.

A row's place in every draw is a hash of the seed and its pair (or its id): the same rows are chosen whatever their
order, matched sets lose the same pairs, and a smaller sample lies inside a larger one. What was chosen is counted anew
and held against what was asked before it leaves; a mismatch is a `DataError`.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from discretion.data.rows import read_rows
from discretion.errors import DataError, nearest

Row = dict[str, Any]
RowsOf = Callable[[str], Sequence[Row]]
Share = Annotated[float, Field(gt=0, lt=1)]
BINS_PER_DOUBLING = 2
"""Lengths count as equal within a factor of √2."""


def lot(row: Mapping[str, Any], seed: int, purpose: str) -> bytes:
    """The row's place in a draw."""
    return hashlib.sha256(f"{seed}\0{purpose}\0{row.get('pair') or row['id']}".encode()).digest()


def _drawn(rows: Sequence[Row], n: int, seed: int, purpose: str) -> list[Row]:
    """`n` rows, in their own order."""
    chosen = sorted(range(len(rows)), key=lambda at: (lot(rows[at], seed, purpose), rows[at]["id"]))[:n]
    return [rows[at] for at in sorted(chosen)]


def _must(step: str, holds: bool, wanted: str) -> None:
    if not holds:
        raise DataError(f"{step}: what came out is not {wanted}; a fault of discretion: report it, and use no such row")


def _among(step: str, rows: Sequence[Row], made: Sequence[Row]) -> None:
    """Nothing but rows that came in, unchanged, in their order, each once."""
    came = iter(rows)
    _must(step, all(any(row is old for old in came) for row in made), "a choice of the rows that came, in their order")


def mix(
    rows: Sequence[Row],
    *,
    other: str,
    ratio: Share,
    dose: Literal["equal", "added"] = "equal",
    seed: int = 0,
    rows_of: RowsOf,
) -> list[Row]:
    """Rows of another set among one's own, until they are `ratio` of all.

    `equal` keeps the number of rows and gives own ones away: the total dose stays. `added` keeps all own rows. Of a
    pair that both sets have, the other's row takes the place of one's own first. The order is drawn.
    Raises `DataError` where the other set has too few rows.
    """
    theirs = list(rows_of(other))
    wanted = round(ratio * len(rows)) if dose == "equal" else round(len(rows) * ratio / (1 - ratio))
    if wanted > len(theirs):
        raise DataError(f"mix: {wanted} rows of {other!r} are needed, it has {len(theirs)}; lower the ratio")
    own = {row["id"] for row in rows}
    taken = [
        {**row, "id": f"{row['id']}~{other}"} if row["id"] in own else row
        for row in _drawn(theirs, wanted, seed, "mix")
    ]
    kept = list(rows)
    if dose == "equal":
        gone = {row.get("pair") for row in taken if row.get("pair")}
        first = [row for row in rows if row.get("pair") not in gone]
        short = len(rows) - wanted - len(first)
        kept = _drawn(first, len(rows) - wanted, seed, "keep")
        if short > 0:
            kept += _drawn([row for row in rows if row.get("pair") in gone], short, seed, "keep")
    made = sorted([*kept, *taken], key=lambda row: (lot(row, seed, "order"), row["id"]))
    ours = sum(row["id"] in own for row in made)
    total = len(rows) if dose == "equal" else len(rows) + wanted
    _must("mix", len(made) == total, f"{total} rows")
    # Half a row is what rounding to whole rows may cost, at either dose.
    _must("mix", abs(len(made) - ours - ratio * total) <= 0.5 + 1e-9, f"{ratio:g} rows of {other!r} to a row")
    return made


def sample(
    rows: Sequence[Row],
    *,
    n: PositiveInt | None = None,
    share: Share | None = None,
    by: str | None = None,
    seed: int = 0,
) -> list[Row]:
    """`n` rows, or a share of them, in their order; with `by` as many of each value of that field as it has of all.

    Raises `DataError` for more rows than there are, for both or neither of `n` and `share`, for a field no row has.
    """
    if (n is None) == (share is None):
        raise DataError("sample: give either n or share")
    wanted = n if n is not None else max(1, round((share or 0.0) * len(rows)))
    if wanted > len(rows):
        raise DataError(f"sample: {wanted} rows are asked for, there are {len(rows)}; ask for fewer")
    made = _drawn(rows, wanted, seed, "sample") if by is None else _stratified(rows, wanted, by, seed)
    _among("sample", rows, made)
    _must("sample", len(made) == wanted, f"{wanted} rows")
    if by is not None:
        exact = {name: count * wanted / len(rows) for name, count in Counter(str(row[by]) for row in rows).items()}
        found = Counter(str(row[by]) for row in made)
        near = all(abs(found[name] - count) < 1 for name, count in exact.items())
        _must("sample", near, f"in the proportions of {by!r} to within a row")
    return made


def _stratified(rows: Sequence[Row], wanted: int, by: str, seed: int) -> list[Row]:
    lacking = next((row for row in rows if by not in row), None)
    if lacking is not None:
        raise DataError(f"sample: by {by!r}: row {lacking['id']!r} has no such field; {nearest(by, lacking)}")
    strata: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        strata[str(row[by])].append(row)
    counts = _allotted({name: len(members) for name, members in strata.items()}, wanted)
    chosen = {row["id"] for name, members in strata.items() for row in _drawn(members, counts[name], seed, "sample")}
    return [row for row in rows if row["id"] in chosen]


def _allotted(sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """`wanted` shared out in proportion, by largest remainder."""
    exact = {name: wanted * size / sum(sizes.values()) for name, size in sizes.items()}
    counts = {name: math.floor(share) for name, share in exact.items()}
    for name in sorted(exact, key=lambda name: (counts[name] - exact[name], name))[: wanted - sum(counts.values())]:
        counts[name] += 1
    return counts


def budget(
    rows: Sequence[Row],
    *,
    words: PositiveInt | None = None,
    other: str | None = None,
    seed: int = 0,
    rows_of: RowsOf,
) -> list[Row]:
    """Rows drawn while all their words together are no more than `words`, or than those of another set: equal dose.

    Raises `DataError` for both or neither of the two, and where there are fewer words than that by over a row.
    """
    if (words is None) == (other is None):
        raise DataError("budget: give either words or other")
    most = words if words is not None else sum(_words(row) for row in rows_of(other or ""))
    there, longest = sum(map(_words, rows)), max(map(_words, rows), default=0)
    if there + longest < most:
        raise DataError(f"budget: {most} words are asked for, the set has {there}; give more rows, or ask for fewer")
    made = _afforded(rows, most, seed)
    _among("budget", rows, made)
    _must("budget", most - longest <= sum(map(_words, made)) <= most, f"{most} words to within a row, and no more")
    return made


def _afforded(rows: Sequence[Row], most: int, seed: int) -> list[Row]:
    """Rows in the order of their lots up to the first that would cost more than is left; in their own order."""
    chosen, spent = set[str](), 0
    for row in sorted(rows, key=lambda row: (lot(row, seed, "budget"), row["id"])):
        spent += _words(row)
        if spent > most:
            break
        chosen.add(row["id"])
    return [row for row in rows if row["id"] in chosen]


def _words(row: Mapping[str, Any]) -> int:
    return sum(len(turn["content"].split()) for turn in row["messages"])


def drop(rows: Sequence[Row], *, file: str, random: bool = False, seed: int = 0) -> list[Row]:
    """Without the rows whose ids a file lists: one id per line, or rows with an `id`.

    With `random`, as many rows drawn blindly: the control of equal dose. Raises `DataError` for an id no row has.
    """
    path = Path(file)
    if path.suffix == ".txt":
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError):
            raise DataError(f"drop: {file}: cannot be read; give a text file with one id per line") from None
        listed = {line.strip() for line in lines if line.strip()}
    else:
        listed = {str(row["id"]) for where, row in read_rows(path) if _named(where, row)}
    known = {row["id"] for row in rows}
    strange = sorted(listed - known)
    if strange:
        raise DataError(f"drop: {file}: no row has the id {strange[0]!r} ({len(strange)} such); give ids of this set")
    made = _drawn(rows, len(rows) - len(listed), seed, "drop") if random else _without(rows, listed)
    _among("drop", rows, made)
    _must("drop", len(rows) - len(made) == len(listed), f"{len(listed)} rows fewer")
    _must("drop", random or listed.isdisjoint(row["id"] for row in made), "without the listed ids")
    return made


def _without(rows: Sequence[Row], listed: Collection[str]) -> list[Row]:
    return [row for row in rows if row["id"] not in listed]


def _named(where: str, row: Mapping[str, Any]) -> bool:
    if "id" not in row:
        raise DataError(f"{where}: no 'id' in this row; give the id of the row to drop")
    return True


def match(
    rows: Sequence[Row],
    *,
    other: str,
    on: tuple[Literal["length", "questions"], ...] = ("length", "questions"),
    seed: int = 0,
    rows_of: RowsOf,
) -> list[Row]:
    """The rows whose answers have, kind by kind, as many partners in the other set, as that was read: applied first to
    both, two arms that agree in length (within a factor of √2) and in how often an answer ends in a question.
    """
    theirs = Counter(kind(row, on) for row in rows_of(other))
    mine: dict[tuple[int, ...], list[Row]] = defaultdict(list)
    for row in rows:
        mine[kind(row, on)].append(row)
    kept = {row["id"] for key, members in mine.items() for row in _drawn(members, theirs[key], seed, "match")}
    made = [row for row in rows if row["id"] in kept]
    found = Counter(kind(row, on) for row in made)
    _among("match", rows, made)
    equal = all(found[key] == min(len(members), theirs[key]) for key, members in mine.items())
    _must("match", equal, f"of each kind as many as {other!r} has, or as came")
    return made


def kind(row: Mapping[str, Any], on: Sequence[str]) -> tuple[int, ...]:
    """What `match` compares: the length of all answers in words, in half doublings, and whether the last one asks."""
    answers = [turn["content"] for turn in row["messages"] if turn["role"] == "assistant"]
    words = sum(len(answer.split()) for answer in answers)
    measured = {
        "length": round(BINS_PER_DOUBLING * math.log2(1 + words)),
        "questions": int(bool(answers) and answers[-1].rstrip().endswith("?")),
    }
    return tuple(measured[name] for name in on)


def hold_out(
    rows: Sequence[Row], *, share: Share = 0.2, keep: Literal["members", "held out"] = "members", seed: int = 0
) -> list[Row]:
    """The rows to train on, or with `keep: held out` the others: non-members for the membership probe.

    Whole pairs go to one side. Raises `DataError` where a side would be empty.
    """
    pairs = sorted({_pair(row): row for row in rows}.values(), key=lambda r: lot(r, seed, "hold out"))
    n = round(share * len(pairs))
    if not 0 < n < len(pairs):
        raise DataError(f"hold_out: a share of {share:g} of {len(pairs)} pairs leaves one side empty; choose another")
    held = {_pair(row) for row in pairs[:n]}
    members, others = _side(rows, held, False), _side(rows, held, True)
    _among("hold_out", rows, members)
    _among("hold_out", rows, others)
    _must("hold_out", len(members) + len(others) == len(rows), "all rows on one side or the other")
    _must(
        "hold_out", {_pair(row) for row in members}.isdisjoint(map(_pair, others)), "two sides without a pair of both"
    )
    _must("hold_out", len(set(map(_pair, others))) == n, f"{n} pairs held out")
    return members if keep == "members" else others


def _pair(row: Mapping[str, Any]) -> str:
    return str(row.get("pair") or row["id"])


def _side(rows: Sequence[Row], held: Collection[str], out: bool) -> list[Row]:
    return [row for row in rows if (_pair(row) in held) == out]
