"""Chat rows to token ids and labels, as the chat template gives them, and as an audit will read them.

The loss falls on whole assistant turns with the token that ends them, found by the template's generation marks or,
where it has none, by rendering the chat turn by turn; where that cannot be done, `ModelError` says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateError

from discretion.errors import DataError, ModelError
from discretion.models.parity import DAY, Text, check_start, choose_template, own_template
from discretion.schema import Message, digest

IGNORED = -100
"""Label of a token without loss."""
ROLES = ("system", "user", "assistant", "tool")
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
Span = tuple[int, int]
ChatRow = tuple[str, list[Message]]
"""Id and turns."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as a trainer takes them."""

    ids: list[list[int]]
    labels: list[list[int]]
    """As long as `ids`; `IGNORED` where there is no loss."""
    found_by: Literal["marks", "prefixes", "everything"]
    names: list[str]
    """Ids of the rows that are left, in order."""
    cut: int
    """Rows that lost their end."""
    dropped: int
    """Rows left out because no token of them has loss."""

    @property
    def tokens(self) -> int:
        return sum(len(row) for row in self.ids)

    @property
    def loss_tokens(self) -> int:
        # Nothing is predicted at the first token: the trainer never asks for it.
        return sum(label != IGNORED for row in self.labels for label in row[1:])


def check_rows(rows: Sequence[Mapping[str, Any]]) -> list[ChatRow]:
    """(id, messages) of each row. Raises `DataError` that names the row: no id, an id twice, no messages, no answer."""
    if not rows:
        raise DataError("rows to tune on: there are none; give at least one")
    found: list[ChatRow] = []
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        name, turns = row.get("id"), row.get("messages")
        where = f"row {number}" if not isinstance(name, str) or not name else f"row {number} ({name})"
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}: 'id' must be text, found {type(name).__name__}; give each row its own")
        if name in seen:
            raise DataError(f"{where}: the id was used before; give each row its own")
        if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
            raise DataError(f"{where}: 'messages' must be a list of turns; give at least one")
        seen.add(name)
        found.append((name, [_turn(where, turn) for turn in turns]))
    return found


def _turn(where: str, turn: Any) -> Message:
    if not isinstance(turn, Mapping) or turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
        raise DataError(f"{where}: each message needs 'role' ({', '.join(ROLES)}) and 'content' as text; repair it")
    return Message(turn["role"], turn["content"])


def rows_digest(rows: Sequence[ChatRow]) -> str:
    """Of ids and messages, in order."""
    return digest([[name, [[turn.role, turn.content] for turn in turns]] for name, turns in rows])


def text_for(tokenizer: Any, asked: str | None, name: str) -> Text:
    """Tokenizer and chat template together, checked. Raises `ModelError` as an audit would."""
    own = own_template(tokenizer)
    template, _ = choose_template(own, own, asked, (name, name))
    text = Text(tokenizer, template)
    check_start(text, name)
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"model {name}: its tokenizer cannot tell where a token stands in the text; use a fast one")
    return text


def encode(text: Text, rows: Sequence[ChatRow], loss: Literal["assistant", "all"], max_length: int) -> Encoded:
    """Token ids and labels of the rows, each cut to `max_length` tokens; rows without loss are left out, and counted.

    Raises `DataError` when the template refuses a row or no row is left, `ModelError` when the template tells no turns
    apart.
    """
    marked = loss == "assistant" and _MARK.search(text.template) is not None
    prefix = text.prefix.tolist()
    ids: list[list[int]] = []
    labels: list[list[int]] = []
    names: list[str] = []
    cut = dropped = 0
    for name, turns in rows:
        try:
            row, weigh = _marked(text, turns) if marked else _plain(text, turns, name, loss)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise DataError(f"row {name}: the chat template refuses it ({error}); repair the row") from None
        if row[: len(prefix)] != prefix:
            row, weigh = prefix + row, [loss == "all"] * len(prefix) + weigh
        label = [token if weight else IGNORED for token, weight in zip(row, weigh, strict=True)][:max_length]
        if all(token == IGNORED for token in label[1:]):
            dropped += 1
            continue
        cut += len(row) > max_length
        ids.append(row[:max_length])
        labels.append(label)
        names.append(name)
    if not ids:
        raise DataError(
            f"{len(rows)} rows: in none of them an assistant turn lies within {max_length} tokens; "
            "raise --max-length, or give rows with answers"
        )
    found_by: Literal["marks", "prefixes", "everything"]
    found_by = "everything" if loss == "all" else "marks" if marked else "prefixes"
    return Encoded(ids, labels, found_by, names, cut, dropped)


def _marked(text: Text, turns: Sequence[Message]) -> tuple[list[int], list[bool]]:
    found = text.tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.content} for turn in turns],
        chat_template=text.template,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        date_string=DAY,
    )
    return list(found["input_ids"]), [bool(weight) for weight in found["assistant_masks"]]


def _plain(text: Text, turns: Sequence[Message], name: str, loss: str) -> tuple[list[int], list[bool]]:
    rendered = text.render(turns, opened=False)
    found = text.tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = list(found["input_ids"])
    if loss == "all":
        return ids, [True] * len(ids)
    spans = _spans(text, turns, rendered, name)
    return ids, [any(a < end and b > start for start, end in spans) for a, b in found["offset_mapping"]]


def _spans(text: Text, turns: Sequence[Message], rendered: str, name: str) -> list[Span]:
    """Characters of the assistant turns: what stands between the chat opened for an answer and the chat with it."""
    spans = []
    opening = text.render(turns[:1]).removeprefix(text.render(turns[:1], opened=False))
    for at, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        before = text.render(turns[:at]) if at else rendered[: rendered.find(opening) + len(opening)]
        after = text.render(turns[: at + 1], opened=False)
        if not (after.startswith(before) and rendered.startswith(after)):
            raise ModelError(
                f"row {name}: the chat template renders a turn differently when another follows, so answers cannot be "
                "told from it; give a --template with {% generation %} marks, or use --loss all"
            )
        spans.append((len(before), len(after)))
    return spans
