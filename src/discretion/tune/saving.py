"""What a tuned model is written as: weights as safetensors, configuration and tokenizer, and nothing else.

No optimizer and no training arguments, which the libraries would write as pickles.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from discretion.errors import StorageFailure


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """An adapter, or a whole checkpoint, into `folder`. Raises `StorageFailure` when it cannot be written."""
    with writing(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write into one line."""
    try:
        yield
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise StorageFailure(f"writing {path}: {why}; make room, or give another folder, and tune again") from None
