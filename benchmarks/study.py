"""What the scheduling of a study costs: cells that only sleep, so that every second beyond their sleep is ours.

Each cell is a training and an audit that needs it and a shared base; results are written, as in a study. One worker is
a loop, two are processes of this machine, their start included. The overhead is wall time minus the sleep that a worker
had to do; its share is given for the seconds that a cell really takes (`--realistic`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from discretion.config import StudyRunConfig
from discretion.study import cells
from discretion.study import run as running


def rest(job: Any) -> dict[str, Any]:
    """A step."""
    time.sleep(job["seconds"])
    return {}


def study(n: int, seconds: float, out: Path) -> cells.Plan:
    """A plan of n cells, each a training and an audit, and one base."""
    job = {"seconds": seconds / 2}
    steps = {"base": cells.Step("base", "base", job)}
    for k in range(n):
        steps[f"t{k}"] = cells.Step(f"t{k}", "tune", job)
        steps[f"a{k}"] = cells.Step(f"a{k}", "audit", job, ("base", f"t{k}"))
    return cells.Plan(None, out, (), steps, {}, {})  # type: ignore[arg-type]


def measure(n: int, seconds: float, workers: int) -> dict[str, Any]:
    """Wall time of a study, and of the same command when all is there."""
    with tempfile.TemporaryDirectory() as folder:
        plan = study(n, seconds, Path(folder) / "out")
        how = StudyRunConfig(workers=workers)
        began = time.monotonic()
        results = running.run(plan, how, do=rest)
        wall = time.monotonic() - began
        began = time.monotonic()
        running.run(plan, how, do=rest)
        again = time.monotonic() - began
    ideal = len(plan.steps) * seconds / 2 / workers
    done = sum(result.status == "done" for result in results.values())
    return {"cells": n, "workers": workers, "done": done, "wall": wall, "per_cell": (wall - ideal) / n, "again": again}


def main() -> None:
    """Print one line per case, and all as JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--sleep", type=float, default=0.02, help="seconds that a cell sleeps")
    parser.add_argument("--realistic", type=float, default=60.0, help="seconds that a real cell takes")
    given = parser.parse_args()
    found = []
    for workers, n in ((1, given.cells), (1, 10 * given.cells), (2, given.cells)):
        row = measure(n, given.sleep if n == given.cells else 0.0, workers)
        row["share"] = row["per_cell"] / given.realistic * (workers if workers > 1 else 1)
        found.append(row)
        print(
            f"{row['cells']:>6} cells, {workers} worker(s): {1000 * row['per_cell']:.2f} ms per cell beyond its sleep, "
            f"{100 * row['share']:.4f} % of {given.realistic:g} s cells; all there: {row['again']:.2f} s"
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
