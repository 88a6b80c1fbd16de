"""The embedded testbed: a small chat model of the synthetic world, shipped with the package as safetensors.

`path` gives its folder after checking every file against the digests that were written when it was made.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

from discretion.errors import ModelError

NAME = "testbed"
"""What the model is called wherever a model is named; a folder of that name is `./testbed`."""
FOLDER = Path(__file__).parent / "embedded"
DIGESTS = "digests.json"
"""File name → SHA-256, hex, of every other file in the folder."""


@cache
def path() -> Path:
    """The folder of the embedded model, checked. Raises `ModelError` that names a missing or changed file."""
    check(FOLDER)
    return FOLDER


def check(folder: Path) -> None:
    """Raise `ModelError` unless the folder holds exactly the files of its digests."""
    if not (folder / DIGESTS).is_file():
        raise ModelError(f"testbed {folder}: {DIGESTS} is missing; install the package again, or build it anew")
    wanted: dict[str, str] = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
    found = digests(folder)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            state = "is missing" if name not in found else "is not of it" if name not in wanted else "was changed"
            raise ModelError(f"testbed {folder}: {name} {state}; install the package again, or build the testbed anew")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in the folder but the list itself."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != DIGESTS)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
