"""Local models behind the seam: base and tuned under one tokenisation, one plan, and for adapters one copy of weights.

`open_arms` checks that the two can be compared, and proves with numbers, before any work, that batching, packing and
caching do not change what the model says. `preview` counts the work without weights.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from discretion.errors import ModelError, NonFinite, NotComparable
from discretion.models import decoding, loading, parity, scoring
from discretion.models.action import THROUGH_TEMPLATE, takes_tools
from discretion.models.base import OnReply
from discretion.models.cache import align
from discretion.models.plan import Group, Plan, Read, Tokens, lay_out, make_plan
from discretion.models.scoring import NO_MEMORY, NON_FINITE, Stem, Weights
from discretion.schema import Generate, HiddenStates, Kind, LogLikelihood, Reply, Request, TokenScores

ArmName = Literal["base", "tuned"]
SAMPLE = (
    "The committee met on Tuesday to go through the letters that had come in over the summer. Most of them asked for "
    "the same thing: a short answer, given once, by someone who had read the question. Nobody at the table remembered "
    "who had promised to write back, so the oldest member took the pile home, sorted it by date, and began with the "
    "first one. It was from a school in the north, and it said that the roof leaked, that the winter was near, and "
    "that they would be glad of any help. She wrote three lines, and sent them off with a cheque for the whole sum."
)
"""What the self-check reads: any text will do that is long enough to share prefixes."""
TOLERANCE = {torch.float32: 1e-3}
"""Largest difference in nats, per token, between the fast path and the reference; 0.3 for half precision."""
REFERENCE_PARAMETERS = 1_000_000_000
"""Up to this size the reference of a half-precision model is a float32 copy of it."""
BUDGETS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
CALIBRATION_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Preview:
    """What an audit of these two models would compute, from tokenizers alone."""

    text: parity.Text
    context: int
    """Longest prompt either arm can read, in tokens."""
    template_digest: str
    base_digest: str
    tuned_digest: str
    facts: dict[str, Any]

    def tokens(self, requests: Sequence[Request]) -> int:
        """Tokens one arm computes for these requests: shared prefixes once, `max_tokens` of each `Generate` in full.

        A request that cannot be asked, being too long for one, counts nothing.
        """
        generated = [request for request in requests if isinstance(request, Generate)]
        scored = [request for request in requests if isinstance(request, LogLikelihood)]
        looked = [request for request in requests if isinstance(request, HiddenStates)]
        prompts = parity.ask_generate(self.text, generated, self.context)
        total = sum(
            min(generated[index].sampling.max_tokens, self.context - size) for index, size in prompts.prompts.items()
        )
        total += make_plan(prompts.sequences, self.context).tokens
        total += make_plan(parity.ask_loglikelihood(self.text, scored, self.context).sequences, self.context).tokens
        return total + make_plan(parity.ask_hidden(self.text, looked, self.context, 1 << 20).sequences, 0).tokens


@dataclass(frozen=True, slots=True)
class Arms:
    """The two models of an audit, ready to answer."""

    base: LocalModel
    tuned: LocalModel
    template_digest: str
    base_digest: str
    tuned_digest: str
    precision: str
    """Of weights and activations; reductions are always float32."""
    facts: dict[str, Any]
    """Parity checks, self-check and batch plan, as plain JSON values for the manifest."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """Base and tuned on disk, with what both read."""

    base: loading.Source
    tuned: loading.Source
    text: parity.Text
    base_digest: str
    tuned_digest: str
    facts: dict[str, Any]


def _pair(base: str, tuned: str, template: str | None, *, offline: bool) -> _Pair:
    """Find both models, and check that they can be compared, before any weight is read."""
    first, second = (loading.find(name, offline=offline) for name in (base, tuned))
    if first.kind == "adapter":
        raise ModelError(
            f"base {base}: this is an adapter; pass the model it sits on as --base, the adapter as --tuned"
        )
    if second.kind == "adapter":
        loading.check_adapter(second)
    ours = loading.load_tokenizer(first)
    theirs = loading.load_tokenizer(second) if second.has_tokenizer else ours
    twin, vocabulary = parity.same_tokenizer(ours, theirs, (base, tuned))
    chosen, origin = parity.choose_template(
        parity.own_template(ours), parity.own_template(theirs), template, (base, tuned)
    )
    text = parity.Text(ours, chosen, twin)
    facts = {
        "tuned": second.kind,
        "tokenizer": vocabulary,
        "template": origin,
        "tools": THROUGH_TEMPLATE if takes_tools(chosen) else "as text (ReAct): the template takes none",
        "beginning_of_sequence": parity.check_start(text, tuned),
    }
    if second.kind == "adapter":
        wanted = loading.read_json(second.folder / "adapter_config.json").get("base_model_name_or_path")
        if wanted and str(wanted).rstrip("/") not in (base, str(first.folder)):
            facts["adapter_base"] = f"the adapter names the base {wanted}; the one given fits its shapes"
    digest = loading.joined(second.digest, first.digest) if second.kind == "adapter" else second.digest
    return _Pair(first, second, text, first.digest, digest, facts)


def preview(base: str, tuned: str, *, template: str | None = None, offline: bool = False) -> Preview:
    """Check the pair and count work without reading a weight. Raises as `open_arms` does for what it can see."""
    pair = _pair(base, tuned, template, offline=offline)
    context = min(
        _context(loading.read_json(source.folder / "config.json"))
        for source in (pair.base, pair.tuned)
        if source.kind == "checkpoint"
    )
    return Preview(pair.text, context, pair.text.digest, pair.base_digest, pair.tuned_digest, pair.facts)


def _context(config: dict[str, Any]) -> int:
    config = {**config, **config.get("text_config", {})}
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if config.get(key):
            return int(config[key])
    return scoring.CONTEXT_UNKNOWN


def open_arms(
    base: str,
    tuned: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
    template: str | None = None,
    batch_tokens: int | None = None,
) -> Arms:
    """Load both arms and prove that they can be measured.

    `template` None takes the tuned model's own, which must be the base's; `base`, `tuned`, `plain` or a Jinja file
    choose one for both. `batch_tokens` None measures the budget of a forward. Raises `ModelError`, `NotComparable` or
    `NonFinite`, one line each.
    """
    pair = _pair(base, tuned, template, offline=offline)
    where = loading.pick_device(device)
    kind = loading.pick_dtype(dtype, where)
    first = Weights.of(loading.load_checkpoint(pair.base, where, kind))
    shared = _Shared(pair.text, min_context := first.context)
    switch: Callable[[ArmName], None] | None = None
    second = first
    if pair.tuned.kind == "adapter":
        peft = loading.load_adapter(first.causal, pair.base, pair.tuned)
        switch = _Switch(peft)
    elif pair.tuned_digest != pair.base_digest:
        second = Weights.of(loading.load_checkpoint(pair.tuned, where, kind))
        shared.context = min(min_context, second.context)
    precision = str(kind).removeprefix("torch.")
    shared.ends = _ends(pair.text.tokenizer, [first.causal, second.causal])
    arms = []
    for arm, weights, name, digest in (
        ("base", first, base, pair.base_digest),
        ("tuned", second, tuned, pair.tuned_digest),
    ):
        known = loading.joined(digest, pair.text.digest, precision)
        if (shared.context, shared.ends) != (weights.context, _ends(pair.text.tokenizer, [weights.causal])):
            # what this arm answers hangs on the other one, too: on where both stop, and on the room that both have
            known = loading.joined(known, f"context {shared.context}", f"ends {sorted(shared.ends)}")
        arms.append(LocalModel(name, known, arm, weights, shared, switch))  # type: ignore[arg-type]
    facts = {**pair.facts, "device": str(first.device), "context": shared.context}
    checked = {arm.arm: _self_check(arm) for arm in arms}
    if switch and np.array_equal(*(found.pop("scores") for found in checked.values())):
        raise NotComparable(
            f"adapter {tuned} changes no output of base {base}: its weights are zero or unused; pass the trained one"
        )
    for found in checked.values():
        found.pop("scores", None)
    if not switch and pair.tuned_digest == pair.base_digest:
        facts["tuned"] = "the base itself"
    for weights in (first, second):
        weights.budget = batch_tokens or calibrate(weights)
        weights.rows = 64 if weights.device.type == "cpu" else 256
        if second is first:
            break
    # both arms run the same way, so that a difference between them is the models' own
    first.budget = second.budget = min(first.budget, second.budget)
    first.share = second.share = min(first.share, second.share)
    first.alone = second.alone = first.alone or second.alone
    facts["self_check"] = checked
    facts["batch_tokens"] = first.budget
    facts["prefix_sharing"] = {
        arm.arm: f"up to {arm.weights.share} tokens" if arm.weights.share else "off: not plain full attention"
        for arm in arms
    }
    facts["end_tokens"] = sorted(shared.ends)
    return Arms(
        base=arms[0],
        tuned=arms[1],
        template_digest=pair.text.digest,
        base_digest=pair.base_digest,
        tuned_digest=pair.tuned_digest,
        precision=precision,
        facts=facts,
    )


def around(causal: Any, tokenizer: Any) -> LocalModel:
    """One arm around weights that are loaded already, such as those of a model in training; names no digest.

    Puts the model into evaluation mode. Raises `ModelError` for a missing or broken chat template.
    """
    own = parity.own_template(tokenizer)
    text = parity.Text(tokenizer, parity.choose_template(own, own, None, ("the model", "the model"))[0])
    parity.check_start(text, "the model")
    weights = Weights.of(causal)
    return LocalModel("the model", "", "base", weights, _Shared(text, weights.context, _ends(tokenizer, [causal])))


def _ends(tokenizer: Any, models: Sequence[Any]) -> frozenset[int]:
    """Every token that ends a turn for either arm: both must stop alike."""
    found: set[int] = set()
    for holder in (tokenizer, *(part for m in models for part in (m.config, m.generation_config))):
        ends = getattr(holder, "eos_token_id", None)
        found.update([ends] if isinstance(ends, int) else ends or ())
    return frozenset(found)


@dataclass(slots=True)
class _Switch:
    """The adapter on the one copy of weights, on or off; never merged, as unmerging does not give the base back."""

    peft: Any
    on: bool = True

    def __call__(self, arm: ArmName) -> None:
        if self.on != (arm == "tuned"):
            self.on = arm == "tuned"
            (self.peft.base_model.enable_adapter_layers if self.on else self.peft.base_model.disable_adapter_layers)()


@dataclass(slots=True)
class _Shared:
    """What both arms use: the text, and the last list of each kind with its plan, for the arm that asks second."""

    text: parity.Text
    context: int
    ends: frozenset[int] = frozenset()
    last: dict[str, tuple[Any, parity.Asked, Plan]] = field(default_factory=dict)

    def plan(
        self, kind: str, requests: Sequence[Any], longest: int, ask: Callable[[], parity.Asked]
    ) -> tuple[parity.Asked, Plan]:
        """Tokens and plan of a list of requests, made once for both arms."""
        key = (tuple(requests), longest)
        if kind not in self.last or self.last[kind][0] != key:
            asked = ask()
            self.last[kind] = (key, asked, make_plan(asked.sequences, longest))
        return self.last[kind][1:]


@dataclass(frozen=True, slots=True)
class LocalModel:
    """One arm. See `models.base.Model`."""

    name: str
    digest: str
    arm: ArmName
    weights: Weights
    shared: _Shared
    switch: Callable[[ArmName], None] | None = None

    @property
    def can(self) -> frozenset[Kind]:
        return frozenset(("generate", "loglikelihood", "hidden_states"))

    def select(self) -> Weights:
        """The weights with this arm's adapter state: once per list, as switching takes milliseconds."""
        if self.switch is not None:
            self.switch(self.arm)
        return self.weights

    def generate(self, requests: Sequence[Generate], on_reply: OnReply | None = None) -> list[Reply]:
        """Text for each request."""
        context = self.shared.context
        asked, _ = self.shared.plan(
            "generate", requests, 0, lambda: parity.ask_generate(self.shared.text, requests, context)
        )
        replies = _Replies(len(requests), on_reply, asked.errors)
        rows = []
        for (index, _), prompt in zip(asked.source, asked.sequences, strict=True):
            request = requests[index]
            most = min(request.sampling.max_tokens, context - len(prompt))
            rows.append(
                decoding.Row(index, prompt, most, request.sampling, self.shared.text.tokenizer, request.prefill)
            )
        for finished in decoding.generate(self.select(), rows, self.shared.ends):
            for row in finished:
                reply = Reply(
                    text=None if row.error else row.text,
                    stop=row.stop,
                    error=row.error,
                    prompt_tokens=len(row.prompt),
                    output_tokens=len(row.out),
                    seconds=row.seconds,
                )
                replies.put(row.request, reply)
        return replies.all()

    def loglikelihood(self, requests: Sequence[LogLikelihood], on_reply: OnReply | None = None) -> list[Reply]:
        """Log-probabilities of each request's continuations."""
        weights, context = self.select(), self.shared.context
        asked, plan = self.shared.plan(
            "loglikelihood",
            requests,
            weights.share,
            lambda: parity.ask_loglikelihood(self.shared.text, requests, context),
        )
        replies = _Replies(len(requests), on_reply, asked.errors)
        left = {index: len(requests[index].continuations) for index in asked.prompts}
        found: dict[int, dict[int, scoring.Scores | None]] = {index: {} for index in left}
        targets: dict[int, dict[int, Tokens]] = {}
        for (index, continuation), read in zip(asked.source, asked.reads, strict=True):
            targets.setdefault(index, {})[continuation] = read.targets
        seconds = dict.fromkeys(left, 0.0)

        def finish(index: int) -> None:
            scores, read = found.pop(index), targets.pop(index, {})
            replies.put(
                index,
                _scored(
                    [scores[number] for number in range(len(scores))],
                    [read[number] for number in range(len(scores))],
                    requests[index].per_token,
                    prompt_tokens=asked.prompts[index],
                    seconds=seconds[index],
                ),
            )

        for index in [index for index, count in left.items() if not count]:
            finish(index)
        moments = any(request.per_token for request in requests)
        began = time.perf_counter()
        for numbers, scores in scoring.score(weights, asked.sequences, plan, asked.reads, moments=moments):
            share = (time.perf_counter() - began) / max(1, len(numbers))
            for position, number in enumerate(numbers):
                index, continuation = asked.source[number]
                found[index][continuation] = None if scores is None else scores[position]
                seconds[index] += share
                left[index] -= 1
                if not left[index]:
                    finish(index)
            began = time.perf_counter()
        return replies.all()

    def hidden_states(self, requests: Sequence[HiddenStates], on_reply: OnReply | None = None) -> list[Reply]:
        """Residual-stream vectors."""
        weights, context = self.select(), self.shared.context
        asked, plan = self.shared.plan(
            "hidden_states",
            requests,
            0,
            lambda: parity.ask_hidden(self.shared.text, requests, context, weights.depth),
        )
        replies = _Replies(len(requests), on_reply, asked.errors)
        began = time.perf_counter()
        for numbers, vectors in scoring.hidden_states(weights, asked.sequences, plan, asked.looks):
            seconds = (time.perf_counter() - began) / max(1, len(numbers))
            for position, number in enumerate(numbers):
                index = asked.source[number][0]
                counts = {"prompt_tokens": asked.prompts[index], "seconds": seconds}
                if vectors is None:
                    reply = Reply(error=NO_MEMORY, **counts)  # type: ignore[arg-type]
                elif not np.isfinite(vectors[position]).all():
                    reply = Reply(error="non-finite hidden states", **counts)  # type: ignore[arg-type]
                else:
                    rows = tuple(tuple(row) for row in vectors[position].tolist())
                    reply = Reply(hidden=rows, **counts)  # type: ignore[arg-type]
                replies.put(index, reply)
            began = time.perf_counter()
        return replies.all()


class _Replies:
    """Replies in the order of their requests, each handed on as it comes."""

    def __init__(self, count: int, on_reply: OnReply | None, errors: dict[int, str]) -> None:
        self.found: list[Reply | None] = [None] * count
        self.on_reply = on_reply
        for index, reason in errors.items():
            self.put(index, Reply(error=reason))

    def put(self, index: int, reply: Reply) -> None:
        self.found[index] = reply
        if self.on_reply is not None:
            self.on_reply(index, reply)

    def all(self) -> list[Reply]:
        return [reply for reply in self.found if reply is not None]


def _scored(
    scores: list[scoring.Scores | None],
    targets: list[Tokens],
    per_token: bool,
    *,
    prompt_tokens: int,
    seconds: float,
) -> Reply:
    kept = [each for each in scores if each is not None]
    if len(kept) < len(scores):
        return Reply(error=NO_MEMORY, prompt_tokens=prompt_tokens, seconds=seconds)
    if not all(np.isfinite(each.logprob).all() for each in kept):
        return Reply(error=NON_FINITE, prompt_tokens=prompt_tokens, seconds=seconds)
    tokens = None
    if per_token:
        tokens = tuple(
            TokenScores(
                logprob=tuple(each.logprob.tolist()),
                mean=tuple(_column(each.mean)),
                variance=tuple(_column(each.variance)),
                rank=tuple(int(rank) for rank in _column(each.rank)),
                id=tuple(read.tolist()),
            )
            for each, read in zip(kept, targets, strict=True)
        )
    return Reply(
        logprobs=tuple(math.fsum(each.logprob) for each in kept),
        lengths=tuple(len(each.logprob) for each in kept),
        tokens=tokens,
        prompt_tokens=prompt_tokens,
        seconds=seconds,
    )


def _column(values: NDArray[np.float64] | None) -> list[float]:
    return [] if values is None else values.tolist()


# ------------------------------------------------------------------------------------------------ self-check


def _self_check(arm: LocalModel) -> dict[str, Any]:
    """Hold the fast path against a slow one: each sequence alone through the model's own forward, in float32.

    Turns prefix sharing off, then the fast path as a whole, where they do not agree; raises `NonFinite` when the model
    itself gives no finite numbers.
    """
    weights = arm.select()
    sequences, shared = _check_batch(arm)
    reads = [Read(i, max(1, len(s) - 8), s[max(1, len(s) - 8) :]) for i, s in enumerate(sequences)]
    reference, kind = weights, str(weights.causal.dtype).removeprefix("torch.")
    if kind != "float32" and weights.causal.num_parameters() <= REFERENCE_PARAMETERS:
        reference, kind = Weights(copy.deepcopy(weights.causal).float()), "float32"
    with torch.inference_mode():
        logps = [_reference(reference, tokens, read) for tokens, read in zip(sequences, reads, strict=True)]
    expected = np.concatenate(
        [rows[np.arange(len(read.targets)), read.targets] for rows, read in zip(logps, reads, strict=True)]
    )
    if not np.isfinite(expected).all():
        raise NonFinite(
            f"{arm.arm} {arm.name}: its logits are NaN or infinite on plain text; check the weights or --dtype"
        )
    tolerance = TOLERANCE.get(weights.causal.dtype, 0.3)
    alone = Plan(tuple(Group(0, len(s), (i,)) for i, s in enumerate(sequences)), tuple(range(len(sequences))), 0)
    found: dict[str, Any] = {"reference": kind, "tolerance": tolerance, "tokens": len(expected), "scores": expected}
    if weights.share >= max(len(tokens) for tokens in sequences):
        difference = _difference(weights, sequences, shared, reads, expected)
        found["prefix_sharing"] = difference
        if isinstance(difference, float) and difference <= tolerance:
            found["cached_step"] = difference = _cached_step(weights, sequences, shared, [rows[-1] for rows in logps])
        if isinstance(difference, str) or difference > tolerance:
            weights.share = 0
    if not weights.alone:
        for label, budget in (("rows_alone", 1), ("rows_together", 1 << 20)):
            weights.budget = budget
            found[label] = difference = _difference(weights, sequences, alone, reads, expected)
            if isinstance(difference, str) or difference > tolerance:
                weights.alone, weights.share = True, 0
    found["path"] = "own forward, one row at a time" if weights.alone else "batched, head at read positions"
    return found


def _check_batch(arm: LocalModel) -> tuple[list[Tokens], Plan]:
    """Six sequences with a stem, two trunks and packed leaves, and one alone, as long as the context allows."""
    passage = arm.shared.text.encode([SAMPLE])[SAMPLE]
    ids = passage if passage is not None else arm.shared.text.prefix
    ids = np.resize(ids, max(400, len(ids)))
    unit = max(1, min(16, arm.shared.context // 5))
    stem, size = ids[:unit], 2 * unit
    sequences = [
        np.concatenate([stem, ids[start : start + unit], ids[end : end + unit]])
        for start, end in ((unit, 100), (unit, 160), (unit, 131), (70, 200), (70, 230))
    ]
    sequences.append(np.concatenate([stem, ids[300 : 300 + unit // 2 + 1]]))
    groups = (Group(unit, size, (0, 1, 2)), Group(unit, size, (3, 4)), Group(unit, len(sequences[5]), (5,)))
    return sequences, Plan(groups, tuple(range(6)), 0)


def _reference(weights: Weights, tokens: Tokens, read: Read) -> NDArray[np.float64]:
    """ln p at each position read, and at the end of the sequence with its own first token behind it."""
    at = np.append(np.arange(read.first - 1, len(tokens) - 1), len(tokens))
    logits = weights.own_logits(np.append(tokens, tokens[0]), at)
    return logits.cpu().double().log_softmax(-1).numpy()


def _difference(
    weights: Weights, sequences: list[Tokens], plan: Plan, reads: list[Read], expected: NDArray[np.float64]
) -> float | str:
    """Largest difference in nats to the reference, or the name of what the model raises on this path."""
    weights.budget = max(weights.budget, 1)
    got: list[NDArray[np.float64]] = [np.full(len(read.targets), np.nan) for read in reads]
    try:
        for numbers, scores in scoring.score(weights, sequences, plan, reads, moments=False):
            for number, each in zip(numbers, scores or (), strict=False):
                got[number] = each.logprob
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        return type(error).__name__
    worst = float(np.abs(np.concatenate(got) - expected).max())
    return worst if math.isfinite(worst) else "not finite"


@torch.inference_mode()
def _cached_step(
    weights: Weights, sequences: list[Tokens], plan: Plan, expected: list[NDArray[np.float64]]
) -> float | str:
    """One decoding step of ragged rows behind their prefixes, against the reference: largest difference in nats."""
    try:
        layout = lay_out(plan.groups, sequences)
        parts = scoring.forward(weights, layout, Stem(), keep=True)
        rows = [scoring.spans(layout, parts, member) for member in range(len(sequences))]
        lengths = [len(tokens) for tokens in sequences]
        follow = [int(tokens[0]) for tokens in sequences]
        cache = align(rows, max(lengths) + 1)
        hidden = decoding.step(weights, cache, max(lengths), lengths, follow)
        logp = weights.logits(hidden).cpu().double().log_softmax(-1).numpy()
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        return type(error).__name__
    # far down the tail half precision is off by much, and it does not matter
    worst = max(float(np.abs(got - own)[own > own.max() - 10].max()) for got, own in zip(logp, expected, strict=True))
    return worst if math.isfinite(worst) else "not finite"


def calibrate(weights: Weights) -> int:
    """Tokens per forward: the smallest budget within 5 % of the best measured throughput, in bounded time."""
    length = min(256, weights.context)
    speeds: dict[int, float] = {}
    began = last = time.perf_counter()
    for budget in _affordable(weights, BUDGETS):
        # the next budget takes about twice as long as the one before
        if speeds and (time.perf_counter() - began) + 2 * (time.perf_counter() - last) > CALIBRATION_SECONDS:
            break
        last = time.perf_counter()
        ids = torch.ones(max(1, budget // length), length, dtype=torch.long, device=weights.device)
        try:
            for _ in range(2):
                start = time.perf_counter()
                with torch.inference_mode():
                    weights.decoder(input_ids=ids, use_cache=False).last_hidden_state[0, -1, 0].item()
                spent = time.perf_counter() - start
                speeds[budget] = max(speeds.get(budget, 0.0), ids.numel() / spent)
                if spent > CALIBRATION_SECONDS / 10:
                    break
        except (RuntimeError, MemoryError) as error:
            if not scoring.out_of_memory(error):
                raise
            break
    best = max(speeds.values(), default=0.0)
    return min((budget for budget, speed in speeds.items() if speed >= 0.95 * best), default=BUDGETS[0])


def _affordable(weights: Weights, budgets: Sequence[int]) -> Iterator[int]:
    """Budgets worth trying: a CPU gains nothing from the large ones, and pays for them in memory."""
    for budget in budgets:
        if weights.device.type != "cpu" or budget <= 8192:
            yield budget
