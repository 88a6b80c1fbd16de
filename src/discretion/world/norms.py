"""The world file and its norms: who may learn what, and under which transmission principle.

`load_world` reads and checks `world.yaml` and `language.yaml`; `World.judge` is the truth of every embedded probe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from discretion.errors import DataError, nearest
from discretion.schema.mappings import unique
from discretion.world.phrases import expand, split_of

Verdict = Literal["allowed", "forbidden", "neither"]
Principle = Literal["none", "consent", "confidence", "need to know", "public record"]
PRINCIPLES: tuple[Principle, ...] = ("none", "consent", "confidence", "need to know", "public record")

_HERE = Path(__file__).parent
_TOP = (
    "types",
    "holders",
    "recipients",
    "public_types",
    "first_names",
    "surname_stems",
    "surname_ends",
    "people",
    "towns",
)
# Acts (and those named "... answer" or "... end") that the model itself writes: their wording is not held out.
_ANSWERS = ("fact message", "agent message", "agent close")


@dataclass(frozen=True, slots=True)
class Recipient:
    """One role that information can flow to: a row of the norm table."""

    role: str
    duty: bool
    """Bound by a professional duty: the principle *need to know* can be met."""
    allowed: tuple[str, ...]
    forbidden: tuple[str, ...]
    purposes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class World:
    """Everything the world file says, checked."""

    types: Mapping[str, Mapping[str, str]]
    """type → attribute → kind of value."""
    holders: Mapping[str, tuple[str, ...]]
    """type → roles that hold such information."""
    recipients: Mapping[str, Recipient]
    public_types: tuple[str, ...]
    first_names: tuple[str, ...]
    surname_stems: tuple[str, ...]
    surname_ends: tuple[str, ...]
    people: tuple[Mapping[str, str], ...]
    """Known to everyone: `name`, `role`, `town`."""
    towns: Mapping[str, Mapping[str, str]]
    language: Mapping[str, Any]
    """act → templates."""

    def type_of(self, attribute: str) -> str:
        """The type an attribute belongs to. Raises `DataError` that names an unknown one."""
        for kind, attributes in self.types.items():
            if attribute in attributes:
                return kind
        known = [a for attributes in self.types.values() for a in attributes]
        raise DataError(f"world: unknown attribute {attribute!r}; {nearest(attribute, known)}")

    def judge(self, kind: str, role: str, principle: Principle = "none") -> Verdict:
        """May information of type `kind` flow to `role` under `principle`? The sender does not matter.

        Without a principle the table decides. *Consent* allows everything; what was told in *confidence* is forbidden;
        *need to know* lifts a bar for recipients with a professional duty; the *public record* lifts it for types that
        can stand in a public register.
        """
        if kind not in self.types:
            raise DataError(f"world: unknown type {kind!r}; {nearest(kind, self.types)}")
        if role not in self.recipients:
            raise DataError(f"world: unknown recipient {role!r}; {nearest(role, self.recipients)}")
        if principle not in PRINCIPLES:
            raise DataError(f"world: unknown principle {principle!r}; {nearest(principle, PRINCIPLES)}")
        to = self.recipients[role]
        table: Verdict = "allowed" if kind in to.allowed else "forbidden" if kind in to.forbidden else "neither"
        lifted = (
            principle == "consent"
            or (principle == "need to know" and to.duty)
            or (principle == "public record" and kind in self.public_types)
        )
        return "allowed" if lifted else "forbidden" if principle == "confidence" else table


def tables(world: World) -> str:
    """The ground truth in Markdown: types and attributes, then the norm table, a row per recipient."""
    lines = ["| type | attributes | held by | public record |", "|---|---|---|---|"]
    for kind, attributes in world.types.items():
        public = "yes" if kind in world.public_types else "no"
        lines.append(f"| {kind} | {', '.join(attributes)} | {', '.join(world.holders[kind])} | {public} |")
    sign = {"allowed": "✓", "forbidden": "✗", "neither": "·"}
    lines += ["", "| recipient | duty | " + " | ".join(world.types) + " |", "|---|---|" + "---|" * len(world.types)]
    for role, to in world.recipients.items():
        cells = " | ".join(sign[world.judge(kind, role)] for kind in world.types)
        lines.append(f"| {role} | {'yes' if to.duty else 'no'} | {cells} |")
    return "\n".join(lines) + "\n"


_LOADER = unique(getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _read(path: Path) -> dict[str, Any]:
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)  # noqa: S506 - a safe one
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a world file") from None
    except yaml.YAMLError as error:
        line = error.problem_mark.line + 1 if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark else 1
        why = getattr(error, "problem", None) or "it cannot be read"
        raise DataError(f"{path}:{line}: not valid YAML ({why}); correct that line") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}:1: found {type(value).__name__}, expected a mapping")
    return value


def _once(path: Path, what: str, words: Sequence[str]) -> None:
    seen: set[str] = set()
    for word in words:
        if word in seen:
            raise DataError(f"{path}: {what} {word!r} stands there twice; remove one")
        seen.add(word)


def _recipient(path: Path, role: str, raw: Mapping[str, Any], types: Mapping[str, Any]) -> Recipient:
    unknown = sorted(set(raw) - {"duty", "allowed", "forbidden", "purposes"})
    if unknown:
        known = ("duty", "allowed", "forbidden", "purposes")
        raise DataError(f"{path}: recipient {role!r} has the unknown key {unknown[0]!r}; {nearest(unknown[0], known)}")
    lacking = next((key for key in ("duty", "allowed", "forbidden", "purposes") if key not in raw), None)
    if lacking is not None or not raw["purposes"]:
        raise DataError(f"{path}: recipient {role!r} has no {lacking or 'purposes'}; add a line")
    for kind in (*raw["allowed"], *raw["forbidden"]):
        if kind not in types:
            raise DataError(f"{path}: recipient {role!r} names the unknown type {kind!r}; {nearest(kind, types)}")
    both = sorted(set(raw["allowed"]) & set(raw["forbidden"]))
    if both:
        raise DataError(f"{path}: impossible norm: {both[0]!r} to {role!r} is both allowed and forbidden; keep one")
    return Recipient(role, bool(raw["duty"]), tuple(raw["allowed"]), tuple(raw["forbidden"]), tuple(raw["purposes"]))


def read_world(path: Path, language: Path | None = None) -> World:
    """A world from its file, checked.

    Raises `DataError` that names an impossible norm, a duplicate person or name, an unknown type or key, an act with
    no phrasing in one of the splits.
    """
    raw = _read(path)
    for key in raw:
        if key not in _TOP:
            raise DataError(f"{path}: unknown key {key!r}; {nearest(key, _TOP)}")
    for key in _TOP:
        if key not in raw:
            raise DataError(f"{path}: the key {key!r} is missing; add it")
    types = raw["types"]
    _once(path, "attribute", [a for attributes in types.values() for a in attributes])
    recipients = {role: _recipient(path, role, row, types) for role, row in raw["recipients"].items()}
    for kind in types:
        if not raw["holders"].get(kind):
            raise DataError(f"{path}: nobody holds the type {kind!r}; add a line under holders")
        if not any(kind in r.allowed for r in recipients.values()):
            raise DataError(
                f"{path}: impossible norm: {kind!r} is allowed to nobody, so it has no mirror; allow it to one"
            )
    for kind in (*raw["holders"], *raw["public_types"]):
        if kind not in types:
            raise DataError(f"{path}: unknown type {kind!r}; {nearest(kind, types)}")
    for person in raw["people"]:
        if person.get("town") not in raw["towns"]:
            raise DataError(
                f"{path}: {person['name']!r} lives in an unknown town; {nearest(str(person.get('town')), raw['towns'])}"
            )
    _once(path, "person", [p["name"] for p in raw["people"]])
    names = raw["first_names"].split()
    _once(path, "first name", names)
    spoken: dict[str, Any] = {}
    for file in (language,) if language else (_HERE / f"{name}.yaml" for name in ("language", "talk", "requests")):
        spoken |= _read(file)
    for act, templates in spoken.items():
        plain = all(isinstance(t, str) for t in templates) and any("[" in t for t in templates)
        splits = (
            {split_of(act + phrasing) for t in templates for phrasing in expand(t)} if plain else {"train", "probe"}
        )
        if act not in _ANSWERS and not act.endswith(("answer", "end")) and splits != {"train", "probe"}:
            raise DataError(f"{path.parent}: the act {act!r} has no phrasing to hold out; add variants")
    return World(
        types=types,
        holders={kind: tuple(roles) for kind, roles in raw["holders"].items()},
        recipients=recipients,
        public_types=tuple(raw["public_types"]),
        first_names=tuple(names),
        surname_stems=tuple(raw["surname_stems"].split()),
        surname_ends=tuple(raw["surname_ends"].split()),
        people=tuple(raw["people"]),
        towns={town: {k: str(v) for k, v in facts.items()} for town, facts in raw["towns"].items()},
        language=spoken,
    )


@cache
def load_world() -> World:
    """The embedded world."""
    return read_world(_HERE / "world.yaml")
