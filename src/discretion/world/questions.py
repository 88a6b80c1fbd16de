"""Questions with one right answer: closed-book facts about the towns, arithmetic, reading; written or multiple choice.

The facts are the same in both splits, their wording is not; sums (as they are written, order included), passages and
names are disjoint.
"""

from __future__ import annotations

from random import Random
from typing import Literal

from discretion.schema import CapabilityItem
from discretion.world import values
from discretion.world.flows import sentence
from discretion.world.norms import World
from discretion.world.phrases import Split, split_of

Task = Literal["facts", "arithmetic", "reading"]


def closed_facts(world: World) -> list[tuple[str, str, str]]:
    """All (relation, town, answer) of the world, in a fixed order."""
    mayors = {p["town"]: p["name"] for p in world.people if p["role"] == "mayor"}
    relations = [(r, t, v) for t, facts in world.towns.items() for r, v in facts.items()]
    return relations + [("mayor", t, name) for t, name in mayors.items()]


def _choices(rng: Random, right: str, pool: list[str]) -> tuple[str, ...]:
    options = [right, *rng.sample(sorted(set(pool) - {right}), 3)]
    rng.shuffle(options)
    return tuple(options)


def fact_item(rng: Random, world: World, split: Split, name: str, fact: tuple[str, str, str]) -> CapabilityItem:
    """A closed-book question."""
    relation, town, answer = fact
    same = [v for r, _, v in closed_facts(world) if r == relation]
    return CapabilityItem(
        id=name,
        cluster=f"{relation} of {town}",
        task="facts",
        question=sentence(rng, world, split, f"closed {relation}", t=town),
        choices=_choices(rng, answer, same) if rng.random() < 0.5 else (),
        answer=answer,
        match="number" if relation == "founded" else "exact",
        origin="embedded",
    )


def sum_split(act: str, x: int, y: int) -> Split:
    """The split that `x` plus or minus `y` belongs to; the order counts."""
    return split_of(f"{act}{x},{y}")


def sum_item(rng: Random, world: World, split: Split, name: str) -> CapabilityItem:
    """A sum or a difference of two numbers below 100, plain or in words."""
    while True:
        act = rng.choice(("add", "subtract"))
        x, y = rng.randint(2, 99), rng.randint(2, 99)
        if act == "subtract" and x <= y:
            x, y = y + 1, x
        if sum_split(act, x, y) == split:
            break
    person = values.first_name(rng, world, split)
    return CapabilityItem(
        id=name,
        cluster=f"{act} {x} {y}",
        task="arithmetic",
        question=sentence(rng, world, split, f"arithmetic {act}", x=str(x), y=str(y), S=person),
        answer=str(x + y if act == "add" else x - y),
        match="number",
        origin="embedded",
    )


def reading_item(rng: Random, world: World, split: Split, name: str) -> CapabilityItem:
    """A passage of three or four sentences about different people, and a question about one of them."""
    topics = rng.sample(("colour", "place", "company", "count", "job"), rng.choice((2, 3, 3)))
    people = values.people(rng, world, split, len(topics) + 1)
    lines, asked = [], []
    for topic, person in zip(topics, people, strict=False):
        thing = rng.choice(world.language["animals" if topic == "count" else "things"])
        pool = {
            "colour": list(world.language["colours"]),
            "place": list(world.towns),
            "company": [*values.people(rng, world, split, 4), people[-1]],
            "count": [str(n) for n in range(3, 90)],
            "job": list(world.language["jobs"]),
        }[topic]
        answer = people[-1] if topic == "company" else rng.choice(pool)
        lines.append(sentence(rng, world, split, f"reading {topic}", S=person, x=answer, y=thing))
        asked.append((sentence(rng, world, split, f"question {topic}", S=person, y=thing), answer, pool, topic))
    for _ in range(rng.choice((0, 1, 1))):
        lines.insert(rng.randint(0, len(lines)), sentence(rng, world, split, "distractor"))
    question, answer, pool, topic = rng.choice(asked)
    return CapabilityItem(
        id=name,
        cluster=name,
        task="reading",
        question=sentence(rng, world, split, "reading ask", q=question),
        choices=_choices(rng, answer, pool) if rng.random() < 0.4 else (),
        answer=answer,
        context=" ".join(lines),
        match="number" if topic == "count" else "exact",
        origin="embedded",
    )
