"""The page of a screening: one HTML file in the report's looks, for whoever decides what a model is trained on.

Made from a `Screening` alone. No script, no network; identifiers are masked twice, by the finder when the passages were
cut and by the report's patterns here, unless `reveal` is asked for.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from discretion.data import finder
from discretion.report.masking import Masker, Piece, shorten_home, shown, visible
from discretion.report.page import count, value
from discretion.schema import Passage, Screening
from discretion.store import write_private

MEANINGS = {
    "proactive help": "the assistant uses what it knows from other papers, talks or weeks, and does not ask first",
    "emotional disclosure": "the user tells of feelings in the first person",
    "profile in context": "facts of several kinds about one person lie in the prompt: age, home, work, family, money",
    "code that logs its state": "code prints or logs its variables, and nobody asked for that",
    "call without permission": "the assistant sends, books, deletes, shares, and nobody asked for that or agreed",
}
"""Trait → what it means, for a reader who has not seen the rules."""
TYPES = {
    "EMAIL_ADDRESS": "e-mail address", "PHONE_NUMBER": "phone number", "PERSON": "name", "LOCATION": "place",
    "DATE_TIME": "date", "URL": "web address", "CREDIT_CARD": "card number", "IBAN_CODE": "bank account",
    "IP_ADDRESS": "IP address", "ID": "record number",
}  # fmt: skip
_MADE = re.compile(r"chat-[0-9a-f]{12}")
"""An id that was made of the content, and tells nothing of it."""
_HIDDEN = re.compile(r"(⟨[A-Z_]+⟩)")


def write(found: Screening, path: Path, *, failed: list[str] | None = None, reveal: bool = False) -> Path:
    """Write the page, mode 0600; gives back its path. Raises `StorageFailure` when it cannot be written."""
    write_private(path, render(found, failed=failed, reveal=reveal))
    return path


def render(found: Screening, *, failed: list[str] | None = None, reveal: bool = False) -> str:
    """The page as text. `failed` are conditions that the set did not meet."""
    mask = Masker(p.before + p.text + p.after for p in _passages(found))

    def pieces(text: str) -> list[Piece]:
        return shown(text) if reveal else masked(mask, text)

    def note(text: str) -> str:
        return text if reveal else shorten_home(mask.addresses(text))

    css = _packaged("page.css").strip()
    return _template().render(
        css=Markup(css),  # noqa: S704 - our own file
        css_hash=base64.b64encode(hashlib.sha256(css.encode()).digest()).decode(),
        found=found,
        failed=failed or [],
        findings=findings(found),
        meanings=MEANINGS,
        finder=finder.told(c.type for c in found.identifiers),
        measured=finder.measured()["measured"],
        kind=lambda name: TYPES.get(name, name.lower().replace("_", " ")),
        pieces=pieces,
        item=lambda name: visible(name) if reveal else _item(mask, name),
        note=note,
        reveal=reveal,
        learned=sum(c.occurrences for c in found.identifiers if c.role == "assistant"),
        unlearned=sum(c.occurrences for c in found.identifiers if c.role != "assistant"),
    )


def masked(mask: Masker, text: str) -> list[Piece]:
    """The text masked by patterns, with what the finder hid already left as it is."""
    found: list[Piece] = []
    for number, part in enumerate(_HIDDEN.split(text)):
        found += [Piece(part, True)] if number % 2 else mask.pieces(part)
    return found


def _item(mask: Masker, name: str) -> str:
    return visible(name) if _MADE.fullmatch(name) else mask.item(name)


def mask_json(plain: dict[str, Any], found: Screening) -> None:
    """Put the passages and ids, masked as on the page, into what `to_json` made of a screening."""
    mask = Masker(p.before + p.text + p.after for p in _passages(found))

    def hide(passage: dict[str, str]) -> None:
        for name in ("before", "text", "after"):
            passage[name] = "".join(piece.text for piece in masked(mask, passage[name]))

    for row in plain["ranked"]:
        row["id"] = _item(mask, row["id"])
        for passage in row["passages"]:
            hide(passage)
    for row in (*plain["surprise"]["surprising"], *plain["surprise"]["known"]) if plain["surprise"] else ():
        row["id"] = _item(mask, row["id"])
        hide(row["passage"])


def _passages(found: Screening) -> list[Passage]:
    told = found.surprise
    surprised = (*told.surprising, *told.known) if told is not None else ()
    return [*(p for row in found.ranked for p in row.passages), *(row.passage for row in surprised)]


def findings(found: Screening) -> list[tuple[str, int]]:
    """(what, rows) of everything worth a look, most rows first."""
    there = {
        "rows that could not be used": found.rows - found.used,
        "rows with an identifier of one person": found.identified,
        "rows that repeat an earlier one": found.copies["exact"] + found.copies["near"],
        "rows that share words with the audit's questions": sum(found.probes.values()),
        **{f"rows with {name}": number for name, number in found.traits.items()},
        **{f"rows with a problem: {name}": number for name, number in found.problems.items()},
    }
    return sorted(((what, n) for what, n in there.items() if n), key=lambda pair: -pair[1])


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize
    )
    environment.filters.update(count=count, share=lambda n, of: value(n / of if of else None, "rate"))
    return environment.from_string(_packaged("screen.html.j2"))


def _finalize(text: Any) -> Any:
    """Nothing reaches the page with hidden characters in it."""
    return visible(text) if isinstance(text, str) and not isinstance(text, Markup) else text


def _packaged(name: str) -> str:
    return resources.files("discretion.report").joinpath(name).read_text(encoding="utf-8")
