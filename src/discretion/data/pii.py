"""Identifiers in text: where they stand and of what kind, in the names of Presidio's types, offline and with no model.

`find` and `find_many` look at numbers, cues and a few marks, and let a validator (Luhn, mod 97, mod 11, calendar) have
the last word. Names are found by structure, from given lists, and by a tagger where one is handed in. Spans of one
text are in order and never overlap. Nothing here logs or quotes what it found.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from discretion.data import checksums
from discretion.data.names import people
from discretion.errors import DataError, UsageError


class Span(NamedTuple):
    """A stretch of text, `text[start:end]`, and the type of what it holds."""

    start: int
    end: int
    type: str


Tagger = Callable[[Sequence[str]], Sequence[Iterable[Span]]]
"""Texts to spans, in Presidio's type names: a spaCy, GLiNER or transformers model behind one function."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the user knows about the data beyond what anybody could know."""

    names: tuple[str, ...] = ()
    """People in the data; found as whole words, in any case."""
    patterns: Mapping[str, str] = field(default_factory=dict)
    """Type to regular expression: record and booking numbers. They win over everything else."""
    tagger: Tagger | None = None
    """Asked once per batch; its spans fill what structure left."""


NOTHING = Given()


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def find(text: str, given: Given = NOTHING) -> tuple[Span, ...]:
    """The identifiers of one text. Raises `DataError` for a given pattern that is no regular expression."""
    return find_many([text], given)[0]


def find_many(texts: Iterable[str], given: Given = NOTHING) -> list[tuple[Span, ...]]:
    """The identifiers of each text, in order; equal texts are looked at once."""
    texts = list(texts)
    distinct = list(dict.fromkeys(texts))
    own = _given_patterns(given)
    tagged: Sequence[Iterable[Span]] = given.tagger(distinct) if given.tagger and distinct else [()] * len(distinct)
    found = {
        text: _resolved([*_matches(text, own)], [*_structured(text)], [*more])
        for text, more in zip(distinct, tagged, strict=True)
    }
    return [found[text] for text in texts]


def tagger(find_entities: Callable[[Sequence[str]], Iterable[Iterable[tuple[int, int, str]]]]) -> Tagger:
    """A model's (start, end, label) of each text as a tagger: the labels of `LABELS`, in Presidio's names."""

    def tag(texts: Sequence[str]) -> list[list[Span]]:
        return [
            [Span(start, end, LABELS[label]) for start, end, label in found if label in LABELS]
            for found in find_entities(texts)
        ]

    return tag


def spacy_tagger(model: Any) -> Tagger:
    """A loaded spaCy pipeline as a tagger: its PERSON, place and date entities in Presidio's names."""
    return tagger(
        lambda texts: (
            [(entity.start_char, entity.end_char, entity.label_) for entity in document.ents]
            for document in model.pipe(texts)
        )
    )


def open_spacy(name: str) -> Tagger:
    """An installed spaCy pipeline, or a folder of one, as a tagger. Raises `UsageError` that says what to type."""
    try:
        import spacy  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError:
        raise UsageError(
            f"the tagger spacy:{name} needs the library 'spacy', which is not installed; "
            f"type: pip install spacy && python -m spacy download {name}"
        ) from None
    try:
        return spacy_tagger(spacy.load(name))
    except OSError:
        raise UsageError(
            f"the tagger spacy:{name}: no such spaCy model is installed; type: python -m spacy download {name}"
        ) from None


LABELS = {
    "PERSON": "PERSON", "PER": "PERSON",
    "GPE": "LOCATION", "LOC": "LOCATION", "LOCATION": "LOCATION", "FAC": "LOCATION",
    "DATE": "DATE_TIME", "TIME": "DATE_TIME", "NORP": "NRP",
}  # fmt: skip
"""What models call people, places and dates → Presidio's names; their other labels are left out."""


def _given_patterns(given: Given) -> list[tuple[str, re.Pattern[str]]]:
    patterns = []
    for kind, pattern in given.patterns.items():
        try:
            patterns.append((kind, re.compile(pattern)))
        except re.error as error:
            raise DataError(f"pattern {kind}: not a regular expression ({error}); correct it") from None
    if names := sorted(filter(str.strip, given.names), key=len, reverse=True):
        words = "|".join(re.escape(name.strip()) for name in names)
        patterns.append(("PERSON", re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)))
    return patterns


def _matches(text: str, patterns: Iterable[tuple[str, re.Pattern[str]]]) -> Iterator[Span]:
    for kind, pattern in patterns:
        for match in pattern.finditer(text):
            if match.end() > match.start():
                yield Span(match.start(), match.end(), kind)


def _resolved(*ranked: list[Span]) -> tuple[Span, ...]:
    """Spans that do not overlap: an earlier list wins over a later one, in one list the longer and then the first."""
    kept: list[Span] = []
    taken = bytearray(max((span.end for spans in ranked for span in spans), default=0))
    for spans in ranked:
        for span in sorted(spans, key=lambda s: (s.start - s.end, s.start)):
            if taken.find(1, span.start, span.end) < 0:
                taken[span.start : span.end] = b"\1" * (span.end - span.start)
                kept.append(span)
    return tuple(sorted(kept))


def _structured(text: str) -> Iterator[Span]:
    if "@" in text:
        yield from (Span(m.start(), m.end(), "EMAIL_ADDRESS") for m in _EMAIL.finditer(text))
    if "://" in text or "www." in text or _TOP.search(text):
        for m in _URL.finditer(text):
            if text[m.start() - 1 : m.start()] != "@" and text[m.end() : m.end() + 1] != "@":
                yield Span(m.start(), m.start() + len(m.group().rstrip(".,;:!?)]}'")), "URL")
    if text.count(":") > 1 or "-" in text:
        yield from _hexadecimal(text)
    yield from _numbers(text)
    yield from (Span(start, end, "PERSON") for start, end in people(text))


# ------------------------------------------------------------------------------------------------ marks

_TOP_LEVEL = "com|org|net|edu|gov|mil|info|biz|io|co|ai|dev|app|eu|uk|de|fr|ch|at|nl|it|es|se|pl|us|ca|au|in|br|ru|cz"
_EMAIL = re.compile(r"(?<![\w.+\-])[\w.%+\-'’]{1,64}@(?:[\w\-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w\-])")
_TOP = re.compile(rf"\.(?:{_TOP_LEVEL})(?![\w])", re.IGNORECASE)
_URL = re.compile(
    r"(?<![\w@.\-])(?:[a-z][a-z0-9+.\-]{1,15}://[^\s<>\"']+|www\.[^\s<>\"']+"
    r"|(?:[a-z0-9\-]{1,63}\.){1,5}(?:com|org|net|edu|gov|mil|info|biz|io|ai|app|dev|eu|co\.[a-z]{2}|de|fr|ch|nl|se|pl)"
    r"(?:(?![\w.@\-]|\.\w)(?:[/?#][^\s<>\"']*)?|(?=\.(?:\s|$)))(?!@))",
    re.IGNORECASE,
)
_UUID = re.compile(r"-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}(?!\w)")
_MAC = re.compile(r"(?<![\w:\-])[0-9a-fA-F]{2}([:\-])(?:[0-9a-fA-F]{2}\1){4}[0-9a-fA-F]{2}(?![\w:\-])")
_V6 = re.compile(r"(?<![\w:.])(?:[0-9a-fA-F]{0,4}:){2,7}(?:[0-9a-fA-F]{1,4}|(?:\d{1,3}\.){3}\d{1,3})?(?![\w:])")
_MAC_MARK = re.compile(r":[0-9a-fA-F]{2}:[0-9a-fA-F]{2}:|-[0-9a-fA-F]{2}-[0-9a-fA-F]{2}-")
_V6_MARK = re.compile(r"::|:[0-9a-fA-F]{1,4}:[0-9a-fA-F]{1,4}:[0-9a-fA-F]{1,4}:")


def _hexadecimal(text: str) -> Iterator[Span]:
    for match in _UUID.finditer(text):
        start = match.start() - 8
        if start >= 0 and re.fullmatch(r"[0-9a-fA-F]{8}", text[start : match.start()]):
            yield Span(start, match.end(), "UUID")
    if _MAC_MARK.search(text):
        yield from (Span(m.start(), m.end(), "MAC_ADDRESS") for m in _MAC.finditer(text))
    if _V6_MARK.search(text):
        for match in _V6.finditer(text):
            # "::" alone is an address by the standard, and in text a separator.
            if len(match.group()) > 3 and _is_address(match.group()):
                yield Span(match.start(), match.end(), "IP_ADDRESS")


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


# ------------------------------------------------------------------------------------------------ numbers

# A plain class in front, and not `[0-9]+`: only then does the engine skip quickly to the next digit.
# Bounded, so that a long table of numbers is not read again from each of its columns.
_CHUNK = re.compile(r"[0-9][0-9]*(?:(?:[ .\-/\u00a0]|[ \-]?\(|\) ?|\)-)[0-9]+){0,11}")
_GROUP = re.compile(r"[0-9]+")
_MONTH_WORDS = _words(
    """
    january february march april may june july august september october november december jan feb mar apr jun jul aug
    sept sep oct nov dec
    """
)
_MONTH = rf"(?:{'|'.join(sorted(_MONTH_WORDS, key=len, reverse=True))})\b\.?"
_DAY_MONTH = re.compile(rf"[0-9]{{1,2}}(?:st|nd|rd|th)?(?: of)?[ \u00a0\-]{_MONTH}(?:,?[ \u00a0\-][0-9]{{4}}\b)?", re.I)
_AFTER_MONTH = re.compile(r"(?:[0-9]{1,2}(?:st|nd|rd|th)?(?:,? [0-9]{4})?|[0-9]{4})(?!\w|[.,:][0-9])")
_DATE = re.compile(
    r"([0-9]{1,4})([\-/.])([0-9]{1,2})\2([0-9]{1,4})(?!\w|[\-/.][0-9])"
    r"(?:[ T][0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?:Z|[+\-][0-9]{2}:?[0-9]{2})?)?"
)
_V4 = re.compile(r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")
_IBAN = re.compile(r"[A-Za-z]{2}[0-9]{2}(?:[ \-]?[A-Za-z0-9]){11,30}")
_CARD = re.compile(
    r"[0-9]{4}([ \-])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{3})?|[0-9]{4}([ \-])[0-9]{6}\2[0-9]{4,5}|[0-9]{13,19}"
)
_NINO = re.compile(r"[A-CEGHJ-PR-TW-Z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D](?!\w)")
_POSTCODE = re.compile(r"[A-Z]{1,2}[0-9][A-Z0-9]? [0-9][A-Z]{2}(?!\w)")
_EXTENSION = re.compile(r" ?(?:x|ext\.?) ?[0-9]{1,6}(?!\w)", re.I)
_STREETS = (
    "street|st|road|rd|avenue|ave|lane|ln|drive|dr|court|ct|square|sq|boulevard|blvd|way|place|pl|terrace|close|crescent"
    "|parkway|pkwy|highway|hwy|alley|row|quay|mews|grove|gardens"
)
_STOPS = r"(?:of|the|in|and|or|to|a|at|on|for|from|per|by|is|was|this|that|my|your|his|her|its) "
_STREET = re.compile(
    rf"[0-9]{{1,6}}[a-z]?,? (?:(?!{_STOPS})(?:[^\W\d_][\w.'’\-]{{0,30}}|[0-9]{{1,4}}(?:st|nd|rd|th)?) ){{1,4}}?"
    rf"(?:{_STREETS})\b"
    r"(?:\.(?=,))?(?:,? (?:apt|apartment|suite|unit|flat)\.? ?[\w\-]{1,6}\b)?"
    r"|[0-9]{1,6},? (?:rue|via|calle|avenida|viale)(?: [^\W\d_][\w'’\-]{0,30}){1,3}",
    re.I,
)
STREET_ENDS = (
    "straße",
    "strasse",
    "straat",
    "gasse",
    "allee",
    "gatan",
    "vägen",
    "laan",
    "str.",
    "weg",
    "platz",
    "útja",
)
_ROOMS = {"apt", "apt.", "apartment", "suite", "flat"}
_STATES = _words(
    """
    AL AK AZ AR CA CO CT DE FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM NY NC ND OH OK OR PA RI
    SC SD TN TX UT VT VA WA WV WI WY DC
    """
)
_RECORDS = _words(
    """
    booking reservation record case application applications order claim policy account member membership patient
    registration invoice ticket tracking confirmation customer employee student file reference ref mrn permit
    """
)
_COUNTERS = {"no", "nos", "number", "numbers", "id", "code", "nr", "ref", "reference", "is"}
_CASE = re.compile(r"[0-9]{2,6}/[0-9]{2,4}(?![\w/])")
_TOKEN = re.compile(r"[A-Za-z0-9]+(?:[\-/][A-Za-z0-9]+)*")
_NO_PERSON = re.compile(r"isbn|issn|doi|version|\bver\b|\bv\b|build|release|serial|part no|sku", re.I)
_CALL = re.compile(r"\b(?:call|phone|tel|telephone|mobile|mob|cell|fax|whatsapp|sms|text me|reach me|ring)\b", re.I)
_NUMBERED = (
    (r"\bssn\b|social security", (9, 9), "US_SSN", checksums.ssn),
    (r"\bnhs\b", (10, 10), "UK_NHS", checksums.nhs),
    (r"\bpesel\b", (11, 11), "PL_PESEL", checksums.pesel),
    (r"\bsin\b|social insurance", (9, 9), "CA_SIN", checksums.luhn),
    (r"\ba?adhaar\b", (12, 12), "IN_AADHAAR", checksums.aadhaar),
    (r"passport", (9, 9), "US_PASSPORT", None),
    (r"driver|licen[cs]e", (7, 9), "US_DRIVER_LICENSE", None),
    (r"\bbank\b|account|\bacct\b", (8, 17), "US_BANK_NUMBER", None),
)
_NUMBER_WORDS = tuple((re.compile(words, re.I), *rest) for words, *rest in _NUMBERED)


def _numbers(text: str) -> Iterator[Span]:
    """Every run of digits once: what it is, is settled by its shape, its neighbours and a checksum."""
    at, search = 0, _CHUNK.search
    while match := search(text, at):
        start, end = match.span()
        span = _number(text, start, end)
        if span is not None:
            yield span
            at = max(span.end, start + 1)
            continue
        at = _rest(text, start, end)


def _rest(text: str, start: int, end: int) -> int:
    """Where to look on in a refused number: behind white space, between groups that do not look like one number."""
    groups = [match.span() for match in _GROUP.finditer(text, start, end)]
    for (left, middle), (right, stop) in pairwise(groups):
        if text[middle] in " \u00a0" and middle - left != stop - right:
            return middle
    return end


def _number(text: str, start: int, end: int) -> Span | None:
    before = text[start - 1] if start else " "
    if before.isalpha():
        return _lettered(text, start, end)
    joined = text[start - 2 : start - 1]
    if before == "_" or (before in "-/" and joined.isalnum()) or (before in ".," and joined.isdigit()):
        return None
    value = text[start:end]
    word = text[max(0, start - 24) : start].rstrip(" :#,").rpartition(" ")[2].rpartition("\n")[2].lstrip("([")
    folded = word.casefold().rstrip(".")
    if not value.isdigit() and (match := _DATE.match(text, start)) and _is_date(*match.groups()):
        return Span(start, match.end(), "DATE_TIME")
    if value.count(".") >= 3 and (match := _V4.match(text, start)):
        if _is_address(match.group()) and not _NO_PERSON.search(text, max(0, start - 16), start):
            return Span(start, match.end(), "IP_ADDRESS")
        return None
    if match := _DAY_MONTH.match(text, start):
        return Span(start, match.end(), "DATE_TIME")
    if folded in _MONTH_WORDS and before == " " and (match := _AFTER_MONTH.match(text, start)):
        return Span(text.rindex(word, 0, start), match.end(), "DATE_TIME")
    if folded == "in" and text[max(0, start - 8) : start].casefold().endswith("born in ") and len(value) == 4:
        return Span(start, end, "DATE_TIME")
    digits = value if value.isdigit() else re.sub(r"[^0-9]", "", value)
    if len(digits) >= 7 and (span := _long(text, start, end, digits)):
        return span
    if text[start + 1 : start + 9].strip("0123456789") and (match := _STREET.match(text, start)):
        return Span(start, match.end(), "LOCATION")
    if folded in _COUNTERS or folded in _RECORDS:
        return _record(text, start)
    if "/" in value and "nos. " in text[max(0, start - 60) : start] and (match := _CASE.match(text, start)):
        return Span(start, match.end(), "ID")
    if before == " " and text[start - 3 : start - 1].isupper() and (match := _NINO.match(text, start - 3)):
        return Span(start - 3, match.end(), "UK_NINO")
    group = _GROUP.match(text, start).end()  # type: ignore[union-attr]
    place = folded in _ROOMS or (group - start < 5 and word.casefold().endswith(STREET_ENDS))
    if word and (place or (word in _STATES and group - start == 5)):
        return Span(text.rindex(word, 0, start), group, "LOCATION")
    return None


def _is_date(first: str, mark: str, second: str, third: str) -> bool:
    """Year first or year last; a year of two digits only between slashes, where no version number stands."""
    if len(first) == 4:
        year, month, day = first, second, third
        return 1800 <= int(year) <= 2199 and 1 <= int(month) <= 12 and 1 <= int(day) <= 31
    if len(third) == 3 or len(third) == 1 or len(first) > 2 or (len(third) == 2 and mark != "/"):
        return False
    if len(third) == 4 and not 1800 <= int(third) <= 2199:
        return False
    low, high = sorted((int(first), int(second)))
    return 1 <= low <= 12 and high <= 31


def _lettered(text: str, start: int, end: int) -> Span | None:
    """A number with letters in front of it: an IBAN, a licence, a postcode, a record number."""
    token_start = start
    while (
        token_start and start - token_start < 24 and (text[token_start - 1].isalnum() or text[token_start - 1] in "-/")
    ):
        token_start -= 1
    letters = text[token_start:start]
    if len(letters) == 2 and letters.isascii() and letters.isalpha():
        if (length := checksums.iban_length(letters)) and (match := _IBAN.match(text, token_start)):
            cut = _cut(match.group(), length)
            if cut and checksums.iban_remainder(re.sub(r"[ \-]", "", cut)) == 1:
                return Span(token_start, token_start + len(cut), "IBAN_CODE")
        if match := _NINO.match(text, token_start):
            return Span(token_start, match.end(), "UK_NINO")
        alone = end - start == 7 and text[start:end].isdigit() and not text[end : end + 1].isalnum()
        if alone and checksums.dea(text[token_start:end]):
            return Span(token_start, end, "MEDICAL_LICENSE")
    if 1 <= len(letters) <= 2 and letters.isupper() and (match := _POSTCODE.match(text, token_start)):
        return Span(token_start, match.end(), "LOCATION")
    return _record(text, token_start)


def _cut(value: str, length: int) -> str | None:
    """The beginning of `value` that holds `length` letters and digits, and no half word."""
    count = 0
    for place, character in enumerate(value):
        count += character.isalnum()
        if count == length:
            return value[: place + 1] if not value[place + 1 : place + 2].isalnum() else None
    return None


def _record(text: str, start: int) -> Span | None:
    """A token behind `booking no.`, `case`, `reference:`, and the like; with digits enough not to be a count."""
    words = re.findall(r"[\w]+", text[max(0, start - 40) : start].rpartition("\n")[2].casefold())[-3:]
    token = _TOKEN.match(text, start)
    if not words or token is None:
        return None
    named = any(word in _RECORDS for word in words)
    if _CASE.match(text, start) and words[-1] in ("no", "nos"):
        named = True
    close = words[-1] in _RECORDS or (words[-1] in _COUNTERS and named)
    value = token.group()
    enough = sum(c.isdigit() for c in value) >= (4 if value.isdigit() else 3)
    if close and named and enough and not value.isalpha():
        return Span(start, token.end(), "ID")
    return None


def _long(text: str, start: int, end: int, digits: str) -> Span | None:
    """Seven digits and more."""
    after = text[end : end + 2]
    if after[:1].isalpha():
        if len(digits) == 8 and end - start == 8 and not after[1:].isalnum() and checksums.nif(digits + after[0]):
            return Span(start, end + 1, "ES_NIF")
        if after[0] not in "xXe":
            return None
    context = text[max(0, start - 40) : start].rpartition("\n")[2]
    if checksums.isbn(digits) or _NO_PERSON.search(context):
        return None
    card = _CARD.match(text, start)
    alone = card is not None and not text[card.end() : card.end() + 1].isalnum()
    if card and alone and checksums.card(re.sub(r"[ \-]", "", card.group())):
        return Span(start, card.end(), "CREDIT_CARD")
    value = text[start:end]
    groups = [len(group) for group in _GROUP.findall(value)]
    marks = set(re.sub(r"[0-9]", "", value))
    if groups == [3, 2, 4] and len(marks) == 1:
        if checksums.ssn(digits):
            return Span(start, end, "US_SSN")
        if checksums.itin(digits):
            return Span(start, end, "US_ITIN")
    if groups == [3, 4, 4, 2] and checksums.ahv(digits):
        return Span(start, end, "CH_AHV")
    if groups == [4, 4, 4] and len(marks) == 1 and checksums.aadhaar(digits):
        return Span(start, end, "IN_AADHAAR")
    if groups == [3, 3, 4] and marks == {" "} and checksums.nhs(digits):
        return Span(start, end, "UK_NHS")
    for words, (least, most), kind, holds in _NUMBER_WORDS:
        if least <= len(digits) <= most and words.search(context) and (holds(digits) if holds else value.isdigit()):
            return Span(start, end, kind)
    return _phone(text, start, end, value, groups, context)


def _phone(text: str, start: int, end: int, value: str, groups: list[int], context: str) -> Span | None:
    """A phone number by its shape, or of any shape behind a plus or a word such as `call`."""
    if extension := _EXTENSION.match(text, end):
        end = extension.end()
    after = text[end : end + 2]
    if after[:1].isalnum() or after[:1] == "%" or (after[:1] in "-/_" and after[1:].isalnum()):
        return None
    left = start
    while left and start - left < 2 and text[left - 1] in "+(":
        left -= 1
    lead = text[left:start]
    if text[left - 1 : left] in ("$", "€", "£", "¥", "=", "#") and left:
        return None
    count = sum(groups)
    if count > 15 or not (
        "+" in lead or _CALL.search(context) or _is_phone(value, groups, "(" in lead or "(" in value)
    ):
        return None
    if "(" in lead and ")" not in text[left:end]:
        left += lead.index("(") + 1
    return Span(left, end, "PHONE_NUMBER")


def _is_phone(value: str, groups: list[int], bracket: bool) -> bool:
    marks = set(re.sub(r"[0-9]", "", value))
    trunk, count = value[0] == "0", sum(groups)
    if len(groups) < 2:
        return False
    if bracket and ")" in marks:
        return count >= 7
    if "/" in marks:
        return trunk and value.count("/") == 1 and count >= 8
    if marks == {"."}:
        return groups[-3:] == [3, 3, 4] or (trunk and count >= 9 and min(groups) >= 2)
    if value[:2] in ("19", "20") and groups[0] == 4:
        return False
    if marks <= {" ", "\u00a0"}:
        thousands = groups[0] <= 3 and set(groups[1:]) == {3} and not trunk
        return count >= 8 and max(groups) >= 3 and not thousands and (len(groups) > 2 or trunk) and groups[0] < 5
    return (
        max(groups) <= (8 if trunk else 5)
        and groups[-1] >= 2
        and (set(groups) != {4} or len(groups) < 3)
        and len(groups) < 6
    )
