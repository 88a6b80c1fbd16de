"""The one seam to the outside: a model answers lists of requests with lists of replies.

Everything above this file is tested without a model (`models/scripted.py` is the double that ships).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from discretion.schema import Generate, HiddenStates, Kind, LogLikelihood, Reply

OnReply = Callable[[int, Reply], None]
"""Called with (index of the request, its reply) as soon as a batch is done, so that it can be kept at once."""


class Model(Protocol):
    """One arm, or a judge.

    Each method answers every request, in order, and never raises for one bad request: that reply carries `error`.
    """

    @property
    def name(self) -> str:
        """As the user named it."""

    @property
    def digest(self) -> str:
        """Of weights, adapter, tokenizer, template and precision: equal digests answer equally."""

    @property
    def can(self) -> frozenset[Kind]:
        """The requests it can answer."""

    def generate(self, requests: Sequence[Generate], on_reply: OnReply | None = None) -> list[Reply]:
        """Text for each request."""

    def loglikelihood(self, requests: Sequence[LogLikelihood], on_reply: OnReply | None = None) -> list[Reply]:
        """Log-probabilities of each request's continuations."""

    def hidden_states(self, requests: Sequence[HiddenStates], on_reply: OnReply | None = None) -> list[Reply]:
        """Residual-stream vectors."""
