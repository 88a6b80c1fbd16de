"""Flows of information with known truth: a forbidden one and its mirror, allowed, that differs in one field.

Sender role, recipient role, attribute and principle together are held out for the probes; each cell of the norm table
(type, recipient role, principle) is seen in training through other attributes and senders.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from random import Random
from typing import Literal

from discretion.schema import FlowItem
from discretion.world import values
from discretion.world.norms import PRINCIPLES, Principle, Verdict, World
from discretion.world.phrases import Split, fill, frame, split_of

_BARS: tuple[Principle, ...] = ("none", "none", "confidence", "need to know", "public record")


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow in the words of the norm table, before anybody has a name."""

    holder: str
    """Role of the sender."""
    role: str
    """Role of the recipient."""
    attribute: str
    principle: Principle

    def verdict(self, world: World) -> Verdict:
        """What the norms say."""
        return world.judge(world.type_of(self.attribute), self.role, self.principle)

    @property
    def split(self) -> Split:
        """Where this tuple may be used."""
        return split_of(f"flow|{self.holder}|{self.role}|{self.attribute}|{self.principle}")


def article(role: str) -> str:
    """`a nurse`, `an accountant`."""
    return f"{'an' if role[0] in 'aeiou' and not role.startswith('uni') else 'a'} {role}"


def draw_flow(rng: Random, world: World, split: Split, verdict: Verdict) -> Flow:
    """A flow of the split with that verdict."""
    while True:
        kind = rng.choice(list(world.types))
        flow = Flow(
            rng.choice(world.holders[kind]),
            rng.choice(list(world.recipients)),
            rng.choice(list(world.types[kind])),
            rng.choice(_BARS if verdict == "forbidden" else PRINCIPLES),
        )
        if flow.split == split and flow.verdict(world) == verdict:
            return flow


def mirrors(world: World, flow: Flow, field: Literal["principle", "role", "attribute"]) -> list[Flow]:
    """Every allowed flow of the same split that differs from `flow` in that field alone."""
    options: list[Flow] = {
        "principle": [dataclasses.replace(flow, principle=p) for p in PRINCIPLES],
        "role": [dataclasses.replace(flow, role=r) for r in world.recipients],
        "attribute": [dataclasses.replace(flow, attribute=a) for kind in world.types.values() for a in kind],
    }[field]
    return [o for o in options if o != flow and o.split == flow.split and o.verdict(world) == "allowed"]


def principle_words(rng: Random, world: World, split: Split, principle: Principle, subject: str) -> str:
    """The principle as an adverbial clause; empty for none."""
    if principle == "none":
        return ""
    act = f"principle {principle}"
    return fill(frame(rng, split, act, world.language[act]), {"S": subject})


def fact(rng: Random, world: World, split: Split, register: str, subject: str, attribute: str, value: str) -> str:
    """One fact in one sentence or line; `register` is prose, note or memory."""
    act = f"fact {register}"
    capital = attribute[:1].upper() + attribute[1:]
    slots = {"S": subject, "a": attribute, "A": capital, "v": value}
    return fill(frame(rng, split, act, world.language[act]), slots)


def sentence(rng: Random, world: World, split: Split, act: str, **slots: str) -> str:
    """One phrasing of an act with its slots filled."""
    return fill(frame(rng, split, act, world.language[act]), slots)


def story(rng: Random, world: World, split: Split, flow: Flow, sender: str, subject: str, value: str) -> str:
    """Two to five sentences around the fact; they name neither recipient nor principle."""
    names = {"D": sender, "S": subject, "H": flow.holder}
    lines = [sentence(rng, world, split, "story opening", **names)]
    if rng.random() < 0.5:
        lines.append(sentence(rng, world, split, "story middle", **names))
    lines.append(fact(rng, world, split, "prose", subject, flow.attribute, value))
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        lines.insert(rng.randint(1, len(lines)), sentence(rng, world, split, "distractor"))
    return " ".join(lines)


def flow_pair(rng: Random, world: World, split: Split, name: str) -> tuple[FlowItem, FlowItem]:
    """A forbidden flow and its allowed mirror, as items of one cluster; `name` is the cluster's."""
    told = rng.random() < 0.65
    fields: list[Literal["principle", "role", "attribute"]] = (
        ["principle", "role"] if told else ["principle", "role", "attribute"]
    )
    while True:
        bad = draw_flow(rng, world, split, "forbidden")
        field = rng.choice(fields)
        options = mirrors(world, bad, field)
        if options:
            break
    good = rng.choice(options)
    sender, recipient, subject = values.people(rng, world, split, 3)
    value = values.value(rng, world, bad.attribute, split).text
    text = story(rng, world, split, bad, sender, subject, value) if told else ""
    clause = principle_words(rng, world, split, bad.principle, subject)
    with_value = told and rng.random() < 0.3

    def item(flow: Flow, suffix: str, mirror_of: str | None) -> FlowItem:
        same = flow.principle == bad.principle
        return FlowItem(
            id=f"{name}-{suffix}",
            cluster=name,
            allowed=mirror_of is not None,
            sender=f"{sender}, {article(flow.holder)}",
            recipient=f"{recipient}, {article(flow.role)}",
            subject=subject,
            attribute=f"{flow.attribute} ({value})" if with_value else flow.attribute,
            principle=clause if same else principle_words(rng, world, split, flow.principle, subject),
            channel=channel,
            story=text,
            level="vignette" if told else "seed",
            mirror_of=mirror_of,
            origin="embedded",
        )

    channel = rng.choice(world.language["channel"])
    return item(bad, "forbidden", None), item(good, "allowed", f"{name}-forbidden")
