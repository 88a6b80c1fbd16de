"""The pair that `discretion audit` measures when no model is named: the testbed, and the testbed tuned on our own set.

The tuned model is kept beside the runs, under a name that says how it was made, and is made once.
"""

from __future__ import annotations

from pathlib import Path

from discretion.data.recipes import recipe as rows_of
from discretion.models.testbed import NAME
from discretion.progress import Progress
from discretion.schema import digest
from discretion.tune.sft import tune
from discretion.tune_config import EmbeddedConfig, TuneConfig


def tuned_testbed(config: EmbeddedConfig, folder: Path, progress: Progress) -> Path:
    """An adapter on the testbed, fine-tuned as `config` says, in a folder of its own under `folder`.

    Raises what `tune` raises, and `DataError` for an unknown recipe.
    """
    rows = rows_of(config.recipe, seed=config.tune_seed, n=config.tune_rows)
    asked = TuneConfig(
        base=NAME,
        max_steps=config.steps,
        learning_rate=config.tune_rate,
        seed=config.tune_seed,
        offline=True,
    )
    out = folder / f"{NAME}-{config.recipe}-{config.steps}-{digest(config.model_dump())[:8]}"
    progress.begin(f"fine-tuning the testbed on {config.recipe!r}", config.steps)
    return tune(rows, asked, out, on_progress=lambda row: progress.advance())
