"""The transform that plants canaries, so that a study can cross them with whatever else it does to a set.

`canaries(rows)` puts the rows of `book(…)` among the set's; the audit's suite `exposure` reads the same book. What came
out is held against what was asked: without the planted rows it is the set that came, and each secret stands as often
as its number says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import NonNegativeInt, PositiveInt

from discretion.data.canaries import REPETITIONS, SECRETS, Form, make, plant, rows_of
from discretion.errors import DataError
from discretion.schema import CanaryItem

Row = dict[str, Any]


def book(
    *,
    repetitions: Sequence[int] = REPETITIONS,
    secrets: int = SECRETS,
    form: Form | None = None,
    secret_seed: int = 0,
) -> list[CanaryItem]:
    """What `canaries` plants with these parameters: the items that the suite `exposure` asks. Raises as `make`."""
    items = make(seed=secret_seed, repetitions=repetitions, secrets=secrets)
    return [item for item in items if form in (None, item.form)]


def canaries(
    rows: Sequence[Row],
    *,
    repetitions: tuple[PositiveInt, ...] = REPETITIONS,
    secrets: PositiveInt = SECRETS,
    form: Form | None = None,
    secret_seed: NonNegativeInt = 0,
    seed: int = 0,
) -> list[Row]:
    """The rows with the secrets of `book` among them: `secrets` for each number of `repetitions`, of one form or both.

    `secret_seed` draws the secrets, so that one book serves all arms; `seed` draws the places. Raises `DataError` where
    a secret stands in the rows already.
    """
    items = book(repetitions=repetitions, secrets=secrets, form=form, secret_seed=secret_seed)
    made = plant(rows, items, seed=seed)
    planted = {row["id"] for item in items for row in rows_of(item)}
    if [row for row in made if row["id"] not in planted] != list(rows):
        raise DataError("canaries: without the planted rows the set is not what came; give rows no id of a canary")
    text = "\n".join(turn["content"] for row in made for turn in row["messages"])
    for item in items:
        for wanted, those in ((item.repetitions, item.planted), (0, item.twins)):
            wrong = sum(text.count(secret) != wanted for secret in those)
            if wrong:
                raise DataError(f"canaries: {wrong} secrets of {item.id} do not stand {wanted} times; use no such row")
    return made
