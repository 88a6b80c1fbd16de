"""How well the finder of identifiers does, type by type, on labelled files: the figures that pages print beside theirs.

`finder.json` holds them with the command that made them and its date; `docs/pii.md` shows the same table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any


@cache
def measured() -> dict[str, Any]:
    """`command`, `measured` (a date), and `files`: file → type → precision, recall, f1, exact_f1, n."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("finder.json").read_text(encoding="utf-8"))
    return found


def told(types: Iterable[str]) -> list[tuple[str, str]]:
    """(type, in words how well it is found) for each of the types, sorted."""
    return [(kind, _words(kind)) for kind in sorted(set(types))]


def _words(kind: str) -> str:
    files = {name: types[kind] for name, types in measured()["files"].items() if kind in types}
    parts = [
        f"recall {_rate(f['recall'])}, precision {_rate(f['precision'])} (n = {f['n']}, {name})"
        for name, f in files.items()
    ]
    return "; ".join(parts) or "not measured: no labelled file has one"


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
