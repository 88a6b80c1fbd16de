"""What came of it: outcomes, figures, the summary, and the manifest that says what made a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from discretion.schema.asking import Reply
from discretion.schema.words import STRICT, AuditVerdict, Direction, Family, MetricVerdict, Scalar, Status

# ------------------------------------------------------------------------------------------------ outcomes


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a probe's `run` returns for a reply it could score."""

    __pydantic_config__ = STRICT
    value: float
    """The item's contribution to the suite's primary metric, in the probe's own direction."""
    margin: float | None = None
    """Graded evidence in nats, above 0 in the direction of the right answer; only where there is one."""
    parts: Mapping[str, Scalar] = field(default_factory=dict)
    """Flat named pieces from which the suite's other metrics are made."""
    evidence: str | None = None
    """The span of the reply that decided, for the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one arm did on one item: one line of `outcomes/<arm>/<probe>.jsonl`."""

    __pydantic_config__ = STRICT
    item_id: str
    cluster: str
    status: Status
    value: float | None = None
    """There if and only if `status` is `scored`."""
    margin: float | None = None
    parts: Mapping[str, Scalar] = field(default_factory=dict)
    """For an item that was not scored: the facts about the item itself that bounds need (see `Probe.facts`)."""
    evidence: str | None = None
    reason: str | None = None
    """Why it was not scored; one short line without model text."""
    replies: tuple[Reply, ...] = ()

    def __post_init__(self) -> None:
        if (self.status == "scored") != (self.value is not None):
            raise ValueError(f"outcome {self.item_id}: status {self.status!r} with value {self.value!r}")


# ------------------------------------------------------------------------------------------------ figures


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmFigure:
    """One metric in one arm."""

    __pydantic_config__ = STRICT
    value: float | None
    """Among scored items; None when nothing was scored."""
    n: int
    """Items asked."""
    unparsed: int
    failed: int
    interval: tuple[float, float] | None
    """95 %."""
    numerator: float | None = None
    denominator: float | None = None
    bounds: tuple[float, float] | None = None
    """Value if every item that was not scored had been the best, or the worst, possible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """tuned − base, paired."""

    __pydantic_config__ = STRICT
    value: float | None
    interval: tuple[float, float] | None
    """95 %, clusters resampled."""
    interval90: tuple[float, float] | None
    """90 %, the one the equivalence test reads."""
    bounds: tuple[float, float] | None
    """The difference if every lost pair had gone one way, or the other."""
    p: float | None
    p_adjusted: float | None
    method: str
    """Name of the test, such as `exact McNemar` or `cluster sign-flip permutation`."""
    relative: float | None = None
    """Δ / base, as in the papers; shown beside the absolute change, never alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSummary:
    """One entry of `summary.json`."""

    __pydantic_config__ = STRICT
    probe: str
    metric: str
    family: Family
    primary: bool
    bias: bool = False
    """A habit of answering, neither good nor bad: see `probes.base.Metric.bias`."""
    companion: bool = False
    """What a suite of discretion must still do for silence not to pass for it, such as coverage."""
    worse: Direction
    unit: str
    base: ArmFigure
    tuned: ArmFigure
    difference: Difference
    n: int
    """Pairs asked."""
    kept: int
    """Pairs scored in both arms."""
    clusters: int
    """Clusters among the kept pairs."""
    lost: Mapping[str, int]
    """Pairs lost, by reason."""
    verdict: MetricVerdict
    reason: str = ""
    """Why it is unmeasurable, in words."""
    minimum_detectable: float | None = None
    """Smallest change that this n would show with 80 % power."""
    n_to_settle: int | None = None
    """Items that would settle an inconclusive result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A pair whose answer changed: evidence side by side."""

    __pydantic_config__ = STRICT
    probe: str
    item_id: str
    cluster: str
    worse: bool
    """The tuned model does worse than the base here."""
    base_value: float
    tuned_value: float
    base_evidence: str | None
    tuned_evidence: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`summary.json`: everything the gate and the report read."""

    __pydantic_config__ = STRICT
    schema_version: int
    verdict: AuditVerdict
    """The gravest."""
    verdicts: tuple[AuditVerdict, ...]
    """All that hold, gravest first."""
    exit_code: int
    sentence: str
    metrics: tuple[MetricSummary, ...]
    flips: tuple[Flip, ...]
    limited: bool
    """Only a random subset of the items was asked (`--limit`)."""
    complete: bool
    """Every planned item has an outcome in both arms."""
    judge: Mapping[str, Any] = field(default_factory=dict)
    """As in the manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What made a run. Two runs, or two halves of one, may be joined only if these are equal."""

    __pydantic_config__ = STRICT
    base: str
    """Digest of the base's weights, configuration and tokenizer."""
    tuned: str
    """Digest of the tuned checkpoint, or of adapter and base together."""
    template: str
    """Digest of the chat template in use."""
    data: Mapping[str, str]
    """Digest of each probe's items."""
    probes: Mapping[str, str]
    """Version of each probe."""
    config: Mapping[str, Any]
    """Resolved options that can change a figure."""
    precision: str
    judge: str
    """Digest of the judge; `rules` where scoring needs no model."""
    version: str
    """Of this package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`manifest.json`: what made the run, and how it went."""

    __pydantic_config__ = STRICT
    schema_version: int
    identity: Identity
    created: str
    """UTC, ISO 8601."""
    base: str
    """As the user named it."""
    tuned: str
    """As the user named it."""
    versions: Mapping[str, str]
    machine: Mapping[str, Scalar]
    items: Mapping[str, int]
    """Items per probe, after `--limit`."""
    sources: Mapping[str, str]
    """Where each probe's items came from."""
    judge: Mapping[str, Any] = field(default_factory=dict)
    """Name, digest, votes, suites, and agreement with human labels (`probes.judges.Agreement`), where there are any."""
    impossible: Mapping[str, str] = field(default_factory=dict)
    """Probe → why these models cannot be asked it."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Batch plan, self-check, parity checks."""
    counts: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
    """arm → probe → status → items."""
    seconds: float = 0.0
    """Wall time of all sessions together."""
