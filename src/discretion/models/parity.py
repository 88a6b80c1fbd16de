"""Both arms read the same token ids: one template, one tokenizer, one beginning-of-sequence rule, checked before work.

Text becomes tokens here and nowhere else. Needs a tokenizer, but no weights.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError

from discretion.errors import ModelError, NotComparable
from discretion.models.action import chat_rows, json_schema, takes_tools
from discretion.models.plan import Look, Read, Tokens, common
from discretion.schema import Generate, HiddenStates, LogLikelihood, Message, Role, Tooled

PLAIN = (
    "{% set names = {'system': 'System', 'user': 'User', 'assistant': 'Assistant', 'tool': 'Tool'} %}"
    "{% for m in messages %}{{ names[m.role] }}:\n{{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""For models without a template. The role stands on a line of its own, so that an answer begins a line: options are
then tokenised without a leading space, and a prompt to go on from does not end in one."""
CHOICES = "--template base|tuned|plain|FILE"
NOTHING: Tokens = np.zeros(0, dtype=np.int32)
MARK = "MARK-5b1f0c27"
"""Stands for the text of an opened turn, and is cut off again."""
DAY = "26 Jul 2024"
"""Templates that print the date get this one: a prompt must not change from day to day."""


@dataclass(frozen=True, slots=True)
class Text:
    """Messages and strings to token ids, the same for all arms."""

    tokenizer: Any
    template: str
    twin: Any = None
    """The other arm's tokenizer, where it is not the same to the letter: every text is then compared."""

    @property
    def digest(self) -> str:
        """SHA-256 of the chat template."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    @property
    def prefix(self) -> Tokens:
        """What the tokenizer puts before a text by itself, such as the beginning-of-sequence token."""
        return _prefix(self.tokenizer)

    def render(
        self,
        messages: Sequence[Message],
        prefill: str = "",
        *,
        opened: bool = True,
        turn: Role = "assistant",
        tooled: Tooled | None = None,
    ) -> str:
        """The prompt as text, with a turn opened: the assistant's as the template does it, another one, and the chat's
        first, as far as what stands in it. `tooled` takes the place of `messages` where the template takes tools.
        Raises `TemplateError` as the template does, `ValueError` when it shows no text of that turn."""
        real = tooled if takes_tools(self.template) else None
        rows = [{"role": message.role, "content": message.content} for message in messages]
        if real is not None:
            rows = chat_rows(real)
        # Many templates cannot open an answer to nothing, and all that train such a turn can write one.
        other = opened and (turn != "assistant" or not rows)
        if other:
            rows.append({"role": turn, "content": MARK})
        text: str = self.tokenizer.apply_chat_template(
            rows,
            tools=None if real is None else [json_schema(tool) for tool in real.tools],
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=opened and not other,
            date_string=DAY,
        )
        return (text[: text.rindex(MARK)] if other else text) + prefill

    def encode(self, texts: Iterable[str]) -> dict[str, Tokens | None]:
        """text → ids behind the tokenizer's own prefix, once; None where the arms' tokenizers disagree.

        A text that begins with the prefix already, as rendered templates do, gets no second one.
        """
        wanted = list(dict.fromkeys(texts))
        found: dict[str, Tokens | None] = {}
        prefix = self.prefix
        for start in range(0, len(wanted), 256):
            piece = wanted[start : start + 256]
            ids = _ids(self.tokenizer, piece)
            other = ids if self.twin is None else _ids(self.twin, piece)
            for text, here, there in zip(piece, ids, other, strict=True):
                bare = np.array_equal(here[: len(prefix)], prefix)
                agreed = here is there or np.array_equal(here, there)
                found[text] = (here if bare else np.concatenate([prefix, here])) if agreed else None
        return found


def _ids(tokenizer: Any, texts: list[str]) -> list[Tokens]:
    """Ids of each text. Pieces between marks that a tokenizer never joins, such as those around turns, are encoded once
    however many texts hold them, where whole texts come out the same that way."""
    marks = _marks(tokenizer)
    if marks is None:
        return _whole(tokenizer, texts)
    pieces = [[piece for piece in marks.split(text) if piece] for text in texts]
    distinct = list(dict.fromkeys(piece for parts in pieces for piece in parts))
    if 2 * sum(map(len, distinct)) > sum(map(len, texts)):
        return _whole(tokenizer, texts)
    known = dict(zip(distinct, _whole(tokenizer, distinct), strict=True))
    ids = [np.concatenate([known[piece] for piece in parts]) if parts else NOTHING for parts in pieces]
    most, longest = (max(range(len(texts)), key=lambda n: len(made[n])) for made in (pieces, texts))
    for n, whole in zip((most, longest), _whole(tokenizer, [texts[most], texts[longest]]), strict=True):
        if not np.array_equal(ids[n], whole):
            return _whole(tokenizer, texts)
    return ids


def _whole(tokenizer: Any, texts: list[str]) -> list[Tokens]:
    found = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return [np.asarray(ids, dtype=np.int32) for ids in found]


def _marks(tokenizer: Any) -> re.Pattern[str] | None:
    """Added tokens at which a fast tokenizer cuts every text before anything else, whatever stands around them."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    fixed = [
        str(token)
        for token in tokenizer.added_tokens_decoder.values()
        if str(token) and not (token.normalized or token.lstrip or token.rstrip or token.single_word)
    ]
    return re.compile("(" + "|".join(map(re.escape, sorted(fixed, key=len, reverse=True))) + ")") if fixed else None


def _prefix(tokenizer: Any) -> Tokens:
    with_, without = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    for start in range(len(with_)):
        if with_[start : start + len(without)] == without:
            return np.asarray(with_[:start], dtype=np.int32)
    return np.zeros(0, dtype=np.int32)


# ------------------------------------------------------------------------------------------ tokenizer, template


def same_tokenizer(base: Any, tuned: Any, names: tuple[str, str]) -> tuple[Any, str]:
    """(the second tokenizer where texts must be compared one by one, else None; a note).

    Raises `NotComparable` when a token of the base has another id in the tuned model, or none.
    """
    ours, theirs = base.get_vocab(), tuned.get_vocab()
    moved = [token for token, index in ours.items() if theirs.get(token) != index]
    if moved:
        raise NotComparable(
            f"base {names[0]} and tuned {names[1]} have different tokenizers: {len(moved)} of {len(ours)} tokens "
            "have another id or none in the tuned model; pass the base it was trained from"
        )
    if len(theirs) > len(ours):
        return tuned, f"the tuned tokenizer adds {len(theirs) - len(ours)} tokens; ids of every text are compared"
    backends = [getattr(tokenizer, "backend_tokenizer", None) for tokenizer in (base, tuned)]
    if None not in backends and backends[0].to_str() == backends[1].to_str():  # type: ignore[union-attr]
        return None, "equal"
    return tuned, "equal vocabularies, other settings; ids of every text are compared"


def own_template(tokenizer: Any) -> str | None:
    """The chat template a tokenizer carries; of several, the one called `default`."""
    found = tokenizer.chat_template
    return found.get("default") if isinstance(found, dict) else found


def choose_template(base: str | None, tuned: str | None, asked: str | None, names: tuple[str, str]) -> tuple[str, str]:
    """(the template for both arms, where it comes from).

    Without `asked` it is the tuned model's own, which must be the base's too, or the base has none. Raises
    `NotComparable` when they differ, `ModelError` when there is none.
    """
    if asked == "plain":
        return PLAIN, "plain, as asked"
    if asked in ("base", "tuned"):
        found = base if asked == "base" else tuned
        if found is None:
            name = names[0] if asked == "base" else names[1]
            raise ModelError(f"template {asked!r}: {name} has no chat template; use {CHOICES}")
        return found, f"{asked}'s, as asked"
    if asked is not None:
        try:
            return Path(asked).expanduser().read_text(encoding="utf-8"), f"file {Path(asked).name}, as asked"
        except (OSError, UnicodeDecodeError):
            raise ModelError(f"template {asked!r}: no such file that can be read as text; use {CHOICES}") from None
    if base is None and tuned is None:
        raise ModelError(f"neither {names[0]} nor {names[1]} has a chat template; use {CHOICES}")
    if tuned is None or (base is not None and base != tuned):
        found = "none" if tuned is None else "another"
        raise NotComparable(
            f"base {names[0]} has a chat template and tuned {names[1]} has {found}; choose one for both with {CHOICES}"
        )
    return tuned, "equal in both" if base is not None else "the tuned model's, the base has none"


def check_start(text: Text, name: str) -> str:
    """Who writes the beginning-of-sequence token into a prompt: `template`, `tokenizer` or `none`.

    Raises `ModelError` when the prompt would begin with two of them, or the template is broken.
    """
    try:
        prompt = text.render((Message("user", "Hello."),))
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise ModelError(f"the chat template of {name} is broken ({error}); use {CHOICES}") from None
    raw = _ids(text.tokenizer, [prompt])[0].tolist()
    start = text.tokenizer.bos_token_id
    if start is not None and raw[:2] == [start, start]:
        raise ModelError(
            f"the chat template of {name} begins a prompt with two beginning-of-sequence tokens; repair it"
        )
    if start is not None and raw[:1] == [start]:
        return "template"
    return "tokenizer" if len(text.prefix) else "none"


# ------------------------------------------------------------------------------------------ requests to tokens


@dataclass(slots=True)
class Asked:
    """A list of requests as token sequences."""

    sequences: list[Tokens] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    """Request → why it cannot be asked."""
    prompts: dict[int, int] = field(default_factory=dict)
    """Request → tokens of its context."""
    reads: list[Read] = field(default_factory=list)
    source: list[tuple[int, int]] = field(default_factory=list)
    """(request, continuation) of each read."""
    looks: list[Look] = field(default_factory=list)


def too_long(tokens: int, context: int) -> str:
    """The reason in a reply."""
    return f"too long: {tokens} tokens, context {context}"


def _rendered(text: Text, requests: Sequence[Any], asked: Asked) -> dict[int, str]:
    """Request → its prompt as text; what the template refuses goes to the errors."""
    prompts = {}
    for index, request in enumerate(requests):
        content = request.messages if isinstance(request, Generate) else request.context
        prefill = request.prefill
        tooled = request.tooled if isinstance(request, Generate) else None
        try:
            if isinstance(content, str):
                prompts[index] = content
            else:
                prompts[index] = text.render(content, prefill, turn=request.turn, tooled=tooled)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            asked.errors[index] = f"the chat template refuses the messages ({type(error).__name__})"
    return prompts


def ask_generate(text: Text, requests: Sequence[Generate], context: int) -> Asked:
    """One sequence per request that can be asked; `source` says whose it is."""
    asked = Asked()
    prompts = _rendered(text, requests, asked)
    ids = text.encode(prompts.values())
    for index, prompt in prompts.items():
        tokens = ids[prompt]
        if tokens is None:
            asked.errors[index] = UNEQUAL
        elif len(tokens) >= context:
            asked.errors[index] = too_long(len(tokens), context)
        elif not len(tokens):
            asked.errors[index] = EMPTY
        else:
            asked.prompts[index] = len(tokens)
            asked.source.append((index, 0))
            asked.sequences.append(tokens)
    return asked


UNEQUAL = "the arms' tokenizers disagree on this text"
EMPTY = "nothing to begin with: the text is empty and the tokenizer has no beginning-of-sequence token"


def ask_loglikelihood(text: Text, requests: Sequence[LogLikelihood], context: int) -> Asked:
    """One read per continuation, found by token round trip: context and continuation are tokenised together.

    Where a continuation changes the tokens at the end of its context, all continuations of that request are scored
    from the last boundary that they have in common, so that they stay comparable.
    """
    asked = Asked()
    prompts = _rendered(text, requests, asked)
    ids = text.encode(
        part
        for index, prompt in prompts.items()
        for part in (prompt, *(prompt + c for c in requests[index].continuations))
    )
    tokenizer = text.tokenizer
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    known: dict[bytes, int] = {}
    for index, prompt in prompts.items():
        head = ids[prompt]
        wholes = [ids[prompt + continuation] for continuation in requests[index].continuations]
        if head is None or any(whole is None for whole in wholes):
            asked.errors[index] = UNEQUAL
            continue
        if not len(head):
            if start is None:
                asked.errors[index] = EMPTY
                continue
            first = np.asarray([start], dtype=np.int32)
            head, wholes = first, [np.concatenate([first, whole]) for whole in wholes if whole is not None]
        full = [whole for whole in wholes if whole is not None]
        longest = max((len(whole) for whole in full), default=len(head))
        if longest > context:
            asked.errors[index] = too_long(longest, context)
            continue
        boundary = min((common(head, whole) for whole in full), default=len(head))
        if not boundary:
            asked.errors[index] = "a continuation changes the first token of its context"
            continue
        asked.prompts[index] = boundary
        for number, whole in enumerate(full):
            body = whole[: max(boundary, len(whole) - 1)]
            sequence = known.setdefault(body.tobytes(), len(asked.sequences))
            if sequence == len(asked.sequences):
                asked.sequences.append(body)
            asked.reads.append(Read(sequence, boundary, whole[boundary:]))
            asked.source.append((index, number))
    return asked


def ask_hidden(text: Text, requests: Sequence[HiddenStates], context: int, depth: int) -> Asked:
    """One look per request that can be asked. `depth` is the number of blocks."""
    asked = Asked()
    prompts: dict[int, str] = {}
    for index, request in enumerate(requests):
        try:
            prompts[index] = (
                request.text
                if isinstance(request.text, str)
                else text.render(request.text, opened=request.text[-1].role != "assistant")
            )
        except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
            asked.errors[index] = f"the chat template refuses the messages ({type(error).__name__})"
    ids = text.encode(prompts.values())
    for index, prompt in prompts.items():
        request, tokens = requests[index], ids[prompt]
        if tokens is None or not len(tokens) or len(tokens) > context:
            asked.errors[index] = (
                UNEQUAL if tokens is None else too_long(len(tokens), context) if len(tokens) else EMPTY
            )
            continue
        layers = tuple(layer + depth + 1 if layer < 0 else layer for layer in request.layers)
        if request.positions == "last":
            positions: tuple[int, ...] = (len(tokens) - 1,)
        elif request.positions == "mean":
            positions = tuple(range(len(tokens)))
        else:
            positions = tuple(p + len(tokens) if p < 0 else p for p in request.positions)
        if not layers or not all(0 <= layer <= depth for layer in layers):
            asked.errors[index] = f"no such layer: asked {request.layers}, layers 0 to {depth}"
        elif not positions or not all(0 <= position < len(tokens) for position in positions):
            asked.errors[index] = f"no such position: asked {request.positions}, {len(tokens)} tokens"
        else:
            asked.prompts[index] = len(tokens)
            asked.source.append((index, 0))
            asked.looks.append(Look(len(asked.sequences), layers, positions))
            asked.sequences.append(tokens)
    return asked
