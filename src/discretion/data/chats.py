"""Fine-tuning sets as chat rows `{"id", "messages": [{"role", "content"}], …}`, read one by one, whatever their form.

The form is decided by the columns of the first row and named (`Chats.form`); a row that cannot be used is counted with
its reason (`Chats.left_out`) and the rest goes on. A set in which no row can be used is a `DataError`.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from discretion.data.rows import Row, content_id, read_rows
from discretion.errors import DataError, StorageFailure, nearest

ChatRow = dict[str, Any]
"""`id`, `messages` (a list of `{"role", "content"}`), and the columns of the file that are no part of its form."""

LONGEST = 1_000_000
"""Characters of the longest row that is used; a longer one is counted and left out."""

_ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user", "customer": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "model": "assistant", "bot": "assistant", "agent": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_call": "assistant",
}  # fmt: skip
_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


class _LeftOut(Exception):
    """This row cannot be used; `str()` is the reason, short and without the row's text."""


@dataclass(frozen=True, slots=True)
class ChatForm:
    """One way in which fine-tuning sets are written."""

    name: str
    fits: Callable[[frozenset[str]], frozenset[str] | None]
    """The columns of a row to those that make the form; None where they do not."""
    turns: Callable[[Row], list[dict[str, str]]]
    """Raises `_LeftOut`."""


@dataclass
class Chats:
    """The rows of a set, in order; iterate to read. What is counted is complete when the last row has come."""

    source: str
    rows: Callable[[], Iterator[ChatRow]] = field(repr=False)
    form: str = ""
    """Name of the form, once the first row was read."""
    also: tuple[str, ...] = ()
    """Names of further forms that the columns fit; the first of `FORMS` was taken."""
    where: str = ""
    """The place of the row that came last."""
    raw: Row = field(default_factory=dict, repr=False)
    """The row that came last as it lies there, with all its columns."""
    read: int = 0
    """Rows seen, those left out among them."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason to rows that were left out."""
    first: dict[str, str] = field(default_factory=dict)
    """Reason to the place of the first row left out for it."""

    @property
    def used(self) -> int:
        """Rows that came out."""
        return self.read - self.left_out.total()

    def __iter__(self) -> Iterator[ChatRow]:
        return self.rows()


# ------------------------------------------------------------------------------------------------ turns


def _content(value: Any, calls: Any) -> str:
    """Text of a message: a string or text parts, then each tool call as a line of JSON."""
    if isinstance(value, list):
        if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in value):
            raise _LeftOut("a message with parts that are no text")
        value = "".join(part["text"] for part in value)
    if value is None:
        value = ""
    if not isinstance(value, str):
        raise _LeftOut("a message without text")
    lines = [value] if value else []
    for call in calls if isinstance(calls, list) else []:
        called = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(called, Mapping):
            raise _LeftOut("a tool call that is no object")
        lines.append(json.dumps({k: called[k] for k in ("name", "arguments") if k in called}, ensure_ascii=False))
    return "\n".join(lines)


def _turns(value: Any) -> list[dict[str, str]]:
    """Messages of either spelling (`role` and `content`, `from` and `value`) with the four roles of a chat."""
    if not isinstance(value, list):
        raise _LeftOut("no list of messages")
    turns = []
    for message in value:
        if not isinstance(message, Mapping):
            raise _LeftOut("a message that is no object")
        spoken = message.get("role", message.get("from", message.get("speaker")))
        role = _ROLES.get(spoken.strip().lower()) if isinstance(spoken, str) else None
        if role is None:
            raise _LeftOut("a message of an unknown role")
        text = message.get("content", message.get("value", message.get("utterance")))
        turns.append({"role": role, "content": _content(text, message.get("tool_calls"))})
    return turns


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise _LeftOut(f"no text in the column {column}")
    return value


def _pair(asked: str, answered: str, *before: str) -> list[dict[str, str]]:
    system = [{"role": "system", "content": text} for text in before if text]
    return [*system, {"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def _prompted(row: Row, asked: str, answered: str) -> list[dict[str, str]]:
    """A prompt and its answer, each a text or a list of messages; an answer may hold the prompt's messages already."""
    prompt, answer = row.get(asked), row.get(answered)
    if isinstance(answer, list):
        turns, before = _turns(answer), _turns(prompt) if isinstance(prompt, list) else []
        if before and turns[: len(before)] != before:
            return before + turns
        if turns and turns[0]["role"] == "assistant" and isinstance(prompt, str):
            return [{"role": "user", "content": prompt}, *turns]
        return turns
    if isinstance(prompt, list):
        return [*_turns(prompt), {"role": "assistant", "content": _text(row, answered)}]
    return _pair(_text(row, asked), _text(row, answered))


def _alpaca(row: Row) -> list[dict[str, str]]:
    """`input`, or `context`, stands below the instruction; `history` is a list of earlier [question, answer]."""
    asked = _text(row, "instruction")
    below = row.get("input") or row.get("context") or ""
    if below and not isinstance(below, str):
        raise _LeftOut("an input that is no text")
    before = row.get("history") or []
    if not all(isinstance(p, list) and len(p) == 2 and all(isinstance(t, str) for t in p) for p in before):
        raise _LeftOut("a history that is no list of pairs")
    earlier = [turn for question, answer in before for turn in _pair(question, answer)]
    system = row.get("system")
    last = _pair(f"{asked}\n\n{below}" if below else asked, _text(row, "output" if "output" in row else "response"))
    opening = [{"role": "system", "content": system}] if isinstance(system, str) and system else []
    return [*opening, *earlier, *last]


def _preferred(row: Row) -> list[dict[str, str]]:
    """The chosen side: messages, a text after `prompt`, or a dialogue written as Human: … Assistant: …"""
    if isinstance(row.get("chosen"), str) and "prompt" not in row:
        parts = _HH_TURN.split(row["chosen"])
        if len(parts) < 3:
            raise _LeftOut("a dialogue without Human: and Assistant:")
        return [
            {"role": "user" if who == "Human" else "assistant", "content": said.strip()}
            for who, said in zip(parts[1::2], parts[2::2], strict=True)
        ]
    return _prompted(row, "prompt", "chosen")


# ------------------------------------------------------------------------------------------------ forms


def _has(*needed: str, may: tuple[str, ...] = ()) -> Callable[[frozenset[str]], frozenset[str] | None]:
    columns = frozenset(needed)
    return lambda there: columns | (there & frozenset(may)) if there >= columns else None


_DOLLY = frozenset(("instruction", "context", "response", "category"))
"""Exactly these: elsewhere a `context` is no passage but the name of a trade."""
FORMS = (
    ChatForm("preference, chosen side", _has("chosen", "rejected", may=("prompt",)), _preferred),
    ChatForm("chat", _has("messages"), lambda row: _turns(row["messages"])),
    ChatForm("ShareGPT", _has("conversations", may=("system",)), lambda row: _opened(row, "conversations")),
    ChatForm("Schema-Guided Dialogue", _has("dialogue_id", "turns"), lambda row: _spoken(row["turns"])),
    ChatForm("Alpaca", _has("instruction", "output", may=("input", "system", "history")), _alpaca),
    ChatForm("Dolly", lambda there: there if there == _DOLLY else None, _alpaca),
    ChatForm(
        "instruction, response", _has("instruction", "response"), lambda row: _prompted(row, "instruction", "response")
    ),
    ChatForm("prompt, completion", _has("prompt", "completion"), lambda row: _prompted(row, "prompt", "completion")),
    ChatForm("prompt, response", _has("prompt", "response"), lambda row: _prompted(row, "prompt", "response")),
    ChatForm("question, answer", _has("question", "answer"), lambda row: _prompted(row, "question", "answer")),
    ChatForm("plain text", _has("text"), lambda row: [{"role": "assistant", "content": _text(row, "text")}]),
)
"""In the order in which they are tried. Plain text becomes one assistant turn: all of it is learned."""
_BY_NAME = {form.name: form for form in FORMS}


def _opened(row: Row, column: str) -> list[dict[str, str]]:
    turns, system = _turns(row[column]), row.get("system")
    opening = isinstance(system, str) and system and (not turns or turns[0]["role"] != "system")
    return [{"role": "system", "content": str(system)}, *turns] if opening else turns


def _spoken(turns: Any) -> list[dict[str, str]]:
    """In dialogues that a wizard led the system is the assistant."""
    said = _turns(turns)
    return [{**turn, "role": "assistant" if turn["role"] == "system" else turn["role"]} for turn in said]


# ------------------------------------------------------------------------------------------------ reading


def read_chats(source: str | Path, *, form: str | None = None, offline: bool = False) -> Chats:
    """The rows of a file, a folder or a hub id (`rows.read_rows`) as chats.

    `form` names one of `FORMS` where the columns fit several. Iterating raises `DataError` when no known form fits the
    columns of the first row, and at the end when no row had an assistant's turn.
    """
    if form is not None and form not in _BY_NAME:
        raise DataError(f"{source}: unknown form {form!r}; {nearest(form, _BY_NAME)}")
    chats = Chats(source=str(source), rows=lambda: _rows(chats, form, offline))
    return chats


def load_chats(source: str | Path, *, form: str | None = None, offline: bool = False) -> tuple[list[ChatRow], Chats]:
    """All rows at once, with their counts; where content comes again its id gets a number, `…~2`. Raises as reading."""
    chats = read_chats(source, form=form, offline=offline)
    copies: Counter[str] = Counter()
    rows = []
    for row in chats:
        copies[row["id"]] += 1
        number = copies[row["id"]]
        rows.append(row if number == 1 else {**row, "id": f"{row['id']}~{number}"})
    return rows, chats


def _rows(chats: Chats, asked: str | None, offline: bool) -> Iterator[ChatRow]:
    def leave_out(where: str, why: str) -> None:
        chats.read += 1
        chats.left_out[why] += 1
        chats.first.setdefault(why, where)

    chats.read, chats.left_out, chats.first = 0, Counter(), {}
    form = _BY_NAME[asked] if asked else None
    for where, row in read_rows(chats.source, offline=offline, skip=leave_out):
        columns = frozenset(row)
        if form is None or not chats.form:
            form, chats.also = (form, ()) if form else _detected(where, columns)
            chats.form = form.name
        used = form.fits(columns)
        if used is None:
            leave_out(where, f"columns that are not those of the form {form.name}")
            continue
        try:
            turns = _checked(form.turns(row))
        except _LeftOut as reason:
            leave_out(where, str(reason))
            continue
        chats.read, chats.where, chats.raw = chats.read + 1, where, row
        rest = {name: value for name, value in row.items() if name not in used and name not in ("id", "messages")}
        yield {"id": _id(row, turns), "messages": turns, **rest}
    if not chats.used:
        found = ", ".join(f"{n} with {why}" for why, n in chats.left_out.most_common(3)) or "none"
        raise DataError(
            f"{chats.source}: none of the {chats.read} rows can be used ({found}); "
            "give rows that hold an assistant's turn, such as {'messages': […]}"
        )


def _id(row: Row, turns: list[dict[str, str]]) -> str:
    """The row's own id where it is a text, else one made of the turns: the same content has the same id anywhere."""
    own = row.get("id")
    return own if isinstance(own, str) and own else content_id("chat", turns)


def _checked(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    if not turns:
        raise _LeftOut("no turns")
    answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
    if not answers:
        raise _LeftOut("no assistant turn")
    if not any(text.strip() for text in answers):
        raise _LeftOut("nothing in the assistant's turns")
    if sum(len(turn["content"]) for turn in turns) > LONGEST:
        raise _LeftOut(f"more than {LONGEST:,} characters")
    return turns


def _detected(where: str, columns: frozenset[str]) -> tuple[ChatForm, tuple[str, ...]]:
    """The first form that fits, and the names of those that would fit as well with columns of their own."""
    fitting = [form for form in FORMS if form.fits(columns) is not None]
    if not fitting:
        known = "; ".join(form.name for form in FORMS)
        raise DataError(
            f"{where}: no known form has the columns {', '.join(sorted(columns))}; rename them to one of: {known}"
        )
    return fitting[0], tuple(form.name for form in fitting[1:])


# ------------------------------------------------------------------------------------------------ writing


def write_chats(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSONL into a new file that only its owner can read; how many there were.

    Raises `DataError` where a file is already, none can be written, or a row cannot be; nothing is left there then.
    """
    return write_all((path, rows))[0]


def write_all(*files: tuple[str | Path, Iterable[Mapping[str, Any]]]) -> list[int]:
    """As `write_chats`, for files that belong together: all of them, or none."""
    counts = []
    with ExitStack() as undo:
        for path, rows in files:
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                raise DataError(f"{path}: there is a file already; name a new one") from None
            except OSError as error:
                raise DataError(f"{path}: cannot be written ({error.strerror}); name another file") from None
            undo.callback(Path(path).unlink)
            counts.append(_written(path, handle, rows))
        undo.pop_all()
    return counts


def _written(path: str | Path, handle: int, rows: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    try:
        with os.fdopen(handle, "wb") as stream:
            for row in rows:
                count += 1
                stream.write(_line(row, f"{path}: row {count}"))
    except OSError as error:
        raise StorageFailure(
            f"{path}: cannot be written ({error.strerror}); free space, or name another file"
        ) from None
    return count


def _line(row: Mapping[str, Any], where: str) -> bytes:
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()
    except (TypeError, UnicodeEncodeError, RecursionError) as error:
        raise DataError(f"{where} cannot be written as JSON ({error}); leave that column or row out") from None
