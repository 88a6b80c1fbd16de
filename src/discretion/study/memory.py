"""Does a study fit into memory? The least that its trainings and audits hold, against what the device has.

Weights alone, with gradients and AdamW's two moments where every weight is trained; activations come on top. What is
refused here cannot run; what passes may still be too large.
"""

from __future__ import annotations

from discretion import audit as auditing
from discretion.errors import ConfigError
from discretion.models import loading
from discretion.models.pairs import LocalPair
from discretion.study.cells import Plan

TRAINED = 4
"""Copies of every weight in a full training: the weight, its gradient, two moments."""


def check(plan: Plan) -> None:
    """Raises `ConfigError` in one line for the first model and tuning that cannot fit on this machine's device."""
    sources: dict[str, loading.Source] = {}
    for model, tuning in dict.fromkeys((cell.coordinates["model"], cell.coordinates["tuning"]) for cell in plan.cells):
        base = plan.config.models[model].base
        audited = plan.config.audit_options(model, base)
        if not isinstance(auditing.pair_for(audited), LocalPair):
            continue
        if base not in sources:
            sources[base] = loading.find(base, offline=audited.offline)
        trained = plan.config.tune_options(model, tuning, 0, base)
        full = trained.method == "full"
        for what, options, copies in (
            (f"a {trained.method} training", trained, TRAINED if full else 1),
            ("an audit", audited, 2 if full else 1),
        ):
            device = loading.pick_device(options.device)
            dtype = loading.pick_dtype(options.dtype, device)
            there, least = loading.memory_of(device), copies * loading.weights_size(sources[base], dtype)
            if there is not None and least > there:
                raise ConfigError(
                    f"model {model!r}, tuning {tuning!r}: {what} in {str(dtype).removeprefix('torch.')} holds at least "
                    f"{least / 1e9:.3g} GB, {device} has {there / 1e9:.3g} GB; take a smaller dtype, an adapter or a "
                    "smaller model, or larger machines: study run --ray"
                )
