"""The fine-tuning APIs that are spoken, OpenAI's and Together's: each turns a host's answers into the same `Job`.

Both take an openai client, for its key, retries and errors. Together's is written after its published description
(github.com/togethercomputer/openapi, `/files`, `/fine-tunes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from discretion.config import HostedConfig
from discretion.errors import RunFailure

MARK = "discretion"
"""Key of our mark in the metadata of a job."""
LEFT_TO_HOST = ("auto", "max")
"""How hosts tell an option that nobody gave."""


@dataclass(frozen=True, slots=True)
class Job:
    """A fine-tuning job as the host tells it."""

    id: str
    file: str
    """The host's id of the rows."""
    base: str
    status: str
    """As the host calls it."""
    failed: bool
    options: Mapping[str, Any]
    """Options of `HostedConfig` by name; None for one that is not told."""
    model: str | None = None
    """Name of the tuned model, once the job has succeeded."""
    tokens: int | None = None
    why: str = "no reason given"
    """Code of a failure."""
    mark: str | None = None


class Dialect(Protocol):
    """What is asked of a host. Methods raise what the client raises."""

    def files(self) -> Iterator[tuple[str, str]]:
        """(id, name) of the files for fine-tuning."""

    def upload(self, name: str, rows: bytes) -> str:
        """The id of the new file."""

    def delete(self, file: str) -> None:
        """Delete a file."""

    def jobs(self) -> Iterator[Job]:
        """All jobs."""

    def look(self, job: str) -> Job:
        """One job as it stands."""

    def start(self, file: str, config: HostedConfig, mark: str) -> str:
        """The id of the new job."""

    def asked(self, config: HostedConfig) -> Mapping[str, Any]:
        """The options that a job of this configuration has; None for one that is left to the host."""


# ------------------------------------------------------------------------------------------------ OpenAI

_HYPERPARAMETERS = {"epochs": "n_epochs", "batch": "batch_size", "rate_multiplier": "learning_rate_multiplier"}


@dataclass(frozen=True, slots=True)
class OpenAI:
    """`/files` and `/fine_tuning/jobs`."""

    client: Any

    def files(self) -> Iterator[tuple[str, str]]:
        return ((str(file.id), str(file.filename)) for file in self.client.files.list(purpose="fine-tune"))

    def upload(self, name: str, rows: bytes) -> str:
        return str(self.client.files.create(file=(name, rows), purpose="fine-tune").id)

    def delete(self, file: str) -> None:
        self.client.files.delete(file)

    def jobs(self) -> Iterator[Job]:
        return map(self._job, self.client.fine_tuning.jobs.list())

    def look(self, job: str) -> Job:
        return self._job(self.client.fine_tuning.jobs.retrieve(job))

    def start(self, file: str, config: HostedConfig, mark: str) -> str:
        given = {name: value for option, name in _HYPERPARAMETERS.items() if (value := getattr(config, option))}
        job = self.client.fine_tuning.jobs.create(
            model=config.base,
            training_file=file,
            seed=config.seed,
            metadata={MARK: mark},
            method={"type": "supervised", "supervised": {"hyperparameters": given}},
            **({} if config.suffix is None else {"suffix": config.suffix}),
        )
        return str(job.id)

    def asked(self, config: HostedConfig) -> Mapping[str, Any]:
        return {option: getattr(config, option) for option in (*_HYPERPARAMETERS, "seed")}

    def _job(self, job: Any) -> Job:
        supervised = getattr(job.method, "supervised", None)
        told = getattr(supervised, "hyperparameters", None) or job.hyperparameters
        return Job(
            id=str(job.id),
            file=str(job.training_file),
            base=str(job.model),
            status=str(job.status),
            failed=job.status in ("failed", "cancelled"),
            options={name: getattr(told, key, None) for name, key in _HYPERPARAMETERS.items()} | {"seed": job.seed},
            model=job.fine_tuned_model,
            tokens=job.trained_tokens,
            why=getattr(job.error, "code", None) or "no reason given",
            mark=(job.metadata or {}).get(MARK),
        )


# ------------------------------------------------------------------------------------------------ Together

_PARAMETERS = {"epochs": "n_epochs", "batch": "batch_size", "learning_rate": "learning_rate"}


@dataclass(frozen=True, slots=True)
class Together:
    """`/files/upload` and `/fine-tunes`: no mark, no seed, a learning rate of its own, a name before it is done."""

    client: Any

    def files(self) -> Iterator[tuple[str, str]]:
        answer = self.client.get("/files", cast_to=object)
        return ((_text(file, "id"), _text(file, "filename")) for file in _list(answer))

    def upload(self, name: str, rows: bytes) -> str:
        answer = self.client.post(
            "/files/upload",
            cast_to=object,
            body={"purpose": "fine-tune", "file_name": name},
            files={"file": (name, rows)},
            options={"headers": {"Content-Type": "multipart/form-data"}},
        )
        return _text(answer, "id")

    def delete(self, file: str) -> None:
        self.client.delete(f"/files/{file}", cast_to=object)

    def jobs(self) -> Iterator[Job]:
        return map(self._job, _list(self.client.get("/fine-tunes", cast_to=object)))

    def look(self, job: str) -> Job:
        return self._job(self.client.get(f"/fine-tunes/{job}", cast_to=object))

    def start(self, file: str, config: HostedConfig, mark: str) -> str:
        given = {name: value for option, name in _PARAMETERS.items() if (value := getattr(config, option))}
        named = {} if config.suffix is None else {"suffix": config.suffix}
        body = {"model": config.base, "training_file": file, **given, **named}
        return _text(self.client.post("/fine-tunes", cast_to=object, body=body), "id")

    def asked(self, config: HostedConfig) -> Mapping[str, Any]:
        return {option: getattr(config, option) for option in _PARAMETERS}

    def _job(self, job: Any) -> Job:
        status = _text(job, "status")
        tokens = job.get("token_count")
        return Job(
            id=_text(job, "id"),
            file=_text(job, "training_file"),
            base=_text(job, "model"),
            status=status,
            failed=status in ("error", "user_error", "cancelled"),
            options={option: job.get(name) for option, name in _PARAMETERS.items()},
            model=_text(job, "model_output_name") if status == "completed" else None,
            tokens=tokens if isinstance(tokens, int) else None,
            why=status,
        )


def _list(answer: Any) -> list[Any]:
    found = answer.get("data") if isinstance(answer, Mapping) else answer
    if not isinstance(found, list):
        raise RunFailure("the host's answer holds no list under 'data'; check --base-url and --dialect")
    return found


def _text(answer: Any, name: str) -> str:
    value = answer.get(name) if isinstance(answer, Mapping) else None
    if not isinstance(value, str):
        raise RunFailure(f"the host's answer holds no {name!r}; check --base-url and --dialect")
    return value


DIALECTS: Mapping[str, Callable[[Any], Dialect]] = {"openai": OpenAI, "together": Together}
"""From an openai client."""
