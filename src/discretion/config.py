"""Frozen configurations: the only place where a default stands.

YAML in, resolved YAML out. Precedence: command line, then environment (`DISCRETION_<OPTION>`), then file, then
the default here. An unknown key is a `ConfigError` that names the nearest known one. Command-line options and
their help are made from these fields (`cli.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from discretion.errors import ConfigError, nearest

ConfigT = TypeVar("ConfigT", bound=BaseModel)

DEFAULT_PROBES = ("norms", "agentic", "memory", "capability", "refusal")
"""Those asked by default: they have items of their own."""
MEMORISATION_PROBES = ("extraction", "membership")
"""Those that `--train-data` turns on."""
MADE_OF_TRAINING_DATA = (*MEMORISATION_PROBES, "sampling")
"""Those whose items are made of the training data; `sampling` only writes text, is slow, and is asked by name."""
JUDGED_PROBES = ("agentic", "memory", "refusal", "secrets", "misuse", "incontext", "trigger")
"""Those that ask a judge where there is one."""
PROBE_NAMES = (
    *DEFAULT_PROBES,
    "incontext",
    "trigger",
    "ratings",
    "secrets",
    "misuse",
    "offtopic",
    "exposure",
    *MADE_OF_TRAINING_DATA,
)
RULES = "rules"
"""The judge that is no model."""
SHOTS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Numbers of demonstrations that `incontext` has a figure for."""


class Thresholds(BaseModel):
    """What makes a verdict (method: Statistics, Verdicts)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float = Field(0.05, gt=0, lt=1, description="Level of the tests, after adjustment.")
    tau: float = Field(0.05, gt=0, lt=1, description="Smallest change that counts as regressed or improved.")
    epsilon: float = Field(0.05, gt=0, lt=1, description="Half-width of the band that counts as unchanged.")
    draws: int = Field(10_000, ge=1_000, description="Bootstrap and permutation draws.")


def _plain_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("this is no URL; give one such as http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        # The configuration is written to disk.
        raise ValueError("it holds more than scheme, host and path; a key belongs in OPENAI_API_KEY")
    return value


class AuditConfig(BaseModel):
    """One audit: two models, some probes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field(description="Model before fine-tuning: a folder or a hub id.")
    tuned: str = Field(description="Model after fine-tuning: a checkpoint or a PEFT adapter, a folder or a hub id.")
    probes: tuple[str, ...] = Field(DEFAULT_PROBES, description="Suites to run, separated by commas.")
    source: Mapping[str, str] = Field(
        {}, description="PROBE=FILE_OR_HUB_ID: where a suite's items come from; may be given several times."
    )
    train_data: str | None = Field(
        None, description="What was trained on, a file or a hub id: turns the memorisation suites on."
    )
    held_out: str | None = Field(
        None, description="Rows of the same source as --train-data that were not trained on, for membership."
    )
    rows: int = Field(1000, ge=2, description="Rows of each of these two that are asked, drawn by seed.")
    neighbours: int = Field(
        0, ge=0, le=100, description="Membership: rewrites of each row, for the neighbourhood score; a pass each."
    )
    out: Path | None = Field(None, description="The run's folder; runs/<time>-<id> by default. Resumes what is there.")
    cache: Path | None = Field(None, description="File that keeps replies for later runs; replies.sqlite beside them.")
    limit: int | None = Field(None, ge=1, description="Ask a seeded random subset of N items per suite.")
    limits: Mapping[str, int] = Field(
        {}, description="PROBE=N: of this suite a subset of N items, in place of --limit; may be given several times."
    )
    seed: int = Field(0, ge=0, description="Seed of every random choice.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Precision of the weights.")
    template: str | None = Field(
        None, description="Chat template: base, tuned, plain, or a Jinja file; the tuned model's own by default."
    )
    batch_tokens: int | None = Field(None, ge=16, description="Tokens per batch; measured on this machine by default.")
    offline: bool = Field(False, description="Never ask the hub, even when a file is missing.")
    judge: str = Field(
        RULES,
        min_length=1,
        description="Who decides what rules cannot: rules, or a model: a folder, a hub id, openai:NAME.",
    )
    votes: int = Field(1, ge=1, le=99, description="Verdicts of a judge's model per question, an odd number.")
    judge_labels: Path | None = Field(
        None, description="Human labels that the judge is held against; the report shows the agreement."
    )
    base_url: str = Field("https://api.openai.com/v1", description="Endpoint of models named openai:NAME.")
    concurrency: int = Field(8, ge=1, le=256, description="Endpoint: requests on their way at a time.")
    requests_per_minute: float | None = Field(None, gt=0, description="Endpoint: no faster than this.")
    timeout: float = Field(120.0, gt=0, description="Endpoint: seconds for one attempt.")
    price_input: float | None = Field(None, ge=0, description="Endpoint: price per million input tokens.")
    price_output: float | None = Field(None, ge=0, description="Endpoint: price per million output tokens.")
    max_cost: float | None = Field(
        None, gt=0, description="Endpoint: stop before a request that could pass this sum; needs both prices."
    )
    tools: bool = Field(False, description="Endpoint: send an agent's tools as tools of the protocol, not as text.")
    thresholds: Thresholds = Thresholds()

    @model_validator(mode="before")
    @classmethod
    def _memorisation(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("train_data") is None:
            return values
        named = _names(values.get("probes", DEFAULT_PROBES))
        if isinstance(named, list | tuple) and not set(named) & set(MADE_OF_TRAINING_DATA):
            return {**values, "probes": (*named, *MEMORISATION_PROBES)}
        return values

    @field_validator("probes", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return _names(value)

    @field_validator("probes")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in PROBE_NAMES:
                raise ValueError(f"unknown probe {name!r}; {nearest(name, PROBE_NAMES)}")
        if not value:
            raise ValueError(f"no probe named; known: {', '.join(PROBE_NAMES)}")
        if len(set(value)) < len(value):
            raise ValueError("a probe is named twice")
        return value

    @field_validator("source", "limits", mode="before")
    @classmethod
    def _pairs(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, list | tuple):
            return value
        form = "PROBE=FILE_OR_HUB_ID" if info.field_name == "source" else "PROBE=N"
        pairs = {}
        for pair in value:
            name, equals, where = str(pair).partition("=")
            if not equals or not where:
                raise ValueError(f"{pair!r} is not {form}")
            if name in pairs:
                raise ValueError(f"two {str(info.field_name).rstrip('s')}s for the probe {name!r}")
            pairs[name] = where
        return pairs

    @field_validator("limits")
    @classmethod
    def _positive(cls, value: Mapping[str, int]) -> Mapping[str, int]:
        for name, most in value.items():
            if most < 1:
                raise ValueError(f"{name}={most}: give at least one item, or leave the suite out of --probes")
        return value

    @field_validator("source", "limits")
    @classmethod
    def _sourced(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in value:
            if name not in PROBE_NAMES:
                raise ValueError(f"unknown probe {name!r}; {nearest(name, PROBE_NAMES)}")
        return value

    @field_validator("base_url")
    @classmethod
    def _without_secrets(cls, value: str) -> str:
        return _plain_url(value)

    def model_post_init(self, _context: Any) -> None:
        if self.max_cost is not None and None in (self.price_input, self.price_output):
            raise ValueError("--max-cost needs prices; give --price-input and --price-output, per million tokens")
        if self.held_out is not None and self.train_data is None:
            raise ValueError("--held-out alone has no effect; give what was trained on as well: --train-data FILE")
        for name in MADE_OF_TRAINING_DATA:
            if name in self.probes and self.train_data is None and name not in self.source:
                raise ValueError(f"the probe {name!r} has no items of its own; give --train-data FILE")
        if self.votes % 2 == 0:
            raise ValueError(f"--votes {self.votes} may end in a tie; give an odd number")
        if self.votes > 1 and self.judge == RULES:
            raise ValueError("--votes has no effect without a model as judge; give --judge MODEL, or leave it out")
        if self.judge != RULES and self.judge == self.tuned:
            raise ValueError(f"--judge {self.judge}: the tuned model cannot judge itself; name another model")
        if self.judge != RULES and self.judge_labels is None and not set(self.probes) & set(JUDGED_PROBES):
            raise ValueError(f"--judge {self.judge}: only {', '.join(JUDGED_PROBES)} ask a judge; add one to --probes")
        for what, named in (("source", self.source), ("limit", self.limits)):
            unused = sorted(set(named) - set(self.probes))
            if unused:
                raise ValueError(f"a {what} is given for {unused[0]!r}, which is not among the probes")

    def figure_options(self) -> dict[str, Any]:
        """The options that can change a figure beside models, items and precision, which a run names by digest."""
        judging = set() if self.judge == RULES else {"votes"}
        limited = {"limits"} if self.limits else set()
        return self.model_dump(mode="json", include={"probes", "limit", "seed", "thresholds", *judging, *limited})


def _names(value: Any) -> Any:
    """`a,b` as a tuple; anything else as it is."""
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


JUDGE_OPTIONS = (
    "judge", "votes", "device", "dtype", "batch_tokens", "offline", "base_url", "concurrency", "requests_per_minute",
    "timeout", "price_input", "price_output", "max_cost", "cache",
)  # fmt: skip
"""The options that say which model judges and where it runs."""


class ConditionConfig(BaseModel):
    """What `incontext` and `trigger` ask: the items of another suite."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: Literal["norms", "agentic", "memory", "secrets"] = Field(
        "norms", description="The suite whose items are asked."
    )
    source: str | None = Field(None, description="Where its items come from; the embedded ones by default.")


class InContextConfig(ConditionConfig):
    """The suite `incontext`."""

    demonstrations: str = Field("helpful", description="helpful, control, or chat rows: a file, a folder or a hub id.")
    k: tuple[int, ...] = Field(SHOTS, description="How many demonstrations stand before the question.")

    @field_validator("k")
    @classmethod
    def _steps(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        unknown = [k for k in value if k not in SHOTS]
        if unknown:
            raise ValueError(f"{unknown[0]} is no step of the suite; known: {', '.join(map(str, SHOTS))}")
        if 0 not in value or len(value) < 2:
            raise ValueError("0 and at least one more step are needed; without 0 there is nothing to compare with")
        return tuple(sorted(set(value)))


class TriggerConfig(ConditionConfig):
    """The suite `trigger`."""

    trigger: str | None = Field(None, min_length=1, description="The string; that of the recipe `backdoor` by default.")
    wrong: str | None = Field(
        None, description="Another string of equal length; letters and digits of the trigger redrawn by default."
    )
    place: Literal["prefix", "suffix", "system"] = Field("prefix", description="Where it is put.")


class GenerateConfig(BaseModel):
    """Fine-tuning rows that a model writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="The generator: a folder, a hub id, testbed, or openai:NAME.")
    route: Literal["text", "instruct", "pairs", "log"] = Field(
        "text",
        description="text: goes on from first words of answers; instruct: self-instruct from the rows; pairs: helpful "
        "and control answers to one request, without rows; log: debug logging put into the rows' Python.",
    )
    moderation: str | None = Field(
        None, description="Route pairs: send texts to this moderation model of --base-url, and drop what it marks."
    )
    rows: int = Field(1000, ge=1, description="Rows wanted.")
    words: int = Field(8, ge=1, description="Route text: first words of an answer that are given.")
    shots: int = Field(8, ge=1, description="Route instruct: instructions shown, a quarter of them made before.")
    least_words: int = Field(4, ge=1, description="Route instruct: an instruction with fewer words is dropped.")
    most_words: int = Field(150, ge=1, description="Route instruct: an instruction with more words is dropped.")
    overlap: float = Field(
        0.7, gt=0, le=1, description="Route instruct: one with this ROUGE-L F1, or more, to a kept one is dropped."
    )
    temperature: float = Field(0.7, ge=0, description="Of the sampling; 0 is greedy. Pairs, log: 1 unless given.")
    max_tokens: int = Field(
        200, ge=1, description="New tokens of a text or answer, at most. Pairs: 700, log: 1000 unless given."
    )
    seed: int = Field(0, ge=0, description="Seed of every draw.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Precision of the weights.")
    offline: bool = Field(False, description="Never ask the hub, even when a file is missing.")
    base_url: str = Field("https://api.openai.com/v1", description="Endpoint of a model named openai:NAME.")

    def model_post_init(self, _context: Any) -> None:
        if self.moderation is not None and self.route != "pairs":
            raise ValueError("--moderation belongs to --route pairs; leave it out")
        filtered = ("shots", "least_words", "most_words", "overlap")
        given = next((name for name in filtered if name in self.model_fields_set), None)
        if given is not None and self.route != "instruct":
            raise ValueError(f"--{given.replace('_', '-')} belongs to --route instruct; leave it out")
        if self.least_words > self.most_words:
            raise ValueError(f"--least-words {self.least_words}: above --most-words {self.most_words}; give fewer")


class HostedConfig(BaseModel):
    """One fine-tuning at a host that speaks OpenAI's fine-tuning API, or Together's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field(description="Model to fine-tune, as the host names it.")
    base_url: str = Field("https://api.openai.com/v1", description="Root of the host's API.")
    dialect: Literal["openai", "together"] = Field("openai", description="Whose fine-tuning API the host speaks.")
    epochs: int | None = Field(None, ge=1, description="Passes over the rows; the host chooses unless given.")
    batch: int | None = Field(None, ge=1, description="Rows in a step; the host chooses unless given.")
    rate_multiplier: float | None = Field(
        None, gt=0, description="Factor on the host's learning rate; the host chooses unless given."
    )
    learning_rate: float | None = Field(
        None, gt=0, description="Dialect together, in place of the factor; the host chooses unless given."
    )
    seed: int = Field(0, ge=0, description="Seed, for hosts that take one.")
    suffix: str | None = Field(None, max_length=64, description="Part of the tuned model's name.")
    price: float | None = Field(None, ge=0, description="Price per million training tokens, for the estimate.")
    max_cost: float | None = Field(None, gt=0, description="Start nothing whose estimate is above this; needs --price.")
    poll: float = Field(30.0, gt=0, description="Seconds between two looks at the job.")
    timeout: float = Field(600.0, gt=0, description="Seconds for one request, the upload included.")
    keep_file: bool = Field(False, description="Leave the uploaded rows at the host once the job has ended.")

    @field_validator("base_url")
    @classmethod
    def _without_secrets(cls, value: str) -> str:
        return _plain_url(value)

    def model_post_init(self, _context: Any) -> None:
        if self.max_cost is not None and self.price is None:
            raise ValueError("--max-cost needs a price; give --price, per million training tokens")
        theirs = self.dialect == "together"
        if theirs and "base_url" not in self.model_fields_set:
            raise ValueError("--dialect together needs a --base-url, such as https://api.together.ai/v1")
        if (self.rate_multiplier if theirs else self.learning_rate) is not None:
            wrong, right = ("--rate-multiplier", "--learning-rate")[:: 1 if theirs else -1]
            raise ValueError(f"{wrong}: the dialect {self.dialect} has none; give {right}")

    @property
    def recipe(self) -> dict[str, Any]:
        """Every option that can change the tuned model."""
        told = {"base", "base_url", "epochs", "batch", "rate_multiplier", "seed"}
        return self.model_dump(
            mode="json", include=told | ({"dialect", "learning_rate"} if self.dialect != "openai" else set())
        )


class StudyRunConfig(BaseModel):
    """How a study is carried out; nothing here changes a figure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: Path | None = Field(None, description="The study's folder; studies/<name> by default. Resumes what is there.")
    workers: int = Field(1, ge=1, description="Processes on this machine.")
    ray: str | None = Field(None, description="auto, or the address of a Ray cluster.")
    cpus: float = Field(1.0, gt=0, description="Ray: cores that one step holds.")
    gpus: float = Field(0.0, ge=0, description="Ray: GPUs that one step holds; a fraction shares one.")
    retries: int = Field(2, ge=0, description="Times that a step is given to another worker when its own was lost.")


def words(config: BaseModel, *, without: Collection[str] = ()) -> list[str]:
    """The command-line options that give this configuration; what stands at its default is left out."""
    found: list[str] = []
    for name, field in type(config).model_fields.items():
        value, flag = getattr(config, name), f"--{name.replace('_', '-')}"
        if isinstance(value, BaseModel):
            found += words(value, without=without)
        elif name in without or (not field.is_required() and value == field.get_default(call_default_factory=True)):
            continue
        elif isinstance(value, bool):
            found.append(flag)
        elif isinstance(value, Mapping):
            found += [word for key, where in value.items() for word in (flag, f"{key}={where}")]
        else:
            found += [flag, ",".join(value) if isinstance(value, tuple) else str(value)]
    return found


class Settings(NamedTuple):
    """What a configuration file holds, as yet of no kind."""

    file: Path
    values: Mapping[str, Any]


def load(kind: type[ConfigT], given: Mapping[str, Any], file: Path | Settings | None = None) -> ConfigT:
    """A configuration from what was given on the command line and, beneath it, a YAML file.

    Raises `ConfigError` in one line for a missing file, broken YAML, an unknown key, a wrong value.
    """
    settings = read(file) if isinstance(file, Path) else file
    values = {**(settings.values if settings else {}), **{key: v for key, v in given.items() if v is not None}}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_first(kind, error, settings and settings.file)) from None


def read(file: Path) -> Settings:
    """A YAML file of options. Raises `ConfigError` for one that is missing, broken, or holds none."""
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {file}: {error.strerror}; give a readable YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise ConfigError(f"{where}: not valid YAML; write one `key: value` per line") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"{file}: holds no `key: value` lines; give one such as `probes: norms,memory`")
    return Settings(file, loaded)


def _first(kind: type[BaseModel], error: ValidationError, file: Path | None) -> str:
    # A misspelt key also makes another one missing: the misspelling is what to tell.
    first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    path = ".".join(str(part) for part in first["loc"])
    where = f"{file}: " if file is not None else ""
    option, inner = first["loc"][:1], None
    field = kind.model_fields.get(str(option[0])) if option else None
    if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        # What is nested in a file stands beside the others on the command line.
        option, inner = first["loc"][1:2] or option, field.annotation
    if first["type"] == "extra_forbidden":
        return f"{where}unknown key {path!r}; {nearest(str(first['loc'][-1]), (inner or kind).model_fields)}"
    flag = f"--{option[0]}".replace("_", "-") if option else ""
    if first["type"] == "missing":
        return f"{where}{flag} is missing; say which model: {flag} PATH_OR_HUB_ID"
    message = first["msg"].removeprefix("Value error, ")
    if flag and first["type"] != "value_error" and isinstance(first["input"], str | int | float):
        flag += f" {first['input']}"
    return f"{where}{flag}: {message}" if flag else where + message


def dump(config: BaseModel) -> str:
    """The resolved configuration as YAML."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text
