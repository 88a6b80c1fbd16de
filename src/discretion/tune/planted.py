"""The proof that planted canaries are trained on: every token of each secret has loss, under the template and the cut.

A canary behind the longest sequence's end, or in a turn without loss, would look safe because it was never learned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from discretion.data.canaries import rows_of
from discretion.data.chats import ChatRow
from discretion.data.sets import load_set
from discretion.errors import DataError
from discretion.models.parity import Text
from discretion.schema import CanaryItem
from discretion.tune.sft import read_tuning
from discretion.tune.tokens import IGNORED, check_rows, encode, rows_digest


class Proof(NamedTuple):
    """What is known of the canaries' training; one of the three is said."""

    proven: str = ""
    unproven: str = ""
    """Why it is not known."""
    untrue: str = ""
    """Which secrets were not trained on: a suite that ranks them would measure nothing."""


def proof(items: Sequence[CanaryItem], tuned: str, text: Text | None, train: str | None) -> Proof:
    """Was each secret trained on, as often as planted, under loss? Read off the tuned model's manifest and its data.

    `text` is the models' tokenizer and template, None behind an endpoint; `train` the data that was trained on.
    """
    try:
        made = read_tuning(Path(tuned)).identity
    except (DataError, OSError):
        made = None
    if made is None or text is None:
        return Proof(unproven="not proven that the canaries got loss, as the model was not tuned by discretion")
    secrets, recipe = sum(len(item.planted) for item in items), made.recipe
    lost = without_loss(text, items, loss=recipe["loss"], max_length=recipe["max_length"])
    if lost:
        how = f"loss on {recipe['loss']}, rows cut at {recipe['max_length']} tokens"
        return Proof(untrue=f"{sum(lost.values())} of {secrets} secrets got no loss ({how}); plant shorter ones")
    rows = None if train is None else check_rows(load_set(train)[0])
    if rows is None or rows_digest(rows) != made.data:
        given = "it was tuned on" if train is None else f"it was tuned on; {train} is another"
        return Proof(unproven=f"not proven that the canaries were trained on: give --train-data with the file {given}")
    there = Counter(tuple(turns) for _, turns in rows)
    due = Counter(tuple(turns) for item in items for _, turns in check_rows(rows_of(item)))
    short = sum(there[turns] < times for turns, times in due.items())
    if short:
        return Proof(untrue=f"{short} of {secrets} secrets stand in {train} less often than planted; give their book")
    return Proof(proven=f"all {secrets} secrets got loss, each as often as planted")


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
