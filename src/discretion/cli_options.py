"""Command-line options made from the fields of a configuration: their names, help, environment and defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel


def configured(
    kind: type[BaseModel], only: Collection[str] = (), *, into: str = "given"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb one option per field of a configuration, or those of `only`.

    They arrive together as its argument `into`, unset ones as None.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        own = [p for name, p in inspect.signature(verb, eval_str=True).parameters.items() if name != into]

        def command(**values: Any) -> None:
            given = {name: values.pop(name) for name in names}
            verb(**{into: _nested(kind, given)}, **values)

        fields = [(name, option) for name, option in _fields(kind) if not only or name in only]
        names = [name for name, _ in fields]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        parameters += [
            inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=a) for n, a in fields
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__doc__, command.__name__ = verb.__doc__, verb.__name__
        return command

    return decorate


def _fields(kind: type[BaseModel]) -> list[tuple[str, Any]]:
    fields: list[tuple[str, Any]] = []
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            fields += _fields(field.annotation)
            continue
        default = field.get_default(call_default_factory=True)
        words = field.description or ""
        if not field.is_required() and default is not None and default is not False and default != {}:
            words += f" [default: {','.join(default) if isinstance(default, tuple) else default}]"
        flag = f"--{name.replace('_', '-')}"
        option = typer.Option(flag, help=words, envvar=f"DISCRETION_{name.upper()}", show_envvar=False)
        fields.append((name, Annotated[_on_command_line(field.annotation), option]))
    return fields


def _on_command_line(annotation: Any) -> Any:
    """The type typer reads for a field; None always stands for `not given`."""
    if get_origin(annotation) is Literal or get_origin(annotation) is tuple:
        return str | None
    if get_origin(annotation) is not None and issubclass(Mapping, get_origin(annotation)):
        return list[str] | None
    plain = next((a for a in get_args(annotation) if a is not type(None)), annotation)
    return plain | None


def _nested(kind: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """Flat command-line values in the shape of the configuration."""
    values: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            inner = {k: v for k, v in _nested(field.annotation, given).items() if v is not None}
            values[name] = inner or None
        elif name in given:
            values[name] = given[name] if given[name] != [] else None
    return values
