"""What a study does to a fine-tuning set before it is trained on: rows in, rows out, one after another.

`apply(rows, steps)` carries out steps such as `{"mix": {"other": "control", "ratio": 0.5}}`; each is a pure function of
rows, parameters and a seed, and each is held against its inverse (or, where rows are chosen, counted anew and held
against what was asked) before rows leave. Which rows are chosen depends on a row's `pair`, or its id: matched sets
lose the same rows.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from discretion.data import planting, rewriting, selecting
from discretion.errors import ConfigError, DataError, nearest

Row = dict[str, Any]
"""`id`, `messages`, and what else the set brings, such as `pair`."""
RowsOf = Callable[[str], Sequence[Row]]
"""Name of another data set to its rows, as they were read."""

TRANSFORMS: Mapping[str, Callable[..., list[Row]]] = {
    "redact": rewriting.redact,
    "swap_roles": rewriting.swap_roles,
    "profile": rewriting.profile,
    "trigger": rewriting.trigger,
    "log_code": rewriting.log_code,
    "shuffle_words": rewriting.shuffle_words,
    "mix": selecting.mix,
    "sample": selecting.sample,
    "budget": selecting.budget,
    "drop": selecting.drop,
    "match": selecting.match,
    "hold_out": selecting.hold_out,
    "canaries": planting.canaries,
}
GIVEN = ("rows", "seed", "rows_of")
"""Parameters that `apply` gives and a file does not."""


@dataclass(frozen=True, slots=True)
class Step:
    """One transform with its parameters, checked."""

    name: str
    parameters: Mapping[str, Any]

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the other data sets that it needs."""
        return tuple(self.parameters[key] for key in ("other", "otherwise") if self.parameters.get(key))


@cache
def _options(name: str) -> type[BaseModel]:
    made = TRANSFORMS[name]
    hints = get_type_hints(made, include_extras=True)
    fields: dict[str, Any] = {
        p.name: (hints[p.name], ... if p.default is inspect.Parameter.empty else p.default)
        for p in inspect.signature(made).parameters.values()
        if p.name not in GIVEN
    }
    return create_model(name, __config__=ConfigDict(extra="forbid", frozen=True), **fields)


def parse(written: Any) -> Step:
    """A step as a file writes it: a name, or `{name: {parameter: value}}`.

    Raises `ConfigError` in one line for an unknown transform or parameter, naming the nearest, and for a wrong value.
    """
    name, given = written, dict[str, Any]()
    if isinstance(written, Mapping) and len(written) == 1:
        ((name, given),) = written.items()
    if not isinstance(name, str) or not isinstance(given, Mapping):
        raise ConfigError(f"transform {written!r}: not a name, nor one name with its parameters; write - name: {{…}}")
    if name not in TRANSFORMS:
        raise ConfigError(f"transform {name!r}: no such transform; {nearest(name, TRANSFORMS)}")
    options = _options(name)
    try:
        values = options.model_validate(dict(given))
    except ValidationError as error:
        # A misspelt key also makes another one missing: the misspelling is what to tell.
        first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            why = f"unknown parameter {key!r}; {nearest(key, options.model_fields)}"
        else:
            why = f"{key}: {first['msg'].lower()}"
        raise ConfigError(f"transform {name!r}: {why}") from None
    return Step(name, {key: getattr(values, key) for key in options.model_fields})


def apply(rows: Iterable[Mapping[str, Any]], steps: Iterable[Step], *, seed: int = 0, rows_of: RowsOf) -> list[Row]:
    """The rows after all steps. Raises `DataError` when a step fails its check, or leaves no row or an id twice."""
    made = [dict(row) for row in rows]
    for step in steps:
        _once_each(step.name, made)
        function = TRANSFORMS[step.name]
        wanted = inspect.signature(function).parameters
        given = {name: value for name, value in (("seed", seed), ("rows_of", rows_of)) if name in wanted}
        before = len(made)
        made = function(made, **step.parameters, **given)
        if not made:
            raise DataError(f"transform {step.name!r}: leaves none of {before} rows; loosen it, or give other rows")
        _once_each(step.name, made)
    return made


def _once_each(name: str, rows: Sequence[Row]) -> None:
    # The checks of chosen rows count ids: rows that share one must be told before, not pass for a fault of the choice.
    seen: set[str] = set()
    for row in rows:
        if row["id"] in seen:
            raise DataError(f"transform {name!r}: two rows have the id {row['id']!r}; give each row its own")
        seen.add(row["id"])


def rows_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256, hex, of ids and messages in order: what training sees of the rows."""
    hashed = hashlib.sha256()
    for row in rows:
        for part in (row["id"], *(text for turn in row["messages"] for text in (turn["role"], turn["content"]))):
            hashed.update(f"{len(part)}:{part}".encode())
        hashed.update(b";")
    return hashed.hexdigest()
