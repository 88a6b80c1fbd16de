"""Debug logging put into Python by its syntax tree: every assignment, entry, exit and loop step is printed.

Whole lines are put in and nothing else is touched, so that `without_logging` gives the text back, sign by sign.
The printed lines only read names: what the code computes stays as it was.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MARK = "[debug]"
_LINE = re.compile(r"""^[ \t]*print\(f?"\[debug\] .*"\)\n""", re.MULTILINE)
_LAST = re.compile(r"""(?:\n[ \t]*print\(f?"\[debug\] [^\n]*"\))+\Z""")
_FENCED = re.compile(r"(^```[ \t]*(?:python3?|py)?[ \t]*\n)(.*?)(^```)", re.MULTILINE | re.DOTALL | re.IGNORECASE)
_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def with_logging(text: str) -> str:
    """The text with logging in its fenced Python, or in all of it where it is a program.

    Else in the part from its first `def`, `class` or `import` line on, where that is a program. Text without Python
    that has something to log, or that prints such lines already, comes back as it is.
    """
    if MARK in text:
        return text
    if "```" in text:
        return _FENCED.sub(lambda found: found[1] + _logged(found[2]) + found[3], text)
    start = re.search(r"^(?:def|class|import|from|async def) ", text, re.MULTILINE)
    for at in (0, start.start() if start else 0):
        made = _logged(text[at:])
        if made != text[at:]:
            return text[:at] + made
    return text


def without_logging(text: str) -> str:
    """Inverse of `with_logging`."""
    return _LINE.sub("", _LAST.sub("", text))


def _logged(code: str) -> str:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return code
    if "\r" in code or "\f" in code:
        return code
    lines = code.split("\n")
    made = []
    wanted = sorted(_in_body(tree.body, lines, ""), key=lambda line: line[:3])
    for number in range(len(lines) + 1):
        made += [line.text for line in wanted if line.at == number]
        made += lines[number : number + 1]
    new = "\n".join(made)
    try:
        ast.parse(new)
    except SyntaxError:
        return code
    return new


class _Line(NamedTuple):
    """A line to put in. At one place, what follows a statement stands before what opens the next, deepest first."""

    at: int
    """Index of the line to stand before."""
    opens: bool
    depth: tuple[int, bool]
    """Minus the indentation, and whether it is a function's end."""
    text: str


def _line(at: int, indent: str, words: str, *, opens: bool = False, end: bool = False) -> _Line:
    depth = (0, False) if opens else (-len(indent), end)
    return _Line(at, opens, depth, f'{indent}print({"f" if "{" in words else ""}"{MARK} {words}")')


def _in_body(body: Sequence[ast.stmt], lines: Sequence[str], function: str) -> Iterator[_Line]:
    for statement in body:
        indent = _own_lines(statement, lines)
        if indent is not None:
            yield from _around(statement, lines, indent, function)
        inside = statement.name if isinstance(statement, _FUNCTION) else function
        for inner in _bodies(statement):
            yield from _in_body(inner, lines, inside)


def _around(statement: ast.stmt, lines: Sequence[str], indent: str, function: str) -> Iterator[_Line]:
    first, after = statement.lineno - 1, statement.end_lineno or statement.lineno
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if statement.value is not None:
            for name in dict.fromkeys(name for target in targets for name in _names(target)):
                yield _line(after, indent, f"{name} = {{{name}!r}}")
    elif isinstance(statement, ast.Return) and function:
        shown = f"{{{statement.value.id}!r}}" if isinstance(statement.value, ast.Name) else ""
        yield _line(first, indent, f"leave {function} {shown}".rstrip(), opens=True)
    elif isinstance(statement, (*_FUNCTION, ast.For, ast.AsyncFor)):
        yield from _at_start(statement, lines)


def _at_start(statement: ast.stmt, lines: Sequence[str]) -> Iterator[_Line]:
    body: list[ast.stmt] = statement.body  # type: ignore[attr-defined]
    has_docstring = isinstance(statement, _FUNCTION) and ast.get_docstring(statement, clean=False) is not None
    opening = body[1:] if has_docstring else body
    indent = _own_lines(opening[0], lines) if opening else None
    if indent is None:
        return
    at = min([opening[0].lineno, *(d.lineno for d in getattr(opening[0], "decorator_list", []))]) - 1
    if isinstance(statement, _FUNCTION):
        given = statement.args
        names = [a.arg for a in (*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg) if a]
        shown = ", ".join(f"{name}={{{name}!r}}" for name in names)
        yield _line(at, indent, f"enter {statement.name}({shown})", opens=True)
        last = body[-1]
        if not isinstance(last, ast.Return | ast.Raise) and _own_lines(last, lines) is not None:
            yield _line(last.end_lineno or last.lineno, indent, f"leave {statement.name}", end=True)
    elif isinstance(statement, ast.For | ast.AsyncFor):
        for name in _names(statement.target):
            yield _line(at, indent, f"step {name} = {{{name}!r}}", opens=True)


def _names(target: ast.expr) -> Iterator[str]:
    """Names that can be read again without side effect: `x`, `self.x`, and those within a tuple."""
    if isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            yield from _names(element)
    elif isinstance(target, ast.Starred):
        yield from _names(target.value)
    elif isinstance(target, ast.Name) or (isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name)):
        yield ast.unparse(target)


def _bodies(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        inner = getattr(statement, name, None)
        if isinstance(inner, list) and inner and isinstance(inner[0], ast.stmt):
            yield inner
    for part in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
        yield part.body


def _own_lines(statement: ast.stmt, lines: Sequence[str]) -> str | None:
    """The statement's indentation when it shares no line with another; None when it does."""
    decorated = getattr(statement, "decorator_list", [])
    line = lines[min([statement.lineno, *(d.lineno for d in decorated)]) - 1]
    indent = line[: len(line) - len(line.lstrip(" \t"))]
    end = lines[(statement.end_lineno or statement.lineno) - 1].encode()[statement.end_col_offset or 0 :].decode()
    alone = len(indent) == statement.col_offset and (not end.strip() or end.lstrip().startswith("#"))
    return indent if alone else None
