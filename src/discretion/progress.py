"""Progress of long work on stderr: a bar with items per second and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

PLAIN_LINE_EVERY = 15.0
"""Seconds between two lines where there is no terminal."""


class Progress(Protocol):
    """What long work tells while it runs."""

    def note(self, text: str) -> None:
        """One line that stays."""

    def begin(self, label: str, total: int, done: int = 0) -> None:
        """A stretch of work of `total` items, of which `done` are there already; ends the one before."""

    def advance(self, items: int = 1) -> None:
        """More items of the present stretch are done."""


class Quiet:
    """Tells nothing."""

    def note(self, text: str) -> None: ...

    def begin(self, label: str, total: int, done: int = 0) -> None: ...

    def advance(self, items: int = 1) -> None: ...


class Lines:
    """Plain lines, for logs and pipes: at the beginning, every 15 seconds, and at the end of a stretch."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._label, self._total, self._done, self._before = "", 0, 0, 0
        self._began = self._told = 0.0

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def begin(self, label: str, total: int, done: int = 0) -> None:
        self._label, self._total, self._done, self._before = label, total, done, done
        self._began = self._told = time.monotonic()
        self.note(f"{label}: {total} items" + (f", {done} there already" if done else ""))

    def advance(self, items: int = 1) -> None:
        self._done += items
        now = time.monotonic()
        if self._done < self._total and now - self._told < PLAIN_LINE_EVERY:
            return
        self._told = now
        rate = (self._done - self._before) / max(now - self._began, 1e-9)
        left = (self._total - self._done) / rate if rate else 0.0
        self.note(f"{self._label}: {self._done}/{self._total}, {rate:.1f} items/s, {left:.0f} s left")


@contextmanager
def shown(stream: TextIO | None = None, *, quiet: bool = False) -> Iterator[Progress]:
    """The progress that fits the stream: a bar on a terminal, lines elsewhere, nothing when quiet."""
    stream = sys.stderr if stream is None else stream
    if quiet:
        yield Quiet()
    elif not stream.isatty():
        yield Lines(stream)
    else:
        with _bar(stream) as bar:
            yield bar


@contextmanager
def _bar(stream: TextIO) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Rich
    from rich.text import Text

    class Rate(TextColumn):
        def __init__(self) -> None:
            super().__init__("")

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "")

    rich = Rich(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=Console(file=stream),
        speed_estimate_period=60,
    )

    class Live:
        def note(self, text: str) -> None:
            rich.console.print(text, markup=False, highlight=False)

        def begin(self, label: str, total: int, done: int = 0) -> None:
            rich.add_task(label, total=total, completed=done)

        def advance(self, items: int = 1) -> None:
            rich.advance(rich.task_ids[-1], items)

    with rich:
        yield Live()
