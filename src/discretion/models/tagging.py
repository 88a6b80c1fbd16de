"""A token classifier of transformers, out of a local folder, that marks people and places in texts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from discretion.errors import ModelError

OVERLAP = 64
"""Tokens that two windows of a long text share."""


def open_classifier(folder: str, known: Collection[str]) -> Callable[[Sequence[str]], list[list[tuple[int, int, str]]]]:
    """Texts to (start, end, label) of each, whole words, windows of a long text joined; labels without B- and I-.

    Raises `ModelError` for a folder without such a model, or one that has none of the `known` labels.
    """
    from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

    if not (Path(folder) / "config.json").is_file():
        raise ModelError(
            f"the tagger {folder}: no folder of a model; give spacy:MODEL or a folder with a token classifier"
        )
    words: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **words)
        model = AutoModelForTokenClassification.from_pretrained(folder, use_safetensors=True, **words)
    except (OSError, ValueError, KeyError, ImportError) as error:
        why = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise ModelError(f"the tagger {folder}: cannot be loaded ({why}); give a token classifier") from None
    labels = {label.split("-", 1)[-1] for label in model.config.id2label.values()}
    if not labels & set(known):
        raise ModelError(
            f"the tagger {folder}: its labels are {', '.join(sorted(labels))}; give one that has some of "
            + ", ".join(known)
        )
    # Two positions of some families (RoBERTa) hold no token.
    tokenizer.model_max_length = min(tokenizer.model_max_length, model.config.max_position_embeddings - 2)
    stride = min(OVERLAP, tokenizer.model_max_length // 4)
    classify = pipeline(
        "token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="first", stride=stride
    )

    def find_entities(texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
        asked = [text for text in texts if text.strip()]
        answers = iter(classify(asked) if asked else ())
        return [
            [(found["start"], found["end"], found["entity_group"]) for found in next(answers)] if text.strip() else []
            for text in texts
        ]

    return find_entities
