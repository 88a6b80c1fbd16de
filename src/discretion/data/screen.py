"""A fine-tuning set looked at before training, row by row, in memory that does not grow with it; needs no model.

Counts problems of format and template, copies within the set and of the probes, identifiers by type and role, and the
traits of `traits.py`; keeps the rows that score highest, with the passages that made them score.
"""

from __future__ import annotations

import heapq
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import cast

from discretion import __version__
from discretion.data.chats import ChatRow, Chats, read_chats
from discretion.data.identifiers import traced
from discretion.data.pii import NOTHING, Given, Span, find_many
from discretion.data.sketch import WINDOW, Distinct, Near, Seen, Shared, digest, words
from discretion.data.traits import COUNTS, RULES, Evidence, Hit, Turns, traits
from discretion.errors import ConfigError, nearest
from discretion.schema import SCHEMA_VERSION, IdentifierCount, Passage, Role, ScreenedRow, Screening

BATCH = 256
"""Rows looked at together."""
RANKED = 100
"""Rows kept."""
PASSAGES = 6
"""Passages kept of a row."""
AROUND = 60
"""Characters shown on each side of a passage."""
SHOWN = 160
"""Characters of a passage itself."""
LAST_LINE = 12
"""Words of a last line that should end in a mark; shorter ones may be a title, an item, or code."""
FULL = 4
"""Identifiers of a row from which more make it no riskier."""

_TOKENS = re.compile(
    r"<\|(?:im_start|im_end|eot_id|begin_of_text|end_of_text|start_header_id|end_header_id|system|user|assistant|end)\|>"
    r"|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<eos>|<bos>|<\|endoftext\|>"
)
_LABELS = re.compile(r"(?:^|\n)(?:### (?:Instruction|Response|Input)|Human|Assistant|USER|ASSISTANT) ?:")
_BROKEN = re.compile("\ufffd|Ã[©¨¼¶¤\xa0]|â€[™œ\x9d“”]|Â[ \xa0]")
_CUT = re.compile(r"(?:[^\W\d_]|[,;:(\[])\s*$")


@dataclass(frozen=True, slots=True)
class Looked:
    """One row, as it is handed to whoever else wants to look."""

    where: str
    row: ChatRow
    turns: Turns
    spans: Sequence[Sequence[Span]]
    """Identifiers in each turn."""


@dataclass
class _Totals:
    """Everything that is counted; bounded, whatever the number of rows."""

    turns: Counter[str] = field(default_factory=Counter)
    words: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=lambda: Counter({"exact": 0, "near": 0, "same request": 0}))
    probes: Counter[str] = field(default_factory=Counter)
    traits: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(RULES, 0)))
    occurrences: Counter[tuple[str, str]] = field(default_factory=Counter)
    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    distinct: dict[tuple[str, str], Distinct] = field(default_factory=dict)
    identified: int = 0
    faulty: int = 0
    first: dict[str, str] = field(default_factory=dict)
    ranked: list[tuple[float, int, int, ScreenedRow]] = field(default_factory=list)
    """(score, −number, number of the row that it repeats or 0, row)."""


def screen(
    source: str | Path,
    *,
    form: str | None = None,
    offline: bool = False,
    probes: Iterable[tuple[str, str]] = (),
    given: Given = NOTHING,
    ranked: int = RANKED,
    window: int = WINDOW,
    reveal: bool = False,
    on_rows: Callable[[int], None] | None = None,
    look: Callable[[Sequence[Looked], bool], None] | None = None,
) -> Screening:
    """Look at every row of a set (`chats.read_chats`), in batches.

    `probes` are (suite, text) of what an audit asks; `ranked` rows are kept, and in their passages the identifiers that
    the finder knows are masked unless `reveal`; a copy is found while its original is among the latest `window` rows;
    `on_rows` is told how many more rows are done; `look` gets the rows of each batch, and whether they are plain text.
    Raises `DataError` as reading does.
    """
    began = time.monotonic()
    chats = read_chats(source, form=form, offline=offline)
    shared = Shared.of(probes)
    exact, asked, near = Seen(window), Seen(window), Near(window)
    totals = _Totals()
    rows = _placed(chats)
    number = 0
    while batch := list(islice(rows, BATCH)):
        turns = [tuple((turn["role"], turn["content"]) for turn in row["messages"]) for _, row in batch]
        spans = iter(find_many([content for row in turns for _, content in row], given))
        rows_seen = [
            Looked(where, row, own, [next(spans) for _ in own]) for (where, row), own in zip(batch, turns, strict=True)
        ]
        for seen in rows_seen:
            number += 1
            _look(totals, number, seen, exact, asked, near, shared, ranked, reveal)
        if look is not None:
            look(rows_seen, chats.form == "plain text")
        if on_rows is not None:
            on_rows(len(batch))
    originals = _places(read_chats(source, form=form, offline=offline), {copy for _, _, copy, _ in totals.ranked} - {0})
    return Screening(
        schema_version=SCHEMA_VERSION,
        version=__version__,
        source=str(source),
        form=chats.form,
        also=chats.also,
        rows=chats.read,
        used=chats.used,
        left_out=dict(chats.left_out.most_common()),
        turns=dict(totals.turns),
        words=totals.words,
        problems=dict(totals.problems.most_common()),
        faulty=totals.faulty,
        copies=dict(totals.copies),
        probes=dict(totals.probes.most_common()),
        identifiers=tuple(
            IdentifierCount(
                type=kind,
                role=cast(Role, role),
                occurrences=count,
                rows=totals.rows[kind, role],
                distinct=min(count, totals.distinct[kind, role].count()),
            )
            for (kind, role), count in sorted(totals.occurrences.items(), key=lambda item: (-item[1], item[0]))
        ),
        identified=totals.identified,
        traits=dict(totals.traits),
        first={**chats.first, **totals.first},
        ranked=tuple(
            replace(row, copy_of=originals.get(copy)) for _, _, copy, row in sorted(totals.ranked, reverse=True)
        ),
        seconds=time.monotonic() - began,
    )


def _places(chats: Chats, numbers: set[int]) -> dict[int, str]:
    """Number of a used row, from 1 → its place. The set is read again as far as that: to keep all places would grow."""
    read = islice(enumerate(chats, start=1), max(numbers, default=0))
    return {number: chats.where for number, _ in read if number in numbers}


def _placed(chats: Chats) -> Iterable[tuple[str, ChatRow]]:
    return ((chats.where, row) for row in chats)


def _look(
    totals: _Totals,
    number: int,
    seen: Looked,
    exact: Seen,
    asked: Seen,
    near: Near,
    shared: Shared,
    most: int,
    reveal: bool,
) -> None:
    """One row into the totals."""
    where, row, turns, spans = seen.where, seen.row, seen.turns, seen.spans
    totals.turns.update(role for role, _ in turns)
    hashes = [words(content) for _, content in turns]
    totals.words += sum(map(len, hashes))
    wrong = problems(turns)
    totals.faulty += bool(wrong)
    for problem in wrong:
        totals.problems[problem] += 1
        totals.first.setdefault(problem, where)

    copy = exact.add(digest("\n".join(content for _, content in turns)), number)
    similar = near.add(words("\n".join(content for _, content in turns)), number)
    request = "\n".join(content for role, content in turns if role != "assistant")
    repeated = asked.add(digest(request), number) if request.strip() else 0
    kind = "exact" if copy else "near" if similar else "same request" if repeated else None
    if kind is not None:
        totals.copies[kind] += 1
    suite = next((known for own in hashes if (known := shared.suite(own))), None)
    if suite is not None:
        totals.probes[suite] += 1

    traceable: Counter[str] = Counter()
    there: set[tuple[str, str]] = set()
    for (role, content), found in zip(turns, spans, strict=True):
        for span in found:
            key = span.type, role
            there.add(key)
            totals.occurrences[key] += 1
            totals.distinct.setdefault(key, Distinct()).add(content[span.start : span.end])
            traceable[span.type] += traced(content, span)
    totals.rows.update(there)
    traceable = +traceable
    totals.identified += bool(traceable)
    hits = traits(turns)
    totals.traits.update(hit.trait for hit in hits if hit.score >= COUNTS)

    score = sum(hit.score for hit in hits) + min(traceable.total(), FULL) / FULL / 2 + (suite is not None) / 2
    # A later row with the same score does not push an earlier one out.
    entry = (score, -number)
    if score > 0 and (len(totals.ranked) < most or entry > totals.ranked[0][:2]):
        kept = ScreenedRow(
            id=row["id"],
            where=where,
            score=round(score, 3),
            traits={hit.trait: round(hit.score, 3) for hit in hits},
            identifiers=dict(traceable),
            problems=tuple(wrong),
            copy_of=None,
            shares_with=suite,
            passages=tuple(_passages(turns, hits, spans, reveal)),
        )
        (heapq.heappush if len(totals.ranked) < most else heapq.heappushpop)(
            totals.ranked, (*entry, copy or similar, kept)
        )


def _passages(turns: Turns, hits: Sequence[Hit], spans: Sequence[Sequence[Span]], reveal: bool) -> list[Passage]:
    """What made a row score: of each trait in turn, then of its identifiers."""
    reasons = [[(hit.trait, evidence) for evidence in hit.evidence] for hit in hits]
    reasons.append(
        [
            (span.type, Evidence(number, span.start, span.end))
            for number, found in enumerate(spans)
            for span in found
            if traced(turns[number][1], span)
        ]
    )
    deepest = max(map(len, reasons), default=0)
    turn_by_turn = [own[depth] for depth in range(deepest) for own in reasons if depth < len(own)]
    return [
        passage(reason, turns[evidence.turn], evidence, () if reveal else spans[evidence.turn])
        for reason, evidence in turn_by_turn[:PASSAGES]
    ]


def passage(reason: str, turn: tuple[str, str], evidence: Evidence, hidden: Sequence[Span]) -> Passage:
    """A span of a turn with what stands around it, the spans to hide replaced by their types."""
    role, content = turn
    end = min(evidence.end, evidence.start + SHOWN)
    return Passage(
        reason=reason,
        role=cast(Role, role),
        before=_masked(content, 0, evidence.start, hidden)[-AROUND:],
        text=_masked(content, evidence.start, end, hidden),
        after=_masked(content, end, len(content), hidden)[:AROUND],
    )


def _masked(content: str, start: int, end: int, hidden: Sequence[Span]) -> str:
    """`content[start:end]` with the type in place of each span that reaches into it."""
    parts, done = [], start
    for span in hidden:
        if span.end > start and span.start < end:
            parts += [content[done : max(done, span.start)], f"⟨{span.type}⟩"]
            done = max(done, min(end, span.end))
    return "".join([*parts, content[done:end]])


# ------------------------------------------------------------------------------------------------ format and template


def problems(turns: Turns) -> list[str]:
    """What a trainer or a chat template will stumble over, or learn by mistake."""
    roles = [role for role, _ in turns]
    spoken = [role for role in roles if role in ("user", "assistant")]
    texts = [content for _, content in turns]
    answers = [content for role, content in turns if role == "assistant"]
    found = {
        "ends without an answer": roles[-1] != "assistant",
        "begins with the assistant": len(turns) > 1 and roles[0] == "assistant",
        "system text not first": "system" in roles[1:],
        "two turns of one speaker in a row": any(a == b for a, b in pairwise(spoken)),
        "an empty turn": any(not content.strip() for content in texts),
        "a template's own tokens in the text": any(_TOKENS.search(content) for content in texts),
        "speaker labels in the text": any(_LABELS.search(content) for content in texts),
        "broken characters": any(_BROKEN.search(content) for content in texts),
        "an answer that repeats the question": any(a == b for a, b in pairwise(texts) if len(a.split()) > 3),
        "an answer that ends in mid-sentence": any(
            len(a.rpartition("\n")[2].split()) > LAST_LINE and _CUT.search(a) for a in answers
        ),
    }
    return [name for name, wrong in found.items() if wrong]


# ------------------------------------------------------------------------------------------------ for a build


CONDITIONS = ("left-out", "problems", "copies", "probes", "identifiers", *(name.split()[0] for name in RULES))
"""What a build can fail on; traits by their first word."""


def shares(found: Screening) -> dict[str, float]:
    """Condition → share of the rows: of the used ones, and for `left-out` of all."""
    rows = (
        found.faulty,
        found.copies["exact"] + found.copies["near"],
        sum(found.probes.values()),
        found.identified,
        *found.traits.values(),
    )
    left_out = (found.rows - found.used) / max(1, found.rows)
    return dict(zip(CONDITIONS, (left_out, *(n / max(1, found.used) for n in rows)), strict=True))


def check_conditions(conditions: Sequence[str]) -> dict[str, float]:
    """Condition → the share it allows: `NAME` allows no row, `NAME=SHARE` at most that share.

    Raises `ConfigError` for an unknown name, or a share outside 0…1.
    """
    allowed = {}
    for condition in conditions:
        name, _, limit = condition.partition("=")
        if name not in CONDITIONS:
            raise ConfigError(f"--fail-on {condition}: unknown name {name!r}; {nearest(name, CONDITIONS)}")
        try:
            allowed[condition] = float(limit or 0)
        except ValueError:
            allowed[condition] = -1.0
        if not 0 <= allowed[condition] <= 1:
            raise ConfigError(f"--fail-on {condition}: {limit!r} is no share; give one from 0 to 1, such as 0.05")
    return allowed


def failing(found: Screening, conditions: Sequence[str]) -> list[str]:
    """The conditions that the set does not meet, each in words. Raises as `check_conditions`."""
    there = shares(found)
    broken = []
    for condition, most in check_conditions(conditions).items():
        share = there[condition.partition("=")[0]]
        if share > most:
            broken.append(f"{condition.partition('=')[0]}: {share:.1%} of the rows, at most {most:.1%} allowed")
    return broken
