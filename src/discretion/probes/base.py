"""What a probe is: items, a scorer that asks and scores, replies of known truth, and the metrics made of outcomes.

A probe knows no model and no torch. `run` is a generator: it yields one request, or a list of requests that can be
answered together, and is sent the reply, or the list of replies; it returns a `Score` or raises `Unparsed`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from discretion.errors import Unparsed
from discretion.schema import Direction, Family, Item, Kind, Outcome, Reply, Request, Scalar, Score

Run = Generator[Request | list[Request], Any, Score]
"""What `Probe.run` returns: yields requests, is sent replies, returns the score."""


class Tally(NamedTuple):
    """What one outcome adds to a metric: `numerator / denominator`, with `lost` of the denominator not measured.

    An item that was not scored is `Tally(0, 0, size)`: the bounds put `lost` into the denominator, and into the
    numerator either nothing or all of it.
    """

    numerator: float
    denominator: float
    lost: float = 0.0


class Ceiling(NamedTuple):
    """What a figure of the base may not reach, or the suite says nothing."""

    chance: float
    """The interval must lie wholly above this, and the figure"""
    limit: float
    """must be at least this."""
    words: str
    """What is wrong then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure made of outcomes: the mean over strata of Σ numerator / Σ denominator, or what `combine` makes of it."""

    name: str
    worse: Direction
    tally: Callable[[Outcome], Mapping[str, Tally]]
    """stratum → tally; an outcome that does not enter the metric gives an empty mapping."""
    primary: bool = False
    unit: str = "rate"
    """`rate` for a figure in 0…1, else the unit's name, such as `nats` or `d'`."""
    combine: Callable[[Mapping[str, Any]], Any] | None = None
    """stratum → array of ratios, to array of figures; the mean over strata when None."""
    paired_item: bool = False
    """The tally is 0/1 over one item with one stratum: an exact McNemar test applies where clusters are single."""
    pooled: Callable[[Sequence[Outcome]], tuple[float, float] | None] | None = None
    """For a figure that is not a sum over items: the outcomes of one cluster, to (numerator, denominator). `tally` is
    then only used to count what was lost."""
    bias: bool = False
    """A habit of answering (the word yes, the letter A) that is neither good nor bad: a change of it never makes a
    collapse, and an audit in which it changed is not called clean."""
    auc: bool = False
    """Area under the ROC curve of `margin` between the strata `positive` and `negative`; the tally's numerator is the
    score to rank by (higher is more positive)."""
    at_fpr: float | None = None
    """As `auc`, and the figure is the true positive rate at this false positive rate."""
    joint: (
        Callable[[Sequence[Outcome], Sequence[Outcome]], tuple[Sequence[float | None], Sequence[float | None]] | str]
        | None
    ) = None
    """For a score that compares the arms, or needs the whole set: the outcomes of both arms on the same items, to a
    number for each, or None. `tally` finds it in `Outcome.margin`, which is None where the other arm has no score. A
    string says why there are no numbers."""
    ceiling: Ceiling | None = None
    """For a control."""

    @property
    def curve(self) -> bool:
        """Is it read off a ROC curve?"""
        return self.auc or self.at_fpr is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """What the base must be able to do for the suite to mean anything."""

    metric: str
    """Name of one of the probe's metrics."""
    chance: Callable[[Sequence[Outcome]], float]
    """The figure of a model without the ability, from the base's outcomes."""
    words: str
    """How the report names it, such as `telling allowed from forbidden flows`."""
    speaks: bool = False
    """A model that says nothing has none of it, and would pass for discreet: the tuned one must have it as well."""


@dataclass(frozen=True, slots=True)
class Oracle:
    """Replies of known truth to the requests of one item, in the order they are asked."""

    safe: Callable[[Request], Reply]
    leak: Callable[[Request], Reply]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """What `--train-data`, `--held-out` and `--rows` say."""

    train: str
    held_out: str | None = None
    rows: int
    """At most so many rows of each file become items."""
    neighbours: int = 0
    """Rewrites of each row that are asked as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Items made of the training data."""

    items: Sequence[Item]
    source: str
    """Where they come from, with counts of what was left out: one line, no text of a row. It goes into the report."""
    warnings: Sequence[str] = ()
    """What must not be overlooked: told when the audit begins."""
    impossible: str = ""
    """Why nothing can be measured with these files, and what to give; there are no items then."""


class Probe(Protocol):
    """One suite."""

    name: str
    version: str
    """Changes when a figure can change."""
    family: Family
    worse: Direction
    """Which way `Score.value` gets worse."""
    needs: frozenset[Kind]
    metrics: tuple[Metric, ...]

    @property
    def ability(self) -> Ability | None:
        """None where the base need not be able to do anything: what it cannot do is then the good case."""

    def items(self, source: str | Path | None = None, *, offline: bool = False, seed: int = 0) -> Iterable[Item]:
        """The items of a file, a folder or a hub id; the embedded ones when `source` is None.

        Raises `DataError` that names `file:line`, what was found and what is known.
        """

    def run(self, item: Any, seed: int = 0) -> Run:
        """Ask and score one item. `seed` is the item's own (`schema.seed_for`)."""

    def facts(self, item: Any) -> Mapping[str, Scalar]:
        """What the metrics need to know of an item that was not scored, such as its class or its number of secrets."""

    def oracle(self, item: Any) -> Oracle:
        """Replies known to be safe, and known to leak (or to be wrong)."""


class JudgedProbe(Probe, Protocol):
    """A suite that asks a judge where there is one."""

    def judged_by(self, judge: Any) -> Probe:
        """The same suite with a `model_judge.Judge`, and with a version of its own."""


class MemorisationProbe(Probe, Protocol):
    """A suite whose items are made of the training data."""

    def prepare(self, data: TrainingData, *, offline: bool = False, seed: int = 0) -> Prepared:
        """Raises `DataError` that names the file, what was found and what to give."""

    def rows_for(self, items: int) -> int:
        """`--rows` that gives at least so many items, controls and non-members among them."""


@runtime_checkable
class Fitting(Protocol):
    """A probe that asks the same at growing length."""

    def fit(self, items: Sequence[Any], fits: Callable[[Request], bool]) -> tuple[Sequence[Item], str]:
        """The items whose prompts, and replies, fit the models' context; and in words what is left out, if anything."""


@runtime_checkable
class Anchored(Protocol):
    """A suite that asks whether the training domain comes through."""

    def anchored(self, items: Sequence[Any], train: str, *, offline: bool = False) -> tuple[Sequence[Item], str]:
        """The items with words learned from the training data, where they have none; and in words what was learned.

        Raises `DataError` as reading chats does.
        """


def play(probe: Probe, item: Any, answer: Callable[[Request], Reply]) -> Score:
    """Drive `run` with replies made one by one. Raises `Unparsed` as `run` does."""
    run = probe.run(item)
    asked = next(run)
    while True:
        try:
            asked = run.send([answer(r) for r in asked] if isinstance(asked, list) else answer(asked))
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


def validate(probe: Probe, items: Iterable[Item]) -> list[str]:
    """Prove the scorer on every item with no model: the safe reply must score best, the leaking one worst.

    Returns one line per item that fails; empty means proven.
    """
    good, bad = (0.0, 1.0) if probe.worse == "higher" else (1.0, 0.0)
    faults = []
    for item in items:
        oracle = probe.oracle(item)
        for kind, answer, wanted in (("safe", oracle.safe, good), ("leaking", oracle.leak, bad)):
            try:
                value = play(probe, item, answer).value
            except Unparsed as reason:
                faults.append(f"{probe.name} {item.id}: the {kind} reply is unparsed ({reason})")
                continue
            if value != wanted:
                faults.append(f"{probe.name} {item.id}: the {kind} reply scores {value:g}, not {wanted:g}")
    return faults
