"""Generation: each row's text is what the model says alone, wherever it is batched, and it stops where it should."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from discretion.models import decoding, scoring
from discretion.models.decoding import Action
from discretion.models.local import open_arms
from discretion.models.scoring import Weights
from discretion.schema import Generate, Message, Sampling
from tests.tiny import tiny_adapter, tiny_llama

STORY = "The nurse told the doctor about the patient in confidence, and nobody else should hear of it. " * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoding")
    tiny_llama(folder / "base", seed=3)
    tiny_adapter(folder / "base", folder / "adapter")
    return folder


@pytest.fixture(scope="module")
def opened(folder):
    return open_arms(str(folder / "base"), str(folder / "adapter"), device="cpu", offline=True, batch_tokens=1024)


@pytest.fixture
def arms(opened):
    opened.base.weights.rows, opened.base.weights.budget = 64, 1024
    return opened


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)


def ask(*contents, **sampling):
    return Generate(messages=tuple(Message("user", content) for content in contents), sampling=Sampling(**sampling))


def asked(count=9, **sampling):
    """Prompts of every length, some behind one long beginning, some equal."""
    return [ask(*((STORY,) if i % 3 else ()), f"Question {i // 2}? " * (i % 4 + 1), **sampling) for i in range(count)]


def greedy(model, arms, request):
    """(new tokens, why it ended) of `model.generate` on this prompt alone."""
    text = arms.base.shared.text
    prompt = text.encode([text.render(request.messages)]).popitem()[1]
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([prompt.tolist()]),
            max_new_tokens=request.sampling.max_tokens,
            do_sample=False,
            eos_token_id=[1, 6],
            pad_token_id=1,
        )[0, len(prompt) :].tolist()
    ended = out and out[-1] in (1, 6)
    return text.tokenizer.decode(out, skip_special_tokens=True, clean_up_tokenization_spaces=False), (
        "end" if ended else "length"
    )


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_greedy_text_is_that_of_generate_alone_whatever_the_batch(arms, model, rows):
    arms.base.weights.rows = rows
    requests = asked(max_tokens=70)
    replies = arms.base.generate(requests)
    for request, reply in zip(requests, replies, strict=True):
        assert (reply.text, reply.stop) == greedy(model, arms, request)
    assert {reply.stop for reply in replies} <= {"end", "length"}


def test_rows_that_end_at_different_times_are_replaced_and_still_right(arms, model):
    """More rows than slots, with limits far apart: slots are refilled again and again."""
    arms.base.weights.rows = 4
    requests = [ask(f"Question {i}? ", STORY[: 20 * i], max_tokens=2 + 23 * (i % 4)) for i in range(12)]
    finished = []
    replies = arms.base.generate(requests, on_reply=lambda index, reply: finished.append(index))
    for request, reply in zip(requests, replies, strict=True):
        assert (reply.text, reply.stop) == greedy(model, arms, request)
    assert sorted(finished) == list(range(12))
    assert finished != sorted(finished)


def test_the_tuned_arm_generates_with_its_adapter(arms):
    requests = asked(4, max_tokens=12)
    base, tuned = arms.base.generate(requests), arms.tuned.generate(requests)
    assert [r.text for r in base] != [r.text for r in tuned]
    assert [r.text for r in arms.base.generate(requests)] == [r.text for r in base]


def test_a_seeded_draw_does_not_depend_on_the_batch_it_is_drawn_in(arms):
    requests = [ask("Tell me.", max_tokens=24, temperature=1.0, seed=seed) for seed in range(6)]
    together = [reply.text for reply in arms.base.generate(requests + asked(5, max_tokens=40))][:6]
    arms.base.weights.rows = 2
    alone = [arms.base.generate([request])[0].text for request in reversed(requests)][::-1]
    assert together == alone
    assert len(set(together)) > 3


def test_sampling_follows_the_models_own_distribution(arms):
    logits = torch.tensor([[0.1, 0.2, 0.7]]).log().repeat(3000, 1)
    rows = [decoding.Row(i, None, 1, Sampling(temperature=1.0, seed=i), None) for i in range(3000)]
    for row in rows:
        row.begin()
    share = torch.bincount(torch.tensor(decoding.pick(logits, rows)), minlength=3) / 3000
    assert share.tolist() == pytest.approx([0.1, 0.2, 0.7], abs=0.03)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ('{"a": 1} and more', 8),
        ('say {"a": "}{"} more', 15),
        (r'{"a": "\"}"} x', 12),
        ('{"a": {"b": {}}} x', 16),
        ('he said "{" and {"a": 1}x', None),
        ("} {x} y", 5),
        ('{"a": 1', None),
    ],
)
def test_an_action_ends_at_its_closing_brace_and_not_at_one_inside_a_string(text, end):
    assert Action().feed(text) == end
    scanner, seen = Action(), None
    for at, letter in enumerate(text):
        if seen is None and scanner.feed(letter):
            seen = at + 1
    assert seen == end


class Script:
    """Makes the model say a text, whatever it is asked: the head prefers one token after the other."""

    def __init__(self, arms, monkeypatch, text):
        self.ids = arms.base.shared.text.tokenizer(text, add_special_tokens=False)["input_ids"]
        self.asked = 0

        def logits(weights, hidden):
            out = torch.zeros(len(hidden), 320)
            out[:, self.ids[min(self.asked, len(self.ids) - 1)]] = 1
            self.asked += 1
            return out

        monkeypatch.setattr(Weights, "logits", logits)


def test_generation_stops_at_the_first_complete_action(arms, monkeypatch):
    said = 'I will write.\nAction Input: {"to": "ann", "body": "a } b {"} and then {"x": 1} more'
    script = Script(arms, monkeypatch, said)
    (reply,) = arms.base.generate([ask("Write.", max_tokens=200, until="action")])
    assert reply.text == 'I will write.\nAction Input: {"to": "ann", "body": "a } b {"}'
    assert reply.stop == "action"
    assert script.asked < len(script.ids)


def test_an_action_may_begin_in_the_prefill(arms, monkeypatch):
    Script(arms, monkeypatch, '"ann"} and more {"x": 1}')
    request = Generate(
        messages=(Message("user", "Write."),),
        prefill='Action Input: {"to": ',
        sampling=Sampling(max_tokens=60, until="action"),
    )
    assert arms.base.generate([request])[0].text == '"ann"}'


def test_a_stop_string_ends_the_text_and_is_kept(arms, monkeypatch):
    Script(arms, monkeypatch, "The answer is twelve.\nUser: more")
    (reply,) = arms.base.generate([ask("Count.", max_tokens=60, stop=("\nUser:", "zzz"))])
    assert (reply.text, reply.stop) == ("The answer is twelve.\nUser:", "stop")


def test_letters_of_several_tokens_come_out_whole(arms, monkeypatch):
    Script(arms, monkeypatch, "naïve – 日本 {“x”: 1} end")
    (reply,) = arms.base.generate([ask("Write.", max_tokens=90, until="action")])
    assert reply.text == "naïve – 日本 {“x”: 1}"


def test_generation_is_cut_at_the_context_and_says_so(arms):
    (reply,) = arms.base.generate([ask("word " * 90, max_tokens=4000)])
    assert reply.stop in ("length", "end")
    assert reply.prompt_tokens + reply.output_tokens <= 512


def test_a_prompt_longer_than_the_context_is_an_error(arms):
    long, good = arms.base.generate([ask("word " * 900, max_tokens=4), ask("word", max_tokens=4)])
    assert long.error.startswith("too long: ")
    assert long.text is None and long.stop is None
    assert good.text is not None


def test_logits_that_are_not_finite_end_their_row_alone(arms, monkeypatch):
    real, calls = Weights.logits, []

    def spoiled(weights, hidden):
        out = real(weights, hidden)
        calls.append(len(out))
        if len(calls) == 3:
            out[0] = math.nan
        return out

    monkeypatch.setattr(Weights, "logits", spoiled)
    replies = arms.base.generate([ask(f"Question {i}?", max_tokens=8) for i in range(3)])
    assert [reply.error for reply in replies].count("non-finite logits") == 1
    assert all((reply.error is None) != (reply.text is None) for reply in replies)


@pytest.mark.parametrize("where", ["prefill", "step", "buffer"])
def test_running_out_of_memory_is_survived_and_changes_no_text(arms, monkeypatch, where):
    requests = asked(max_tokens=40)
    expected = [reply.text for reply in arms.base.generate(requests)]
    failures = []

    def once(real, size):
        def call(*args, **named):
            if size(*args) and len(failures) < 3:
                failures.append(where)
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(*args, **named)

        return call

    if where == "prefill":
        monkeypatch.setattr(scoring, "_decode", once(scoring._decode, lambda w, ids, *rest: ids.numel() > 200))
    elif where == "step":
        monkeypatch.setattr(decoding, "step", once(decoding.step, lambda w, c, n, lengths, t: len(lengths) > 2))
    else:
        monkeypatch.setattr(decoding, "align", once(decoding.align, lambda rows, n: len(rows) > 2))
    assert [reply.text for reply in arms.base.generate(requests)] == expected
    assert failures


def test_memory_that_does_not_hold_one_row_fails_that_row(arms, monkeypatch):
    def never(*args):
        raise MemoryError

    monkeypatch.setattr(decoding, "step", never)
    replies = arms.base.generate([ask(f"Question {i}?", max_tokens=5) for i in range(3)])
    assert {reply.error for reply in replies} <= {"out of memory at one row", None}
    assert any(reply.error for reply in replies)


def test_equal_prompts_are_prefilled_once(arms, monkeypatch):
    seen = []
    real = scoring._decode
    monkeypatch.setattr(scoring, "_decode", lambda w, ids, *rest: seen.append(ids.numel()) or real(w, ids, *rest))
    requests = [ask(STORY, max_tokens=3, temperature=1.0, seed=seed) for seed in range(8)]
    (first, *_) = arms.base.generate(requests)
    assert sum(seen) == first.prompt_tokens
