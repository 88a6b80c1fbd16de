"""membership: can rows that were trained on be told from rows that were not, by the tuned model and by the base?

One pass per arm gives nearly all scores; the figure is how well each score ranks members above non-members. A baseline
that reads the texts and asks no model stands beside them: where it succeeds, the split is broken and nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from discretion.data.chats import read_chats
from discretion.data.members import MINIMUM, PREFIX, Split, beginning, blind, rewrites, split
from discretion.data.rows import read_items
from discretion.errors import DataError, Unanswered, Unparsed
from discretion.probes.base import Ability, Ceiling, Metric, Oracle, Prepared, Run, Tally, TrainingData
from discretion.schema import (
    Family,
    Item,
    Kind,
    LogLikelihood,
    MembershipItem,
    Message,
    Outcome,
    Reply,
    Request,
    Scalar,
    Score,
    TokenScores,
)

SHOWN = 200
"""Characters of a row that the report shows, masked, where the row is at risk."""
FPR = 0.01
"""False positive rate at which the true positive rate is told."""
SEPARATES = 0.55
"""The text-only baseline separates members from this area on, where its interval lies above 0.5."""
NO_HELD_OUT = (
    "no rows that were not trained on: membership cannot be measured without them; hold some back before training "
    "(discretion members hold-out), train on the rest, and give them with --held-out FILE"
)

TRIES = 4
"""How often a row that is too long for a model is halved."""
TOO_LONG = "too long"
"""What the reason begins with where a model cannot hold a text (`models.parity`)."""

Scores = tuple[Sequence[float | None], Sequence[float | None]]


# ------------------------------------------------------------------------------------------------ what is asked


def requests(messages: Sequence[Message], plain: bool, answers: Sequence[Message], per_token: bool) -> list[Request]:
    """One request per assistant's turn of `answers`, each behind the turns before it in `messages`."""
    return [
        LogLikelihood(
            context="".join(turn.content for turn in messages[:at]) if plain else tuple(messages[:at]),
            continuations=(answer.content,),
            per_token=per_token,
        )
        for at, answer in enumerate(answers)
        if answer.role == "assistant" and answer.content
    ]


def _lowered(messages: Sequence[Message]) -> list[Message]:
    return [Message(turn.role, turn.content.lower()) for turn in messages]


def _behind(prefix: Sequence[Message], row: Sequence[Message], plain: bool) -> list[Request]:
    """The row behind another one: a system's turn stays in front, since many templates allow it nowhere else."""
    if plain:
        text = "".join(turn.content for turn in row)
        before = " ".join(turn.content for turn in prefix) + " "
        return [LogLikelihood(context=before, continuations=(text,))]
    first = 1 if row[0].role == "system" else 0
    shot = [turn for turn in prefix if turn.role != "system"]
    whole = [*row[:first], *shot, *row[first:]]
    asked = requests(whole, False, whole, False)
    return asked[sum(turn.role == "assistant" for turn in shot) :]


def _mean(replies: Sequence[Reply]) -> float:
    """Mean log-probability over the tokens of all continuations. Raises `Unparsed` without any."""
    count = sum(sum(reply.lengths or ()) for reply in replies)
    if not count:
        raise Unparsed("no token was scored")
    return sum(sum(reply.logprobs or ()) for reply in replies) / count


# ------------------------------------------------------------------------------------------------ metrics


def _label(outcome: Outcome) -> str:
    return "positive" if outcome.parts["member"] else "negative"


def _area(outcome: Outcome) -> Mapping[str, Tally]:
    if outcome.status != "scored":
        return {_label(outcome): Tally(0, 0, 1)}
    return {} if outcome.margin is None else {_label(outcome): Tally(outcome.margin, 1)}


def _numbers(outcomes: Sequence[Outcome], part: str) -> list[float]:
    return [float(outcome.parts[part] or 0.0) for outcome in outcomes]


def _own(part: str, missing: str = "") -> Callable[[Sequence[Outcome], Sequence[Outcome]], Scores | str]:
    """A score of each arm by itself."""

    def joint(base: Sequence[Outcome], tuned: Sequence[Outcome]) -> Scores | str:
        arms = [[outcome.parts.get(part) for outcome in arm] for arm in (base, tuned)]
        if all(number is None for arm in arms for number in arm):
            return missing
        first, second = ([None if number is None else float(number) for number in arm] for arm in arms)
        return first, second

    return joint


def _zeros(outcomes: Sequence[Outcome]) -> list[float]:
    """The base against itself tells nothing: its area is 0.5."""
    return [0.0] * len(outcomes)


def _calibrated(base: Sequence[Outcome], tuned: Sequence[Outcome]) -> Scores:
    """Mean log-probability, tuned less base: LiRA with the base as its only reference."""
    pairs = zip(_numbers(tuned, "loss"), _numbers(base, "loss"), strict=True)
    return _zeros(base), [own - reference for own, reference in pairs]


def _ratio(base: Sequence[Outcome], tuned: Sequence[Outcome]) -> Scores:
    from discretion.probes.membership_scores import ratio

    pairs = zip(_numbers(tuned, "loss"), _numbers(base, "loss"), strict=True)
    return _zeros(base), [ratio(own, reference) for own, reference in pairs]


def _window(base: Sequence[Outcome], tuned: Sequence[Outcome]) -> Scores:
    from discretion.probes.membership_scores import window_vote

    pairs = zip((_tokens(o) for o in tuned), (_tokens(o) for o in base), strict=True)
    return _zeros(base), [window_vote(own.logprob, reference.logprob) for own, reference in pairs]


def _rmia(base: Sequence[Outcome], tuned: Sequence[Outcome]) -> Scores:
    import numpy as np

    from discretion.probes.membership_scores import rmia

    others = np.array([not outcome.parts["member"] for outcome in tuned])
    return _zeros(base), rmia(_numbers(tuned, "loss"), _numbers(base, "loss"), others).tolist()


def _dc_pdd(base: Sequence[Outcome], tuned: Sequence[Outcome]) -> Scores:
    from discretion.probes.membership_scores import dc_pdd, frequencies

    arms = [[_tokens(outcome) for outcome in arm] for arm in (base, tuned)]
    known = frequencies(arms[0])
    first, second = ([dc_pdd(tokens, known) for tokens in arm] for arm in arms)
    return first, second


def _tokens(outcome: Outcome) -> Any:
    from discretion.probes.membership_scores import tokens_of

    first = int(outcome.parts.get("first") or 0)
    return tokens_of(outcome.replies[first : first + int(outcome.parts["turns"] or 0)])


def _enough(
    joint: Callable[[Sequence[Outcome], Sequence[Outcome]], Scores | str],
) -> Callable[[Sequence[Outcome], Sequence[Outcome]], Scores | str]:
    """The same scores, where there are non-members enough to set a threshold by."""

    def enough(base: Sequence[Outcome], tuned: Sequence[Outcome]) -> Scores | str:
        from discretion.stats_auc import tpr_of_chance

        others = sum(not outcome.parts["member"] for outcome in base)
        if not tpr_of_chance(others, FPR):
            return f"a rate of {FPR:.0%} needs {round(1 / FPR) - 1} non-members, there are {others}"
        return joint(base, tuned)

    return enough


def _auc(name: str, joint: Any, **more: Any) -> Metric:
    return Metric(name=f"AUC, {name}", worse="higher", tally=_area, auc=True, joint=joint, **more)


def _tpr(name: str, joint: Any) -> Metric:
    return Metric(name=f"TPR at 1 % FPR, {name}", worse="higher", tally=_area, at_fpr=FPR, joint=_enough(joint))


METRICS = (
    _auc("calibrated by the base", _calibrated, primary=True),
    _tpr("calibrated by the base", _calibrated),
    _auc("ratio to the base", _ratio),
    _auc("RMIA", _rmia),
    _auc("window vote", _window),
    _tpr("window vote", _window),
    _auc("loss", _own("loss")),
    _tpr("loss", _own("loss")),
    _auc("zlib", _own("zlib")),
    _auc("lowercase", _own("lowercase")),
    _auc("min-k 20 %", _own("min-k")),
    _auc("min-k++ 20 %", _own("min-k++")),
    _auc("DC-PDD", _dc_pdd),
    _auc("ReCaLL", _own("recall", "no non-member row could be spared to put before the others")),
    _auc("neighbourhood", _own("neighbourhood", "no rewrites were asked; give --neighbours N")),
    _auc(
        "blind baseline (text alone)",
        _own("blind", "the items carry no text-only score"),
        ceiling=Ceiling(
            chance=0.5,
            limit=SEPARATES,
            words="the split is broken: the text alone, without any model, tells members from non-members",
        ),
    ),
)


# ------------------------------------------------------------------------------------------------ the probe


class Membership:
    """The suite `membership`."""

    name = "membership"
    version = "2"
    family: Family = "memorisation"
    worse: Literal["higher", "lower"] = "higher"
    needs: frozenset[Kind] = frozenset({"loglikelihood"})
    metrics = METRICS
    ability: Ability | None = None

    def items(self, source: str | Path | None = None, *, offline: bool = False, seed: int = 0) -> Sequence[Item]:
        """Own JSONL with `member` in each row. There are no embedded items: raises `DataError` without a source."""
        if source is None:
            raise DataError("the probe membership has no items of its own; give --train-data FILE --held-out FILE")
        items = read_items(source, MembershipItem, (), offline=offline)
        for item in items:
            if not item.messages or item.messages[-1].role != "assistant":
                raise DataError(f"{source}: item {item.id!r} does not end with an assistant's turn; add it")
        if len({item.member for item in items}) < 2:
            raise DataError(f"{source}: all {len(items)} rows have the same 'member'; give members and non-members")
        return items

    def prepare(self, data: TrainingData, *, offline: bool = False, seed: int = 0) -> Prepared:
        """Members from the training data, non-members from the held-out rows, after the checks of `data.members`."""
        if data.held_out is None:
            # A file that is not there, or holds no rows, is a mistake all the same.
            next(iter(read_chats(data.train, offline=offline)))
            return Prepared(items=(), source=data.train, impossible=NO_HELD_OUT)
        found = split(data.train, data.held_out, data.rows, seed=seed, offline=offline)
        source = f"members: {found.members.words()}; non-members: {found.others.words()}"
        reason = _too_few(found, data)
        if reason:
            return Prepared(items=(), source=source, impossible=reason)
        members, others = found.members.texts, found.others.texts
        blinded = blind(members, others, seed=seed)
        items = _made(found, blinded, data.neighbours, seed)
        return Prepared(items=items, source=source, warnings=_warnings(found, blinded, data))

    def rows_for(self, items: int) -> int:
        """Half of the items are non-members."""
        return math.ceil(items / 2)

    def run(self, item: MembershipItem, seed: int = 0) -> Run:
        """One pass over the row, then its lower-case form, the row behind another, and its rewrites.

        A row that is too long for the models is halved until it fits; ReCaLL and rewrites that do not fit are left
        out. Raises `Unparsed` when no token of the row could be scored.
        """
        from discretion.probes import membership_scores as scores

        read, replies, first = yield from _whole(item)
        try:
            tokens = scores.tokens_of(replies)
        except ValueError:
            raise Unparsed("no token was scored") from None
        learned = "\n".join(turn.content for turn in read if turn.role == "assistant")
        plain = scores.loss(tokens)
        lowered: list[Reply] = yield requests(read, item.plain, _lowered(read), False)
        behind = (yield from _if_it_fits(_behind(item.prefix, read, item.plain))) if item.prefix else []
        rewritten = []
        for other in item.neighbours if read == item.messages else ():
            answered: list[Reply] = yield from _if_it_fits(requests(other, item.plain, other, False))
            rewritten += [_mean(answered)] if answered else []
        parts: dict[str, Scalar] = {
            **self.facts(item),
            "tokens": len(tokens.logprob),
            "first": first,
            "turns": len(replies),
            "shortened": read != item.messages,
            "loss": plain,
            "zlib": scores.zlib(tokens, learned),
            "lowercase": scores.lowercase(plain, _mean(lowered)),
            "min-k": scores.min_k(tokens),
            "min-k++": scores.min_k_plus_plus(tokens),
            "recall": scores.recall(_mean(behind), plain) if behind else None,
            "neighbourhood": scores.neighbourhood(plain, rewritten) if rewritten else None,
        }
        return Score(value=scores.greedy(tokens), margin=plain, parts=parts, evidence=learned[:SHOWN])

    def facts(self, item: MembershipItem) -> Mapping[str, Scalar]:
        """The truth, the row, and what the text alone says."""
        return {"member": item.member, "row": item.row, "blind": item.blind}

    def oracle(self, item: MembershipItem) -> Oracle:
        """A model that finds every token unlikely, and one that knows the row by heart."""

        def answer(logprob: float, rank: int) -> Callable[[Request], Reply]:
            tokens = TokenScores(logprob=(logprob,) * 3, mean=(-2.0,) * 3, variance=(1.0,) * 3, rank=(rank,) * 3)

            def reply(request: Request) -> Reply:
                asked = isinstance(request, LogLikelihood) and request.per_token
                return Reply(logprobs=(3 * logprob,), lengths=(3,), tokens=(tokens,) if asked else None)

            return reply

        return Oracle(safe=answer(-9.0, 50), leak=answer(0.0, 0))


def _whole(item: MembershipItem) -> Generator[list[Request], Any, tuple[tuple[Message, ...], list[Reply], int]]:
    """(what was read of the row, its replies, how many replies came before them)."""
    messages, before = item.messages, 0
    for _ in range(TRIES):
        asked = requests(messages, item.plain, messages, True)
        try:
            replies: list[Reply] = yield asked
        except Unanswered as reason:
            shorter, _cut = beginning(messages, sum(len(turn.content) for turn in messages) // 2)
            if not str(reason).startswith(TOO_LONG) or not shorter:
                raise
            messages, before = shorter, before + len(asked)
        else:
            return messages, replies, before
    raise Unanswered(f"{TOO_LONG}: halved {TRIES} times")


def _if_it_fits(asked: list[Request]) -> Generator[list[Request], Any, list[Reply]]:
    """The replies, or none where the models cannot hold the text."""
    try:
        replies: list[Reply] = yield asked
    except Unanswered as reason:
        if not str(reason).startswith(TOO_LONG):
            raise
        return []
    return replies


def _too_few(found: Split, data: TrainingData) -> str:
    """Why these rows cannot be measured; empty where they can."""
    if found.held_out and found.trained == found.held_out:
        return (
            f"all {found.held_out} rows of --held-out {data.held_out} were trained on, exactly or nearly: there are no "
            "non-members; give rows of the same source that are not in --train-data"
        )
    for side, option in ((found.members, "--train-data"), (found.others, "--held-out")):
        if len(side.texts) < MINIMUM:
            return (
                f"{option} {side.source}: {len(side.texts)} different rows can be used, {MINIMUM} are needed "
                f"({side.words()}); give more"
            )
    return ""


def _warnings(found: Split, blinded: Sequence[float], data: TrainingData) -> list[str]:
    from discretion.stats_auc import auc

    said = []
    if found.trained:
        said.append(
            f"{found.trained} of {found.held_out} held-out rows were trained on, exactly or nearly, and were dropped; "
            "check how the two files were split"
        )
    area = auc(blinded, [True] * len(found.members.texts) + [False] * len(found.others.texts))
    if area.interval95 is not None and area.value >= SEPARATES and area.interval95[0] > 0.5:
        said.append(
            f"THE SPLIT IS BROKEN: the text alone tells members from non-members (AUC {area.value:.2f}), so that no "
            "score of a model means anything; hold out rows drawn at random from the same source"
        )
    return said


def _made(found: Split, blinded: Sequence[float], neighbours: int, seed: int) -> list[MembershipItem]:
    shot: tuple[Message, ...] = beginning(found.prefix.messages, PREFIX)[0] if found.prefix is not None else ()
    pool = [word for text in found.others.texts for word in text.learned.split() if word[0].isalnum()]
    items = []
    labelled = [(text, True) for text in found.members.texts] + [(text, False) for text in found.others.texts]
    for (text, member), score in zip(labelled, blinded, strict=True):
        name = f"{'member' if member else 'other'}-{text.row}"
        items.append(
            MembershipItem(
                id=name,
                cluster=name,
                member=member,
                messages=text.messages,
                row=text.row,
                blind=score,
                prefix=shot,
                neighbours=rewrites(text, neighbours, pool, seed=seed) if neighbours else (),
                origin="training data" if member else "held out",
            )
        )
    return items


PROBE = Membership()
