"""The suites, by name. A suite's module is imported when it is asked for, and no suite imports another."""

from __future__ import annotations

from importlib import import_module

from discretion.config import JUDGED_PROBES
from discretion.errors import ConfigError, nearest
from discretion.probes.base import JudgedProbe, MemorisationProbe, Probe
from discretion.probes.model_judge import Judge

EMBEDDED = ("norms", "agentic", "memory", "capability", "refusal")
"""Those with items of their own, in the order in which reports list them."""
MEMORISATION = ("extraction", "membership", "sampling")
"""Those made of the training data: each is a `MemorisationProbe`."""
NAMES = (*EMBEDDED, "incontext", "trigger", "ratings", "secrets", "misuse", "offtopic", "exposure", *MEMORISATION)


JUDGED = JUDGED_PROBES
"""Each is a `JudgedProbe`."""


def probe(name: str, judge: Judge | None = None) -> Probe:
    """The suite of this name, asking a judge where one is given and the suite has a use for it.

    Raises `ConfigError` with the nearest known name.
    """
    if name not in NAMES:
        raise ConfigError(f"unknown probe {name!r}; {nearest(name, NAMES)}")
    found: Probe = import_module(f"discretion.probes.{name}").PROBE
    if judge is None or name not in JUDGED:
        return found
    judged: JudgedProbe = import_module(f"discretion.probes.{name}").PROBE
    return judged.judged_by(judge)


def memorisation(name: str) -> MemorisationProbe | None:
    """The suite of this name where it is made of the training data, else None."""
    if name not in MEMORISATION:
        return None
    found: MemorisationProbe = import_module(f"discretion.probes.{name}").PROBE
    return found
