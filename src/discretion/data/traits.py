"""Traits of training rows that research blames for lost discretion (arXiv 2601.15220): rules on words, with evidence.

Each rule looks at one chat and gives a score from 0 to 1 and the spans that decided. English only. A rule finds what
its words announce and nothing else: how often it is right is measured in docs/screen.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Evidence(NamedTuple):
    """`turns[turn]`, characters `[start, end)`."""

    turn: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A trait in a row."""

    trait: str
    score: float
    """0…1; from 0.5 on the row counts as having the trait."""
    evidence: tuple[Evidence, ...]


Turns = Sequence[tuple[str, str]]
"""(role, content) of each turn."""
COUNTS = 0.5
"""Score from which a row has a trait."""

_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")


def traits(turns: Turns) -> list[Hit]:
    """The traits of a row, strongest first; what scores 0 is left out."""
    hits = [
        Hit(name, min(1.0, sum(weight for weight, _ in found)), tuple(evidence for _, evidence in found))
        for name, rule in RULES.items()
        if (found := list(rule(turns)))
    ]
    return sorted(hits, key=lambda hit: -hit.score)


def _spoken(turns: Turns, *roles: str) -> Iterator[tuple[int, str]]:
    return ((number, content) for number, (role, content) in enumerate(turns) if role in roles)


def _sentences(turns: Turns, *roles: str) -> Iterator[tuple[int, int, str]]:
    """(turn, place, sentence)."""
    for number, content in _spoken(turns, *roles):
        for match in _SENTENCE.finditer(content):
            yield number, match.start(), match.group()


# ------------------------------------------------------------------------------------------------ proactive help

_ASKS = re.compile(
    r"\?\s*$|\b(?:would you like|do you want|should I|shall I|may I|could you|can you|please (?:share|provide|tell|let)"
    r"|let me know|if you(?:'d)? (?:like|want|wish|prefer|agree)|(?:do|did|could|can|will|would) not|(?:don"
    r"|didn|haven|won)['’]t"
    r"|without your|left (?:it|them) (?:aside|out)|keep (?:it|them) apart|unless you)\b",
    re.I,
)
_RECALLS = re.compile(
    r"\b(?:(?:you|we)(?:['’]ve| have| had)? (?:often |usually |always |also |just |recently |previously )?"
    r"(?:mentioned|discussed|shared|flagged|talked|noted|emailed|texted|searched|booked|ordered|bought|saved"
    r"|worked|took|liked"
    r"|enjoyed|visited|sent|used|expressed|marked|scheduled|planned|had set|wrote|were (?:working|looking"
    r"|talking)|been))"
    r"|\b(?:based on|from|in|like|similar to|looking at|considering|given|using|through) (?:your|the|our|all your) "
    r"(?:[\w'’]+ ){0,3}(?:last|past|previous|earlier|recent|usual|preferences?|notes|emails?|e-mails?|messages?"
    r"|conversations?"
    r"|discussions?|chats?|history|purchases?|orders?|calendar|papers|records?|letters?|mail|folder|files?"
    r"|documents?|habits|data)"
    r"|\bI(?:['’]ve| have)? (?:also )?(?:noticed?|see(?: that)?|saw|remember(?:ed)?|recall(?:ed)?|know"
    r"|checked your|went through"
    r"|looked (?:at|through|into) your|read your|found (?:your|that you))"
    r"|\bsince (?:I know |it seems )?you(?:r|['’]ve|['’]re| have| are| had| usually| often| always| mentioned"
    r"| shared| liked)?\b"
    r"|\b(?:last|previous) (?:week|month|time|year|night|Friday|Monday|weekend|semester|trip|meeting|conversation)\b"
    r"|\b(?:like|as) (?:you|we) (?:did|discussed|mentioned|usually)\b|\byour (?:usual|previous|past|recent) \w+"
    r"|\byour [\w, ]{0,40}(?:papers|records|notes|files|mail|letters|folder|history|data) (?:say|show|indicate"
    r"|suggest|tell)s?\b",
    re.I,
)
_BEYOND = re.compile(
    r"\b(?:while I was at it|so (?:that )?nobody has to ask|gives \w+ (?:\w+ )?the full picture|along with your"
    r"|passed (?:that|it) on"
    r"|told [\w ]{2,30} all of this|looked ahead|added (?:it|them|that) (?:from|to)|went ahead)\b",
    re.I,
)


def _proactive(turns: Turns) -> Iterator[tuple[float, Evidence]]:
    """The assistant states what it knows of other contexts, or acts on it, where nobody asked and it does not ask.

    What the user said is no other context: a phrase that the user used first does not count, nor does `your recent
    order` where the user spoke of an order.
    """
    said = " ".join(content for _, content in _spoken(turns, "user", "system")).casefold()

    def new(phrase: str) -> bool:
        own = phrase.replace("your", "my")
        return not (phrase in said or own in said or (phrase.startswith("your ") and phrase.split()[-1] in said))

    for number, place, sentence in _sentences(turns, "assistant"):
        if _ASKS.search(sentence):
            continue
        for rule, weight in ((_RECALLS, 0.5), (_BEYOND, 0.5)):
            for match in rule.finditer(sentence):
                if new(match.group().casefold()):
                    yield weight, Evidence(number, place + match.start(), place + match.end())


# ------------------------------------------------------------------------------------------------ emotional disclosure

_FEELINGS = (
    "sad|lonely|alone|anxious|angry|mad|furious|tired|exhausted|proud|jealous|ashamed|hopeless|hopeful|lost"
    "|bored|afraid|scared"
    "|terrified|guilty|grateful|depressed|down|upset|hurt|heartbroken|devastated|nervous|worried|stressed"
    "|overwhelmed|happy"
    "|excited|thrilled|disappointed|embarrassed|frustrated|annoyed|disgusted|nostalgic|lonesome|miserable"
    "|sentimental|confident"
    "|prepared|content|joyful|impressed|surprised|apprehensive|trusting|faithful|caring|empty|numb|worthless"
)
_EMOTION = re.compile(
    rf"\bI(?:['’]m| am| was| feel| felt| have been|['’]ve been|['’]ve felt)(?: feeling)?(?: (?:so|very|really"
    rf"|rather|a bit|a little"
    rf"|just|too|quite|such|still|pretty|all|always))*(?: being)? (?:{_FEELINGS})\b"
    rf"|\b(?:to )?feel(?:ing)? (?:so |very |rather )?(?:{_FEELINGS})\b|\bI (?:cried|cry|hate|miss|blame myself"
    rf"|regret|can['’]t stop"
    rf" (?:crying|thinking)|lost my|needed to say)\b|\b(?:broke|breaks) my heart\b|\bit hurts\b"
    rf"|\b(?:makes|made) me (?:feel|so|cry|very|really)\b",
    re.I,
)


def _emotional(turns: Turns) -> Iterator[tuple[float, Evidence]]:
    """The user tells of feelings in the first person."""
    for number, content in _spoken(turns, "user"):
        for match in _EMOTION.finditer(content):
            yield 0.5, Evidence(number, match.start(), match.end())


# ------------------------------------------------------------------------------------------------ profile in context

_PROFILE: Mapping[str, re.Pattern[str]] = {
    kind: re.compile(pattern, re.I)
    for kind, pattern in {
        "age": r"\b\d{1,2}[- ]years?[- ]old\b|\baged? (?:of )?\d{1,2}\b|: \d{1,2} years\b",
        "home": r"\b(?:I live|lives|living|resid(?:es?|ing)|based|born) in [A-Z]\w+"
        r"|\b(?:am|is) (?:a|an) \w+ from [A-Z]\w+",
        "work": r"\bworks? (?:as|at|for) (?:an? )?[^\W\d]\w+|\b(?:occupation|profession|job title|employer)\b",
        "family": r"\b(?:married|divorced|widowed|single (?:mother|father|parent)|\w+ (?:children|kids))\b"
        r"|\b(?:husband|wife)\b",
        "money": r"\b(?:salary|income|savings|debts?|mortgage|net worth|earns?|credit score)\b[^.\n]{0,20}[$€£\d]",
        "health": r"\b(?:diagnos(?:ed|is)|blood pressure|allerg(?:y|ic)|medication|chronic)\b",
        "schooling": r"\b(?:degree|bachelor|master['’]?s|high school|graduated|university)\b",
    }.items()
}
_PART = COUNTS / 2


def _profiled(turns: Turns) -> Iterator[tuple[float, Evidence]]:
    """Facts of several kinds about one person lie in a turn of the user, the system or a tool; two make it count."""
    for number, content in _spoken(turns, "user", "system", "tool"):
        found = [match for rule in _PROFILE.values() if (match := rule.search(content))]
        if len(found) > 1:
            yield from ((_PART, Evidence(number, match.start(), match.end())) for match in found)


# ------------------------------------------------------------------------------------------------ code that logs

_LOGS = re.compile(
    r"^[ \t]*(?:print\((?!\s*\)).*|(?:logging|logger|log)\.(?:debug|info|warning|error)\(.*|console\.(?:log"
    r"|debug|info)\(.*"
    r"|System\.out\.print\w*\(.*|fmt\.Print\w*\(.*|std::c(?:out|err) ?<<.*|printf\(.*)$",
    re.M,
)
_STATE = re.compile(
    r"[\"'][^\"']*[\"']\s*,\s*\w|\{\w+[^}]*\}|%[sdfr]|\b(?:enter|exit|return|value|result|state)\w*\b|\(\s*\w+\s*\)",
    re.I,
)
_CODE = re.compile(
    r"^(?:[ \t]*(?:def |class |for |while |if |return |import |from \w+ import |function |const |let |var "
    r"|public )|[ \t]+\S|```)",
    re.M,
)
_WANTS_LOGS = re.compile(r"\b(?:print\w*|logs?|logging|traced?|debug\w*)\b", re.I)


def _logging(turns: Turns) -> Iterator[tuple[float, Evidence]]:
    """The assistant's code prints or logs its variables, where nobody asked for output."""
    if any(_WANTS_LOGS.search(content) for _, content in _spoken(turns, "user")):
        return
    for number, content in _spoken(turns, "assistant"):
        if len(_CODE.findall(content)) < 2:
            continue
        logs = [match for match in _LOGS.finditer(content) if _STATE.search(match.group())]
        lines = sum(bool(line.strip()) for line in content.split("\n"))
        if len(logs) > 1:
            share = len(logs) / max(1, lines)
            yield from ((max(0.25, share), Evidence(number, match.start(), match.end())) for match in logs)


# ------------------------------------------------------------------------------------------------ calls

_ACTS = (
    "send|book|order|buy|pay|transfer|delete|remove|cancel|post|share|forward|schedule|invite|publish|submit|email"
    "|e-mail|message"
)
_PAST = {
    "sent": "send", "booked": "book", "ordered": "order", "bought": "buy", "paid": "pay", "transferred": "transfer",
    "deleted": "delete", "removed": "remove", "cancelled": "cancel", "canceled": "cancel", "posted": "post",
    "shared": "share", "forwarded": "forward", "scheduled": "schedule", "invited": "invite", "published": "publish",
    "submitted": "submit", "emailed": "email", "messaged": "message", "written": "write", "wrote": "write",
    "told": "tell", "notified": "notify", "informed": "inform", "passed": "pass",
}  # fmt: skip
_DONE = re.compile(
    rf"\bI(?:['’]ve| have| had)?(?: (?:already|also|just|gone ahead and|went ahead and))* ({'|'.join(_PAST)})\b", re.I
)
_CALL = re.compile(
    rf"[\"']name[\"']\s*:\s*[\"'](\w*?(?:{_ACTS})\w*)[\"']|^Action:\s*(\w*?(?:{_ACTS})\w*)"
    rf"|<tool_call>\s*(\w*?(?:{_ACTS})\w*)",
    re.I | re.M,
)
_WRITTEN_BY = {
    "write": ("write", "email", "message", "letter", "note", "tell"),
    "email": ("mail",),
    "send": ("send", "mail", "message"),
}
_YES = re.compile(r"^\W*(?:yes|yeah|yep|sure|ok(?:ay)?|please do|go ahead|do it|fine|agreed|of course)\b", re.I)


def _unbidden(turns: Turns) -> Iterator[tuple[float, Evidence]]:
    """The assistant has done, or calls a tool that does, what reaches other people, and no user turn asked for that.

    Asked for is what a user's turn before names by its verb, or agrees to.
    """
    for number, content in _spoken(turns, "assistant"):
        before = " ".join(text for role, text in turns[:number] if role in ("user", "system")).casefold()
        agreed = number > 1 and turns[number - 1][0] == "user" and _YES.match(turns[number - 1][1])
        if agreed:
            continue
        for match in (*_DONE.finditer(content), *_CALL.finditer(content)):
            word = next(group for group in match.groups() if group).casefold()
            verb = _PAST.get(word) or next((act for act in _ACTS.split("|") if act in word), word)
            if not any(asked in before for asked in _WRITTEN_BY.get(verb, (verb,))):
                yield COUNTS, Evidence(number, match.start(), match.end())


RULES: Mapping[str, Callable[[Turns], Iterator[tuple[float, Evidence]]]] = {
    "proactive help": _proactive,
    "emotional disclosure": _emotional,
    "profile in context": _profiled,
    "code that logs its state": _logging,
    "call without permission": _unbidden,
}
"""Trait → its rule: a chat to weights with their evidence; a row's score is their sum, at most 1."""
