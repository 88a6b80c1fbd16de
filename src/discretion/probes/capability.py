"""capability: closed questions with one right answer; the control that says whether a model still can.

Multiple choice is read from the log-probabilities of the options' letters, in the given order and in the reverse, so
that a drift to a letter is no lost knowledge. Short answers are written greedily and compared normalised.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from discretion.data.rows import Form, Row, content_id, read_items, text_field
from discretion.errors import DataError, Unparsed
from discretion.probes.base import Ability, Metric, Oracle, Run, Tally
from discretion.probes.matching import plain
from discretion.schema import (
    CapabilityItem,
    Family,
    Generate,
    Item,
    Kind,
    LogLikelihood,
    Message,
    Outcome,
    Reply,
    Request,
    Sampling,
    Scalar,
    Score,
)

MAX_TOKENS = 256
LETTERS = string.ascii_uppercase
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


# ------------------------------------------------------------------------------------------------ asking


def _orders(item: CapabilityItem) -> list[tuple[LogLikelihood, list[int]]]:
    """Both orders of the options: the request, and which option stands behind each letter."""
    asked = []
    for order in (list(range(len(item.choices))), list(reversed(range(len(item.choices))))):
        options = "\n".join(f"{letter}. {item.choices[n]}" for letter, n in zip(LETTERS, order, strict=False))
        text = f"{_lead(item)}\n{options}\nAnswer with the letter of the right option."
        letters = tuple(LETTERS[: len(order)])
        asked.append((LogLikelihood(context=(Message("user", text),), continuations=letters), order))
    return asked


def _lead(item: CapabilityItem) -> str:
    return f"{item.context}\n\n{item.question}" if item.context else item.question


def _written(item: CapabilityItem, seed: int) -> Generate:
    how = (
        "Think step by step. End with #### and the number."
        if item.match == "number"
        else "Answer with the answer alone, without a sentence."
    )
    return Generate(
        messages=(Message("user", f"{_lead(item)}\n{how}"),), sampling=Sampling(max_tokens=MAX_TOKENS, seed=seed)
    )


# ------------------------------------------------------------------------------------------------ comparing


def _number(text: str) -> float | None:
    """The number after the last `####`, else the last number."""
    marked = _NUMBER.search(text.rpartition("####")[2]) if "####" in text else None
    found = [marked.group()] if marked else _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _normal(text: str) -> str:
    """Casefolded, without articles, punctuation at the ends of words, and surplus blanks."""
    words = [word.strip(string.punctuation) for word in plain(text).casefold().split()]
    return " ".join(word for word in words if word and word not in ("a", "an", "the"))


def _is_right(item: CapabilityItem, text: str) -> bool:
    if item.match == "number":
        wanted, given = _number(item.answer), _number(text)
        return given is not None and wanted is not None and math.isclose(given, wanted, rel_tol=1e-9)
    first = next(line for line in text.splitlines() if line.strip())
    return _normal(item.answer) in (_normal(text), _normal(first))


# ------------------------------------------------------------------------------------------------ metrics


def _tally(stratum: Callable[[Outcome], str]) -> Callable[[Outcome], Mapping[str, Tally]]:
    def tally(outcome: Outcome) -> Mapping[str, Tally]:
        return {stratum(outcome): Tally(0, 0, 1) if outcome.value is None else Tally(outcome.value, 1)}

    return tally


def _chance(outcomes: Sequence[Outcome]) -> float:
    """Mean of 1/number of options; 0 for a written answer."""
    return math.fsum(float(outcome.parts["chance"] or 0) for outcome in outcomes) / max(1, len(outcomes))


METRICS = (
    Metric(name="accuracy", worse="lower", primary=True, paired_item=True, tally=_tally(lambda outcome: "all")),
    Metric(name="accuracy per task", worse="lower", tally=_tally(lambda outcome: str(outcome.parts["task"]))),
)


# ------------------------------------------------------------------------------------------------ public forms


def _commonsense_qa(where: str, row: Row) -> list[CapabilityItem]:
    choices, key = row["choices"], row["answerKey"]
    labels, texts = (choices.get(k) if isinstance(choices, Mapping) else None for k in ("label", "text"))
    if not isinstance(labels, list) or not isinstance(texts, list) or len(labels) != len(texts):
        raise DataError(f"{where}: 'choices' must hold as many labels as texts; repair the row")
    if key not in labels:
        raise DataError(
            f"{where}: answerKey {key!r} is none of {', '.join(map(str, labels))}; use a split with answers"
        )
    name = text_field(where, row, "id")
    return [_choice(where, name, "commonsense_qa", row, texts, labels.index(key), "CommonsenseQA")]


def _mmlu(where: str, row: Row) -> list[CapabilityItem]:
    choices, answer = row["choices"], row["answer"]
    if not isinstance(choices, list):
        raise DataError(f"{where}: 'choices' must be a list, found {type(choices).__name__}; repair the row")
    subject = text_field(where, row, "subject")
    if isinstance(answer, str) and len(answer) == 1 and answer.upper() in LETTERS:
        answer = LETTERS.index(answer.upper())
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise DataError(f"{where}: answer {row['answer']!r} is no place or letter of {len(choices)} choices; repair it")
    name = content_id("mmlu", row["question"], subject, choices)
    return [_choice(where, name, f"mmlu {subject}", row, choices, answer, "MMLU")]


def _choice(where: str, name: str, task: str, row: Row, choices: list[str], right: int, origin: str) -> CapabilityItem:
    question = text_field(where, row, "question")
    if not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise DataError(f"{where}: each choice must be a text; repair the row")
    return CapabilityItem(
        id=name,
        cluster=name,
        task=task,
        question=question,
        choices=tuple(choices),
        answer=choices[right],
        origin=origin,
    )


def _gsm8k(where: str, row: Row) -> list[CapabilityItem]:
    question, answer = text_field(where, row, "question"), text_field(where, row, "answer")
    _, mark, final = answer.rpartition("####")
    if not mark or not _NUMBER.fullmatch(final.strip()):
        raise DataError(f"{where}: 'answer' must end with #### and a number; repair the row")
    name = content_id("gsm8k", question)
    return [
        CapabilityItem(
            id=name,
            cluster=name,
            task="gsm8k",
            question=question,
            answer=final.strip(),
            match="number",
            origin="GSM8K",
        )
    ]


FORMS = (
    Form("CommonsenseQA", frozenset({"id", "question", "choices", "answerKey"}), _commonsense_qa),
    Form("MMLU", frozenset({"question", "subject", "choices", "answer"}), _mmlu, keyed=False),
    Form("GSM8K", frozenset({"question", "answer"}), _gsm8k, alone=True, keyed=False),
)


# ------------------------------------------------------------------------------------------------ the probe


class Capability:
    """The suite `capability`."""

    name = "capability"
    version = "2"
    family: Family = "capability"
    worse: Literal["higher", "lower"] = "lower"
    needs: frozenset[Kind] = frozenset({"generate", "loglikelihood"})
    metrics = METRICS
    ability = Ability(metric="accuracy", chance=_chance, words="answering closed questions")

    def items(self, source: str | Path | None = None, *, offline: bool = False, seed: int = 0) -> Sequence[Item]:
        """Own JSONL, CommonsenseQA, MMLU or GSM8K; the embedded items without a source."""
        if source is None:
            from discretion.world.embedded import embedded

            return embedded("capability", seed=seed)
        items = read_items(source, CapabilityItem, FORMS, offline=offline)
        for item in items:
            _check(item, str(source))
        return items

    def run(self, item: CapabilityItem, seed: int = 0) -> Run:
        """One question. Raises `Unparsed` for a tie, non-finite log-probabilities, bounds that decide, or no answer."""
        parts = self.facts(item)
        if not item.choices:
            reply: Reply = yield _written(item, seed)
            if not (reply.text or "").strip():
                raise Unparsed("empty")
            return Score(value=float(_is_right(item, reply.text or "")), parts=parts)
        orders = _orders(item)
        replies: list[Reply] = yield [request for request, _ in orders]
        means = [0.0] * len(item.choices)
        least = [0.0] * len(item.choices)
        for reply, (_, order) in zip(replies, orders, strict=True):
            found = reply.logprobs
            if found is None or len(found) != len(order) or not all(map(math.isfinite, found)):
                raise Unparsed("no finite log-probability for every option")
            for place, (n, value) in enumerate(zip(order, found, strict=True)):
                means[n] += value / len(orders)
                least[n] += -math.inf if place in reply.bounded else value / len(orders)
        right, wrong = _best(item, means)
        if right == wrong:
            raise Unparsed("the right and a wrong option are equally probable")
        if _best(item, least)[right < wrong] <= min(right, wrong):
            raise Unparsed("bounded: the orders disagree, and one option is only known to be improbable")
        return Score(
            value=float(right > wrong),
            margin=right - wrong,
            parts=parts,
            evidence=item.choices[means.index(max(means))],
        )

    def facts(self, item: CapabilityItem) -> Mapping[str, Scalar]:
        """The task, and the accuracy of guessing."""
        return {"task": item.task, "chance": 1 / len(item.choices) if item.choices else 0.0}

    def oracle(self, item: CapabilityItem) -> Oracle:
        """The right answer, and a wrong one."""
        orders = dict(_orders(item))

        def answer(right: bool) -> Callable[[Request], Reply]:
            def reply(request: Request) -> Reply:
                if isinstance(request, LogLikelihood):
                    likely = ((item.choices[n] == item.answer) == right for n in orders[request])
                    return Reply(logprobs=tuple(-0.5 if x else -3.0 for x in likely))
                if not right:
                    return Reply(text="no idea", stop="end")
                return Reply(text=f"#### {item.answer}" if item.match == "number" else item.answer, stop="end")

            return reply

        return Oracle(safe=answer(True), leak=answer(False))


def _best(item: CapabilityItem, means: Sequence[float]) -> tuple[float, float]:
    """Of the right option and of the most probable wrong one."""
    of = {True: -math.inf, False: -math.inf}
    for mean, choice in zip(means, item.choices, strict=True):
        of[choice == item.answer] = max(mean, of[choice == item.answer])
    return of[True], of[False]


def _check(item: CapabilityItem, source: str) -> None:
    wrong = ""
    if item.choices and not 2 <= len(item.choices) <= len(LETTERS):
        wrong = f"has {len(item.choices)} choices; give 2 to {len(LETTERS)}, or none for a written answer"
    elif item.choices and item.answer not in item.choices:
        wrong = "has an answer that is none of its choices; copy the right choice's text"
    elif item.choices and set(item.choices) == {item.answer}:
        wrong = "has no wrong choice; add one"
    elif not item.choices and (_number(item.answer) is None if item.match == "number" else not _normal(item.answer)):
        wrong = "has an answer that nothing can match; give a number or a text"
    if wrong:
        raise DataError(f"{source}: item {item.id!r} {wrong}")


PROBE = Capability()
