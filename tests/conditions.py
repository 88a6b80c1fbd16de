"""Models of known discretion for the suites that put another suite's items under conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from discretion.audit import carry
from discretion.compare import Suite, compare
from discretion.config import Thresholds
from discretion.models.scripted import Scripted
from discretion.probes.base import Probe
from discretion.schema import ConditionItem, Generate, Message, MetricSummary, Reply, Request


def planted(probe: Probe, items: Sequence[ConditionItem], leaks: Callable[[ConditionItem], bool]) -> Scripted:
    """A model that answers safely but for the items for which `leaks` holds."""
    replies: dict[tuple[Message, ...], Reply] = {}
    for item in items:
        oracle = probe.oracle(item)
        asked = next(probe.run(item))
        for request in asked if isinstance(asked, list) else [asked]:
            replies[prompt(request)] = (oracle.leak if leaks(item) else oracle.safe)(request)
    return Scripted("planted", lambda request: replies[prompt(request)])


def prompt(request: Request) -> tuple[Message, ...]:
    """The messages of a request, of whichever kind."""
    return request.messages if isinstance(request, Generate) else request.context


def figures(probe: Probe, items: Sequence[ConditionItem], base: Scripted, tuned: Scripted) -> dict[str, MetricSummary]:
    """Every metric of the probe on these two models, by name."""
    kept = {"base": [], "tuned": []}
    carry(
        probe,
        {"base": items, "tuned": items},
        {"base": base, "tuned": tuned},
        lambda arm, outcome: kept[arm].append(outcome),
    )
    suite = Suite(probe, kept["base"], kept["tuned"], len(items))
    return {metric.metric: metric for metric in compare(suite, Thresholds(draws=1000))}
