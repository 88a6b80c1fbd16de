"""Text of models and data made safe to show: what cannot be seen is made visible, what identifies is masked.

Masking is by pattern and prefers to mask too much. The mask keeps the kind and a length class, and the same value
gets the same number throughout one `Masker`, so that a reader can follow it: `⟨name 3⟩`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple


class Piece(NamedTuple):
    """A stretch of text; `mark` tells that it stands for something and is not the text itself."""

    text: str
    mark: bool = False


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SEPARATED_DIGITS = r"\d(?:[\s().\-/]{0,2}\d)"
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_CURRENCY = "usd|eur|gbp|chf|jpy|inr|dollars?|euros?|pounds?"
_MAGNITUDE = "k|m|bn|million|billion|thousand"
_TOP_LEVEL = "com|org|net|edu|gov|mil|io|co|ai|dev|app|info|biz|eu|uk|de|fr|ch|at|nl|it|es|us"
_STREET = (
    r"street|st|road|rd|avenue|ave|lane|ln|drive|dr|court|ct|square|sq|boulevard|blvd|way|place|pl|terrace|close|crescent"
    r"|parkway|pkwy|highway|hwy|alley|row|quay|mews"
)
_KINDS: tuple[tuple[str, str], ...] = (
    ("e-mail", r"[\w.+\-']{1,64}\s?(?:@|[\[({]\s?at\s?[\])}])\s?[\w\-]+(?:(?:\.|\s?[\[({]\s?dot\s?[\])}]\s?)[\w\-]+)+"),
    ("e-mail", r"\b[\w.+\-]{1,64} at [\w\-]{1,63} dot [a-z]{2,}\b"),
    ("link", r"\b[a-z][a-z0-9+.\-]{1,15}://[^\s<>\"']+|\bwww\.[^\s<>\"']+"),
    ("link", r"\b(?:[a-z0-9\-]{1,63}\.){1,8}[a-z]{2,24}/[^\s<>\"']*"),
    ("link", rf"\b(?:[a-z0-9\-]{{1,63}}\.){{1,8}}(?:{_TOP_LEVEL})\b"),
    ("path", r"(?:~|\b[a-z]:)?(?:[\\/][\w.\-]+){2,}[\\/]?"),
    ("address", rf"\b\d{{1,6}}\s?[a-z]?,?\s(?:[\w.'’\-]{{1,40}}\s){{1,4}}(?:{_STREET})\b\.?"),
    ("address", r"\b[^\W\d_]{1,40}(?:straße|strasse|str\.|gasse|allee|weg|platz)\s?\d+\s?[a-z]?\b"),
    ("address", r"\b(?:rue|via|calle|avenida|viale|piazza|plaza)\s(?:[\w.'’\-]{1,40}\s){0,4}?[\w.'’\-]{1,40},?\s\d+\b"),
    ("network address", r"\b(?:\d{1,3}\.){3}\d{1,3}\b|\b(?:[0-9a-f]{2}[:\-]){5}[0-9a-f]{2}\b"),
    ("network address", r"(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{1,4}\b"),
    ("bank account", r"\b[a-z]{2}\d{2}(?:[ \-]?[a-z0-9]{4}){2,7}(?:[ \-]?[a-z0-9]{1,4})?\b"),
    ("amount", rf"(?:[$€£¥₹]|\b(?:{_CURRENCY})\b)\s?\d(?:[\d.,'’ ]{{0,24}}\d)?(?:\s?(?:{_MAGNITUDE})\b)?"),
    ("amount", rf"\b\d(?:[\d.,'’ ]{{0,24}}\d)?\s?(?:(?:{_MAGNITUDE})\s)?(?:[$€£¥₹]|(?:{_CURRENCY})\b)"),
    ("amount", rf"\b\d{{1,15}}(?:[.,]\d{{1,9}})?\s?(?:{_MAGNITUDE})\b"),
    ("date", r"\b\d{4}[\-/.]\d{1,2}[\-/.]\d{1,2}(?:t[\d:.]+z?)?\b|\b\d{1,2}[\-/.]\d{1,2}[\-/.]\d{2,4}\b"),
    ("date", rf"\b\d{{1,2}}(?:st|nd|rd|th)?(?:\sof)?\s{_MONTH}(?:,?\s\d{{4}})?\b"),
    ("date", rf"\b{_MONTH}\s\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s\d{{4}})?\b|\b{_MONTH},?\s\d{{4}}\b"),
    ("card number", rf"\b{_SEPARATED_DIGITS}{{12,18}}\b"),
    ("phone number", rf"(?<!\w)\+?\(?{_SEPARATED_DIGITS}{{6,15}}\b"),
    ("handle", r"(?<!\w)@[\w.\-]{2,}"),
    ("record id", r"\b(?=[\w\-/]{0,40}\d[\w\-/]{0,40}\d)(?=[\w\-/]{0,40}[a-z])[\w]+(?:[\-/][\w]+)*\b"),
    ("number", r"(?<!\d)(?<!\d\.)(?:\d{1,3}(?:[,'’]\d{3})+|\d{3,})(?:\.\d+)?|\b\d+\.\d{4,}"),
)
_PATTERN = re.compile("|".join(f"(?P<k{i}>{p})" for i, (_, p) in enumerate(_KINDS)), re.IGNORECASE)

_EMAIL = re.compile("|".join(pattern for kind, pattern in _KINDS if kind == "e-mail"), re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*")
_BETWEEN_NAMES = re.compile(r"[ \t\u00a0]{1,2}|\.[ \t]?")
_SENTENCE_BEGINS = re.compile(r"(?:\A|[.!?\n])\s*\Z")
_PARTICLES = _words("al bin da das de del della den der di dos du el ibn la le ten ter van von y zu")
_TITLES = _words("dr mr mrs ms mx prof sir st jr sr")

# Words that may stand with a capital and name nobody. A word that is also somebody's name (Will, Mark, May, Grace) must
# not be here: masking it once too often costs a reader little, showing it once costs a person.
_ORDINARY = _words(
    """
    a about above according account action actions address advice after again agree ai all allowed also although
    always am among amount an and another answer any anyone anything api appropriate are as asked asks assistant
    at attached attachment attribute available based be because been before being below beside between board
    body born both but by call can cannot care cc ceo cfo check clinic colleague colleagues company completely
    concerning condition confidential confirm consent consider contact content context could cto currently
    customer date dear december decline deny department describe details diagnosis did discuss do dob doctor
    does don't done due during each either else email emails employee employees employer ensure even event every
    everyone everything explain false family faq february feel file files final finally find first following for
    forbidden friday from full further fyi gdpr general get give given go good great group had happy has have he
    health hello help her here hers hi hipaa his history hospital how however hr i i'd i'll i'm i've iban id ids
    if important in include including information input inside instead insurance into ip is isn't it it's item
    its january json july just keep kind know last later least leave let let's letter like list look made
    mail make manager many march me medical medication meeting members memory message messages might monday more
    most mrn much must my name names need needs neither never new next no nobody none nor not note notes nothing
    november now number october of off offer office often ok okay on once one only option or order other others
    our out output over own patient patients pdf people per perhaps person personal phone pii please policy
    possible post prevent principle privacy private probably profile project provide public purpose put question
    quick rather read reason recently recipient record records refuse regarding regards remember reminder reply
    report request response result results review right safe said salary same saturday schedule school secret
    secrets see send sender sends sensitive sent september several share shared sharing she should show shows
    since sincerely so social some somebody someone something soon sorry speak ssn staff still story subject
    such summary sunday support sure take talk task team tell than thank thanks that that's the their them then
    there therefore these they they're thing things think this those thought thoughts through thursday thus time
    to today together tomorrow too tool topic toward true try tuesday two type under understand unfortunately
    unless until up update upon url us usa use used user users very via wait want was we we'll we're we've
    wednesday well were what when where whether which while who whom whose why with within without won't would
    write writes written wrong yes yesterday yet you you'll you're you've your yours
    """
)


# Names that are words as well: with a capital they are masked, in small letters they are taken for the word.
_NAMES_AND_WORDS = _words(
    """
    art bill black brown case chance chase cook dawn day dean drew early faith field frank gene grace grant gray
    green guy hill hope joy king lane law little long love major mark may miles page park pat price rich rob
    rose sharp short small stone strong sue summer swift violet white will winter wise wood young
    """
)


# What the items of the suites are called beside a number.
_ID_WORDS = _words(
    """
    a advbench agentic allowed arithmetic b c capability case cimemories commonsense confaide csqa d derived dev
    draw e f forbidden g gsm8k h harmbench harmful i item level line main memory mirror mmlu n no norms own p
    privacylens probe q qa reading refusal row safe seed t test train trajectory twin u unsafe v validation
    vignette w x xstest y z
    """
)


def visible(text: str) -> str:
    """The text with control, bidirectional, zero-width and unassigned characters written as `⟨U+202E⟩`."""
    return "".join(piece.text for piece in shown(text))


def shorten_home(text: str) -> str:
    """Paths below somebody's home folder begin with `~`, so that the name of the account is not shown."""
    text = re.sub(r"(?<![\w.~])/(?:home|Users)/[^/\s:]+", "~", text)
    text = re.sub(r"(?<![\w.~/])/root(?=/|\s|$)", "~", text)
    return re.sub(r"(?i)\b[a-z]:\\Users\\[^\\\s]+", "~", text)


class Masker:
    """Masks texts one after the other, and numbers what it masks by first appearance.

    `texts` are all texts that will be masked: a name seen with a capital in one is masked in small letters in another.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._numbers: dict[tuple[str, str], int] = {}
        self._counts: dict[str, int] = {}
        self._name_parts: set[str] = set()
        for text in texts:
            plain, _ = _plain(text)
            for start, end in _capitalised(plain):
                words = [word.group().casefold() for word in _WORD.finditer(plain, start, end)]
                if len(words) > 1 or not _SENTENCE_BEGINS.search(plain, 0, start):
                    self._name_parts.update(w for w in words if len(w) > 2 and _tells_a_name(w))

    def __call__(self, text: str) -> str:
        """The masked text as one string."""
        return "".join(piece.text for piece in self.pieces(text))

    def pieces(self, text: str) -> list[Piece]:
        """The masked text, with what stands for something told apart from what is the text."""
        plain, at = _plain(text)
        found: list[Piece] = []
        done = 0
        for start, end, kind in self._spans(plain):
            found += shown(text[done : at[start]])
            found.append(Piece(self._mask(kind, plain[start:end]), True))
            done = at[end - 1] + 1
        return found + shown(text[done:])

    def addresses(self, text: str) -> str:
        """The text with its e-mail addresses masked, and all else as it is."""
        return _EMAIL.sub(lambda match: self._mask("e-mail", match.group()), text)

    def item(self, item_id: str) -> str:
        """An item's or a cluster's id: as it is when made of ordinary words and short numbers, else masked."""
        parts = re.split(r"[\s:/#._\-]+", item_id)
        if all(
            (part.isdecimal() and len(part) < 6) or part in _ID_WORDS or _is_ordinary(part)
            for part in filter(None, parts)
        ):
            return visible(item_id)
        return self._mask("item", item_id)

    def _mask(self, kind: str, value: str) -> str:
        key = kind, " ".join(value.casefold().split())
        if key not in self._numbers:
            self._counts[kind] = self._numbers[key] = self._counts.get(kind, 0) + 1
        return f"⟨{kind} {self._numbers[key]}⟩"

    def _spans(self, plain: str) -> list[tuple[int, int, str]]:
        """What to mask, in order, without overlap: patterns first, names in what they leave."""
        spans = [
            (match.start(), match.end(), _length_class(_KINDS[int((match.lastgroup or "k0")[1:])][0], match.group()))
            for match in _PATTERN.finditer(plain)
        ]
        blanked = list(plain)
        for start, end, _ in spans:
            blanked[start:end] = "\n" * (end - start)
        rest = "".join(blanked)
        named = _capitalised(rest)
        spans += [(start, end, _length_class("name", rest[start:end])) for start, end in named]
        taken = [False] * len(rest)
        for start, end in named:
            taken[start:end] = [True] * (end - start)
        for word in _WORD.finditer(rest):
            if not taken[word.start()] and (word.group().casefold() in self._name_parts or _is_caseless(word.group())):
                spans.append((word.start(), word.end(), "name"))
        return sorted(spans)


def _is_ordinary(word: str) -> bool:
    folded = word.casefold().replace("’", "'")
    return folded in _ORDINARY or folded in _TITLES or folded.removesuffix("'s") in _ORDINARY


def _tells_a_name(word: str) -> bool:
    """Not a word that the same text may well use as an ordinary one in small letters."""
    return not _is_ordinary(word) and word not in _PARTICLES and word not in _NAMES_AND_WORDS


def _is_caseless(word: str) -> bool:
    """Scripts without capitals give no sign of a name, so all their words are taken for one."""
    return any(unicodedata.category(character) == "Lo" for character in word)


def _capitalised(text: str) -> list[tuple[int, int]]:
    """Stretches of capitalised words that are not all ordinary, without ordinary words in front."""
    stretches: list[list[re.Match[str]]] = []
    for word in _WORD.finditer(text):
        capital = word.group() != word.group().lower()
        before = stretches[-1][-1] if stretches and stretches[-1] else None
        joined = before is not None and _BETWEEN_NAMES.fullmatch(text, before.end(), word.start()) is not None
        if joined and before is not None and text[before.end()] == "." and len(before.group()) > 1:
            joined = before.group().casefold() in _TITLES
        if capital and joined:
            stretches[-1].append(word)
        elif capital:
            stretches.append([word])
        elif joined and word.group() in _PARTICLES:
            stretches[-1].append(word)
        else:
            stretches.append([])
    found = []
    for stretch in stretches:
        while stretch and (_is_ordinary(stretch[0].group()) or stretch[0].group() in _PARTICLES):
            stretch = stretch[1:]
        while stretch and stretch[-1].group() in _PARTICLES:
            stretch = stretch[:-1]
        if stretch:
            found.append((stretch[0].start(), stretch[-1].end()))
    return found


def _length_class(kind: str, value: str) -> str:
    if kind == "name":
        return "full name" if len(_WORD.findall(value)) > 1 else "name"
    if kind == "number":
        return "long number" if sum(c.isdigit() for c in value) > 6 else "number"
    return kind


_HIDDEN_CATEGORIES = frozenset(("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"))


def _is_hidden(character: str) -> bool:
    return character not in "\n\t" and unicodedata.category(character) in _HIDDEN_CATEGORIES


def _plain(text: str) -> tuple[str, list[int]]:
    """The text as patterns should see it, without hidden characters and in compatibility form, and for each of its
    characters the place in `text` that it came from: neither fullwidth digits nor a zero-width space hide anything."""
    characters: list[str] = []
    at: list[int] = []
    for place, character in enumerate(text):
        if not _is_hidden(character):
            for plain in unicodedata.normalize("NFKC", character):
                characters.append(plain)
                at.append(place)
    return "".join(characters), at


def shown(text: str) -> list[Piece]:
    """The pieces of a text that is not to be masked: hidden characters by their code."""
    pieces: list[Piece] = []
    plain: list[str] = []
    for character in text:
        if _is_hidden(character):
            if plain:
                pieces.append(Piece("".join(plain)))
                plain = []
            pieces.append(Piece(f"⟨U+{ord(character):04X}⟩", True))
        else:
            plain.append(character)
    return [*pieces, Piece("".join(plain))] if plain else pieces
