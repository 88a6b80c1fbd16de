"""A study file: models × data × factors × tunings × seeds, how they are audited, and the contrasts declared beforehand.

`read(path)` checks all of it before any work: an unknown key names the nearest, a key that comes twice, a contrast or
a transform that names nothing is one line. Defaults of tunings and audits are those of `TuneConfig` and `AuditConfig`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from discretion.config import AuditConfig
from discretion.data.transforms import Step, parse
from discretion.errors import ConfigError, nearest
from discretion.schema.mappings import unique
from discretion.tune_config import TuneConfig

AXES = ("model", "data", "tuning", "seed", "checkpoint")
"""Names of coordinates that every cell has; a factor has another name."""
OURS = frozenset(("base", "tuned", "out", "cache", "train_data", "held_out"))
"""Options of an audit that a study sets itself."""
_NAME = re.compile(r"[^\W_][^/\x00-\x1f=]*")
_NAMED = "a name begins with a letter or digit and holds no / and no ="

Selection = Mapping[str, tuple[str, ...]]
"""Axis to the levels that count; an axis that is not named counts whole."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(_Part):
    """One model; a plain text is its `base`."""

    base: str = Field(description="testbed, a folder or a hub id.")
    tune: Mapping[str, Any] = Field({}, description="Options of tuning for this model, over those of the tuning.")
    audit: Mapping[str, Any] = Field({}, description="Options of audits of this model, over those of the study.")


class DataConfig(_Part):
    """One data set; a plain text is its `set`."""

    set: str = Field(description="recipe:NAME, a file, a folder or a hub id.")
    form: str | None = Field(None, description="Name of the set's form, where the columns fit several.")
    n: int | None = Field(None, ge=1, description="Rows of a recipe; of anything else, the first N rows.")
    seed: int = Field(0, ge=0, description="Seed of the rows and of every draw among them.")
    draw: Literal["once", "each seed"] = Field("once", description="The same rows for all seeds, or others for each.")
    transforms: tuple[Any, ...] = Field((), description="Steps, in order.")
    held_out: float | None = Field(
        None, gt=0, lt=1, description="Share of the rows kept from training; turns the memorisation suites on."
    )
    measured_on: str | None = Field(
        None,
        description="Data set whose rows, before factors, the memorisation suites ask for; by default the own.",
    )

    @field_validator("transforms")
    @classmethod
    def _parsed(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return _steps(value)


class ContrastConfig(_Part):
    """Cells against cells, the same in all that is not named: `of` minus `minus`."""

    name: str
    of: Selection
    minus: Selection

    @field_validator("of", "minus", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return _selection(value)


class StudyConfig(_Part):
    """A whole study."""

    name: str = Field(description="Name of the study, and of its folder.")
    about: str = Field("", description="What it asks, for the report.")
    models: Mapping[str, ModelConfig] = Field(min_length=1)
    data: Mapping[str, DataConfig] = Field(min_length=1)
    factors: Mapping[str, Mapping[str, tuple[Any, ...]]] = Field(
        {}, description="Factor to level to transforms; the first level is what others are compared with."
    )
    tuning: Mapping[str, Mapping[str, Any]] = Field({"default": {}}, description="Name to options of the tuning.")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="Seeds of the tuning.")
    audit: Mapping[str, Any] = Field({}, description="Options of the audits: probes, source, limit, …")
    checkpoints: bool = Field(False, description="Audit what checkpoint_every keeps, too.")
    skip: tuple[Selection, ...] = Field((), description="Combinations that are not run.")
    contrasts: tuple[ContrastConfig, ...] = ()
    metrics: tuple[str, ...] = Field((), description="Figures beside the primary ones, as 'probe: metric'.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, values: Any) -> Any:
        """A model or a data set may be written as a plain text."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for part, key in (("models", "base"), ("data", "set")):
            named = values.get(part)
            if isinstance(named, dict):
                values[part] = {str(k): {key: v} if isinstance(v, str) else v for k, v in named.items()}
        if isinstance(values.get("factors"), dict):
            values["factors"] = {
                str(name): {str(level): steps or () for level, steps in levels.items()}
                if isinstance(levels, dict)
                else levels
                for name, levels in values["factors"].items()
            }
        return values

    @field_validator("name")
    @classmethod
    def _folder(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(f"{value!r} is no name of a folder; {_NAMED}")
        return value

    @field_validator("factors")
    @classmethod
    def _factors(cls, value: Mapping[str, Mapping[str, tuple[Any, ...]]]) -> Any:
        for name, levels in value.items():
            if name in AXES:
                raise ValueError(f"a factor cannot be called {name!r}; that is a coordinate of every cell")
            if not levels:
                raise ValueError(f"{name} has no level; write at least two")
        return {name: {level: _steps(steps) for level, steps in levels.items()} for name, levels in value.items()}

    @field_validator("skip", mode="before")
    @classmethod
    def _skipped(cls, value: Any) -> Any:
        return [_selection(one) for one in value] if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _whole(self) -> StudyConfig:
        for axis, levels in self.axes().items():
            for level in levels:
                if not _NAME.fullmatch(level):
                    raise ValueError(f"{axis} {level!r}: {_NAMED}")
            if len(set(levels)) < len(levels):
                raise ValueError(f"{axis} {max(levels, key=levels.count)!r} is there twice; two cells had one name")
        for where, steps in self._all_steps():
            for other in (other for step in steps for other in step.others if other not in self.data):
                raise ValueError(f"{where}: a step names the data set {other!r}; {nearest(other, self.data)}")
        for name, data in self.data.items():
            asked = data.measured_on
            if asked is not None and asked not in self.data:
                raise ValueError(f"data {name!r}: measured_on names {asked!r}; {nearest(asked, self.data)}")
            if asked is not None and self.data[asked].held_out is None:
                raise ValueError(f"data {name!r}: measured_on {asked!r}, which holds no rows out; give it held_out")
        for what, selection in (
            *(("skip", one) for one in self.skip),
            *((f"contrast {c.name!r}", side) for c in self.contrasts for side in (c.of, c.minus)),
        ):
            self._check(what, selection)
        names = [contrast.name for contrast in self.contrasts]
        if len(set(names)) < len(names):
            raise ValueError(f"two contrasts have the name {max(names, key=names.count)!r}; give each its own")
        for name in self.models:
            self.audit_options(name, "x")
            for tuning in self.tuning:
                self.tune_options(name, tuning, 0, "x")
        return self

    def _check(self, what: str, selection: Selection) -> None:
        axes = self.axes()
        for axis, levels in selection.items():
            if axis == "checkpoint" and self.checkpoints:
                continue
            if axis not in axes:
                raise ValueError(f"{what}: no axis {axis!r}; {nearest(axis, axes)}")
            for level in (level for level in levels if level not in axes[axis]):
                raise ValueError(f"{what}: {axis} has no level {level!r}; {nearest(level, axes[axis])}")

    def _all_steps(self) -> list[tuple[str, tuple[Step, ...]]]:
        return [
            *((f"data {name!r}", data.transforms) for name, data in self.data.items()),
            *((f"{name} {level!r}", steps) for name, levels in self.factors.items() for level, steps in levels.items()),
        ]

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Axis to its levels, in the order of the file; `checkpoint` is known only when a tuning is done."""
        return {
            "model": tuple(self.models),
            "data": tuple(self.data),
            **{name: tuple(levels) for name, levels in self.factors.items()},
            "tuning": tuple(self.tuning),
            "seed": tuple(str(seed) for seed in self.seeds),
        }

    def tune_options(self, model: str, tuning: str, seed: int, base: str) -> TuneConfig:
        """The tuning of one cell. Raises `ValueError` in one line."""
        given = {f"tuning {tuning!r}": self.tuning[tuning], f"model {model!r}: tune": self.models[model].tune}
        options: TuneConfig = _built(TuneConfig, given, {"base": base, "seed": seed}, ("base", "seed"))
        return options

    def audit_options(self, model: str, base: str, **more: Any) -> AuditConfig:
        """The audit of one model, against itself unless told otherwise. Raises `ValueError` in one line."""
        given = {"audit": self.audit, f"model {model!r}: audit": self.models[model].audit}
        options: AuditConfig = _built(AuditConfig, given, {"tuned": base, "base": base, **more}, OURS)
        return options


def _built(
    kind: type[Any], given: Mapping[str, Mapping[str, Any]], ours: Mapping[str, Any], refused: Collection[str]
) -> Any:
    """Options of several places of the file, the later ones over the earlier; an error names the place."""
    for where, options in given.items():
        for key in options:
            if key in refused:
                raise ValueError(f"{where}: {key} is set by the study; leave it out")
    try:
        return kind.model_validate({key: value for part in (*given.values(), ours) for key, value in part.items()})
    except ValidationError as error:
        wrong = next(iter(_gravest(error)["loc"]), None)
        named = [where for where, options in given.items() if (options if wrong is None else wrong in options)]
        # Options that do not go together may stand in any place; of one option the last place counts.
        places = " with ".join(named if wrong is None else named[-1:]) or next(iter(given))
        raise ValueError(f"{places}: {_first(kind, error)}") from None


def _steps(written: Sequence[Any]) -> tuple[Step, ...]:
    try:
        return tuple(step if isinstance(step, Step) else parse(step) for step in written)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _selection(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {
        str(axis): tuple(str(level) for level in levels) if isinstance(levels, list | tuple) else (str(levels),)
        for axis, levels in value.items()
    }


# ------------------------------------------------------------------------------------------------ the file


_Loader = unique(yaml.SafeLoader)


def read(path: Path) -> StudyConfig:
    """The study in a file. Raises `ConfigError` in one line that names the file, and the line or the key."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        try:
            written = loader.get_single_data()
        finally:
            loader.dispose()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a readable study file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark, why = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML ({why or 'it cannot be read'}); repair the file") from None
    if not isinstance(written, dict):
        raise ConfigError(f"{path}: holds no `key: value` lines; known keys: {', '.join(StudyConfig.model_fields)}")
    try:
        return StudyConfig.model_validate(written)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first(StudyConfig, error)}") from None


def _gravest(error: ValidationError) -> Any:
    # A misspelt key also makes another one missing: the misspelling is what to tell.
    return min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")


def _first(kind: type[BaseModel], error: ValidationError) -> str:
    first = _gravest(error)
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {path!r}; {nearest(str(first['loc'][-1]), _known(kind, first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"{path} is missing; write it into the file"
    message = first["msg"].removeprefix("Value error, ")
    return f"{path}: {message}" if path else message


def _known(kind: Any, inside: Sequence[int | str]) -> Sequence[str]:
    """Keys of the part found by walking into fields, lists and mappings."""
    for step in inside:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[str(step)].annotation
        else:
            kind = next((a for a in get_args(kind) if isinstance(a, type) and issubclass(a, BaseModel)), kind)
    return tuple(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else ()
