"""A detector of identifiers held against labelled texts: precision, recall and F1 per type.

`read` takes the files of presidio-research and of the Text Anonymization Benchmark as they are; `check` compares. A
broken file, or a label that does not stand where it says, is a `DataError` with its place and without its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from discretion.data.pii import Span, find_many
from discretion.data.rows import Row, read_rows, text_field
from discretion.errors import DataError

TYPES = {
    "ADDRESS": "LOCATION", "STREET_ADDRESS": "LOCATION", "GPE": "LOCATION", "LOC": "LOCATION", "CITY": "LOCATION",
    "ZIP_CODE": "LOCATION", "DOMAIN_NAME": "URL", "DATETIME": "DATE_TIME", "DATE": "DATE_TIME", "CODE": "ID",
    "NHS": "UK_NHS", "IBAN": "IBAN_CODE", "EMAIL": "EMAIL_ADDRESS", "PHONE": "PHONE_NUMBER",
}  # fmt: skip
"""What the label files call a type, and Presidio's name for it."""

FOUND = frozenset(
    """
    PERSON LOCATION DATE_TIME EMAIL_ADDRESS PHONE_NUMBER CREDIT_CARD IBAN_CODE IP_ADDRESS MAC_ADDRESS URL UUID ID US_SSN
    US_ITIN US_PASSPORT US_DRIVER_LICENSE US_BANK_NUMBER MEDICAL_LICENSE UK_NHS UK_NINO CA_SIN CH_AHV ES_NIF IN_AADHAAR
    PL_PESEL
    """.split()  # noqa: SIM905
)
"""The types that the detector looks for by itself."""

REACH = 3
"""A label may stand this many characters beside its text, and is then moved there and counted as moved."""


class Labelled(NamedTuple):
    """One text with its true spans, types already in Presidio's names."""

    text: str
    spans: tuple[Span, ...]
    moved: int
    """Labels that stood beside their text."""


class _Keys(NamedTuple):
    text: str
    spans: str
    start: str
    end: str
    type: str
    value: str


_FORMS = (
    _Keys("full_text", "spans", "start_position", "end_position", "entity_type", "entity_value"),
    _Keys("text", "entities", "start_offset", "end_offset", "entity_type", "span_text"),
)


def read(path: str | Path) -> list[Labelled]:
    """The labelled texts of a file. Raises `DataError` that names the row and, for a bad label, its number."""
    return [_labelled(where, row) for where, row in read_rows(path, offline=True)]


def _labelled(where: str, row: Row) -> Labelled:
    keys = next((keys for keys in _FORMS if keys.text in row and keys.spans in row), None)
    if keys is None:
        known = " or ".join(f"{keys.text!r} with {keys.spans!r}" for keys in _FORMS)
        raise DataError(f"{where}: no labelled text; a row needs {known}")
    text = text_field(where, row, keys.text, empty=True)
    labels = row[keys.spans]
    if not isinstance(labels, list):
        raise DataError(f"{where}: {keys.spans!r} must be a list, found {type(labels).__name__}; list the labels")
    spans = [_span(f"{where}, label {number}", text, keys, label) for number, label in enumerate(labels, start=1)]
    return Labelled(text, tuple(sorted({span for span, _ in spans})), sum(moved for _, moved in spans))


def _span(where: str, text: str, keys: _Keys, label: Any) -> tuple[Span, bool]:
    if not isinstance(label, Mapping):
        raise DataError(f"{where}: expected an object, found {type(label).__name__}; write one object per label")
    start, end = (_whole(where, label, key) for key in (keys.start, keys.end))
    kind, value = label.get(keys.type), label.get(keys.value)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: {keys.value!r} must be a text, found {type(value).__name__}; correct it")
    if not isinstance(kind, str) or not kind:
        raise DataError(f"{where}: {keys.type!r} must be a text, found {type(kind).__name__}; name the type")
    if not 0 <= start < end <= len(text):
        raise DataError(f"{where}: offsets {start} to {end} are outside a text of {len(text)} characters; correct them")
    kind = TYPES.get(kind, kind)
    if value is None or text[start:end] == value:
        return Span(start, end, kind), False
    for shift in sorted(range(-REACH, REACH + 1), key=abs):
        if start + shift >= 0 and text[start + shift : start + shift + len(value)] == value:
            return Span(start + shift, start + shift + len(value), kind), True
    raise DataError(f"{where}: the text at {start} to {end} is not the label's {keys.value!r}; correct the offsets")


def _whole(where: str, label: Mapping[str, Any], key: str) -> int:
    number = label.get(key)
    if not isinstance(number, int) or isinstance(number, bool):
        raise DataError(f"{where}: {key!r} must be a whole number, found {type(number).__name__}; correct it")
    return number


def agree(found: Sequence[Span], true: Sequence[Span], *, exact: bool = False) -> int:
    """How many of the found spans meet a true one of their type, one to one, best overlap first.

    Two spans meet when their common characters are at least half of the longer one; with `exact`, when they are equal.
    """
    pairs = []
    for i, mine in enumerate(found):
        for j, theirs in enumerate(true):
            common = min(mine.end, theirs.end) - max(mine.start, theirs.start)
            longer = max(mine.end - mine.start, theirs.end - theirs.start)
            if mine.type == theirs.type and (common == longer if exact else 2 * common >= longer):
                pairs.append((-common / longer, i, j))
    mine_used: set[int] = set()
    true_used: set[int] = set()
    for _, i, j in sorted(pairs):
        if i not in mine_used and j not in true_used:
            mine_used.add(i)
            true_used.add(j)
    return len(mine_used)


Detector = Callable[[Iterable[str]], Sequence[Sequence[Span]]]


def check(rows: Sequence[Labelled], detector: Detector = find_many, types: Iterable[str] = FOUND) -> dict[str, Any]:
    """Figures per type, ready for JSON; `types` are those that the detector looks for.

    `types`: precision, recall, f1, exact_f1 (spans equal), n (true labels), found (spans the detector gave). A figure
    whose denominator is zero is null. `unmatched_types`: labels of types that the detector does not look for, counted.
    """
    looked_for = frozenset(types)
    answers = detector([row.text for row in rows])
    counts: dict[str, list[int]] = {}
    unmatched: dict[str, int] = {}
    for row, answer in zip(rows, answers, strict=True):
        for span in row.spans:
            if span.type not in looked_for:
                unmatched[span.type] = unmatched.get(span.type, 0) + 1
        for kind in {span.type for span in (*row.spans, *answer)} & looked_for:
            mine = [span for span in answer if span.type == kind]
            true = [span for span in row.spans if span.type == kind]
            tally = counts.setdefault(kind, [0, 0, 0, 0])
            for place, number in enumerate((len(true), len(mine), agree(mine, true), agree(mine, true, exact=True))):
                tally[place] += number
    return {
        "types": {kind: _figures(*counts[kind]) for kind in sorted(counts)},
        "unmatched_types": dict(sorted(unmatched.items())),
        "texts": len(rows),
        "labels_moved": sum(row.moved for row in rows),
    }


def _figures(n: int, found: int, met: int, equal: int) -> dict[str, float | int | None]:
    return {
        "precision": met / found if found else None,
        "recall": met / n if n else None,
        "f1": 2 * met / (found + n) if n else None,
        "exact_f1": 2 * equal / (found + n) if n else None,
        "n": n,
        "found": found,
    }
