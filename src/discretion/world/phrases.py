"""Phrasings: templates with choices `[a|b]` and slots `{x}`, and the one rule that holds material out for the probes.

Whatever can be held out (a name, a value, a phrasing, a flow) belongs to the probes if the hash of its own text says
so, and to the training text otherwise: the split needs no list, and a new line of the world moves no old one.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import Literal

from discretion.errors import DataError

Split = Literal["train", "probe"]

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_TRIES = 2000


def split_of(text: str) -> Split:
    """The split that a piece of material belongs to: one text in five is the probes'."""
    return "probe" if zlib.crc32(text.encode()) % 5 == 0 else "train"


def draw(rng: Random, split: Split, make: Callable[[Random], str], key: Callable[[str], str] = str) -> str:
    """A text made by `make` that belongs to `split`; `key` says which part of it is held out."""
    for _ in range(_TRIES):
        made = make(rng)
        if split_of(key(made)) == split:
            return made
    raise DataError(f"world: no material of the split {split!r} after {_TRIES} draws (such as {made!r}); add variants")


@cache
def _segments(template: str) -> tuple[tuple[str, ...], ...]:
    parts = _CHOICE.split(template)
    return tuple(tuple(part.split("|")) if i % 2 else (part,) for i, part in enumerate(parts))


def expand(template: str) -> list[str]:
    """Every phrasing of a template, slots left open."""
    return ["".join(choice) for choice in itertools.product(*_segments(template))]


def frame(rng: Random, split: Split, key: str, templates: Sequence[str]) -> str:
    """One phrasing of the split, slots left open. `key` names the act in the hash."""
    return draw(rng, split, lambda r: "".join(r.choice(s) for s in _segments(r.choice(templates))), lambda t: key + t)


def fill(pattern: str, slots: dict[str, str]) -> str:
    """Put values into the slots. Raises `DataError` that names a slot nobody fills."""
    try:
        return pattern.format_map(slots)
    except KeyError as missing:
        raise DataError(f"language: slot {missing} of {pattern!r} is not filled; known: {sorted(slots)}") from None


def capital(text: str) -> str:
    """First letter in upper case, the rest as it is."""
    return text[:1].upper() + text[1:]


def listed(parts: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
