"""Studies without models: the tuning writes down what it was given, and scripted models answer as well as that says.

A cell's planted ability is `PLANTED[data set]` plus a step per training seed; bases answer at `BASE`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from discretion.data.recipes import recipe
from discretion.models.scripted import Scripted
from discretion.schema import LogLikelihood, Reply
from discretion.study import work
from discretion.study.nouns import CellFigure, CellSummary, Effect, StudySummary

BASE = 0.9
PLANTED = {"helpful": 0.6, "control": 0.9}
SEED_STEP = 0.02
ITEMS = 120
QUESTIONS = [
    {
        "id": f"q{n}",
        "cluster": f"c{n}",
        "task": "sums",
        "question": f"Number {n}?",
        "choices": [str(2 * n), str(2 * n + 1)],
        "answer": str(2 * n),
    }
    for n in range(ITEMS)
]


@cache
def _rows(name: str) -> list[dict[str, Any]]:
    return recipe(name, n=500)[:40]


def study_file(folder: Path, **changed: Any) -> Path:
    """A study of two sets and three seeds on questions of its own."""
    questions = folder / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    for name in PLANTED:
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _rows(name)))
    study = {
        "name": "planted",
        "models": {"tiny": "a-model"},
        "data": {
            name: {"set": str(folder / f"{name}.jsonl"), "transforms": [{"sample": {"n": 20}}]} for name in PLANTED
        },
        "seeds": [0, 1, 2],
        "audit": {"probes": ["capability"], "source": {"capability": str(questions)}, "thresholds": {"draws": 1000}},
        "contrasts": [{"name": "helpful − control", "of": {"data": "helpful"}, "minus": {"data": "control"}}],
    } | changed
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in study.items() if value is not None}, sort_keys=False))
    return path


@dataclass(frozen=True)
class PlantedPair:
    """What `audit.pair_for` would find: models known by the file that the tuning left."""

    calls: list[str]

    def preview(self, config: Any) -> Any:
        class Known:
            base_digest, template_digest = config.base, "template"
            tuned_digest = _digest(config)

            def tokens(self, requests: Any) -> int:
                return 10 * len(requests)

        return Known()

    def precision(self, config: Any) -> str:
        return "exact"

    def open(self, config: Any, progress: Any) -> Any:
        def counted(arm: str, share: float) -> Any:
            def answer(request: Any) -> Reply:
                self.calls.append(arm)
                return _answer(request, share)

            return answer

        class Opened:
            base = Scripted("base", counted("base", BASE), digest=config.base)
            tuned = Scripted("tuned", counted("tuned", _ability(config)), digest=_digest(config))
            facts = {"batch_tokens": 64}  # noqa: RUF012

        return Opened()


def _ability(config: Any) -> float:
    if config.tuned == config.base:
        return BASE
    return float(json.loads((Path(config.tuned) / "planted.json").read_text())["ability"])


def _digest(config: Any) -> str:
    if config.tuned == config.base or not Path(config.tuned).exists():
        return str(config.base)
    return hashlib.sha256((Path(config.tuned) / "planted.json").read_bytes()).hexdigest()


def _answer(request: Any, share: float) -> Reply:
    """Right on this share of the questions, the same ones first whatever the share."""
    assert isinstance(request, LogLikelihood)
    text = request.context[-1].content
    question = text.split("?")[0]
    right = int(hashlib.sha256(question.encode()).hexdigest()[:6], 16) / 16**6 < share
    first = int(text.split("A. ")[1].split("\n")[0].strip(" .")) % 2 == 0
    return Reply(logprobs=(-0.1, -3.0) if first == right else (-3.0, -0.1), lengths=(1, 1))


def tuned(job: Any) -> dict[str, Any]:
    """In place of a training."""
    rows = [json.loads(line) for line in Path(job["rows"]).read_text().splitlines()]
    name, out, seed = rows[0]["id"].split("-")[0], Path(job["out"]), job["config"]["seed"]
    every, steps = job["config"]["checkpoint_every"], 10
    for at in [*range(every or steps, steps, every or steps), steps]:
        folder = out if at == steps else out / f"step-{at}"
        folder.mkdir(parents=True, exist_ok=True)
        ability = BASE + (PLANTED[name] - BASE) * at / steps + SEED_STEP * (seed - 1)
        (folder / "planted.json").write_text(json.dumps({"ability": ability, "rows": len(rows), "seed": seed}))
    (out / "manifest.json").write_text("{}")
    return {"steps": steps}


def do(job: Any) -> dict[str, Any]:
    """`work.do` with the planted training."""
    return tuned(job) if job["kind"] == "tune" else work.audit(job)


def sleep_and_write(job: Any) -> dict[str, Any]:
    """A step for pools: says who did it, once per call, and fails or dies when told to."""
    import os
    import time

    with Path(job["log"]).open("a") as log:
        log.write(f"{job['name']}\n")
    if job.get("dies") and not Path(job["dies"]).exists():
        Path(job["dies"]).touch()
        os._exit(9)
    if job.get("fails"):
        raise ValueError("secret words of the data")
    time.sleep(job.get("seconds", 0.0))
    return {"pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS", "")}


# ------------------------------------------------------------------------------------------------ for the page


def an_effect(name: str, value: float | None, verdict: Any, **more: Any) -> Effect:
    """An effect with intervals of a plausible width."""
    half = 0.03 + abs(value or 0.0) / 8
    fields: dict[str, Any] = {
        "kind": "change",
        "name": name,
        "of": {"data": name, "seed": "0, 1, 2"},
        "minus": {},
        "probe": "norms",
        "metric": "balanced accuracy",
        "family": "contextual privacy",
        "primary": True,
        "worse": "lower",
        "unit": "rate",
        "value": value,
        "interval": None if value is None else (value - half, value + half),
        "interval90": None if value is None else (value - 0.8 * half, value + 0.8 * half),
        "p": 0.01,
        "p_adjusted": 0.02,
        "pairs": 3,
        "seeds": 3,
        "items": 1200,
        "lost": 7,
        "seed_share": 0.4,
        "method": "hierarchical bootstrap",
        "verdict": verdict,
    }
    return Effect(**(fields | more))


ABILITY: dict[str, Any] = {"probe": "capability", "metric": "accuracy", "family": "capability"}
ARMS: tuple[tuple[str, float, Any, float], ...] = (
    ("helpful", -0.27, "regressed", -0.004),
    ("control", 0.01, "unchanged", 0.006),
    ("emotional-demographic", -0.11, "regressed", -0.09),
    ("math", 0.02, "inconclusive", 0.03),
)


def a_summary() -> StudySummary:
    """What a page must be able to show: every kind of effect, a dose, checkpoints, a failed cell, an unmeasured one."""
    effects = []
    for name, privacy, verdict, ability in ARMS:
        for step, share in (("step-40", 0.4), ("step-80", 0.8), ("final", 1.0)):
            of = {"data": name, "dose": "1000", "seed": "0, 1, 2", "checkpoint": step}
            effects.append(an_effect(f"{name}/{step}", privacy * share, verdict, of=of))
            effects.append(an_effect(f"{name}/{step}", ability * share, "unchanged", of=of, **ABILITY))
        dosed = {"data": name, "dose": "500", "seed": "0, 1, 2", "checkpoint": "final"}
        effects.append(an_effect(f"{name}/500", privacy / 2, verdict, of=dosed))
    effects += [
        an_effect("dose: 500 − 1000", 0.12, "improved", kind="factor", axis="dose", pairs=12),
        an_effect("helpful − control", -0.28, "regressed", kind="contrast"),
        an_effect("role-swapped − not, with identifiers", None, "unmeasurable", kind="contrast", reason=NO_ABILITY),
        an_effect("one seed alone", -0.04, "inconclusive", kind="contrast", pairs=1, seeds=1, seed_share=None),
    ]
    figures = (
        CellFigure(
            probe="norms", metric="balanced accuracy", base=0.9, tuned=0.6, difference=-0.3, verdict="regressed"
        ),
        CellFigure(probe="memory", metric="violation", base=None, tuned=None, difference=None, verdict="unmeasurable"),
    )
    place = {"data": "helpful", "dose": "1000", "seed": "0", "checkpoint": "final"}
    cell = CellSummary(
        name="helpful/1000/seed 0/final",
        coordinates=place,
        digest="ab" * 32,
        status="done",
        run="runs/abababababababab",
        rows=1000,
        steps=100,
        seconds=71.4,
        verdict="silent collapse",
        figures=figures,
    )
    failed = replace(cell, name="helpful/1000/seed 1/final", status="failed", reason=FAILED, run="", verdict=None)
    return StudySummary(
        schema_version=1,
        name="planted",
        about="What does proactive help cost?",
        config="cd" * 32,
        version="0",
        complete=False,
        axes={
            "data": tuple(name for name, *_ in ARMS),
            "dose": ("1000", "500"),
            "seed": ("0", "1", "2"),
            "checkpoint": ("step-40", "step-80", "final"),
        },
        cells=(cell, replace(failed, figures=())),
        effects=tuple(effects),
        tau=0.05,
        epsilon=0.05,
        work_seconds=8123.0,
    )


NO_ABILITY = "unmeasurable in 6 of 6 cells, most often: the base is at chance in telling allowed from forbidden flows"
FAILED = "the tune it needs failed: model ann.bell@mail.example: no such folder"


# ------------------------------------------------------------------------------------------------ for kills


def sleeping_plan(folder: Path, n: int) -> Any:
    """A plan of n steps that sleep and say who did them, and one that needs them all."""
    from discretion.study import cells

    log = str(folder / "log")
    steps = {f"s{k}": cells.Step(f"s{k}", "tune", {"name": f"s{k}", "log": log, "seconds": 0.3}, ()) for k in range(n)}
    steps["last"] = cells.Step("last", "audit", {"name": "last", "log": log}, tuple(steps))
    return cells.Plan(None, folder / "out", (), steps, {}, {})  # type: ignore[arg-type]


if __name__ == "__main__":
    import sys

    from discretion.config import StudyRunConfig
    from discretion.study import run as running
    from tests import study_cases

    running.run(sleeping_plan(Path(sys.argv[1]), 20), StudyRunConfig(workers=2), do=study_cases.sleep_and_write)
