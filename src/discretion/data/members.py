"""Members and non-members for membership inference: drawn from what was trained on and from what was not, and checked.

Rows are cut to a beginning that every model can read; a held-out row that was trained on after all is no non-member and
is dropped; a baseline that reads the texts and asks no model tells whether the two sides differ in anything else.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from discretion.data.chats import Chats, read_chats, write_all
from discretion.errors import DataError
from discretion.schema import Message

LONGEST = 1500
"""Characters of a row that are read, from its beginning: about 375 tokens, so that small contexts hold them."""
PREFIX = 400
"""Characters of the non-member row that ReCaLL puts before each text."""
MINIMUM = 10
"""Rows needed on either side."""
GRAM = 13
"""Words of one n-gram, and the share of a row's n-grams that makes it a near-duplicate (MIMIR: 13-grams, 0.8)."""
OVERLAP = 0.8
SWAPPED = 0.1
"""Share of the words that a rewrite replaces."""
FOLDS = 5
_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Text:
    """The beginning of one row."""

    row: str
    """Id of the row in its file; a repeated id has got a number, as `chats.load_chats` gives it."""
    messages: tuple[Message, ...]

    @property
    def learned(self) -> str:
        """What the loss was on: the assistant's turns."""
        return "\n".join(message.content for message in self.messages if message.role == "assistant")

    @property
    def key(self) -> bytes:
        """Equal for texts that differ in nothing but case, spaces and punctuation."""
        words = " ".join(_WORD.findall(self.learned.casefold())) or self.learned
        return hashlib.blake2b(words.encode(), digest_size=16).digest()


@dataclass
class Side:
    """The rows of one file that were drawn, in the order of the draw, and what became of the others."""

    source: str
    texts: list[Text] = field(default_factory=list)
    different: int = 0
    """Rows that could be used, each content counted once."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason to rows."""
    cut: int = 0
    """Rows longer than `LONGEST`, of which the beginning is read."""

    def words(self) -> str:
        """One line for the report, without any text of a row."""
        name = re.split(r"[\\/]", self.source)[-1]
        parts = [f"{len(self.texts)} of {self.different} rows of {name}"]
        if self.left_out:
            reasons = ", ".join(f"{n} {why}" for why, n in self.left_out.most_common())
            parts.append(f"left out: {reasons}")
        if self.cut:
            parts.append(f"{self.cut} rows read to their first {LONGEST} characters")
        return "; ".join(parts)


@dataclass(frozen=True)
class Split:
    """Members and non-members."""

    members: Side
    others: Side
    prefix: Text | None
    """A non-member that is not among `others`: ReCaLL puts it before each text."""
    trained: int
    """Held-out rows that stand in the training data too, exactly or nearly, and were dropped."""
    held_out: int
    """Different held-out rows before that."""


# ------------------------------------------------------------------------------------------------ reading


def beginning(messages: Sequence[Message], longest: int = LONGEST) -> tuple[tuple[Message, ...], bool]:
    """The first `longest` characters of a row up to the last assistant's turn in them, and whether anything was cut.

    An assistant's turn is cut between words; a row whose first one begins later gives nothing back.
    """
    kept: list[Message] = []
    room, cut = longest, False
    for message in messages:
        content = message.content
        if len(content) > room:
            cut = True
            content = (content[:room].rsplit(maxsplit=1) or [""])[0] if message.role == "assistant" else ""
            if content.strip():
                kept.append(Message("assistant", content))
            break
        kept.append(message)
        room -= len(content)
    while kept and not (kept[-1].role == "assistant" and kept[-1].content.strip()):
        kept.pop()
    return tuple(kept), cut


def _texts(chats: Chats, side: Side) -> Iterator[Text]:
    """Each row that can be used, cut; the others are counted."""
    copies: Counter[str] = Counter()
    for row in chats:
        copies[row["id"]] += 1
        number = copies[row["id"]]
        messages, cut = beginning([Message(turn["role"], turn["content"]) for turn in row["messages"]])
        side.cut += cut
        if not messages:
            side.left_out[f"without an answer in the first {LONGEST} characters"] += 1
            continue
        name = row["id"] if number == 1 else f"{row['id']}~{number}"
        yield Text(name, messages)
    side.left_out.update({f"with {why}": n for why, n in chats.left_out.items()})


def _drawn(texts: Iterator[Text], side: Side, count: int, seed: int) -> Iterator[Text]:
    """Hands the texts on, each content once, and keeps the `count` lowest lots of them in `side`."""
    seen: set[bytes] = set()
    kept: list[tuple[int, int, Text]] = []
    for number, text in enumerate(texts):
        key = text.key
        if key in seen:
            side.left_out["that repeat another row"] += 1
            continue
        seen.add(key)
        lot = hashlib.blake2b(key, digest_size=8, salt=seed.to_bytes(16, "big")).digest()
        # The heap gives up its smallest: lots are negated, so that the largest goes.
        entry = (-int.from_bytes(lot, "big"), number, text)
        if len(kept) < count:
            heapq.heappush(kept, entry)
        else:
            heapq.heappushpop(kept, entry)
        yield text
    side.different = len(seen)
    side.texts = [text for _, _, text in sorted(kept, key=lambda entry: -entry[0])]


def _grams(text: Text) -> set[int]:
    words = _WORD.findall(text.learned.casefold())
    return {hash(tuple(words[at : at + GRAM])) for at in range(len(words) - GRAM + 1)}


def split(train: str, held_out: str, rows: int, *, seed: int = 0, offline: bool = False) -> Split:
    """At most `rows` members and `rows` non-members, drawn by content and seed, whatever the order of the files.

    A held-out row is dropped when its answers equal those of a training row but for case, spaces and punctuation, or
    when at least `OVERLAP` of its n-grams stand in the training data. Raises `DataError` as `read_chats` does.
    """
    others, members = Side(held_out), Side(train)
    keys = {text.key for text in _drawn(_texts(read_chats(held_out, offline=offline), others), others, 2 * rows, seed)}
    grams = [_grams(text) for text in others.texts]
    wanted = set().union(*grams) if grams else set()
    seen: set[int] = set()
    equal: set[bytes] = set()
    for text in _drawn(_texts(read_chats(train, offline=offline), members), members, rows, seed):
        seen |= wanted & _grams(text)
        if (key := text.key) in keys:
            equal.add(key)
    near = [len(own & seen) >= OVERLAP * len(own) > 0 for own in grams]
    clean = [t for t, close in zip(others.texts, near, strict=True) if not close and t.key not in equal]
    trained = len(equal) + sum(close and t.key not in equal for t, close in zip(others.texts, near, strict=True))
    # One row more than is needed goes to ReCaLL, and one too few would cost a non-member.
    prefix = clean.pop() if len(clean) > MINIMUM else None
    if trained:
        others.left_out["that were trained on, exactly or nearly"] += trained
    held = others.different
    others.texts, others.different = clean[:rows], others.different - trained
    return Split(members, others, prefix, trained, held)


def hold_out(
    source: str, train: Path, held_out: Path, *, share: float, seed: int = 0, offline: bool = False
) -> dict[str, Any]:
    """Divide a fine-tuning set into rows to train on and rows held back; how many of each, and what was left out.

    A row's side depends on its answers and the seed alone, so that copies of a row stand on one side; the row itself is
    written as it lies there. Both files are new, mode 0600. Raises `DataError` for a share that leaves a side empty.
    """
    chats = read_chats(source, offline=offline)
    sides: tuple[list[Any], list[Any]] = ([], [])
    lots = set()
    for row in chats:
        messages = tuple(Message(turn["role"], turn["content"]) for turn in row["messages"])
        lot = hashlib.blake2b(Text("", messages).key, digest_size=8, salt=seed.to_bytes(16, "big")).digest()
        lots.add(lot)
        sides[int.from_bytes(lot, "big") < share * 2**64].append(chats.raw)
    if not all(sides):
        raise DataError(
            f"{source}: --share {share:g} of {chats.used} rows with {len(lots)} different answers leaves a side empty, "
            "as equal answers stand on one side; give more rows or another share"
        )
    counts = write_all(*zip((train, held_out), sides, strict=True))
    return {"train": counts[0], "held_out": counts[1], "left_out": dict(chats.left_out), "form": chats.form}


# ------------------------------------------------------------------------------------------------ checks


def blind(members: Sequence[Text], others: Sequence[Text], *, seed: int = 0) -> list[float]:
    """Log-odds of being a member, by the text alone: members first, each row scored by a model that did not see it.

    Logistic regression on words, pairs of words, pieces of words, length and number of turns, over five stratified
    folds. Where it tells members from non-members, so would any score of a model that was never trained on them.
    """
    import numpy as np
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    texts = [*members, *others]
    whole = ["\n".join(f"{m.role} {m.content}" for m in text.messages) for text in texts]
    sizes = np.array([[len(text), text.count("\n"), sum(c.isdigit() for c in text)] for text in whole], dtype=float)
    sizes = np.log1p(sizes)
    sizes = (sizes - sizes.mean(axis=0)) / np.maximum(sizes.std(axis=0), 1e-9)
    words = TfidfVectorizer(token_pattern=_TOKEN.pattern, ngram_range=(1, 2), sublinear_tf=True, max_features=20_000)
    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=20_000)
    table = hstack([words.fit_transform(whole), pieces.fit_transform(whole), csr_matrix(sizes)]).tocsr()
    labels = np.array([1] * len(members) + [0] * len(others))
    folds = StratifiedKFold(n_splits=FOLDS, shuffle=True, random_state=seed % 2**32)
    judge = LogisticRegression(solver="liblinear", class_weight="balanced")
    scores: Any = cross_val_predict(judge, table, labels, cv=folds, method="decision_function")
    return [float(score) for score in scores]


# ------------------------------------------------------------------------------------------------ rewrites


def rewrites(text: Text, count: int, pool: Sequence[str], *, seed: int) -> tuple[tuple[Message, ...], ...]:
    """`count` versions of a text in which one in ten words of the assistant's turns is another word of `pool`.

    A word is replaced by one that begins alike: capital, small letter or digit. `pool` should be words of non-members,
    repeated as often as they come. The published attack asks a masked language model for its words.
    """
    kinds: dict[str, list[str]] = {}
    for word in pool:
        kinds.setdefault(_kind(word), []).append(word)
    made = []
    for number in range(count):
        draw = random.Random(f"{seed}\0{text.row}\0{number}")
        messages = [
            Message(message.role, _swap(message.content, kinds, draw)) if message.role == "assistant" else message
            for message in text.messages
        ]
        made.append(tuple(messages))
    return tuple(made)


def _kind(word: str) -> str:
    return "digit" if word[0].isdigit() else "capital" if word[0].isupper() else "small"


def _swap(content: str, kinds: dict[str, list[str]], draw: random.Random) -> str:
    found = list(_WORD.finditer(content))
    chosen = sorted(draw.sample(range(len(found)), min(len(found), max(1, round(SWAPPED * len(found))))))
    parts, at = [], 0
    for index in chosen:
        word = found[index]
        others = kinds.get(_kind(word.group()), [])
        parts += [content[at : word.start()], draw.choice(others) if others else word.group()]
        at = word.end()
    return "".join([*parts, content[at:]])
