"""Where an audit's two models come from: both from folders or the hub, or both from behind one endpoint.

What is known of them before weights are read is a `Preview`; what they are once checked and ready is `Opened`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from discretion.config import RULES, AuditConfig
from discretion.errors import ConfigError, NotComparable
from discretion.models.base import Model
from discretion.progress import Progress
from discretion.schema import Request

ENDPOINT = "openai:"
"""What the name of a model behind an endpoint begins with."""
LOCAL_ONLY = ("device", "dtype", "template", "batch_tokens")
ENDPOINT_ONLY = (
    "base_url",
    "concurrency",
    "requests_per_minute",
    "timeout",
    "price_input",
    "price_output",
    "max_cost",
    "tools",
)


class Preview(Protocol):
    """What is known of two models before their weights are loaded."""

    @property
    def base_digest(self) -> str: ...

    @property
    def tuned_digest(self) -> str: ...

    @property
    def template_digest(self) -> str: ...

    def tokens(self, requests: Sequence[Request]) -> int:
        """Tokens one arm computes for these requests, generation counted at its upper bound."""


class Opened(Protocol):
    """Two models, checked against each other and ready."""

    @property
    def base(self) -> Model: ...

    @property
    def tuned(self) -> Model: ...

    @property
    def facts(self) -> Mapping[str, Any]: ...


class Pair(Protocol):
    """Where the two models come from: local folders here, a script in tests, endpoints elsewhere."""

    def preview(self, config: AuditConfig) -> Preview:
        """Without weights."""

    def precision(self, config: AuditConfig) -> str:
        """Of the arithmetic, such as `float32 on cpu`."""

    def open(self, config: AuditConfig, progress: Progress) -> Opened:
        """With weights."""


@dataclass(frozen=True)
class LocalPair:
    """Two models from folders or the hub, answered on this machine."""

    def preview(self, config: AuditConfig) -> Preview:
        from discretion.models import local

        return local.preview(config.base, config.tuned, template=config.template, offline=config.offline)

    def precision(self, config: AuditConfig) -> str:
        from discretion.models import loading

        device = loading.pick_device(config.device)
        kind = str(loading.pick_dtype(config.dtype, device)).removeprefix("torch.")
        return f"{kind} on {device.partition(':')[0]}"

    def open(self, config: AuditConfig, progress: Progress) -> Opened:
        from discretion.models import local

        progress.note(f"loading {config.base} and {config.tuned}")
        return local.open_arms(
            config.base,
            config.tuned,
            device=config.device,
            dtype=config.dtype,
            template=config.template,
            offline=config.offline,
            batch_tokens=config.batch_tokens,
        )


@dataclass(frozen=True)
class RemotePair:
    """Two models behind one OpenAI-compatible endpoint."""

    def preview(self, config: AuditConfig) -> Preview:
        from discretion.models import remote

        return remote.preview(config.base, config.tuned, config.base_url, tools=config.tools)

    def precision(self, config: AuditConfig) -> str:
        return "as the endpoint serves it"

    def open(self, config: AuditConfig, progress: Progress) -> Opened:
        from discretion.models import remote

        progress.note(f"asking {config.base} and {config.tuned} at {config.base_url}")
        return remote.open_arms(
            config.base,
            config.tuned,
            url=config.base_url,
            limits=remote.limits(config),
            progress=progress,
            tools=config.tools,
        )


def pair_for(config: AuditConfig) -> Pair:
    """The pair that the two names ask for: `openai:NAME` is a model of an endpoint, anything else is local.

    Raises `NotComparable` for one of each, `ConfigError` for an option that would reach nothing.
    """
    names = (config.base, config.tuned)
    remote = [name.startswith(ENDPOINT) for name in names]
    if any(remote) and not all(remote):
        raise NotComparable(
            f"--base {config.base} --tuned {config.tuned}: one is behind an endpoint and one is local, so that a "
            f"difference may be the server's; serve both, as {ENDPOINT}NAME, or give both as folders or hub ids"
        )
    judge = None if config.judge == RULES else config.judge.startswith(ENDPOINT)
    without = (
        (LOCAL_ONLY if judge is not False else ("template",)) if any(remote) else ("tools",) if judge else ENDPOINT_ONLY
    )
    idle = next((name for name in without if _was_given(config, name)), None)
    if idle is not None:
        kind = "models behind an endpoint" if any(remote) else "local models"
        raise ConfigError(f"--{idle.replace('_', '-')}: has no effect on {kind}; leave it out")
    if ENDPOINT in (*names, config.judge):
        raise ConfigError(f"{ENDPOINT}: names no model; give {ENDPOINT}NAME, as the endpoint calls it")
    return RemotePair() if any(remote) else LocalPair()


def _was_given(config: AuditConfig, option: str) -> bool:
    return bool(getattr(config, option) != AuditConfig.model_fields[option].default)
