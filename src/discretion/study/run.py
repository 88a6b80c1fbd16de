"""Carry out a study: what is missing, once each, whatever happens to workers; then its summary.

The order is that of what can be used: a base before its audits, a tuning before its audits, an audit as soon as both
are there. A failed step marks the cells that need it and the rest goes on; the same command tries those again.
"""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from discretion.config import StudyRunConfig
from discretion.errors import DataError, UsageError
from discretion.progress import Progress, Quiet
from discretion.schema import from_json, to_json
from discretion.store import make_private, write_private
from discretion.study import cells, pools, work
from discretion.study.nouns import CellStatus, StepResult

FIRST: Mapping[str, int] = {"base": 0, "audit": 1, "tune": 2}
"""What goes first when several steps could: what others wait for, then what ends a cell."""


@dataclass(frozen=True)
class Done:
    """Results of steps, on disk."""

    folder: Path

    def path(self, step: cells.Step) -> Path:
        return self.folder / "results" / f"{step.kind}-{step.digest[:32]}.json"

    def get(self, step: cells.Step) -> StepResult | None:
        """None where the step was never ended."""
        path = self.path(step)
        try:
            return from_json(StepResult, json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise DataError(
                f"{path}: not a result of this version ({error}); delete it to have it made again"
            ) from None

    def put(self, step: cells.Step, ended: pools.Ended, attempts: int) -> StepResult:
        result = StepResult(
            digest=step.digest,
            kind=step.kind,
            status="failed" if ended.reason else "done",
            reason=ended.reason,
            attempts=attempts,
            seconds=ended.seconds,
            found=ended.found,
        )
        write_private(self.path(step), json.dumps(to_json(result), ensure_ascii=False) + "\n")
        if ended.trace:
            make_private(self.folder / "failures")
            write_private(self.folder / "failures" / f"{step.kind}-{step.digest[:16]}.txt", ended.trace)
        return result


def run(
    plan: cells.Plan, how: StudyRunConfig, progress: Progress | None = None, do: pools.Work = work.do
) -> dict[str, StepResult]:
    """Carry out what is missing of a plan; digest to result of every step that has one.

    Raises `UsageError` when another process is at this study.
    """
    make_private(plan.out / "results")
    try:
        with FileLock(plan.out / ".lock", timeout=0):
            cells.write_rows(plan)
            return _carry_out(plan.steps.values(), Done(plan.out), how, progress or Quiet(), do)
    except Timeout:
        raise UsageError(f"{plan.out}: another process is at this study; wait for it, or stop it") from None


def _carry_out(
    steps: Iterable[cells.Step], done: Done, how: StudyRunConfig, progress: Progress, do: pools.Work
) -> dict[str, StepResult]:
    steps = list(steps)
    results = {digest: kept for digest, kept in _usable(steps, done).items() if kept.status == "done"}
    missing = [step for step in steps if step.digest not in results]
    progress.begin("study", len(steps), len(results))
    if not missing:
        return results

    def keep(step: cells.Step, ended: pools.Ended, attempts: int) -> None:
        results[step.digest] = done.put(step, ended, attempts)
        if ended.reason:
            progress.note(f"{step.kind} {step.digest[:16]} failed: {ended.reason}")
        progress.advance()

    pool = make_pool(how, do)
    try:
        schedule(missing, pool, keep, retries=how.retries)
    finally:
        pool.close()
    return results


def make_pool(how: StudyRunConfig, do: pools.Work) -> pools.Pool:
    """The pool that the options ask for. Raises `UsageError` for both kinds at once."""
    if how.ray is not None and how.workers > 1:
        raise UsageError("--workers and --ray: two places for the same work; give one of them")
    if how.ray is not None:
        return pools.ray_pool(do, how.ray, cpus=how.cpus, gpus=how.gpus, retries=how.retries)
    return pools.Processes(do, how.workers) if how.workers > 1 else pools.Loop(do)


def schedule(
    steps: Sequence[cells.Step],
    pool: pools.Pool,
    keep: Callable[[cells.Step, pools.Ended, int], None],
    *,
    retries: int = 2,
) -> None:
    """Give each step to the pool once those it needs are done, and `keep(step, how it ended, attempts)` once for each.

    Needs outside `steps` are taken as done. A step whose need failed is kept as failed and not given; one whose worker
    was lost is given again, `retries` times at most.
    """
    by_digest = {step.digest: step for step in steps}
    open_needs = {s.digest: {need for need in s.needs if need in by_digest} for s in steps}
    waiting: dict[str, list[str]] = defaultdict(list)
    for step in steps:
        for need in open_needs[step.digest]:
            waiting[need].append(step.digest)
    order = {step.digest: (FIRST[step.kind], number) for number, step in enumerate(steps)}
    ready = [(order[digest], digest) for digest, needs in open_needs.items() if not needs]
    heapq.heapify(ready)
    attempts: dict[str, int] = defaultdict(int)
    running = 0

    def end(step: cells.Step, ended: pools.Ended) -> None:
        unlocked = [(step, ended)]
        while unlocked:
            step, ended = unlocked.pop()
            keep(step, ended, attempts[step.digest])
            for digest in waiting.pop(step.digest, ()):
                if digest not in open_needs:
                    continue
                open_needs[digest].discard(step.digest)
                if ended.reason:
                    why = f"the {step.kind} it needs failed: {ended.reason}" if attempts[step.digest] else ended.reason
                    del open_needs[digest]
                    unlocked.append((by_digest[digest], pools.Ended(digest, reason=why)))
                elif not open_needs[digest]:
                    heapq.heappush(ready, (order[digest], digest))

    while ready or running:
        while ready and pool.room() > 0:
            _, digest = heapq.heappop(ready)
            attempts[digest] += 1
            running += 1
            pool.give(digest, by_digest[digest].job)
        for ended in pool.ended():
            running -= 1
            step = by_digest[ended.key]
            if not ended.lost:
                end(step, ended)
            elif attempts[step.digest] <= retries:
                heapq.heappush(ready, (order[step.digest], step.digest))
            else:
                end(step, pools.Ended(step.digest, reason=f"its worker was lost {attempts[step.digest]} times"))


# ------------------------------------------------------------------------------------------------ how far it is


def results_of(plan: cells.Plan) -> dict[str, StepResult]:
    """What is on disk of this plan, also while another process is at it."""
    return _usable(plan.steps.values(), Done(plan.out))


def _usable(steps: Iterable[cells.Step], done: Done) -> dict[str, StepResult]:
    """Results of these steps, without those whose folder is gone: an audit's, and what an audit still to do reads."""
    by_digest = {step.digest: step for step in steps}
    found = {digest: result for digest, step in by_digest.items() if (result := done.get(step)) is not None}
    gone = {d for d in found if by_digest[d].leaves and _is_done(found[d]) and not Path(by_digest[d].leaves).is_file()}
    lost = {digest for digest in gone if by_digest[digest].kind == "audit"}
    to_do = [digest for digest in by_digest if digest in lost or not _is_done(found.get(digest))]
    while to_do:
        needed = gone.intersection(by_digest[to_do.pop()].needs) - lost
        lost |= needed
        to_do += needed
    return {digest: result for digest, result in found.items() if digest not in lost}


def status_of(cell: cells.Cell, results: Mapping[str, StepResult]) -> tuple[CellStatus, str]:
    """Of one cell, and why where it failed."""
    audit = results.get(cell.digest)
    if audit is not None:
        return audit.status, audit.reason
    return "waiting", ""


def as_json(plan: cells.Plan, results: Mapping[str, StepResult]) -> dict[str, Any]:
    """What `study plan --json` and `study status --json` print: every cell with its state and its cost."""
    spent: dict[str, list[float]] = defaultdict(list)
    for result in results.values():
        if result.status == "done":
            spent[result.kind].append(result.seconds)
    rows = []
    for cell in plan.cells:
        status, reason = status_of(cell, results)
        asked = plan.asked[cell.coordinates["model"]]
        probes = plan.steps[cell.digest].job["options"].get("probes", ())
        rows.append(
            {
                "name": cell.name,
                "coordinates": dict(cell.coordinates),
                "digest": cell.digest,
                "status": status,
                "reason": reason,
                "rows": cell.rows,
                "train_tokens": cell.train_tokens,
                "audit_items": sum(probe["items"] for probe in asked.values()),
                "audit_tokens": sum(probe["tokens"] for probe in asked.values()) // 2,
                "not_counted": [name for name in probes if name not in asked],
            }
        )
    left = [step for digest, step in plan.steps.items() if not _is_done(results.get(digest))]
    known = all(spent[step.kind] for step in left)
    seconds = sum(sum(spent[step.kind]) / len(spent[step.kind]) for step in left) if known else None
    return {
        "study": plan.config.name,
        "out": str(plan.out),
        "cells": rows,
        "steps": {kind: sum(step.kind == kind for step in plan.steps.values()) for kind in FIRST},
        "steps_left": len(left),
        "train_tokens": sum({cell.steps[0]: cell.train_tokens for cell in plan.cells}.values()),
        "train_tokens_estimated": True,
        "seconds_left": seconds,
    }


def _is_done(result: StepResult | None) -> bool:
    return result is not None and result.status == "done"
