"""People in a text by structure alone: behind titles, greetings and closings, in fields, as speakers of a dialogue.

A name found so is found again wherever its parts stand in the same text. Words are taken for names by their capital;
what no structure announces is not found. No list of first names is used, so no origin is found better than another.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Capitals in front, so that the engine skips to them; what stands before a cue is checked afterwards.
_TITLE = re.compile(
    r"(?:M(?:rs?|s|iss|x)|Dr|Prof(?:essor)?|Sir|Lady|Judge|Justice|Ambassador|Captain)(?:\. ?| )"
    r"|(?:Dear|H(?:i|ello|ey)|Good (?:morning|afternoon|evening)),? "
)
_CLOSING = re.compile(
    r"(?:[Nn]ame is|[Nn]ame's|[Ss]igned by|[Cc]all me|[Cc]alls me|m(?:r|rs|s)\.|dr\.) "
    r"|(?:[Ss]incerely|[Rr]egards|[Tt]hanks|[Cc]heers|[Ww]ishes|[Tt]ruly|[Ff]aithfully)(?: again)?[ ,.!]*\n+[ \t]*"
)
_CLOSING_MARKS = (
    "ame is", "ame's", "igned by", "all me", "alls me", "mr.", "mrs.", "ms.", "dr.",
    "incerely", "egards", "hanks", "heers", "ishes", "ruly", "aithfully",
)  # fmt: skip
_FIELD = re.compile(
    r"^[ \t>*\-]*(?:(?:From|To|Cc|Bcc|Attn|Name|Full name|First name|Last name|Surname|Patient|Customer|Client|Guest|"
    r"Passenger|Applicant|Employee|Contact|Cardholder|Account holder)[ \t]*:[ \t]*)",
    re.M | re.I,
)
_SPEAKER = re.compile(r"^([^\W\d_][\w.'’\-]*(?: [^\W\d_][\w.'’\-]*){0,2})[ \t]?:[ \t]", re.M)
_WORD = re.compile(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*")
PARTICLES = _words("al bin da das de del della den der di dos du el ibn la le ten ter van von y zu")
_NOBODY = _words(
    """
    a about action address again agent all answer anyone april assistant attached august bank best body bot both but
    care case chatbot cheers colleague colleagues company contact context customer customers date day dear december
    doctor dr email error everybody everyone everything example faq february folks for friday friend friends from
    fyi general good guest guests guys he hello hi human i if important in input instruction instructions is it
    january july june just keep kind ladies let madam manager many march may message model monday mr mrs ms much my
    no not note notes november october of on operator order our output patient phone please problem prof ps question
    re reason regards reply request response result right saturday september she sincerely sir sirs so solution
    staff step subject summary sunday support system task team thank thanks that the there they this thursday time
    tip title to today tool total tuesday update user very warm warning we wednesday what when where which who why
    will with world yes you your yours
    """
)


def _name_at(text: str, start: int, most: int = 4) -> int:
    """Where the name that begins at `start` ends; `start` where none does."""
    end = at = start
    count = 0
    while count < most and (word := _WORD.match(text, at)):
        value = word.group()
        initial = len(value) <= 2 and value[0].isupper() and text[word.end() : word.end() + 1] == "."
        if initial or (value[0].isupper() and value.casefold() not in _NOBODY):
            end, count = word.end(), count + 1
        elif value not in PARTICLES:
            break
        at = word.end()
        if initial:
            end = at = at + 1
        if text[at : at + 1] == " ":
            at += 1
        elif not initial:
            break
    return end


def people(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each name, titles left out; the same stretch may come twice, and two may overlap."""
    cues = [_TITLE]
    if any(mark in text for mark in _CLOSING_MARKS):
        cues.append(_CLOSING)
    starts = [
        c.end() for cue in cues for c in cue.finditer(text) if not text[max(0, c.start() - 1) : c.start()].isalnum()
    ]
    speakers: list[re.Match[str]] = []
    if ":" in text:
        starts += [field.end() for field in _FIELD.finditer(text)]
        speakers = [s for s in _SPEAKER.finditer(text) if _name_at(text, s.start()) == s.end(1)]
    found = [(start, _name_at(text, start)) for start in starts]
    # A word with a colon is a speaker when it comes back: a form has each of its fields once.
    said = Counter(speaker.group(1) for speaker in speakers)
    found += [speaker.span(1) for speaker in speakers if said[speaker.group(1)] > 1]
    found = [(start, end) for start, end in found if end - start > 1]
    yield from found
    yield from again(text, name_parts(text, found))


def name_parts(text: str, spans: Iterable[tuple[int, int]]) -> set[str]:
    """The words of names that are long enough to be known again."""
    words = {word for start, end in spans for word in _WORD.findall(text[start:end])}
    return {word for word in words if len(word) > 2 and word[0].isupper()}


def again(text: str, parts: Iterable[str]) -> Iterator[tuple[int, int]]:
    """(start, end) of each place where such words stand, alone or side by side."""
    part = "|".join(map(re.escape, sorted(parts, key=len, reverse=True)))
    for match in re.finditer(rf"(?:{part})(?:[ \-](?:{part}))*(?!\w)", text) if part else ():
        if not text[max(0, match.start() - 1) : match.start()].isalnum():
            yield match.span()
