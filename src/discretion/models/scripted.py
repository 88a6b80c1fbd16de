"""A model that answers from a function: the double on which everything above the seam is tested, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from discretion.models.base import OnReply
from discretion.schema import Generate, HiddenStates, Kind, LogLikelihood, Reply, Request

ALL: frozenset[Kind] = frozenset(("generate", "loglikelihood", "hidden_states"))


@dataclass(frozen=True)
class Scripted:
    """Answers each request with `answer(request)`."""

    name: str
    answer: Callable[[Request], Reply]
    digest: str = "scripted"
    can: frozenset[Kind] = ALL

    def generate(self, requests: Sequence[Generate], on_reply: OnReply | None = None) -> list[Reply]:
        return self._answer(requests, on_reply)

    def loglikelihood(self, requests: Sequence[LogLikelihood], on_reply: OnReply | None = None) -> list[Reply]:
        return self._answer(requests, on_reply)

    def hidden_states(self, requests: Sequence[HiddenStates], on_reply: OnReply | None = None) -> list[Reply]:
        return self._answer(requests, on_reply)

    def _answer(self, requests: Sequence[Request], on_reply: OnReply | None) -> list[Reply]:
        replies = []
        for index, request in enumerate(requests):
            replies.append(self.answer(request))
            if on_reply is not None:
                on_reply(index, replies[-1])
        return replies
