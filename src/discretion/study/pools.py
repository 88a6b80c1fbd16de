"""Where steps are carried out: one after another, in processes of this machine, or on Ray; the same three verbs.

A pool tells of each step what came back, why it failed, or that its worker was lost; it decides nothing. A failure of
the work itself is never tried again by a pool.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, parent_process
from typing import Any, Protocol

from discretion.errors import DiscretionError, MissingExtra, UsageError

Job = Mapping[str, Any]
Work = Callable[[Job], Mapping[str, Any]]
"""A function of a module, so that another process can find it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of one step."""

    key: str
    found: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    """Why the work failed, one line without text of models or data; empty when it did not."""
    trace: str = ""
    lost: bool = False
    """The worker was lost before it could say anything."""
    seconds: float = 0.0


class Pool(Protocol):
    """Carries out steps."""

    def room(self) -> int:
        """How many more steps may be given now."""

    def give(self, key: str, job: Job) -> None:
        """Begin a step, or put it in line."""

    def ended(self) -> list[Ended]:
        """Wait until at least one step has ended."""

    def close(self) -> None:
        """Stop what still runs."""


def attempt(work: Work, key: str, job: Job) -> Ended:
    """Carry out a step here. What it raises is told and not raised: one failed cell must not end the others."""
    began = time.monotonic()
    try:
        found = work(job)
    except DiscretionError as error:
        return Ended(key, reason=str(error), seconds=time.monotonic() - began)
    except Exception as error:
        # The boundary to torch, TRL and PEFT, which raise anything. Its message may quote data: that goes to a file.
        reason = f"{type(error).__name__} was raised; the traceback is in failures/"
        return Ended(key, reason=reason, trace=traceback.format_exc(), seconds=time.monotonic() - began)
    return Ended(key, found, seconds=time.monotonic() - began)


class Loop:
    """One after another, in this process."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._next: tuple[str, Job] | None = None

    def room(self) -> int:
        return int(self._next is None)

    def give(self, key: str, job: Job) -> None:
        self._next = key, job

    def ended(self) -> list[Ended]:
        if self._next is None:
            return []
        (key, job), self._next = self._next, None
        return [attempt(self._work, key, job)]

    def close(self) -> None: ...


# ------------------------------------------------------------------------------------------------ processes


@dataclass
class _Worker:
    process: Any
    line: connection.Connection
    key: str = ""
    """Of the step it is at; empty when it is idle."""


class Processes:
    """In several processes of this machine, each with its share of the cores."""

    def __init__(self, work: Work, workers: int) -> None:
        self._work, self._most = work, workers
        self._threads = max(1, (os.cpu_count() or 1) // workers)
        self._workers: list[_Worker] = []

    def room(self) -> int:
        return self._most - sum(bool(worker.key) for worker in self._workers)

    def give(self, key: str, job: Job) -> None:
        worker = next((w for w in self._workers if not w.key), None) or self._start()
        worker.key = key
        worker.line.send((key, dict(job)))

    def ended(self) -> list[Ended]:
        busy = {worker.line: worker for worker in self._workers if worker.key}
        found = []
        for line in connection.wait(list(busy)):
            worker = busy[line]  # type: ignore[index]
            try:
                found.append(worker.line.recv())
                worker.key = ""
            except (EOFError, ConnectionResetError):
                found.append(Ended(worker.key, lost=True))
                self._workers.remove(worker)
                worker.process.join()
        return found

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()
            worker.line.close()
        self._workers.clear()

    def _start(self) -> _Worker:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._work, self._threads), daemon=True)
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours))
        return self._workers[-1]


def _serve(line: connection.Connection, work: Work, threads: int) -> None:
    """A worker's life. It ends with its parent, however that ends."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    while True:
        try:
            key, job = line.recv()
        except EOFError:
            return
        line.send(attempt(work, key, job))


def _follow_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


# ------------------------------------------------------------------------------------------------ Ray


def _check_address(address: str) -> None:
    """Ray itself waits minutes for an address that leads nowhere, and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--ray {address}: no address of a cluster; give HOST:PORT, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        why = error.strerror or str(error) or "no answer"
        raise UsageError(f"--ray {address}: nothing answers there ({why}); start it with: ray start --head") from None


def ray_pool(work: Work, address: str, *, cpus: float, gpus: float, retries: int) -> Pool:
    """Workers of a Ray cluster: `auto` is the running one, or one started on this machine.

    `cpus` and `gpus` are what one step holds; a fraction of a GPU lets several steps share one. A step whose worker or
    node is lost is given to another one, up to `retries` times. Raises `MissingExtra` or `UsageError`.
    """
    if address != "auto":
        _check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports home unless told otherwise
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtra("--ray", "ray", "ray") from None
    if not ray.is_initialized():
        try:
            ray.init(
                address=None if address == "auto" else address,
                include_dashboard=False if address == "auto" and "RAY_ADDRESS" not in os.environ else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:
            # A node that does not start is a plain `Exception` of Ray, an address that leads nowhere another one.
            why = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise UsageError(f"--ray {address}: no cluster there ({why}); start one with: ray start --head") from None
    capacity: Callable[[], dict[str, float]] = ray.cluster_resources
    task = ray.remote(attempt).options(num_cpus=cpus, num_gpus=gpus, max_retries=retries)
    held = {kind: share for kind, share in (("CPU", cpus), ("GPU", gpus)) if share}
    lacking = next((kind for kind in held if held[kind] > capacity().get(kind, 0)), None)
    if lacking is not None:
        there = capacity().get(lacking, 0)
        raise UsageError(f"--ray {address}: a step holds {held[lacking]:g} {lacking}, there are {there:g}; ask less")

    class OnRay:
        def __init__(self) -> None:
            self._running: dict[Any, str] = {}

        def room(self) -> int:
            # twice what fits, so that no worker waits for this process
            there = capacity()
            fits = min((int(there.get(kind, 0) / share) for kind, share in held.items()), default=1)
            return max(1, 2 * fits) - len(self._running)

        def give(self, key: str, job: Job) -> None:
            self._running[task.remote(work, key, dict(job))] = key

        def ended(self) -> list[Ended]:
            ready, _ = ray.wait(list(self._running), num_returns=1)
            found = []
            for reference in ready:
                key = self._running.pop(reference)
                try:
                    found.append(ray.get(reference))
                except (ray.exceptions.RayTaskError, ray.exceptions.RayError):
                    found.append(Ended(key, lost=True))
            return found

        def close(self) -> None:
            for reference in self._running:
                ray.cancel(reference, force=True)
            self._running.clear()
            ray.shutdown()

    return OnRay()
