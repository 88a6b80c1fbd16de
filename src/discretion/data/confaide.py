"""ConfAIde's text files (skywalker023/confAIde, MIT, arXiv 2310.17884): ratings, secrets in stories, meetings.

Each reader gives what the file says, checked, with its place. Stories, questions and meetings that do not fit their
form are left out and counted in a warning; anything else that does not fit is a `DataError` that names `file:line`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from discretion.data.rows import read_lines
from discretion.errors import DataError

BlockT = TypeVar("BlockT")
FoundT = TypeVar("FoundT")
Tier = Literal["ratings", "stories", "controls", "meetings"]

_SCALE = re.compile(r"(-?\d+)\)\s*([A-Za-z][A-Za-z ]*)")
_ASKED = re.compile(r"(.+?)\s*Do so by choosing one of (?:the following|these) ratings?:(.+?)\s*\\n\s*(.+)", re.DOTALL)
_MARK = re.compile(r"<(BEGIN|END)>(.*)")
_PARTS = re.compile(r"\s*<([^<>]*)>\s*(?:<([^<>]*)>)?\s*")
_PEOPLE = re.compile(r"About:\s*(.+?),\s*Questionee:\s*(.+?),\s*Questioner:\s*(.+?),\s*Topic:\s*(.+)")
_CONTROL = re.compile(
    r"Is it ok for (?P<keeper>.+?) to share information about their (?P<relation>.+?) (?P<subject>\S+?)'s? "
    r"(?P<secret>.+?), with their (?P<other>.+?) (?P<asker>\S+), in order to (?:to )?(?P<incentive>.+?)\s*\?"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Block:
    """What stands between two marks."""

    where: str
    head: str
    """Of the first mark."""
    tail: str
    """What only the second mark says."""
    text: str


@dataclass(frozen=True, slots=True)
class Rating:
    """Tiers 1 and 2: what people were asked, and the mean of what they said."""

    where: str
    question: str
    statement: str
    options: tuple[str, ...]
    """In the order of the file."""
    values: tuple[float, ...]
    """What each option counts."""
    human: float
    """Mean rating, on the scale of `values`."""


@dataclass(frozen=True, slots=True)
class Story:
    """Tier 3: someone who keeps another one's secret is asked by a third, who has a motive."""

    where: str
    secret: str
    """Kind of secret, such as `work/academic cheating`."""
    relations: tuple[str, str]
    """What the subject, and the one who asks, are to the keeper."""
    incentive: str
    """Such as `to provide help`."""
    subject: str
    keeper: str
    asker: str
    topic: str
    """The secret in a few words."""
    story: str
    """Without its question."""
    question: str
    """Such as `What should Ethan say?`"""


@dataclass(frozen=True, slots=True)
class Control:
    """Tier 3: the same flow as one question without the story."""

    where: str
    keeper: str
    relation: str
    subject: str
    secret: str
    other: str
    asker: str
    incentive: str


@dataclass(frozen=True, slots=True)
class Meeting:
    """Tier 4: a transcript in which something is said that one who joins later must not learn."""

    where: str
    secret: str
    public: str
    """What everybody must be told."""
    transcript: str


def tier_of(source: str | Path) -> Tier:
    """Which of the files this is, by its first line. Raises `DataError` that says what is known."""
    where, first = next((where, line) for where, line in read_lines(source) if line.strip())
    if first.startswith("<BEGIN>"):
        return "stories" if first.count(",") >= 3 else "meetings"
    if _ASKED.fullmatch(first.strip()):
        return "ratings"
    if _CONTROL.fullmatch(first.strip()):
        return "controls"
    raise DataError(f"{where}: no line of a ConfAIde file (tier_1, tier_2a, tier_2b, tier_3, tier_3_control, tier_4)")


# ------------------------------------------------------------------------------------------------ tiers 1 and 2


def read_ratings(source: str | Path, labels: str | Path | None = None) -> list[Rating]:
    """Each line with its human mean.

    The means stand in a file of their own, one number per line: `labels`, else the `tier_N_labels.txt` beside
    `tier_N….txt`.
    """
    asked = [(where, line.strip()) for where, line in read_lines(source) if line.strip()]
    given = Path(labels) if labels is not None else _labels_beside(Path(source))
    means = [(where, line.strip()) for where, line in read_lines(given) if line.strip()]
    if len(means) != len(asked):
        raise DataError(f"{source}: {len(asked)} lines, and {len(means)} human ratings in {given}; give one for each")
    return [_rating(where, line, *mean) for (where, line), mean in zip(asked, means, strict=True)]


def _labels_beside(path: Path) -> Path:
    tier = re.match(r"tier_\d", path.name)
    given = path.with_name(f"{tier.group() if tier else path.stem}_labels.txt")
    if not given.is_file():
        raise DataError(f"{path}: no human ratings in {given}; put them there, or name a file: FILE::LABELS.txt")
    return given


def _rating(where: str, line: str, label_where: str, label: str) -> Rating:
    parts = _ASKED.fullmatch(line)
    if parts is None:
        raise DataError(f"{where}: no question, ratings and '\\n' before the statement; repair the line")
    scale = [(float(value), words.strip()) for value, words in _SCALE.findall(parts.group(2))]
    values = tuple(value for value, _ in scale)
    if len(set(values)) < 2 or len(set(values)) < len(values):
        raise DataError(f"{where}: expected at least two different ratings, found {len(set(values))}; repair the line")
    try:
        human = float(label)
    except ValueError:
        raise DataError(f"{label_where}: {label!r} is no number; give the mean rating") from None
    if not min(values) <= human <= max(values):
        raise DataError(f"{label_where}: {human:g} is outside the scale {min(values):g}…{max(values):g}; correct it")
    return Rating(where, parts.group(1), parts.group(3).strip(), tuple(w for _, w in scale), values, human)


# ------------------------------------------------------------------------------------------------ tiers 3 and 4


class _LeftOut(Exception):
    """This block or line cannot be used; `str()` says why."""


def _usable(source: str | Path, blocks: Iterable[BlockT], build: Callable[[BlockT], FoundT]) -> list[FoundT]:
    """What could be built; the rest is counted in a warning. Raises `DataError` when nothing could."""
    found: list[FoundT] = []
    left_out: list[str] = []
    for block in blocks:
        try:
            found.append(build(block))
        except _LeftOut as reason:
            left_out.append(str(reason))
    if not found:
        raise DataError(f"{left_out[0] if left_out else source}; no other can be used: repair the file")
    if left_out:
        _log.warning("%s: %d of %d left out, first %s", source, len(left_out), len(left_out) + len(found), left_out[0])
    return found


def read_stories(source: str | Path) -> list[Story]:
    """The stories between their marks."""
    return _usable(source, _blocks(source), _story)


def _story(block: Block) -> Story:
    where, body = block.where, block.text
    kinds = [part.strip() for part in block.head.split(",", 3)]
    people = _PEOPLE.fullmatch(block.tail.strip())
    if len(kinds) < 4 or people is None:
        raise _LeftOut(
            f"{where}: expected <secret,relation,relation,incentive> and "
            "<About: …,Questionee: …,Questioner: …,Topic: …> as marks"
        )
    subject, keeper, asker, topic = (part.strip() for part in people.groups())
    for name in (subject, keeper, asker):
        if not re.search(rf"\b{re.escape(name)}\b", body):
            raise _LeftOut(f"{where}: {name!r} is in the mark and not in the story")
    if len({subject, keeper, asker}) < 3:
        raise _LeftOut(f"{where}: subject, keeper and asker are not three people")
    told = re.fullmatch(r"(.*[.!?\"”])\s+([^.!?\"”]+\?)", body, re.DOTALL)
    if told is None:
        raise _LeftOut(f"{where}: the story does not end with a question")
    story, question = (part.strip() for part in told.groups())
    return Story(where, kinds[0], (kinds[1], kinds[2]), kinds[3], subject, keeper, asker, topic, story, question)


def read_controls(source: str | Path) -> list[Control]:
    """One question per line."""
    return _usable(source, ((where, line.strip()) for where, line in read_lines(source) if line.strip()), _control)


def _control(line: tuple[str, str]) -> Control:
    found = _CONTROL.fullmatch(line[1])
    if found is None:
        raise _LeftOut(f"{line[0]}: not of the form 'Is it ok for … to share information about … in order to …?'")
    return Control(where=line[0], **found.groupdict())


def read_meetings(source: str | Path) -> list[Meeting]:
    """The transcripts between their marks."""
    return _usable(source, _blocks(source), _meeting)


def _meeting(block: Block) -> Meeting:
    secret, _, public = block.head.partition(",")
    if not secret.strip() or not public.strip():
        raise _LeftOut(f"{block.where}: expected <secret,public fact> as mark")
    return Meeting(block.where, secret.strip(), public.strip(), block.text)


def _blocks(source: str | Path) -> Iterator[Block]:
    opened: tuple[str, str] | None = None
    body: list[str] = []
    for where, line in read_lines(source):
        mark = _MARK.fullmatch(line.strip())
        if mark is None:
            if opened is None and line.strip():
                raise DataError(f"{where}: text outside <BEGIN> and <END>; put it inside")
            body.append(line)
        elif (mark.group(1) == "BEGIN") == (opened is not None):
            raise DataError(f"{where}: <{mark.group(1)}> does not alternate with the other mark; repair the file")
        elif opened is None:
            opened, body = (where, mark.group(2)), []
        else:
            head, tail = (_PARTS.fullmatch(part) for part in (opened[1], mark.group(2)))
            text = "\n".join(body).strip()
            yield Block(opened[0], head.group(1) if head else "", (tail.group(2) or "") if tail else "", text)
            opened = None
    if opened is not None:
        raise DataError(f"{opened[0]}: <BEGIN> without <END>; repair the file")
