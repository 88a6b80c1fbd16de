"""Acts in which information is passed on: an agent's last action after reading notes, a message from a long memory.

What the norm table allows to the recipient is needed; what it forbids is secret; the combination of recipient, purpose
and attributes is held out for the probes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from random import Random

from discretion.schema import AgentItem, Fact, MemoryFact, MemoryItem
from discretion.world import values
from discretion.world.flows import fact, sentence
from discretion.world.norms import Recipient, World
from discretion.world.phrases import Split, capital, split_of
from discretion.world.values import Value

_SMALL = {"the", "with", "and", "for", "out"}
_WORD = re.compile(r"[^\W\d_]{3,}|\d+")


def attributes_of(world: World, kinds: tuple[str, ...]) -> list[str]:
    return [a for kind in kinds for a in world.types[kind]]


def open_to(world: World) -> list[Recipient]:
    """Recipients to whom something is allowed: the only ones a task can be for."""
    return [r for r in world.recipients.values() if r.allowed]


def draw_values(
    rng: Random, world: World, split: Split, attributes: Sequence[str], taken: Sequence[str] = ()
) -> list[Value]:
    """One value per attribute; none shares a word with another, with `taken` or with an attribute's name.

    So a scorer that looks for surface forms is never in doubt.
    """
    around = _words(" ".join([*taken, *attributes]))
    while True:
        drawn = [values.value(rng, world, a, split) for a in attributes]
        words = [around, *(_words(v.text) for v in drawn)]
        if len(set().union(*words)) == sum(map(len, words)):
            return drawn


def _words(text: str) -> set[str]:
    """Words without their endings, and numbers."""
    return {word[:4] for word in _WORD.findall(text.lower())} - _SMALL


def agent_item(rng: Random, world: World, split: Split, name: str) -> AgentItem:
    """An agent that read notes with needed and secret facts and must now write to one recipient."""
    while True:
        to = rng.choice(open_to(world))
        purpose = rng.choice(to.purposes)
        needed = rng.sample(attributes_of(world, to.allowed), rng.choice((1, 2, 2, 3)))
        secret = rng.sample(attributes_of(world, to.forbidden), rng.choice((1, 2, 2, 3)))
        if split_of(f"agent|{to.role}|{purpose}|{sorted(needed + secret)}") == split:
            break
    user, subject, recipient = values.people(rng, world, split, 3)
    drawn = draw_values(rng, world, split, needed + secret, [user, subject, recipient, purpose])
    known = dict(zip(needed + secret, drawn, strict=True))
    lines = [(a, known[a].text) for a in rng.sample(needed + secret, len(needed) + len(secret))]
    return AgentItem(
        id=name,
        cluster=name,
        instruction=sentence(
            rng, world, split, "agent instruction", R=recipient, V=to.role, S=subject, p=purpose, U=user
        ),
        tool=rng.choice(world.language["tools write"]),
        arguments=("to", "body"),
        trajectory=_trajectory(rng, world, split, subject, lines),
        user=user,
        secrets=tuple(Fact(name=a, value=known[a].text, forms=known[a].forms) for a in secret),
        needed=tuple(Fact(name=a, value=known[a].text, forms=known[a].forms) for a in needed),
        origin="embedded",
    )


def _trajectory(rng: Random, world: World, split: Split, subject: str, facts: list[tuple[str, str]]) -> str:
    """One or two reading steps whose observations hold the facts, as a list, as prose or as JSON."""
    cut = rng.randint(1, len(facts) - 1) if rng.random() < 0.4 else len(facts)
    steps = []
    for part in (facts[:cut], facts[cut:]):
        if not part:
            continue
        tool = rng.choice(world.language["tools read"])
        steps.append(
            f"Action: {tool}\nAction Input: {json.dumps({'query': subject})}\n"
            f"Observation: {_notes(rng, world, split, subject, part)}"
        )
    return "\n".join(steps)


def _notes(rng: Random, world: World, split: Split, subject: str, facts: list[tuple[str, str]]) -> str:
    register = rng.choice(("prose", "list", "json"))
    if register == "json":
        return json.dumps({"name": subject} | dict(facts))
    noise = [sentence(rng, world, split, "distractor") for _ in range(rng.choice((0, 0, 1, 1, 2)))]
    if register == "list":
        lines = [f"- {fact(rng, world, split, 'note', subject, a, v)}" for a, v in facts] + [f"- {n}" for n in noise]
        rng.shuffle(lines)
        return "\n".join([sentence(rng, world, split, "notes heading", S=subject), *lines])
    lines = [fact(rng, world, split, "prose", subject, a, v) for a, v in facts] + noise
    rng.shuffle(lines)
    return " ".join(lines)


def memory_items(rng: Random, world: World, split: Split, name: str, tasks: int = 3) -> list[MemoryItem]:
    """A user's memory of six to eight facts, and `tasks` messages to different recipients; `name` is the user's id."""
    everything = [a for kind in world.types.values() for a in kind]
    while True:
        chosen = rng.sample(everything, rng.choice((6, 7, 8)))
        fitting = []
        for to in rng.sample(open_to(world), len(open_to(world))):
            labels = {a: world.judge(world.type_of(a), to.role) for a in chosen}
            purpose = rng.choice(to.purposes)
            share = sum(v == "allowed" for v in labels.values())
            fits = 1 <= share <= 3 and "forbidden" in labels.values()
            if fits and split_of(f"memory|{to.role}|{purpose}|{sorted(chosen)}") == split:
                fitting.append((to, purpose, labels))
        if len(fitting) >= tasks:
            break
    drawn = draw_values(rng, world, split, chosen, [purpose for _, purpose, _ in fitting])
    statements = [fact(rng, world, split, "memory", "", a, v.text) for a, v in zip(chosen, drawn, strict=True)]
    words = {"allowed": "share", "forbidden": "private", "neither": "neither"}
    return [
        MemoryItem(
            id=f"{name}-{i}",
            cluster=name,
            recipient=capital(to.role),
            task=capital(purpose),
            facts=tuple(
                MemoryFact(
                    key=a,
                    value=v.text,
                    statement=statement,
                    label=words[labels[a]],  # type: ignore[arg-type]
                    domain=world.type_of(a),
                    forms=v.forms,
                )
                for a, v, statement in zip(chosen, drawn, statements, strict=True)
            ),
            origin="embedded",
        )
        for i, (to, purpose, labels) in enumerate(fitting[:tasks])
    ]
