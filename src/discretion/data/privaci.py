"""PrivaCI-Bench's cases (HKUST-KnowComp/PrivaCI-Bench): legal cases as flows that a law permits or prohibits.

The columns are those its README names, in any of the kinds of file that are read. What the law does not decide is told
apart from what is wrong in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from discretion.data.rows import Row, text_field
from discretion.errors import DataError

COLUMNS = frozenset(
    {"norm_type", "sender", "recipient", "subject", "information_type", "consent_form", "purpose", "case_content"}
)
"""Those that are used; further columns are the roles and the articles followed and violated."""
NORMS: Mapping[str, bool | None] = {
    "permit": True,
    "permitted": True,
    "positive": True,
    "prohibit": False,
    "prohibited": False,
    "forbidden": False,
    "negative": False,
    "not applicable": None,
    "not related": None,
    "irrelevant": None,
    "neutral": None,
    "unknown": None,
    "none": None,
}
"""What `norm_type` says, in lower case, to whether the flow is allowed; None where the law does not decide."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case."""

    allowed: bool | None
    """None: no norm applies."""
    sender: str
    recipient: str
    subject: str
    information: str
    consent: str
    purpose: str
    content: str
    """What happened, in words."""


def parse(where: str, row: Row) -> Case:
    """A case from a row. Raises `DataError` for a kind of norm that is not known, and for missing content."""
    norm = text_field(where, row, "norm_type").strip().casefold()
    if norm not in NORMS:
        raise DataError(f"{where}: unknown norm_type {norm!r}; known: {', '.join(NORMS)}")
    return Case(
        allowed=NORMS[norm],
        sender=_who(row, "sender"),
        recipient=_who(row, "recipient"),
        subject=_who(row, "subject"),
        information=_text(row.get("information_type")) or "not stated",
        consent=_text(row.get("consent_form")),
        purpose=_text(row.get("purpose")),
        content=text_field(where, row, "case_content").strip(),
    )


def _who(row: Row, key: str) -> str:
    """Name and role; either may be missing in a case."""
    name, role = _text(row.get(key)), _text(row.get(f"{key}_role"))
    if name and role and role.casefold() != name.casefold():
        return f"{name} ({role})"
    return name or role or "not stated"


def _text(value: object) -> str:
    """A text, or a list of texts, as one line; nothing for what stands for nothing."""
    words = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    line = " ".join(words.split())
    return "" if line.casefold() in ("none", "null", "n/a", "nan") else line
