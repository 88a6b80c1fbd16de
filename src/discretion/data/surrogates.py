"""Identifiers in rows replaced, by surrogates of the same shape or by numbered placeholders, and put back with a key.

`replace` changes every text of a row, whatever the row's form, and proves before it returns that `restore` gives the
rows back. What stands in the output is drawn from a keyed hash (HMAC-SHA256): without the key nothing leads back.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path
from random import Random
from typing import Any, Literal

from discretion.data import checksums
from discretion.data.names import PARTICLES, again, name_parts
from discretion.data.pii import NOTHING, STREET_ENDS, Given, Span, find_many
from discretion.errors import DataError

Style = Literal["surrogate", "placeholder"]
Scope = Literal["dataset", "conversation"]

KEPT = frozenset(("role",))
"""Fields whose text is the form of a row and not its content."""

ATTEMPTS = 400
"""Draws for one identifier before the data set counts as too full of its kind, and it gets a placeholder."""
ROUNDS = 8
"""Proofs of the whole set; from the last draw on, what a proof confused gets a placeholder."""
DRAWN_ANEW = 3
"""Rounds that only draw other surrogates."""


@dataclass(frozen=True, slots=True)
class Key:
    """What leads back from the replaced rows; belongs into a file of its own."""

    secret: bytes = field(repr=False)
    """The same secret over the same rows gives the same surrogates."""
    originals: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Replacement to original."""


def replace(
    rows: Iterable[Mapping[str, Any]],
    given: Given = NOTHING,
    *,
    style: Style = "surrogate",
    scope: Scope = "dataset",
    secret: bytes | None = None,
) -> tuple[list[dict[str, Any]], Key]:
    """The rows with their identifiers replaced, and the key that `restore` needs.

    In `dataset` scope one value has one replacement throughout; in `conversation` scope another one in every row, so
    that rows cannot be linked. Names in a message's `name` field are people wherever they stand, and a name found in
    one text of a row is found in its others. A value whose surrogates cannot be told from the rest of the data gets a
    placeholder in either style. Raises `DataError` when no reversible replacement can be made.
    """
    kept = [dict(row) for row in rows]
    secret = secret or secrets.token_bytes(32)
    given = changed(given, names=(*given.names, *sorted({name for row in kept for name in _speakers(row)})))
    texts = [_texts(row) for row in kept]
    spans = iter(find_many([text for row in texts for text in row], given))
    found = []
    for own in texts:
        shared = _shared(own, [next(spans) for _ in own])
        found.append([(text, _whole_words(text, more)) for text, more in zip(own, shared, strict=True)])
    values = {text[a:b] for row in found for text, stretches in row for a, b, _ in stretches}
    words = {word.casefold() for row in texts for text in row for word in _WORD.findall(text)}
    confused: set[str] = set()
    for salt in range(ROUNDS):
        mint = _Mint(secret, salt, style, values, words, confused)
        out = []
        minted = []
        for number, (row, part) in enumerate(zip(kept, found, strict=True)):
            apart = number if scope == "conversation" else -1
            pieces = [_replaced(text, stretches, mint, apart) for text, stretches in part]
            minted.append([used for _, used in pieces])
            out.append(_filled(row, [new for new, _ in pieces]))
        key = Key(secret, mint.originals)
        back = _turned_back(key)
        wrong: set[str] = set()
        for own, new, issued in zip(texts, out, minted, strict=True):
            for old, text, used in zip(own, _texts(new), issued, strict=True):
                restored, met = back(text)
                if restored != old:
                    wrong.update((Counter(used) - Counter(met)) + (Counter(met) - Counter(used)) or used)
        if not wrong:
            return out, key
        if salt >= DRAWN_ANEW:
            confused = confused | {mint.originals[replacement] for replacement in wrong}
    hint = "; type: --style placeholder" if style == "surrogate" else ""
    raise DataError(f"replacing identifiers: the replacements are not told from the rest of the data{hint}")


def restore(rows: Iterable[Mapping[str, Any]], key: Key) -> list[dict[str, Any]]:
    """The rows with every replacement of the key turned back; rows may come in any order, and only some of them."""
    back = _turned_back(key)
    return [_filled(row, [back(text)[0] for text in _texts(row)]) for row in rows]


def _turned_back(key: Key) -> Callable[[str], tuple[str, list[str]]]:
    """A text to the text with the key's replacements turned back, and those that were met in it."""
    index: dict[str, list[tuple[int, str]]] = {}
    for replacement in sorted(key.originals, key=len, reverse=True):
        first = _WORD.search(replacement)
        if first:
            index.setdefault(first.group(), []).append((first.start(), replacement))

    def back(text: str) -> tuple[str, list[str]]:
        parts: list[str] = []
        met: list[str] = []
        done = 0
        for word in _WORD.finditer(text):
            for before, replacement in index.get(word.group(), ()):
                start = word.start() - before
                end = start + len(replacement)
                cut = replacement[-1].isalnum() and _is_word(text[end : end + 1])
                if start >= done and not cut and text.startswith(replacement, start):
                    parts += [text[done:start], key.originals[replacement]]
                    met.append(replacement)
                    done = end
                    break
        return "".join([*parts, text[done:]]), met

    return back


def write_key(path: str | Path, key: Key) -> None:
    """Write the key into a new file that only its owner can read. Raises `DataError` where a file is already."""
    body = {"discretion_key": 1, "secret": key.secret.hex(), "originals": dict(key.originals)}
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise DataError(
            f"{path}: there is a file already; name a new one, for a lost key brings nothing back"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: the key cannot be written ({error.strerror}); name another file") from None
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        json.dump(body, stream, ensure_ascii=False)


def read_key(path: str | Path) -> Key:
    """The key in a file. Raises `DataError` for anything else, and for a key that others can read."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
        body = json.loads(path.read_text(encoding="utf-8"))
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise DataError(f"{path}: the key can be read by others (mode {mode & 0o777:o}); type: chmod 600 {path}")
        if body["discretion_key"] != 1:
            raise DataError(f"{path}: a key of another version; use the release that wrote it")
        return Key(bytes.fromhex(body["secret"]), {str(new): str(old) for new, old in body["originals"].items()})
    except OSError as error:
        raise DataError(f"{path}: the key cannot be read ({error.strerror}); check the file") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path}: no key; give the file that was written beside the replaced rows") from None


# ------------------------------------------------------------------------------------------------ rows and texts

_WORD = re.compile(r"\w+")


def _is_word(character: str) -> bool:
    return _WORD.match(character) is not None


def _texts(row: Any) -> list[str]:
    """Every text in a row, depth first, in the order of its fields."""
    if isinstance(row, str):
        return [row]
    if isinstance(row, Mapping):
        return [text for name, value in row.items() if name not in KEPT for text in _texts(value)]
    return [text for value in row for text in _texts(value)] if isinstance(row, list) else []


def _filled(row: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """The row with its texts, in the order of `_texts`, exchanged."""
    rest = iter(texts)

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return next(rest)
        if isinstance(value, Mapping):
            return {name: inner if name in KEPT else fill(inner) for name, inner in value.items()}
        return [fill(inner) for inner in value] if isinstance(value, list) else value

    return {name: inner if name in KEPT else fill(inner) for name, inner in row.items()}


def _speakers(value: Any) -> list[str]:
    """What stands in the `name` field of messages that people write."""
    if isinstance(value, Mapping):
        name = value.get("name")
        own = [name] if isinstance(name, str) and value.get("role") in ("user", "assistant") else []
        return own + [name for inner in value.values() for name in _speakers(inner)]
    return [name for inner in value for name in _speakers(inner)] if isinstance(value, list) else []


def _shared(texts: Sequence[str], found: Sequence[Sequence[Span]]) -> list[list[Span]]:
    """The spans of one row's texts, with the names of each found again in the others."""
    parts: set[str] = set()
    for text, spans in zip(texts, found, strict=True):
        parts |= name_parts(text, [(start, end) for start, end, kind in spans if kind == "PERSON"])
    shared = []
    for text, spans in zip(texts, found, strict=True):
        new = [
            Span(start, end, "PERSON")
            for start, end in again(text, parts)
            if all(end <= span.start or span.end <= start for span in spans)
        ]
        shared.append(sorted([*spans, *new]))
    return shared


def _whole_words(text: str, spans: Iterable[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """The spans, each widened to whole words: a surrogate glued to half a word could not be found again."""
    whole: list[tuple[int, int, str]] = []
    for start, end, kind in spans:
        while start and _is_word(text[start]) and _is_word(text[start - 1]):
            start -= 1
        while end < len(text) and _is_word(text[end - 1]) and _is_word(text[end]):
            end += 1
        if not whole or start >= whole[-1][1]:
            whole.append((start, end, kind))
    return whole


def _replaced(text: str, spans: Iterable[tuple[int, int, str]], mint: _Mint, scope: int) -> tuple[str, list[str]]:
    """The text with its spans replaced, and the replacements in their order."""
    parts: list[str] = []
    used: list[str] = []
    done = 0
    for start, end, kind in spans:
        new, units = mint.replacement(kind, text[start:end], scope)
        parts += [text[done:start], new]
        used += units
        done = end
    return "".join([*parts, text[done:]]), used


# ------------------------------------------------------------------------------------------------ replacements

_NAME_UNIT = re.compile(r"(?:[^\W\d_]\.)+(?:[^\W\d_]+)?|[^\W\d_]+")
_STAYS = re.compile(
    r"street|st|road|rd|avenue|ave|lane|ln|drive|dr|court|ct|square|sq|boulevard|blvd|way|place|pl|terrace|close|crescent"
    r"|parkway|pkwy|highway|hwy|alley|row|quay|mews|grove|gardens|apt|apartment|suite|unit|flat|rue|via|calle|avenida|viale",
    re.I,
)
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_CHECKED: Mapping[str, tuple[str, Callable[[str], bool]]] = {
    "CREDIT_CARD": ("", checksums.card),
    "US_SSN": ("", checksums.ssn),
    "US_ITIN": ("9", checksums.itin),
    "UK_NHS": ("", checksums.nhs),
    "UK_NINO": ("", checksums.nino),
    "PL_PESEL": ("", checksums.pesel),
    "IN_AADHAAR": ("", checksums.aadhaar),
    "CA_SIN": ("", checksums.luhn),
    "CH_AHV": ("756", checksums.ahv),
    "ES_NIF": ("", checksums.nif),
    "MEDICAL_LICENSE": ("", checksums.dea),
}
"""Type to how its numbers begin, and what they must hold."""


class _Mint:
    """Makes replacements, each for one original only; remembers them for the key."""

    def __init__(
        self, secret: bytes, salt: int, style: Style, values: set[str], words: set[str], confused: set[str]
    ) -> None:
        self.originals: dict[str, str] = {}
        self._issued: dict[tuple[int, str, str], str] = {}
        self._secret, self._salt, self._style = secret, salt, style
        self._values, self._words, self._confused = values, words, confused
        self._counts: dict[str, int] = {}

    def replacement(self, kind: str, value: str, scope: int) -> tuple[str, list[str]]:
        """What stands for this value of this kind, in this scope (-1: the whole data set), and its parts in the key."""
        if self._style == "placeholder" or kind != "PERSON":
            made = self._one(kind, value, scope)
            return made, [made]
        units: list[str] = []

        def unit(match: re.Match[str]) -> str:
            if match.group() in PARTICLES:
                return match.group()
            units.append(self._one(kind, match.group(), scope))
            return units[-1]

        # By words, so that a surname alone is still the surname of the full name.
        return _NAME_UNIT.sub(unit, value), units

    def _one(self, kind: str, value: str, scope: int) -> str:
        ticket = scope, kind, value
        if ticket not in self._issued:
            drawn = None if self._style == "placeholder" or value in self._confused else self._drawn(*ticket)
            self._issued[ticket] = drawn or self._placeholder(kind)
            self.originals[self._issued[ticket]] = value
        return self._issued[ticket]

    def _drawn(self, scope: int, kind: str, value: str) -> str | None:
        """A surrogate that stands nowhere yet; None where no draw gave one."""
        for attempt in range(ATTEMPTS):
            # Without the case, so that one name in three spellings stays one name.
            seed = json.dumps([self._salt, scope, kind, value.casefold(), attempt]).encode()
            made = self._surrogate(kind, value, Random(hmac.digest(self._secret, seed, hashlib.sha256)), attempt)
            alone = _WORD.fullmatch(made) and made.casefold() in self._words
            if made not in self.originals and made not in self._values and not alone:
                return made
        return None

    def _placeholder(self, kind: str) -> str:
        while True:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            made = f"{kind}_{self._counts[kind]}"
            if _WORD.findall(made)[-1].casefold() not in self._words:
                return f"[{made}]"

    def _surrogate(self, kind: str, value: str, rng: Random, attempt: int) -> str:
        match kind:
            case "PERSON":
                return _like(value, _invented(rng))
            case "EMAIL_ADDRESS":
                return f"{_invented(rng)}.{_invented(rng)}@example.{rng.choice(('com', 'org', 'net'))}"
            case "URL":
                return _url(value, rng)
            case "IP_ADDRESS":
                return _network(value, rng)
            case "UUID":
                return str(uuid.UUID(int=rng.getrandbits(128), version=4))
            case "MAC_ADDRESS":
                return value[2].join(["02", *(f"{rng.randrange(256):02x}" for _ in range(5))])
            case "IBAN_CODE":
                return _iban(value, rng)
            case "DATE_TIME":
                return _date(value, rng, 5 + attempt // 20)
            case "PHONE_NUMBER":
                return _phone(value, rng, attempt)
            case "LOCATION":
                return _WORD.sub(lambda word: _place_word(word.group(), rng), value)
        made = _shape(value, rng, attempt)
        prefix, holds = _CHECKED.get(kind, ("", None))
        while holds and not holds(re.sub(r"[\W_]", "", made)):
            made = _shape(value, rng, 0, prefix)
        return made


def _invented(rng: Random) -> str:
    """A word that can be said and means nothing, in small letters."""
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(3, 4)))


def _like(value: str, word: str) -> str:
    """`word` in the capitals of `value`."""
    if value.isupper() and len(value) > 1 and "." not in value:
        return word.upper()
    return word.capitalize() if value[:1].isupper() else word


def _shape(value: str, rng: Random, attempt: int, prefix: str = "") -> str:
    """Digit for digit and letter for letter; longer when the shape has no room left."""
    made = []
    begin = iter(prefix)
    for place, character in enumerate(value):
        if character.isdecimal():
            first = place == 0 and character != "0"
            made.append(next(begin, None) or str(rng.randint(int(first), 9)))
        elif character.isalpha():
            letter = rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ")
            made.append(letter if character.isupper() else letter.lower())
        else:
            made.append(character)
    return "".join([*made, *(str(rng.randrange(10)) for _ in range(attempt // 100))])


def _place_word(word: str, rng: Random) -> str:
    if _STAYS.fullmatch(word):
        return word
    street = next((end for end in STREET_ENDS if word.casefold().endswith(end)), None)
    if street and len(word) > len(street):
        return _like(word, _invented(rng) + street)
    if word.isalpha() and len(word) > 2:
        return _like(word, _invented(rng))
    return _shape(word, rng, 0)


def _url(value: str, rng: Random) -> str:
    scheme, mark, rest = value.rpartition("://")
    www = "www." if rest.startswith("www.") else ""
    path = f"/{_invented(rng)}" if re.search(r"[/?#].", rest) else ""
    return f"{scheme}{mark}{www}{_invented(rng)}{_invented(rng)}.example.com{path}"


def _network(value: str, rng: Random) -> str:
    """Out of the ranges for tests and documentation (RFC 2544, RFC 3849)."""
    if ":" in value:
        return f"2001:db8::{rng.randrange(1, 65536):x}:{rng.randrange(1, 65536):x}"
    return f"198.{rng.randint(18, 19)}.{rng.randrange(256)}.{rng.randrange(256)}"


def _iban(value: str, rng: Random) -> str:
    """Same country and spacing, an account that is drawn, check digits that hold."""
    made = value[:2] + "00" + _shape(value[4:], rng, 0)
    check = 98 - checksums.iban_remainder(re.sub(r"[ \-]", "", made))
    return f"{value[:2]}{check:02d}{made[4:]}"


def _date(value: str, rng: Random, years: int) -> str:
    """Same form, another day, a year at most `years` away."""
    named = any(character.isalpha() for character in value[:12])

    def part(match: re.Match[str]) -> str:
        number, suffix, word = match.group(1), match.group(2), match.group(3)
        if word is not None:
            month = next((m for m in _MONTHS if m.casefold().startswith(word[:3].casefold()) and len(word) > 2), None)
            if month is None:
                return str(word)
            drawn = rng.choice(_MONTHS)
            return _like(word, (drawn if word.casefold() == month.casefold() else drawn[:3]).lower())
        if len(number) == 4:
            return str(int(number) + rng.randint(-years, years))
        day = rng.randint(1, 28 if named else 12)
        if suffix:
            return f"{day}{'th' if 10 < day < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"
        return f"{day:02d}" if len(number) == 2 else str(day)

    return re.sub(r"(\d+)(st|nd|rd|th)?|([^\W\d_]+)", part, value)


def _phone(value: str, rng: Random, attempt: int) -> str:
    """Same shape; North American numbers out of the range that is kept free for fiction (555-01xx)."""
    made = _shape(value, rng, 0)
    north = re.search(r"\d{3}(\)? ?[\-. ]?)\d{3}([\-. ]?)\d{4}(?!\d)", made)
    if north and attempt < 50 and sum(c.isdigit() for c in value[: north.start()]) < 2:
        filled = f"{rng.randint(201, 989)}{north.group(1)}555{north.group(2)}01{rng.randrange(100):02d}"
        return made[: north.start()] + filled + made[north.end() :]
    return made
