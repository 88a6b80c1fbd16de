"""What an endpoint's answer says: the text, the log-probabilities of options, or the option that it was held to.

What is no text of the model (no choice, no content, an option that was not offered) is an error in the reply, never a
text and never a guess.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from discretion.models.action import Action
from discretion.models.endpoint import Answer, mapping
from discretion.schema import Reply, Sampling

PLACEHOLDER = -9999.0
"""What servers write for a token that they have no number for."""
NO_LOGPROBS = "the endpoint gives no log-probabilities"
NOT_ON_TOP = "option not among the top log-probabilities"
NOT_OFFERED = "the endpoint did not keep to the options"


# ------------------------------------------------------------------------------------------------ text


def _said(message: Mapping[str, Any]) -> Any:
    """The content, and behind it the first call of a tool as an object with its name and arguments."""
    content, listed = message.get("content"), message.get("tool_calls")
    function = mapping(mapping(listed[0]).get("function")) if isinstance(listed, list) and listed else {}
    if not isinstance(function.get("name"), str):
        return content
    call = json.dumps({"name": function["name"], "arguments": function.get("arguments")}, ensure_ascii=False)
    return f"{content}\n{call}" if isinstance(content, str) and content else call


def read_text(answer: Answer, sampling: Sampling) -> Reply:
    """The text of an answer, cut as `sampling` asks; what is no text of the model is an error."""
    choice = _choice(answer)
    if choice is None:
        return Reply(error="the endpoint gave no choice")
    text, finish = _said(mapping(choice.get("message"))), choice.get("finish_reason")
    if finish == "content_filter":
        return Reply(error="the endpoint filtered the answer")
    if not isinstance(text, str):
        return Reply(error="the endpoint gave a choice without text")
    # half of a pair, as a cut emoji leaves it, is no character: nothing could be written with it
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    stop: Literal["end", "stop", "action", "length"] = "length" if finish == "length" else "end"
    ends: list[tuple[int, Literal["stop", "action"]]] = [
        (at + len(mark), "stop") for mark in sampling.stop if (at := text.find(mark)) >= 0
    ]
    if sampling.until == "action" and (close := Action().feed(text)) is not None:
        ends.append((close, "action"))
    if ends:
        end, stop = min(ends)
        text = text[:end]
    return _counted(answer, text=text, stop=stop)


# ------------------------------------------------------------------------------------------------ log-probabilities


def first_tokens(answer: Answer) -> list[tuple[str, float]]:
    """The most probable first tokens with their log-probabilities in nats; empty where the endpoint gives none."""
    content = mapping(mapping(_choice(answer)).get("logprobs")).get("content")
    first = mapping(content[0]) if isinstance(content, list) and content else {}
    listed = first.get("top_logprobs")
    found = [(e.get("token"), e.get("logprob")) for e in map(mapping, listed if isinstance(listed, list) else [])]
    numbers = [(t, float(p)) for t, p in found if isinstance(t, str) and isinstance(p, int | float)]
    return [(t, p) for t, p in numbers if math.isfinite(p) and p > PLACEHOLDER]


def read_scores(answer: Answer, options: Sequence[str]) -> Reply:
    """The log-probability of each option as the first token.

    An option that is not listed is at most as probable as the last that is. That bound stands for it where another
    option is above the bound, so that the winner is the same, and is marked in `bounded`; otherwise, or where the
    option may be spelled in several tokens, of which the first is listed, nothing can be said.
    """
    top = first_tokens(answer)
    if not top:
        return Reply(error=NO_LOGPROBS)
    found = [_sum([p for token, p in top if token == option]) for option in options]
    bound = min(p for _, p in top)
    listed = [p for p in found if p is not None]
    if len(listed) < len(options):
        spelled = any(
            token and option.startswith(token)
            for option, p in zip(options, found, strict=True)
            if p is None
            for token, _ in top
        )
        if spelled or max(listed, default=-math.inf) <= bound:
            return Reply(error=NOT_ON_TOP)
    return _counted(
        answer,
        logprobs=tuple(bound if p is None else p for p in found),
        lengths=tuple(1 for _ in options),
        bounded=tuple(place for place, p in enumerate(found) if p is None),
    )


def _sum(logprobs: Sequence[float]) -> float | None:
    """ln of the summed probabilities: several tokens may be written alike."""
    if not logprobs:
        return None
    return max(logprobs) if len(logprobs) == 1 else math.log(math.fsum(map(math.exp, logprobs)))


# ------------------------------------------------------------------------------------------------ constrained decoding


class Constraint(NamedTuple):
    """A way to hold an answer to one of several options."""

    name: str
    """As it stands in the manifest."""
    body: Callable[[Sequence[str]], dict[str, Any]]
    """What it adds to a request."""


def _schema(options: Sequence[str]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"choice": {"type": "string", "enum": list(options)}},
        "required": ["choice"],
        "additionalProperties": False,
    }
    held = {"name": "choice", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": held}}


CONSTRAINTS = (
    Constraint("response_format json_schema", _schema),
    Constraint(
        "vLLM structured_outputs", lambda options: {"extra_body": {"structured_outputs": {"choice": list(options)}}}
    ),
    Constraint("vLLM guided_choice", lambda options: {"extra_body": {"guided_choice": list(options)}}),
)
"""In the order they are tried: hosted models and most servers; vLLM; vLLM before 0.12."""


def read_choice(answer: Answer, options: Sequence[str]) -> Reply:
    """The option that the answer is, bare or as the JSON object of the schema: `chosen`, and no number."""
    said = read_text(answer, Sampling())
    if said.text is None:
        return said
    text = said.text.strip()
    try:
        found: Any = json.loads(text)
    except ValueError:
        found = text
    word = mapping(found).get("choice") if isinstance(found, Mapping) else text
    return _counted(answer, chosen=options.index(word)) if word in options else Reply(error=NOT_OFFERED)


# ------------------------------------------------------------------------------------------------ both


def _choice(answer: Answer) -> Mapping[str, Any] | None:
    choices = answer.body.get("choices")
    return mapping(choices[0]) or None if isinstance(choices, list) and choices else None


def _counted(answer: Answer, **content: Any) -> Reply:
    return Reply(
        prompt_tokens=answer.usage("prompt_tokens") or 0,
        output_tokens=answer.usage("completion_tokens") or 0,
        seconds=answer.seconds,
        **content,
    )
