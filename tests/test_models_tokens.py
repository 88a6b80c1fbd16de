"""Text to token ids: what is shared is encoded once, and nothing comes out otherwise than text by text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from discretion.models.parity import Text
from discretion.schema import Message
from tests.tiny import CHATML, tiny_tokenizer

TURNS = [Message(role, f"turn {n}, é\u2028 and a <|odd|> mark") for n in range(12) for role in ("user", "assistant")]


class Counting:
    """A tokenizer that keeps every text it is given."""

    def __init__(self, tokenizer):
        self.tokenizer, self.seen = tokenizer, []

    def __call__(self, texts, **given):
        self.seen += [texts] if isinstance(texts, str) else list(texts)
        return self.tokenizer(texts, **given)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


def metaspace(scheme: str) -> PreTrainedTokenizerFast:
    letters = {letter: n for n, letter in enumerate("▁abcdefghijklmnopqrstuvwxyz \n")}
    inner = Tokenizer(models.BPE(vocab=letters, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    return tokenizer


def one_by_one(tokenizer, texts):
    return {text: tokenizer([text], add_special_tokens=False)["input_ids"][0] for text in texts}


def held(text: Text, texts) -> None:
    prefix = text.prefix.tolist()
    for words, ids in one_by_one(text.tokenizer, texts).items():
        wanted = ids if ids[: len(prefix)] == prefix else [*prefix, *ids]
        assert text.encode(texts)[words].tolist() == wanted, words


def test_turns_that_many_prompts_share_are_encoded_once_and_the_ids_stay_the_same():
    counting = Counting(tiny_tokenizer())
    text = Text(counting, CHATML)
    prompts = [text.render((*TURNS[: 2 * n], Message("user", f"question {q}"))) for n in (4, 8, 12) for q in range(5)]
    held(Text(counting.tokenizer, CHATML), prompts)
    counting.seen.clear()
    text.encode(prompts)
    assert sum(len(seen) for seen in counting.seen) < sum(map(len, prompts)) / 2
    # Two whole texts prove the pieces.
    assert sum("turn 0," in seen for seen in counting.seen) <= 2 + 2


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["<|user|>", "<|end|>", "<s>", " ", "\n", "A", "é", "<|odd|>", "Yes, it is.", ""])))
def test_any_mixture_of_marks_and_text_has_the_ids_of_the_whole(parts):
    shared = "<|user|>\nthe same long story for all of them<|end|>\n" * 8
    held(Text(tiny_tokenizer(), CHATML), [shared + "".join(parts) + tail for tail in ("", "A", " B", "<|end|>")])


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_a_tokenizer_that_treats_the_first_piece_apart_is_asked_for_whole_texts(scheme):
    story = "a story told twice<turn>and answered twice<turn>" * 6
    texts = [f"{story}{end}" for end in ("yes", "no", " maybe")]
    held(Text(metaspace(scheme), CHATML), texts)


def test_a_mark_that_takes_the_blanks_around_it_cuts_nothing():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<|wide|>", lstrip=True, rstrip=True, special=True)], special_tokens=True)
    story = "some words that come again \n <|wide|> \n and more of them<|end|>" * 8
    held(Text(tokenizer, CHATML), [story, story + " <|wide|> ", story + "A"])


def test_texts_of_two_tokenizers_are_still_compared_one_by_one():
    ours, theirs = tiny_tokenizer(), tiny_tokenizer()
    theirs.add_tokens(["zebra"])
    shared = "<|user|>\nthe same long story for all of them<|end|>\n" * 8
    found = Text(ours, CHATML, theirs).encode([shared + "A", shared + "zebra"])
    assert found[shared + "zebra"] is None
    assert np.array_equal(found[shared + "A"], Text(ours, CHATML).encode([shared + "A"])[shared + "A"])
