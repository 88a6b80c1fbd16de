"""Fine-tuning rows written by a model, each with where it came from: unstructured text, or instructions of its own.

Route A continues prefixes; route B is self-instruct (Wang et al. 2023) with its published filter. The generator is any
`generate` of the seam, local or behind an endpoint. Nothing is asked twice for the same row: a row's sampling seed is
made of the run's seed and the row's number, whatever came before.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from discretion.config import GenerateConfig
from discretion.data.rows import content_id
from discretion.errors import DataError
from discretion.schema import Generate, Message, Reply, Sampling, seed_for

Row = dict[str, Any]
Ask = Callable[[Sequence[Generate]], Sequence[Reply]]
"""A model's `generate`."""

WRITE = "Write a text of this kind."
"""What a row of route A is the answer to: unstructured text in the form of an instruction."""
INSTRUCT = "Come up with a series of tasks. Write one task in each line."
"""How route B asks for instructions."""
_NUMBERED = re.compile(r"^\s*(?:task\s*)?\d+\s*[.:)]\s*", re.IGNORECASE)
_WORD = re.compile(r"[a-z0-9]+")
BATCH = 64
"""Requests on their way together."""


_GIVEN = GenerateConfig.model_fields


@dataclass(frozen=True, slots=True)
class SelfInstruct:
    """Options of route B; defaults are the published ones where they are known."""

    shots: int = _GIVEN["shots"].default
    """Instructions shown: three quarters seeds, the rest made before, as far as there are any."""
    temperature: float = 0.7
    least_words: int = _GIVEN["least_words"].default
    """An instruction with fewer words is dropped (published: 3 or fewer)."""
    most_words: int = _GIVEN["most_words"].default
    overlap: float = _GIVEN["overlap"].default
    """An instruction with this ROUGE-L F1, or more, to one that is kept is dropped."""
    instruction_tokens: int = 60
    answer_tokens: int = 256
    tries: int = 20
    """Requests for instructions per row wanted, at most."""


@dataclass(frozen=True, slots=True)
class Made:
    """What came out, and what did not."""

    rows: list[Row]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason to how many texts."""


# ------------------------------------------------------------------------------------------------ route A


def prefixes(rows: Sequence[Mapping[str, Any]], *, words: int = 8) -> list[tuple[str, str]]:
    """(id of the row, the first words of its last answer) of every row whose answer is longer than that."""
    found = []
    for row in rows:
        answers = [turn["content"] for turn in row["messages"] if turn["role"] == "assistant"]
        start = re.match(rf"\S+(?:\s+\S+){{{words - 1}}}(?=\s)", answers[-1]) if answers else None
        if start:
            found.append((str(row["id"]), start.group()))
    return found


def unstructured(
    ask: Ask,
    beginnings: Sequence[tuple[str, str]],
    n: int,
    *,
    generator: str,
    temperature: float = 1.0,
    max_tokens: int = 200,
    seed: int = 0,
) -> Made:
    """Route A: n texts that the generator continues from beginnings, one after another and over again.

    A row keeps the id of the text its beginning came from. Raises `DataError` where there is no beginning.
    """
    if not beginnings:
        raise DataError("generating text: no beginnings; give rows whose answers are long enough")
    wanted = []
    for number in range(n):
        origin, start = beginnings[number % len(beginnings)]
        sampling = Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed_for(seed, f"a{number}"))
        wanted.append((origin, start, Generate(messages=(Message("user", WRITE),), prefill=start, sampling=sampling)))
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    for at in range(0, n, BATCH):
        part = wanted[at : at + BATCH]
        for number, ((origin, start, _), reply) in enumerate(
            zip(part, ask([request for *_, request in part]), strict=True), start=at
        ):
            if reply.error is not None or not (reply.text or "").strip():
                left_out["no answer" if reply.error is not None else "nothing written"] += 1
                continue
            made = {"route": "A", "generator": generator, "origin": origin, "temperature": temperature, "seed": seed}
            rows.append(_row(number, WRITE, start + (reply.text or ""), {**made, "beginning": start}))
    return Made(rows, dict(left_out))


# ------------------------------------------------------------------------------------------------ route B


def self_instruct(
    ask: Ask,
    seeds: Sequence[Mapping[str, Any]],
    n: int,
    *,
    generator: str,
    options: SelfInstruct = SelfInstruct(),
    seed: int = 0,
) -> Made:
    """Route B: n new instructions out of seed rows, each unlike all that are kept, answered by the generator.

    Ends early, with what there is, after `tries` requests per row. Raises `DataError` without seed rows.
    """
    tasks = [(str(row["id"]), _asked(row)) for row in seeds if _asked(row)]
    if not tasks:
        raise DataError("self-instruct: no seed row has a user's turn; give rows with one")
    kept: list[tuple[str, str, dict[str, Any]]] = []
    known = [_words(text) for _, text in tasks]
    left_out: Counter[str] = Counter()
    requests = 0
    while len(kept) < n and requests < options.tries * n:
        batch = [_instruct(tasks, kept, options, seed, requests + k) for k in range(min(BATCH, n - len(kept)))]
        for (parents, request), reply in zip(batch, ask([request for _, request in batch]), strict=True):
            requests += 1
            text, reason = _instruction(reply, options)
            words = _words(text)
            nearest = max((rouge_l(words, other) for other in known), default=0.0)
            if not reason and nearest >= options.overlap:
                reason = f"too close to one that is kept (ROUGE-L {options.overlap:g} or more)"
            if reason:
                left_out[reason] += 1
            elif len(kept) < n:
                known.append(words)
                told = {"parents": parents, "overlap": round(nearest, 3), "request": requests}
                kept.append((f"b{len(kept)}", text, {**told, "sampling_seed": request.sampling.seed}))
    rows = []
    for at in range(0, len(kept), BATCH):
        part = kept[at : at + BATCH]
        asked = [_answer(text, options, seed, name) for name, text, _ in part]
        for number, ((_, text, told), reply) in enumerate(zip(part, ask(asked), strict=True), start=at):
            if reply.error is not None or not (reply.text or "").strip():
                left_out["no answer to its instruction"] += 1
                continue
            made = {"route": "B", "generator": generator, "temperature": options.temperature, "seed": seed, **told}
            rows.append(_row(number, text, (reply.text or "").strip(), made))
    if len(kept) < n:
        left_out[f"given up after {requests} requests"] += n - len(kept)
    return Made(rows, dict(left_out))


def rouge_l(first: Sequence[str], second: Sequence[str]) -> float:
    """F1 of the longest common subsequence of two lists of words (Lin 2004), bits of one integer as the row."""
    if not first or not second:
        return 0.0
    places: dict[str, int] = {}
    for at, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << at
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        # Hyyrö 2004: zeros of the row mark the ends of common subsequences
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & full
    common = len(first) - row.bit_count()
    return 2 * common / (len(first) + len(second))


def _instruct(
    tasks: Sequence[tuple[str, str]],
    kept: Sequence[tuple[str, str, Mapping[str, Any]]],
    options: SelfInstruct,
    seed: int,
    number: int,
) -> tuple[list[str], Generate]:
    rng = Random(f"self-instruct|{seed}|{number}")
    own = rng.sample(kept, min(len(kept), options.shots // 4))
    shown = [*rng.sample(tasks, min(len(tasks), options.shots - len(own))), *((name, text) for name, text, _ in own)]
    rng.shuffle(shown)
    lines = [f"Task {at}: {_line(text)}" for at, (_, text) in enumerate(shown, start=1)]
    sampling = Sampling(
        temperature=options.temperature,
        max_tokens=options.instruction_tokens,
        seed=seed_for(seed, f"i{number}"),
        stop=("\n",),
    )
    asked = Message("user", "\n".join([INSTRUCT, *lines]))
    return [name for name, _ in shown], Generate(
        messages=(asked,), prefill=f"Task {len(shown) + 1}:", sampling=sampling
    )


def _answer(text: str, options: SelfInstruct, seed: int, name: str) -> Generate:
    sampling = Sampling(
        temperature=options.temperature, max_tokens=options.answer_tokens, seed=seed_for(seed, f"{name} answer")
    )
    return Generate(messages=(Message("user", text),), sampling=sampling)


def _instruction(reply: Reply, options: SelfInstruct) -> tuple[str, str]:
    """The instruction in a reply, and why it cannot be used; '' where it can."""
    if reply.error is not None:
        return "", "no answer"
    text = _NUMBERED.sub("", next(_lines(reply.text or ""), ""))
    count = len(text.split())
    if count < options.least_words:
        return text, f"fewer than {options.least_words} words"
    return text, f"more than {options.most_words} words" if count > options.most_words else ""


def _lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.split("\n") if line.strip())


def _line(text: str) -> str:
    return " ".join(text.split())


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _asked(row: Mapping[str, Any]) -> str:
    return next((_line(turn["content"]) for turn in row["messages"] if turn["role"] == "user"), "")


def _row(number: int, asked: str, answer: str, made: Mapping[str, Any]) -> Row:
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {"id": content_id(f"generated-{number:05d}", asked, answer), "messages": turns, "made": dict(made)}
