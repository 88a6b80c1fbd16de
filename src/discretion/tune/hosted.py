"""Fine-tunes a model at a host (OpenAI's API or Together's): upload, start, wait, fetch the tuned model's name.

Nothing leaves the machine before `tune_hosted` is called; `estimate` is free. A killed wait is taken up by the same
call: file and job are found again, by the state on disk or at the host, and no second job is started or paid.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from discretion.config import HostedConfig
from discretion.errors import ConfigError, DataError, MissingExtra, ModelError, RunFailure, UsageError
from discretion.models.endpoint import client_options
from discretion.schema import SCHEMA_VERSION, digest, from_json, to_json
from discretion.store import make_private, write_private
from discretion.tune.dialects import DIALECTS, LEFT_TO_HOST, Dialect, Job
from discretion.tune.tokens import ChatRow, check_rows, rows_digest
from discretion.tune_config import HostedTuning

STATE = "hosted.json"
CHARACTERS_PER_TOKEN = 4
USUAL_EPOCHS = {"openai": 3, "together": 1}
"""For the estimate, where the host chooses."""
TRIES = 5
"""Attempts per request, for what may pass: 408, 409, 429, 5xx, a broken connection."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a fine-tuning will about come to; a host counts tokens its own way."""

    rows: int
    tokens: int
    """At four characters each, all turns, one pass."""
    epochs: int
    assumed: bool
    """The host will choose the epochs."""
    cost: float | None
    """In the currency of the price; None without one."""


def estimate(rows: Sequence[Mapping[str, Any]], config: HostedConfig) -> Estimate:
    """Asks nobody. Raises `DataError` for rows that are none, `ConfigError` above `max_cost`."""
    checked = check_rows(rows)
    characters = sum(len(turn.content) for _, turns in checked for turn in turns)
    tokens, epochs = math.ceil(characters / CHARACTERS_PER_TOKEN), config.epochs or USUAL_EPOCHS[config.dialect]
    cost = None if config.price is None else tokens * epochs * config.price / 1e6
    if cost is not None and config.max_cost is not None and cost > config.max_cost:
        raise ConfigError(
            f"--max-cost {config.max_cost:g}: {epochs} passes over about {tokens} tokens come to about {cost:.2f}; "
            "use fewer rows, or allow more"
        )
    return Estimate(len(checked), tokens, epochs, config.epochs is None, cost)


def tune_hosted(
    rows: Sequence[Mapping[str, Any]],
    config: HostedConfig,
    out: Path,
    *,
    tell: Callable[[str], None] = lambda line: None,
    sleep: Callable[[float], None] = time.sleep,
) -> HostedTuning:
    """Upload the rows' messages (no ids), start a job, wait for it; give what is then in `out/hosted.json`.

    The uploaded rows are deleted at the host once the job has succeeded, unless `keep_file`. Raises `ConfigError` above
    `max_cost`, `DataError` when `out` holds another tuning, `ModelError` when the host refuses, `RunFailure` when it
    cannot be reached or the job fails.
    """
    estimate(rows, config)
    checked = check_rows(rows)
    out = Path(out)
    state = _begun(
        out,
        HostedTuning(schema_version=SCHEMA_VERSION, recipe=config.recipe, data=rows_digest(checked), rows=len(checked)),
    )
    if state.model is not None:
        return state
    make_private(out)
    with _asking(config) as host:
        file, job = state.file, state.job
        if file is None:
            file = _uploaded(host, checked, state.data, config, tell)
            state = _keep(out, replace(state, file=file))
        if job is None:
            job = _started(host, file, _mark(state), config, tell)
            state = _keep(out, replace(state, job=job))
        while state.model is None:
            found = host.look(job)
            if found.status != state.status:
                tell(f"job {job}: {found.status}")
                state = _keep(out, replace(state, status=found.status))
            if found.failed:
                raise RunFailure(
                    f"job {job}: {found.status} at the host ({found.why}); see there, and give another --out"
                )
            if found.model:
                state = replace(state, model=found.model, trained_tokens=found.tokens)
            else:
                sleep(config.poll)
        if not config.keep_file:
            host.delete(file)
            tell("the uploaded rows are deleted at the host")
            state = replace(state, file=None)
    return _keep(out, state)


# ------------------------------------------------------------------------------------------------ steps


def _uploaded(
    host: Dialect, rows: Sequence[ChatRow], data: str, config: HostedConfig, tell: Callable[[str], None]
) -> str:
    """The host's id of the file; one of the same name, which holds the rows' digest, is not uploaded again."""
    name = f"discretion-{data[:24]}.jsonl"
    for file, known in host.files():
        if known == name:
            tell(f"the rows are at the host already: {file}")
            return file
    lines = [
        json.dumps({"messages": [{"role": turn.role, "content": turn.content} for turn in turns]}, ensure_ascii=False)
        for _, turns in rows
    ]
    tell(f"uploading {len(rows)} rows to {config.base_url}")
    return host.upload(name, "\n".join(lines).encode())


def _started(host: Dialect, file: str, mark: str, config: HostedConfig, tell: Callable[[str], None]) -> str:
    """The host's id of the job; one of this tuning that has not failed is taken up, not started again.

    Raises `UsageError` where a job on the same file and model does not say whose it is.
    """
    asked = host.asked(config)
    unsure = None
    for known in host.jobs():
        if known.file != file or known.base != config.base or known.failed:
            continue
        same = _is_this(known, mark, asked)
        if same:
            tell(f"job {known.id} is there already")
            return known.id
        unsure = known.id if same is None else unsure
    if unsure is not None:
        raise UsageError(
            f"{config.base_url}: job {unsure} is on the same rows and model, and does not say with which options; "
            f"delete the file {file} there to start anew, or give every option that the job was given"
        )
    job = host.start(file, config, mark)
    tell(f"started job {job}")
    return job


def _is_this(job: Job, mark: str, asked: Mapping[str, Any]) -> bool | None:
    """Was a job started with these options? By our mark, else by what the job tells of them; None where that is too
    little: an option we left to the host may stand there as the host's own choice.
    """
    if job.mark is not None:
        return job.mark == mark
    open_to = (None, *LEFT_TO_HOST)
    if any(value is not None and job.options[name] not in (value, *open_to) for name, value in asked.items()):
        return False
    given = all(
        job.options[name] == value if value is not None else job.options[name] in LEFT_TO_HOST
        for name, value in asked.items()
    )
    return given or None


def _mark(state: HostedTuning) -> str:
    """Tells jobs of other options on the same file apart; at most 64 characters."""
    return digest([dict(state.recipe), state.data])


# ------------------------------------------------------------------------------------------------ state and host


def _begun(out: Path, wanted: HostedTuning) -> HostedTuning:
    """What is on disk for the same rows and options, else a beginning."""
    path = out / STATE
    if not path.exists():
        if out.exists() and any(out.iterdir()):
            raise DataError(f"{out}: holds something that was not tuned at a host; give another folder")
        return wanted
    try:
        found = from_json(HostedTuning, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a state of this version ({error}); give another folder") from None
    other = sorted(key for key in wanted.recipe if found.recipe.get(key) != wanted.recipe[key])
    other += ["data"] if found.data != wanted.data else []
    if other:
        raise DataError(f"{out}: holds a tuning that differs in {', '.join(other)}; give another folder")
    return found


def _keep(out: Path, state: HostedTuning) -> HostedTuning:
    write_private(out / STATE, json.dumps(to_json(state), indent=1))
    return state


@contextmanager
def _asking(config: HostedConfig) -> Iterator[Dialect]:
    """The host; what its client raises becomes one line, without text of the server."""
    try:
        import openai
    except ModuleNotFoundError:
        raise MissingExtra("fine-tuning at a host", "openai", "remote") from None
    again = "the same command goes on where it stopped"
    try:
        with openai.OpenAI(**client_options(config.base_url), max_retries=TRIES - 1, timeout=config.timeout) as client:
            yield DIALECTS[config.dialect](client)
    except openai.APIStatusError as error:
        if error.status_code in (401, 403):
            raise ModelError(
                f"{config.base_url}: refused the key ({error.status_code}); check OPENAI_API_KEY"
            ) from None
        if error.status_code < 500 and error.status_code not in (408, 409, 429):
            raise ModelError(
                f"{config.base_url}: refused the request ({error.status_code}, {error.code or 'no code'}); check model "
                "name, options and whether this host has this fine-tuning API (--dialect)"
            ) from None
        raise RunFailure(f"{config.base_url}: answered {error.status_code}, {TRIES} times; {again}") from None
    except openai.APIConnectionError:
        raise RunFailure(f"{config.base_url}: cannot be reached; {again}") from None
