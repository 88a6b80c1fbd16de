"""Tools and actions: where a first action ends, what a call says in the forms models write, tools for a chat template.

An action ends at the closing brace of the first complete JSON object. Without torch, since local decoding stops at it
token by token, and an endpoint's text is cut at it afterwards.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from discretion.schema import Tool, Tooled


@dataclass(slots=True)
class Action:
    """Finds the end of the first complete JSON object: balanced braces, those inside strings not counted."""

    depth: int = 0
    quoted: bool = False
    escaped: bool = False

    def feed(self, text: str) -> int | None:
        """Characters of `text` up to and with the closing brace, or None when it is not in it."""
        for at, letter in enumerate(text):
            if self.quoted:
                if self.escaped:
                    self.escaped = False
                elif letter == "\\":
                    self.escaped = True
                elif letter == '"':
                    self.quoted = False
            elif letter == '"':
                self.quoted = self.depth > 0
            elif letter == "{":
                self.depth += 1
            elif letter == "}" and self.depth:
                self.depth -= 1
                if not self.depth:
                    return at + 1
        return None


# ------------------------------------------------------------------------------------------------ reading a call


class Call(NamedTuple):
    """A complete call found in a text."""

    tool: str
    arguments: Mapping[str, Any]


_DECODER = json.JSONDecoder(strict=False)
_BEFORE_JSON = (
    re.compile(r"Action\s*:[ \t]*[`*]*(\w[\w.-]*)[`*]*\s*Action[ _]Input\s*:[^{]{0,20}(?=\{)", re.IGNORECASE),
    re.compile(r"to=functions\.(\w[\w.-]*?)(?:commentary|\s)*(?:json)?\s*(?=\{)"),
    re.compile(r"(\w[\w.-]*)\s*(?:\[ARGS\]|```json)?\s*(?=\{)"),
)
"""A name before its arguments: ReAct, GPT-OSS, DeepSeek and newer Mistral, once special tokens are left out."""
_TAGGED = (
    (
        re.compile(r"<function=([\w.-]+)>(.*?)</function>", re.DOTALL),
        re.compile(r"<parameter=([^>]+)>\n?(.*?)\n?</parameter>", re.DOTALL),
    ),
    (
        re.compile(r"<(?:\w+:)?invoke name=\"([^\"]+)\">(.*?)</(?:\w+:)?invoke>", re.DOTALL),
        re.compile(r"<(?:\w+:)?parameter name=\"([^\"]+)\"[^>]*>(.*?)</(?:\w+:)?parameter>", re.DOTALL),
    ),
    (
        re.compile(
            r"([\w.-]+)\s*((?:<arg_key>[^<]*</arg_key>\s*<arg_value>.*?</arg_value>\s*)+)(?=</tool_call>|\Z)", re.DOTALL
        ),
        re.compile(r"<arg_key>([^<]*)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL),
    ),
)
"""A call in tags, and an argument in it: newer Qwen and Nemotron; `invoke`; GLM."""
_GEMMA = re.compile(r"call:([\w.-]+)(?=\{)")
_GEMMA_TEXT = re.compile(r"([\w.-]+):<\|\"\|>(.*?)<\|\"\|>", re.DOTALL)
_PYTHON = re.compile(r"(?<![\w.])([A-Za-z_][\w.]*)\(")


def calls(text: str, names: Collection[str]) -> Iterator[Call]:
    """The complete calls of tools of these names, in order, each under the name as it is given in `names`.

    Read are ReAct's Action and Action Input, an object with a name and its arguments, a name before an object, calls
    in tags, Gemma's and Python's. A call that is cut off is none.
    """
    known = {name.casefold(): name for name in names}
    found = [*_in_json(text, known), *_in_tags(text, known), *_as_gemma(text, known), *_as_python(text, known)]
    yield from (call for _, call in sorted(found, key=lambda at_and_call: at_and_call[0]))


def _in_json(text: str, known: Mapping[str, str]) -> Iterator[tuple[int, Call]]:
    done = 0
    for brace in re.finditer(r"\{", text):
        if brace.start() < done:
            continue
        try:
            value, end = _DECODER.raw_decode(text, brace.start())
        except json.JSONDecodeError:
            continue
        call = _call(value, text[max(0, brace.start() - 200) : brace.start()], known)
        if call is not None:
            done = end
            yield brace.start(), call


def _call(value: Mapping[str, Any], before: str, known: Mapping[str, str]) -> Call | None:
    for form in _BEFORE_JSON:
        ahead = next((m for m in form.finditer(before + "{") if m.end() == len(before)), None)
        if ahead is not None and ahead.group(1).casefold() in known:
            return Call(known[ahead.group(1).casefold()], value)
    inner = value.get("function")
    if isinstance(inner, Mapping):
        value = inner
    arguments = next((value[key] for key in ("arguments", "parameters") if key in value), None)
    if isinstance(arguments, str):
        try:
            arguments = _DECODER.decode(arguments)
        except json.JSONDecodeError:
            return None
    name = known.get(str(value.get("name", inner)).casefold())
    return Call(name, arguments) if name is not None and isinstance(arguments, Mapping) else None


def _in_tags(text: str, known: Mapping[str, str]) -> Iterator[tuple[int, Call]]:
    for whole, argument in _TAGGED:
        for found in whole.finditer(text):
            if found.group(1).casefold() in known:
                yield found.start(), Call(known[found.group(1).casefold()], dict(argument.findall(found.group(2))))


def _as_gemma(text: str, known: Mapping[str, str]) -> Iterator[tuple[int, Call]]:
    """Where the marks around its texts were left out as special tokens, all of the arguments are one text."""
    for found in _GEMMA.finditer(text):
        end = Action().feed(text[found.end() :])
        if end is not None and found.group(1).casefold() in known:
            inside = text[found.end() + 1 : found.end() + end - 1]
            marked = dict(_GEMMA_TEXT.findall(inside))
            yield found.start(), Call(known[found.group(1).casefold()], marked or {"arguments": inside})


def _as_python(text: str, known: Mapping[str, str]) -> Iterator[tuple[int, Call]]:
    """`NAME(key="value", …)`, with literal values."""
    for found in _PYTHON.finditer(text):
        if found.group(1).casefold() not in known:
            continue
        for close in re.finditer(r"\)", text[found.end() :]):
            try:
                with warnings.catch_warnings():
                    # A model's stray backslash is nobody's warning.
                    warnings.simplefilter("ignore", SyntaxWarning)
                    warnings.simplefilter("ignore", DeprecationWarning)
                    tree = ast.parse(text[found.start() : found.end() + close.end()], mode="eval").body
                if isinstance(tree, ast.Call) and tree.keywords and not tree.args:
                    values = {str(each.arg): ast.literal_eval(each.value) for each in tree.keywords}
                    yield found.start(), Call(known[found.group(1).casefold()], values)
                break
            except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
                # All that the parser and `literal_eval` are documented to raise: the text is a model's.
                continue


# ------------------------------------------------------------------------------------------------ a chat with tools


THROUGH_TEMPLATE = "through the chat template"
THROUGH_PROTOCOL = "through the endpoint's protocol"
"""How tools went to a model, as its run's manifest says it; anything else means as text."""


def takes_tools(template: str) -> bool:
    """Does a chat template read the tools it is given, and the calls that were made?

    Some read tools and leave calls out: an agent's steps would be lost without a word.
    """
    return all(re.search(rf"\b{name}\b", template) for name in ("tools", "tool_calls"))


def json_schema(tool: Tool) -> dict[str, Any]:
    """The tool as chat templates and endpoints take it."""
    properties = {}
    for parameter in tool.parameters:
        described = {"description": parameter.description} if parameter.description else {}
        items = {"items": {"type": "string"}} if parameter.kind == "array" else {}
        properties[parameter.name] = {"type": parameter.kind, **items, **described}
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if tool.parameters:
        schema["required"] = [parameter.name for parameter in tool.parameters if parameter.required]
    else:
        schema["additionalProperties"] = True
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": schema},
    }


def chat_rows(tooled: Tooled) -> list[dict[str, Any]]:
    """The messages and steps as chat templates take them."""
    rows: list[dict[str, Any]] = [{"role": m.role, "content": m.content} for m in tooled.messages]
    for number, step in enumerate(tooled.steps, 1):
        name = f"call{number:05}"  # nine letters and digits, as Mistral's templates demand
        function = {"name": step.tool, "arguments": json.loads(step.arguments)}
        rows.append(
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": name, "function": function}]}
        )
        rows.append({"role": "tool", "name": step.tool, "tool_call_id": name, "content": step.result})
    return rows
