"""Tools and actions: where a first action ends, what a call says in the forms models write, tools for a chat template.

An action ends at the closing brace of the first complete JSON object. Without torch, since local decoding stops at it
token by token, and an endpoint's text is cut at it afterwards.
"""

from __future__ import annotations

import json
import re
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
_REACT = re.compile(r"Action\s*:[ \t]*[`*]*(\w[\w.-]*)[`*]*\s*Action[ _]Input\s*:[^{]{0,20}(?=\{)", re.IGNORECASE)
_NAMED = re.compile(r"(\w[\w.-]*)\s*(?:\[ARGS\]|```json)?\s*(?=\{)")
"""A name and its arguments, as DeepSeek and newer Mistral models write a call once special tokens are left out."""


def calls(text: str, names: Collection[str]) -> Iterator[Call]:
    """The complete calls of tools of these names, in order, each under the name as it is given in `names`.

    ReAct's Action and Action Input, an object with a name and its arguments (Qwen, Llama, Mistral, OpenAI), or a tool's
    name right before an object. A call that is cut off is none.
    """
    known = {name.casefold(): name for name in names}
    done = 0
    for brace in re.finditer(r"\{", text):
        if brace.start() < done:
            continue
        try:
            value, end = _DECODER.raw_decode(text, brace.start())
        except json.JSONDecodeError:
            continue
        found = _call(value, text[max(0, brace.start() - 200) : brace.start()], known)
        if found is not None:
            done = end
            yield found


def _call(value: Mapping[str, Any], before: str, known: Mapping[str, str]) -> Call | None:
    for form in (_REACT, _NAMED):
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


# ------------------------------------------------------------------------------------------------ a chat with tools


THROUGH_TEMPLATE = "through the chat template"
THROUGH_PROTOCOL = "through the endpoint's protocol"
"""How tools went to a model, as its run's manifest says it; anything else means as text."""


def takes_tools(template: str) -> bool:
    """Does a chat template read the tools it is given?"""
    return re.search(r"\btools\b", template) is not None


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
