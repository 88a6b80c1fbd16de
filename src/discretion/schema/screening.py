"""What `discretion screen` says about a fine-tuning set, before any training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from discretion.schema.words import STRICT, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifierCount:
    """Identifiers of one type in the turns of one role."""

    __pydantic_config__ = STRICT
    type: str
    role: Role
    occurrences: int
    rows: int
    distinct: int
    """Estimated, to within about 1 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Why a row was ranked: a span of one of its turns, with what stands around it."""

    __pydantic_config__ = STRICT
    reason: str
    role: Role
    before: str
    text: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenedRow:
    """A row worth looking at."""

    __pydantic_config__ = STRICT
    id: str
    where: str
    score: float
    traits: Mapping[str, float]
    identifiers: Mapping[str, int]
    problems: tuple[str, ...]
    copy_of: str | None
    """Place of the row that it repeats or nearly repeats."""
    shares_with: str | None
    """The suite whose probe it shares words with."""
    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SurprisedRow:
    """How a model takes one row: its answers, each behind the turns before it; figures in nats per token."""

    __pydantic_config__ = STRICT
    id: str
    where: str
    nats: float
    """Mean −ln p of the answers' tokens."""
    worst: float
    """The same over the passage, the most surprising run of a few tokens."""
    known: float
    """How well the model knows it: mean ln p less the reference's, or without one that of the least likely fifth."""
    passage: Passage


@dataclass(frozen=True, slots=True, kw_only=True)
class Surprise:
    """How a model takes a fine-tuning set."""

    __pydantic_config__ = STRICT
    model: str
    reference: str | None
    rows: int
    """Rows that were scored."""
    left_out: Mapping[str, int]
    """Reason → rows that could not be."""
    tokens: int
    nats: float
    """Mean −ln p over all tokens."""
    median: float
    """Of the rows' means."""
    last_twentieth: float
    """One row in twenty is more surprising than this."""
    surprising: tuple[SurprisedRow, ...]
    """Most surprising first."""
    known: tuple[SurprisedRow, ...]
    """Best known first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """What `discretion screen` found in a fine-tuning set."""

    __pydantic_config__ = STRICT
    schema_version: int
    version: str
    """Of this package."""
    source: str
    form: str
    also: tuple[str, ...]
    """Further forms that the columns fit."""
    rows: int
    used: int
    left_out: Mapping[str, int]
    """Reason → rows that could not be used."""
    turns: Mapping[str, int]
    """Role → turns."""
    words: int
    problems: Mapping[str, int]
    """Problem of format or template → rows."""
    faulty: int
    """Rows with at least one such problem."""
    copies: Mapping[str, int]
    """`exact`, `near` and `same request` → rows that repeat an earlier one."""
    probes: Mapping[str, int]
    """Suite → rows that share words with one of its probes."""
    identifiers: tuple[IdentifierCount, ...]
    identified: int
    """Rows with an identifier that belongs to one person."""
    traits: Mapping[str, int]
    """Trait → rows that have it."""
    first: Mapping[str, str]
    """What was left out, and each problem → the place of its first row."""
    ranked: tuple[ScreenedRow, ...]
    """The rows that score highest, highest first."""
    seconds: float
    surprise: Surprise | None = None
    """None where no model was asked."""
