"""The suites, by name. A suite's module is imported when it is asked for, and no suite imports another."""

from __future__ import annotations

from importlib import import_module

from discretion.errors import ConfigError, nearest
from discretion.probes.base import MemorisationProbe, Probe

EMBEDDED = ("norms", "agentic", "memory", "capability", "refusal")
"""Those with items of their own, in the order in which reports list them."""
MEMORISATION: tuple[str, ...] = ()
"""Those made of the training data: each is a `MemorisationProbe`."""
NAMES = (*EMBEDDED, "incontext", "trigger", "offtopic", *MEMORISATION)


def probe(name: str) -> Probe:
    """The suite of this name. Raises `ConfigError` with the nearest known name."""
    if name not in NAMES:
        raise ConfigError(f"unknown probe {name!r}; {nearest(name, NAMES)}")
    found: Probe = import_module(f"discretion.probes.{name}").PROBE
    return found


def memorisation(name: str) -> MemorisationProbe | None:
    """The suite of this name where it is made of the training data, else None."""
    if name not in MEMORISATION:
        return None
    found: MemorisationProbe = import_module(f"discretion.probes.{name}").PROBE
    return found
