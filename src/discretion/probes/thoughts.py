"""Thoughts that a model writes down before it answers, apart from the answer: they are not what it says to others."""

from __future__ import annotations

from typing import NamedTuple

from discretion.errors import Unparsed

OPEN, CLOSE = "<think>", "</think>"
"""Around the thoughts; a chat template may have written the first mark itself."""


class Divided(NamedTuple):
    """A reply in two."""

    thought: str
    """Empty where there is none."""
    answer: str


def divide(text: str) -> Divided:
    """Thought and answer. Raises `Unparsed` for a thought that does not end, which leaves no answer."""
    thought, closed, answer = text.rpartition(CLOSE)
    if OPEN in answer:
        raise Unparsed("a thought that does not end")
    return Divided(thought.replace(OPEN, "").replace(CLOSE, "").strip(), answer.strip() if closed else text)
