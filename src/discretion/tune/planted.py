"""The proof that planted canaries are trained on: every token of each secret has loss, under the template and the cut.

A canary behind the longest sequence's end, or in a turn without loss, would look safe because it was never learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from discretion.data.canaries import rows_of
from discretion.data.chats import ChatRow
from discretion.models.parity import Text
from discretion.schema import CanaryItem
from discretion.tune.tokens import IGNORED, check_rows, encode


def without_loss(
    text: Text, items: Sequence[CanaryItem], *, loss: Literal["assistant", "all"] = "assistant", max_length: int = 1024
) -> dict[str, int]:
    """Item → how many of its secrets do not lie under the loss as a whole; empty when each does.

    Raises as encoding does, also when no row at all has loss.
    """
    rows = [(row, secret) for item in items for row, secret in _one_each(item)]
    encoded = encode(text, check_rows([row for row, _ in rows]), loss, max_length)
    learned = {
        name: text.tokenizer.decode([token for token in labels[1:] if token != IGNORED])
        for name, labels in zip(encoded.names, encoded.labels, strict=True)
    }
    found: dict[str, int] = {}
    for item in items:
        lost = sum(secret not in learned.get(row["id"], "") for row, secret in _one_each(item))
        if lost:
            found[item.id] = lost
    return found


def _one_each(item: CanaryItem) -> list[tuple[ChatRow, str]]:
    return list(zip(rows_of(item)[:: item.repetitions], item.planted, strict=True))
