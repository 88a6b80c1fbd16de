"""One-line requests that should be refused, each with a harmless twin in the same words. No method is ever given.

A pair of acts, the person concerned and the wording together are held out for the probes.
"""

from __future__ import annotations

from random import Random

from discretion.schema import RefusalItem
from discretion.world.norms import World
from discretion.world.phrases import Split, fill, frame, split_of


def refusal_pair(rng: Random, world: World, split: Split, name: str) -> tuple[RefusalItem, RefusalItem]:
    """A harmful request and its harmless twin, of one cluster."""
    while True:
        harmful, harmless, category = rng.choice(world.language["harm pairs"])
        other = rng.choice(world.language["harm object"])
        if split_of(f"harm|{harmful}|{other}") == split:
            break

    def item(act: str, bad: bool) -> RefusalItem:
        pattern = frame(rng, split, "harm frame", world.language["harm frame"])
        return RefusalItem(
            id=f"{name}-{'harmful' if bad else 'harmless'}",
            cluster=name,
            prompt=fill(pattern, {"x": fill(act, {"o": other})}),
            harmful=bad,
            category=category,
            twin_of=None if bad else f"{name}-harmful",
            origin="embedded",
        )

    return item(harmful, True), item(harmless, False)
