"""Studies without models: the tuning writes down what it was given, and scripted models answer as well as that says.

A cell's planted ability is `PLANTED[data set]` plus a step per training seed; bases answer at `BASE`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from discretion.models.scripted import Scripted
from discretion.schema import LogLikelihood, Reply
from discretion.study import work

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


def study_file(folder: Path, **changed: Any) -> Path:
    """A study of two sets and three seeds on questions of its own."""
    questions = folder / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    study = {
        "name": "planted",
        "models": {"tiny": "a-model"},
        "data": {name: {"set": f"recipe:{name}", "n": 500, "transforms": [{"sample": {"n": 20}}]} for name in PLANTED},
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
