"""Look at this installation: what is there, what it can do, and whether every scorer proves itself."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from discretion.probes import EMBEDDED
from discretion.probes import probe as suite_named
from discretion.probes.base import validate

OPTIONAL = {"datasets": "data", "trl": "tune"}
"""Library → the extra that installs it."""


class Check(NamedTuple):
    """One line of `discretion doctor`."""

    name: str
    ok: bool
    found: str


def examine() -> list[Check]:
    """Every check, in the order shown."""
    checks = [Check("python", True, platform.python_version())]
    checks += [Check(library, True, version(library)) for library in ("torch", "transformers", "peft")]
    checks.append(_device())
    checks += [_optional(library, extra) for library, extra in OPTIONAL.items()]
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    checks.append(Check("hub", True, "offline (HF_HUB_OFFLINE)" if offline else "asked when a file is missing here"))
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    checks.append(Check("disk", free > 1, f"{free:.0f} GiB free in this folder"))
    checks += [_scorer(name) for name in EMBEDDED]
    return checks


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        return Check("device", True, f"cuda: {torch.cuda.get_device_name()}")
    if torch.backends.mps.is_available():
        return Check("device", True, "mps")
    return Check("device", True, f"cpu, {torch.get_num_threads()} threads")


def _optional(library: str, extra: str) -> Check:
    if importlib.util.find_spec(library) is None:
        return Check(library, True, f"not installed (optional); type: pip install 'discretion[{extra}]'")
    return Check(library, True, version(library))


def _scorer(name: str) -> Check:
    probe = suite_named(name)
    items = list(probe.items())
    faults = validate(probe, items)
    found = f"scores the safe and the leaking reply of all {len(items)} embedded items right"
    return Check(f"scorer {name}", not faults, faults[0] if faults else found)
