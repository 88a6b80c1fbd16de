"""Batched generation: prompts prefilled once per shared prefix, finished rows retired, freed slots refilled.

A row's text depends on its own prompt, seed and the weights, not on its neighbours. It ends at an end-of-sequence
token, at a stop string, at the first complete JSON object where asked, or at its limit.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from discretion.models.action import Action
from discretion.models.cache import SlotCache, Span, align
from discretion.models.plan import Group, Tokens, lay_out, make_plan, place_of
from discretion.models.scoring import (
    NO_MEMORY,
    NON_FINITE,
    Stem,
    Weights,
    forward,
    next_batch,
    out_of_memory,
    release,
    spans,
)
from discretion.schema import Sampling

HEADROOM = 64
"""Columns kept free behind the longest row: after so many steps the buffer is laid out anew."""
REFILL = 0.75
"""Free slots are refilled when no more than this share of the buffer is alive."""
CACHE_BYTES = {"cpu": 1 << 30}
"""Keys and values decoded together; a third of the free memory on CUDA, 2 GiB elsewhere."""


@dataclass(slots=True)
class Row:
    """One request on its way."""

    request: int
    prompt: Tokens
    most: int
    """New tokens at most."""
    sampling: Sampling
    tokenizer: Any
    prefill: str = ""
    out: list[int] = field(default_factory=list)
    cached: list[Span] = field(default_factory=list)
    """Where the keys and values of the prompt and of all but the last new token lie."""
    text: str = ""
    stop: Literal["end", "stop", "action", "length"] | None = None
    error: str | None = None
    seconds: float = 0.0
    action: Action | None = None
    draws: torch.Tensor | None = None
    read: int = 0
    start: int = 0

    def begin(self) -> None:
        """Nothing generated yet; the same draws again."""
        self.out, self.cached, self.text, self.read, self.start = [], [], "", 0, 0
        if self.sampling.until == "action":
            self.action = Action()
            if self.action.feed(self.prefill) is not None:
                self.action = Action()
        if self.sampling.temperature > 0:
            generator = torch.Generator().manual_seed(self.sampling.seed)
            self.draws = torch.rand(self.most, generator=generator, dtype=torch.float64)

    def accept(self, token: int, ends: frozenset[int]) -> None:
        """Append one token; sets `stop` when it was the last."""
        if token < 0:
            self.error = NON_FINITE
        elif token in ends:
            self.stop = "end"
        else:
            self.out.append(token)
            if self.action is not None or self.sampling.stop:
                self._watch()
            if self.stop is None and len(self.out) >= self.most:
                self.stop = "length"
        if self.stop in ("end", "length"):
            self.text = self._decode(self.out)

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)  # type: ignore[no-any-return]

    def _watch(self) -> None:
        """Append the new characters to the text, and look for its end in them."""
        now = self._decode(self.out[self.start :])
        if now.endswith("\ufffd"):
            return
        piece = now[len(self._decode(self.out[self.start : self.read])) :]
        self.start, self.read = self.read, len(self.out)
        old = len(self.text)
        self.text += piece
        ends: list[tuple[int, Literal["stop", "action"]]] = []
        for mark in self.sampling.stop:
            at = self.text.find(mark, max(0, old - len(mark) + 1))
            if at >= 0:
                ends.append((at + len(mark), "stop"))
        if self.action is not None and (close := self.action.feed(piece)) is not None:
            ends.append((old + close, "action"))
        if ends:
            end, self.stop = min(ends)
            self.text = self.text[:end]

    @property
    def done(self) -> bool:
        return self.stop is not None or self.error is not None


def choose(weights: Weights, hidden: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    """The next token of each row from its final hidden state; −1 where the logits are not finite."""
    return [
        token
        for start in range(0, len(rows), weights.chunk)
        for token in pick(weights.logits(hidden[start : start + weights.chunk]), rows[start : start + weights.chunk])
    ]


def pick(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    """Greedy, or by the row's own uniform draw through the cumulative distribution; −1 where not finite."""
    top, best = logits.max(-1)
    tokens = torch.where(torch.isfinite(top), best, -1).tolist()
    drawn = [i for i, row in enumerate(rows) if row.draws is not None and not row.done and tokens[i] >= 0]
    if drawn:
        heat = torch.tensor([rows[i].sampling.temperature for i in drawn], dtype=torch.float64)
        draw = torch.stack([rows[i].draws[len(rows[i].out)] for i in drawn])  # type: ignore[index]
        mass = torch.softmax(logits[drawn].cpu().double() / heat[:, None], dim=-1).cumsum(-1)
        chosen = torch.searchsorted(mass, draw[:, None] * mass[:, -1:], right=True)[:, 0]
        for i, token in zip(drawn, chosen.clamp_max(mass.shape[1] - 1).tolist(), strict=True):
            tokens[i] = token
    return tokens


def step(
    weights: Weights, cache: SlotCache, columns: int, lengths: Sequence[int], tokens: Sequence[int]
) -> torch.Tensor:
    """Feed one token to each row, written behind `columns`; final hidden states `[rows, width]`.

    `lengths`: tokens of each row already cached, right-aligned at `columns`.
    """
    device = weights.device
    cached = torch.tensor(lengths, device=device)[:, None]
    seen = None
    if any(length < columns for length in lengths):
        at = torch.arange(columns + 1, device=device)[None, :]
        seen = weights.mask((at >= columns - cached)[:, None, None, :])
    return weights.decoder(  # type: ignore[no-any-return]
        input_ids=torch.tensor(tokens, device=device)[:, None],
        attention_mask=seen,
        position_ids=cached,
        past_key_values=cache.at(columns),
        use_cache=True,
    ).last_hidden_state[:, -1]


@torch.inference_mode()
def generate(weights: Weights, rows: Sequence[Row], ends: frozenset[int]) -> Iterator[list[Row]]:
    """Rows as they finish, some at a time, each with `text` and `stop`, or with `error`."""
    for row in rows:
        row.begin()
    limit = 0 if weights.alone else weights.share
    for row in rows:
        if len(row.prompt) + row.most > limit:
            _decode_alone(weights, row, ends)
            yield [row]
    run = _Run(weights, [row for row in rows if not row.done], ends)
    while run.queue or run.ready or run.live:
        yield run.advance()


class _Run:
    """The state of one batched generation: rows waiting for prefill, prefilled, and in the buffer."""

    def __init__(self, weights: Weights, rows: Sequence[Row], ends: frozenset[int]) -> None:
        self.weights, self.ends = weights, ends
        self.prompts = [row.prompt for row in rows]
        plan = make_plan(self.prompts, weights.share)
        self.queue = list(plan.groups)
        self.waiting: dict[int, list[Row]] = {}
        for index, row in enumerate(rows):
            self.waiting.setdefault(plan.owner[index], []).append(row)
        self.owner = {row.request: plan.owner[index] for index, row in enumerate(rows)}
        self.ready: deque[Row] = deque()
        self.live: list[Row] = []
        """Rows of the buffer; some may be done already."""
        self.cache = SlotCache.empty(0, 0)
        self.columns = self.capacity = 0
        self.stem = Stem()
        self.finished: list[Row] = []
        self.short = False
        """Memory ran out in this step."""

    def advance(self) -> list[Row]:
        """Fill the buffer where that pays, and take one step: the rows that finished."""
        began = time.perf_counter()
        tokens = None
        try:
            alive = sum(not row.done for row in self.live)
            more = bool(self.queue or self.ready)
            if self.columns >= self.capacity or alive <= (REFILL if more else 0.5) * len(self.live):
                self._fill()
            if self.live:
                tokens = self._step()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            tokens = None
            self.short = True
        if self.short:
            self._restart()
        elif tokens is not None:
            share = (time.perf_counter() - began) / len(self.live)
            for row, token in zip(self.live, tokens, strict=True):
                if not row.done:
                    row.seconds += share
                    row.accept(token, self.ends)
                    if row.done:
                        self.finished.append(row)
        finished, self.finished = self.finished, []
        return finished

    def _step(self) -> list[int]:
        lengths = [min(self.columns, len(row.prompt) + len(row.out) - 1) for row in self.live]
        hidden = step(self.weights, self.cache, self.columns, lengths, [row.out[-1] for row in self.live])
        self.columns += 1
        return choose(self.weights, hidden, self.live)

    def _fill(self) -> None:
        """Lay the buffer out anew: rows alive, then as many new ones as fit."""
        for index, row in enumerate(self.live):
            size = len(row.prompt) + len(row.out) - 1
            row.cached = [] if row.done else [Span(self.cache, index, self.columns - size, self.columns)]
        self.live = [row for row in self.live if not row.done]
        while len(self.live) < self.weights.rows and (self.ready or self.queue):
            if not self.ready:
                self._prefill()
                continue
            widest = max(len(row.prompt) + len(row.out) for row in (*self.live, self.ready[0]))
            if self.live and (len(self.live) + 1) * (widest + HEADROOM) > self._room(self.ready[0].cached[0].cache):
                break
            self.live.append(self.ready.popleft())
        if self.live:
            left = max(row.most - len(row.out) for row in self.live)
            self.columns = max(len(row.prompt) + len(row.out) - 1 for row in self.live)
            self.capacity = self.columns + min(HEADROOM, left + 1)
            self.cache = align([row.cached for row in self.live], self.capacity)
            for row in self.live:
                row.cached = []

    def _room(self, cache: SlotCache) -> int:
        """Tokens whose keys and values may be held together."""
        token = sum(2 * layer.keys.shape[1] * layer.keys.shape[3] * layer.keys.element_size() for layer in cache.layers)
        device = self.weights.device
        if device.type == "cuda":
            return int(torch.cuda.mem_get_info(device)[0] // 3 // token)
        return int(CACHE_BYTES.get(device.type, 2 << 30) // token)

    def _prefill(self) -> None:
        """One batch of prompts through the model: their rows become ready, with a first token."""
        began = time.perf_counter()

        def work(batch: Sequence[Group]) -> list[tuple[Row, list[Span], int]]:
            layout = lay_out(batch, self.prompts)
            parts = forward(self.weights, layout, self.stem, keep=True)
            rows = [row for group in batch for member in group.members for row in self.waiting[member]]
            last, cached = [], []
            for row in rows:
                member, size = self.owner[row.request], len(row.prompt)
                part, at, column = place_of(layout.places[member], size - 1)
                hidden = parts.hidden[part]
                last.append(hidden[at, column])  # type: ignore[index]
                cached.append(_first(spans(layout, parts, member), size))
            return list(zip(rows, cached, choose(self.weights, torch.stack(last), rows), strict=True))

        batch, result = next_batch(self.weights, self.prompts, self.queue, work)
        rows = [row for group in batch for member in group.members for row in self.waiting.pop(member)]
        share = (time.perf_counter() - began) / len(rows)
        for row in rows:
            row.seconds += share
            if result is None:
                row.error = NO_MEMORY
        for row, cached, token in result or ():
            row.cached = cached
            row.accept(token, self.ends)
            if not row.done:
                self.ready.append(row)
        self.finished += [row for row in rows if row.done]

    def _restart(self) -> None:
        """Out of memory in a step: fewer rows from now on, and those in the buffer start again."""
        alive = [row for row in self.live if not row.done]
        self.live, self.cache, self.columns, self.capacity, self.short = [], SlotCache.empty(0, 0), 0, 0, False
        self.weights.rows = max(1, min(self.weights.rows, len(alive)) // 2)
        release(self.weights.device)
        for row in alive:
            row.begin()
            member = self.owner[row.request]
            if len(alive) == 1:
                row.error = NO_MEMORY
                self.finished.append(row)
            elif member in self.waiting:
                self.waiting[member].append(row)
            else:
                self.waiting[member] = [row]
                self.queue.append(Group(0, len(self.prompts[member]), (member,)))


def _first(pieces: Sequence[Span], size: int) -> list[Span]:
    """The first `size` tokens of a sequence: a prompt may be the beginning of a longer one."""
    kept = []
    for piece in pieces:
        if size > 0:
            kept.append(piece._replace(stop=min(piece.stop, piece.start + size)))
        size -= piece.stop - piece.start
    return kept


def _decode_alone(weights: Weights, row: Row, ends: frozenset[int]) -> None:
    """One row through the model's own forward and cache: for models whose attention or head is not plain."""
    began = time.perf_counter()
    ids, past = row.prompt.tolist(), None
    try:
        while not row.done:
            out = weights.causal(
                input_ids=torch.tensor([ids], device=weights.device), past_key_values=past, use_cache=True
            )
            row.accept(pick(out.logits[:, -1].float(), [row])[0], ends)
            past = getattr(out, "past_key_values", None)
            ids = row.out[-1:] if past is not None else row.prompt.tolist() + row.out
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        row.error = NO_MEMORY
    row.seconds += time.perf_counter() - began
