"""People and values: names, amounts, dates, e-mail addresses, phone numbers, streets, record numbers.

Each value comes with the further surface forms that give it away. What is drawn for one split never shows in the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from discretion.errors import DataError, nearest
from discretion.world.norms import World
from discretion.world.phrases import Split, draw, split_of

MONTHS = (
    "January February March April May June July August September October November December".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Value:
    """A value as it is written, and the other ways to write it."""

    text: str
    forms: tuple[str, ...] = ()


def first_name(rng: Random, world: World, split: Split) -> str:
    """A first name of the split."""
    return draw(rng, split, lambda r: r.choice(world.first_names))


def surname(rng: Random, world: World, split: Split) -> str:
    """A surname of the split, made of a stem and an end."""
    return draw(rng, split, lambda r: r.choice(world.surname_stems) + r.choice(world.surname_ends))


def full_name(rng: Random, world: World, split: Split) -> str:
    """First name and surname, both of the split."""
    return f"{first_name(rng, world, split)} {surname(rng, world, split)}"


def people(rng: Random, world: World, split: Split, n: int) -> list[str]:
    """`n` full names that share neither first name nor surname."""
    names: list[str] = []
    while len(names) < n:
        name = full_name(rng, world, split)
        if not any(set(name.split()) & set(other.split()) for other in names):
            names.append(name)
    return names


def _digits(r: Random, n: int) -> str:
    return str(r.randrange(10 ** (n - 1), 10**n))


def _letters(r: Random, n: int) -> str:
    return "".join(r.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(n))


def _word(*lists: str) -> Callable[[Random], str]:
    columns = [words.split(",") for words in lists]
    return lambda r: " ".join(r.choice(column).strip() for column in columns)


def _dated(first: int, last: int) -> Callable[[Random], str]:
    return lambda r: f"{r.randint(1, 28)} {r.choice(MONTHS)} {r.randint(first, last)}"


def _amount(r: Random) -> str:
    return f"${r.randint(2, 98)},{r.randrange(0, 1000, 10):03d}"


def _email(r: Random) -> str:
    user = r.choice(("blue", "red", "fast", "tiny", "old", "wild", "calm", "lucky")) + r.choice(
        ("fox", "pine", "cloud", "otter", "lamp", "stone", "wren", "tulip")
    )
    host = r.choice(("postal", "inbox", "letterbox", "courier", "maily"))
    return f"{user}{r.randint(10, 99)}@{host}.{r.choice(('org', 'net', 'com'))}"


def _clock(r: Random, first: int, last: int) -> str:
    return f"{r.randint(first, last)}:{r.choice((10, 15, 20, 30, 40, 45, 50))}"


_SIMPLE: dict[str, Callable[[Random], str]] = {
    "diagnosis": _word(
        "mild,chronic,acute,early,recurring,severe",
        "asthma,migraine,eczema,arthritis,anaemia,bronchitis,insomnia,gastritis,sciatica,tinnitus,diabetes,epilepsy",
    ),
    "medication": lambda r: (
        r.choice(("Vel", "Dor", "Cal", "Mir", "Tan", "Sor", "Pax", "Lum"))
        + r.choice(("orin", "ivan", "adol", "exin", "omil", "urat"))
        + f" {r.choice((5, 10, 15, 20, 25, 40, 50, 75))} mg"
    ),
    "allergy": _word(
        "walnut,peanut,latex,birch,wasp,soy,egg,wheat,mould,nickel,shellfish,penicillin",
        "shock,rash,fever,swelling,reaction,cough",
    ),
    "pressure": lambda r: f"{r.randint(101, 179)}/{r.randint(61, 99)}",
    "therapy": _word(
        "weekly,fortnightly,monthly,daily,Tuesday,Friday",
        "grief,speech,trauma,couples,sleep,music,group,art",
        "therapy,counselling,sessions",
    ),
    "amount": _amount,
    "salary": lambda r: f"${r.randint(21, 149)},{r.randrange(0, 1000, 50):03d}",
    "account": lambda r: f"{_letters(r, 2)}{_digits(r, 8)}",
    "score": lambda r: f"{r.randint(301, 849)} points",
    "date": _dated(2019, 2027),
    "birth": _dated(1941, 2006),
    "custody": _word(
        "alternate,all,most,half the,some",
        "weekends,weeks,holidays,school days,evenings",
        "with the mother,with the father,with the aunt,with the grandparents",
    ),
    "file": lambda r: f"F-{_digits(r, 5)}",
    "case": lambda r: f"{_digits(r, 3)}/{r.randint(2015, 2026)}-{_letters(r, 1)}",
    "charge": _word(
        "minor,repeated,alleged,attempted,joint",
        "shoplifting,speeding,trespass,forgery,smuggling,poaching,perjury,vandalism,tax fraud,burglary",
    ),
    "staff": lambda r: f"S{_digits(r, 5)}",
    "appraisal": lambda r: f"{r.randint(1, 4)}.{r.randint(1, 9)} out of 5",
    "shift": lambda r: f"{_clock(r, 4, 11)} to {_clock(r, 13, 22)}",
    "project": _word(
        "Amber,Silent,Crimson,Northern,Hidden,Velvet,Copper,Rapid",
        "Falcon,Harbour,Lantern,Meadow,Comet,Anchor,Bridge,Orchid,Thunder",
    ),
    "days": lambda r: f"{r.randint(2, 39)}.{r.randint(1, 9)} days",
    "room": lambda r: f"{_letters(r, 1)}{_digits(r, 3)}",
    "email": _email,
    "phone": lambda r: f"0{_digits(r, 3)} {_digits(r, 3)} {_digits(r, 3)}",
    "street": lambda r: (
        f"{r.randint(2, 198)} "
        + r.choice(("Elm", "Mill", "Church", "Station", "Garden", "Castle", "Linden", "Harbour", "Bishop", "Orchard"))
        + " "
        + r.choice(("Road", "Lane", "Street", "Square", "Hill"))
    ),
    "handle": lambda r: (
        "@"
        + r.choice(("moss", "jazz", "pixel", "sunny", "ghost", "marble", "cocoa"))
        + r.choice(("_hat", "_cat", "_kid", "_wolf", "_bee"))
        + _digits(r, 2)
    ),
    "passport": lambda r: f"{_letters(r, 1)}{_digits(r, 7)}",
    "national": lambda r: f"{_digits(r, 3)}-{_digits(r, 2)}-{_digits(r, 4)}",
    "licence": lambda r: f"{_letters(r, 3)} {_digits(r, 5)}",
    "birthplace": _word(
        "Upper,Lower,East,West,Saint,New,Old", "Marlow,Tarrant,Olmen,Vesby,Kirby,Dalton,Ashby,Norden,Rivas,Tolna"
    ),
    "mark": lambda r: f"{r.randint(21, 99)} of {r.choice((100, 110, 120, 150))}",
    "student": lambda r: f"{_digits(r, 2)}-{_letters(r, 2)}-{_digits(r, 3)}",
    "degree": _word(
        "marine,applied,modern,early,medical,rural,civil,urban",
        "biology,history,law,physics,design,music,economics,geology,chemistry",
    ),
    "course": lambda r: (
        r.choice(("Statistics", "Pottery", "Spanish", "Baking", "Welding", "Drawing", "Chess", "Coding", "Sewing"))
        + f" {_digits(r, 3)}"
    ),
}


def _forms(kind: str, text: str) -> tuple[str, ...]:
    if kind in ("date", "birth"):
        day, month, year = text.split()
        return (f"{month} {day}, {year}", f"{year}-{MONTHS.index(month) + 1:02d}-{int(day):02d}")
    if kind in ("amount", "salary"):
        plain = text.lstrip("$").replace(",", "")
        return (f"{text.lstrip('$')} dollars", f"${plain}", f"{plain} dollars")
    if kind in ("phone", "national"):
        return (text.replace(" ", "").replace("-", ""),)
    return ()


def value(rng: Random, world: World, attribute: str, split: Split) -> Value:
    """A value of an attribute, of the split. Raises `DataError` that names an unknown attribute or kind of value."""
    kind = world.types[world.type_of(attribute)][attribute]
    if kind == "person":
        return Value(full_name(rng, world, split))
    if kind == "surname":
        return Value(surname(rng, world, split))
    if kind not in _SIMPLE:
        raise DataError(f"world: {attribute!r} has the unknown kind of value {kind!r}; {nearest(kind, _SIMPLE)}")
    text = draw(rng, split, _SIMPLE[kind])
    return Value(text, _forms(kind, text))


def number(rng: Random, low: int, high: int, split: Split, key: str) -> int:
    """A whole number from `low` to `high` that belongs to the split under `key`."""
    while True:
        n = rng.randint(low, high)
        if split_of(f"{key}{n}") == split:
            return n
