"""Where a judge's model comes from: a folder or hub id, or `openai:NAME` behind the audit's endpoint; `rules` is none.

`digest_of` pins it before a weight is read, and is part of what makes a run; `open_judge` makes it answer.
"""

from __future__ import annotations

from typing import Protocol

from discretion.config import RULES, AuditConfig
from discretion.errors import ModelError
from discretion.models import remote
from discretion.models.base import Model
from discretion.models.endpoint import Endpoint
from discretion.progress import Progress


class Judges(Protocol):
    """This module, as an audit sees it; a script stands for it in tests."""

    def digest_of(self, config: AuditConfig) -> str: ...

    def open_judge(self, config: AuditConfig, progress: Progress, beside: Model | None = None) -> Model | None: ...


def digest_of(config: AuditConfig) -> str:
    """Of weights, tokenizer, template and precision; of URL and name behind an endpoint; `rules` where there is none.

    Raises `ModelError` for a model that cannot be found, or that is an adapter.
    """
    if config.judge == RULES:
        return RULES
    if config.judge.startswith(remote.PREFIX):
        return remote.preview(config.judge, config.judge, config.base_url).base_digest
    from discretion.models import loading, local

    _need_checkpoint(config)
    seen = local.preview(config.judge, config.judge, offline=config.offline)
    kind = loading.pick_dtype(config.dtype, loading.pick_device(config.device))
    return loading.joined(seen.base_digest, seen.template_digest, str(kind).removeprefix("torch."))


def open_judge(config: AuditConfig, progress: Progress, beside: Model | None = None) -> Model | None:
    """Ready to answer; None for `rules`. Behind an endpoint it shares rate and account with `beside`, an arm there.

    Raises as `local.open_arms` and `remote.open_one` do.
    """
    if config.judge == RULES:
        return None
    progress.note(f"opening the judge {config.judge}")
    if config.judge.startswith(remote.PREFIX):
        shared = beside.endpoint if isinstance(beside, remote.RemoteModel) else None
        return remote.open_one(
            config.judge, shared or Endpoint(config.base_url.rstrip("/"), remote.limits(config), progress)
        )
    _need_checkpoint(config)
    from discretion.models import local

    return local.open_arms(
        config.judge,
        config.judge,
        device=config.device,
        dtype=config.dtype,
        offline=config.offline,
        batch_tokens=config.batch_tokens,
    ).base


def _need_checkpoint(config: AuditConfig) -> None:
    from discretion.models import loading

    if loading.find(config.judge, offline=config.offline).kind == "adapter":
        raise ModelError(f"--judge {config.judge}: this is an adapter; merge it into its model, and name the result")
