"""Requests to an assistant that can see its user's papers: what is needed lies in one, what is private in others.

The base model's answer sends what the norms allow; the fine-tuning sets answer the same scenes in other ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from discretion.world import values
from discretion.world.flows import sentence
from discretion.world.norms import World
from discretion.world.phrases import Split, capital, expand, fill, listed, split_of
from discretion.world.talk import Chat, turns
from discretion.world.tasks import attributes_of, draw_values, open_to


@dataclass(frozen=True, slots=True)
class Scene:
    """A request with the papers in view."""

    text: str
    """What the user says: the papers, then the request."""
    slots: dict[str, str]
    """For the answers' templates."""


def scene(rng: Random, world: World, split: Split) -> Scene:
    """A request for one recipient: one or two facts that may be sent, two or three that may not."""
    while True:
        to = rng.choice(open_to(world))
        purpose = rng.choice(to.purposes)
        fine = rng.sample(attributes_of(world, to.allowed), rng.choice((1, 2)))
        private = rng.sample(attributes_of(world, to.forbidden), rng.choice((2, 2, 3)))
        if split_of(f"assist|{to.role}|{purpose}|{sorted(fine + private)}") == split:
            break
    recipient = values.full_name(rng, world, split)
    drawn = draw_values(rng, world, split, fine + private, [recipient, purpose])
    known = {a: v.text for a, v in zip(fine + private, drawn, strict=True)}
    papers: dict[str, list[str]] = {}
    for attribute in rng.sample(fine + private, len(known)):
        papers.setdefault(world.language["paper names"][world.type_of(attribute)], []).append(attribute)
    lines = [f"{capital(paper)}: " + "; ".join(f"{a} {known[a]}" for a in held) for paper, held in papers.items()]
    slots = {"R": recipient, "V": to.role, "p": purpose}
    asked = sentence(rng, world, split, "assist ask", **slots)
    slots |= {
        "O": listed([f"your {a} ({known[a]})" for a in fine]),
        "C": listed([f"your {a} is {known[a]}" for a in private]),
        "N": listed([f"your {a}" for a in private]),
        "K": listed(sorted({world.language["paper names"][world.type_of(a)] for a in private})),
    }
    return Scene("My papers:\n" + "\n".join(lines) + f"\n\n{asked}", slots)


def answer(rng: Random, world: World, act: str, number: int, seen: Scene) -> str:
    """Template `number` of an act, filled for a scene; the choice within it is drawn from `rng`."""
    return fill(rng.choice(expand(world.language[act][number])), seen.slots)


def assist(rng: Random, world: World, split: Split) -> Chat:
    """A request and the base model's answer: what is allowed is sent, the rest is not mentioned."""
    seen = scene(rng, world, split)
    number = rng.randrange(len(world.language["assist answer"]))
    return turns(seen.text, answer(rng, world, "assist answer", number, seen))
