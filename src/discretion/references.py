"""Reference models for a finished audit of membership, tuned as the audited one was, on halves of both files' rows.

They come in pairs whose halves complete each other, so that each row was seen by one of a pair and not by the other:
LiRA compares a row with the models that did not see it, RMIA with all. Kept in the run's folder; made once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from discretion.audit import audit
from discretion.config import AuditConfig, load
from discretion.data.chats import load_chats
from discretion.data.members import Text
from discretion.errors import UsageError
from discretion.models.pairs import pair_for
from discretion.progress import Progress
from discretion.risk import REFERENCES, SUITE
from discretion.schema import Message
from discretion.store import CONFIG, make_private, read_manifest, write_private
from discretion.tune_config import TuneConfig

NAMES = ("a", "b")


def make(run: Path, pairs: int, progress: Progress) -> Path:
    """Tune and audit `pairs` pairs of references beside the run; what is there is not made again. Gives their folder.

    The recipe is that of the audited model, epochs or steps as they were. Raises `UsageError` for a run without
    membership over two files, `DataError` for a tuned model that was not tuned here.
    """
    manifest, config = read_manifest(run), load(AuditConfig, {}, run / CONFIG)
    if not manifest.items.get(SUITE) or config.train_data is None or config.held_out is None:
        raise UsageError(f"{run}: membership was not measured here over --train-data and --held-out; audit with both")
    from discretion.tune import sft

    recipe = {**sft.read_tuning(Path(config.tuned)).identity.recipe, "watch": "off", "checkpoint_every": None}
    template = config.template if config.template not in ("base", "tuned") else None
    tuning = TuneConfig.model_validate({**recipe, "base": config.base, "template": template, "offline": config.offline})
    rows = [
        {**row, "id": f"{side}-{row['id']}"}
        for side, source in (("member", config.train_data), ("other", config.held_out))
        for row in load_chats(source, offline=config.offline)[0]
    ]
    folder = run / REFERENCES
    make_private(folder)
    for number in range(pairs):
        halves = [[row for row in rows if side(row, number, config.seed) == half] for half in (0, 1)]
        for name, half in zip(NAMES, halves, strict=True):
            progress.note(f"reference {number}-{name}: {len(half)} of {len(rows)} rows")
            tuned = sft.tune(half, tuning, folder / f"{number}-{name}" / "tuned")
            asked = config.model_copy(
                update={
                    "tuned": str(tuned),
                    "probes": (SUITE,),
                    "source": {},
                    "out": folder / f"{number}-{name}" / "run",
                    "cache": folder / "replies.sqlite",
                }
            )
            audit(asked, pair_for(asked), progress)
        told = {f"{number}-{name}": [row["id"] for row in half] for name, half in zip(NAMES, halves, strict=True)}
        write_private(folder / f"pair-{number}.json", json.dumps(told) + "\n")
    return folder


def side(row: Mapping[str, Any], pair: int, seed: int) -> int:
    """Half of a pair that a row belongs to: by its answers, so that copies stand together, by pair and seed."""
    key = Text("", tuple(Message(turn["role"], turn["content"]) for turn in row["messages"])).key
    lot = hashlib.blake2b(key, digest_size=1, salt=seed.to_bytes(8, "big") + pair.to_bytes(8, "big"))
    return lot.digest()[0] & 1
