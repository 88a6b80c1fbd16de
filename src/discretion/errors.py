"""Every error the product raises on purpose, and the exit code each one ends the command line with.

    DiscretionError                 exit code
    ├── UsageError                  2   what was asked cannot be done as asked
    │   ├── ConfigError             2   an option or a configuration file
    │   ├── DataError               2   a row, a file, a probe set
    │   ├── ModelError              2   a checkpoint, an adapter, a tokenizer, a template
    │   ├── NotComparable           2   two arms, or two runs, that must not be put side by side
    │   └── MissingExtra            2   an optional library; says what to type
    └── RunFailure                  4   the run broke; what was measured is kept
        ├── StorageFailure          4   disk full, folder not writable
        └── NonFinite               4   NaN or infinite logits

`Unparsed` is no failure: a probe raises it to say that a reply cannot be scored.

Messages are one line in three parts: what was asked, what was found, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_FAILURE = 4
EXIT_INTERRUPTED = 130


class DiscretionError(Exception):
    """Root of the tree. `str()` is the one line a user sees."""

    exit_code = EXIT_FAILURE


class UsageError(DiscretionError):
    """What was asked for cannot be done as asked."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """A configuration file or an option is wrong."""


class DataError(UsageError):
    """A data file or one of its rows is wrong; the message begins with `file:line` where there is one."""


class ModelError(UsageError):
    """A checkpoint, adapter, tokenizer or chat template cannot be used."""


class NotComparable(UsageError):
    """Two arms or two runs differ in something that must be equal."""


class MissingExtra(UsageError):
    """An optional library is not installed."""

    def __init__(self, wanted: str, library: str, extra: str) -> None:
        super().__init__(
            f"{wanted} needs the library {library!r}, which is not installed; type: pip install 'discretion[{extra}]'"
        )


class RunFailure(DiscretionError):
    """The run broke after it had begun; what was measured stays on disk."""


class StorageFailure(RunFailure):
    """The run folder cannot be written."""


class NonFinite(RunFailure):
    """A model gives NaN or infinite logits."""


class Unanswered(Exception):
    """Thrown into a probe where a request could not be answered; `str()` is the reason.

    A probe that lets it through has failed on the item; one that catches it may ask something else.
    """


class Unparsed(Exception):
    """Raised by a probe: the reply came, and cannot be scored. `str()` is the reason, short and without model text."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: `; did you mean 'x'?`, else the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + ", ".join(known)
