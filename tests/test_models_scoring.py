"""Log-likelihoods: whatever is shared, packed, padded or cached, the number is that of one row run alone in float32."""

from __future__ import annotations

import math
import re
from functools import cache

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from discretion.models import scoring
from discretion.models.local import open_arms
from discretion.models.scoring import Weights
from discretion.schema import HiddenStates, LogLikelihood, Message
from tests.tiny import tiny_adapter, tiny_llama

STORY = "The nurse told the doctor about the patient in confidence, and nobody else should hear of it. " * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scoring")
    tiny_llama(folder / "base")
    tiny_adapter(folder / "base", folder / "adapter")
    return folder


@pytest.fixture(scope="module")
def arms(folder):
    return open_arms(str(folder / "base"), str(folder / "adapter"), device="cpu", offline=True, batch_tokens=1024)


@pytest.fixture(scope="module")
def slow(folder):
    """The same numbers the slow way: a fresh copy, the adapter merged for tuned, one row, all logits."""
    return Slow(folder)


class Slow:
    def __init__(self, folder):
        self.folder = folder
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "base")

    @cache  # noqa: B019
    def model(self, arm):
        from tests.tiny import merged

        folder = self.folder / "base"
        if arm == "tuned":
            folder = merged(folder, self.folder / "adapter", self.folder / "merged")
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    @torch.inference_mode()
    def tokens(self, arm, context, continuation):
        """ln p of each token of the continuation."""
        if not isinstance(context, str):
            rows = [{"role": message.role, "content": message.content} for message in context]
            context = self.tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True)
        head = self.tokenizer(context, add_special_tokens=False)["input_ids"]
        whole = self.tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
        if not head:
            head, whole = [0], [0, *whole]
        assert whole[: len(head)] == head
        logp = self.model(arm)(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        return logp, whole, len(head)

    def logprob(self, arm, context, continuation):
        logp, whole, start = self.tokens(arm, context, continuation)
        return sum(float(logp[i - 1, whole[i]]) for i in range(start, len(whole)))


def chat(*contents):
    return tuple(Message("user", content) for content in contents)


REQUESTS = [
    *[
        LogLikelihood(
            context=chat(story, f"Question {i}: is it appropriate?"), continuations=("A", "B", "No, it is not")
        )
        for story in (STORY, STORY.replace("nurse", "clerk"))
        for i in range(3)
    ],
    LogLikelihood(context=chat("Hello."), continuations=("A",)),
    *[
        LogLikelihood(context="", continuations=(text,))
        for text in ("a", "The", "The nurse", "The nurse told the", "x" * 60)
    ],
    LogLikelihood(context=STORY.strip(), continuations=(" Yes, it is.", " Yes, it was.", "")),
]


@pytest.mark.parametrize("budget", [1, 150, 100_000])
@pytest.mark.parametrize("arm", ["base", "tuned"])
def test_sharing_packing_and_padding_do_not_change_a_log_likelihood(arms, slow, arm, budget):
    model = getattr(arms, arm)
    model.weights.budget = budget
    replies = model.loglikelihood(REQUESTS)
    for request, reply in zip(REQUESTS, replies, strict=True):
        expected = [slow.logprob(arm, request.context, c) for c in request.continuations]
        assert reply.logprobs == pytest.approx(expected, abs=1e-4)


def test_the_plan_of_these_requests_really_has_stems_trunks_and_leaves(arms):
    arms.base.loglikelihood(REQUESTS)
    plan = arms.base.shared.last["loglikelihood"][2]
    assert any(group.stem == 0 and len(group.members) > 1 for group in plan.groups)
    many = [
        LogLikelihood(context=chat(STORY, f"{who} {STORY}", f"Question {i}?"), continuations=("A",))
        for who in ("Ann", "Bob", "Eve", "Kim")
        for i in range(3)
    ]
    arms.base.loglikelihood(many)
    assert any(
        group.stem > 32 and group.trunk > group.stem for group in arms.base.shared.last["loglikelihood"][2].groups
    )


def test_stems_and_trunks_behind_them_do_not_change_a_log_likelihood(arms, slow):
    arms.base.weights.budget = 700
    many = [
        LogLikelihood(context=chat(STORY, f"{who} {STORY}", f"Question {i}?"), continuations=("A", "Nobody"))
        for who in ("Ann", "Bob", "Eve", "Kim")
        for i in range(3)
    ]
    for request, reply in zip(many, arms.base.loglikelihood(many), strict=True):
        expected = [slow.logprob("base", request.context, c) for c in request.continuations]
        assert reply.logprobs == pytest.approx(expected, abs=1e-4)


def test_arms_called_in_turn_answer_from_their_own_weights(arms, slow):
    request = REQUESTS[0]
    seen = [getattr(arms, arm).loglikelihood([request])[0].logprobs[0] for arm in ("base", "tuned", "base", "tuned")]
    expected = [slow.logprob(arm, request.context, "A") for arm in ("base", "tuned")]
    assert seen == pytest.approx(expected * 2, abs=1e-4)
    assert abs(expected[0] - expected[1]) > 1e-2


def test_the_second_arm_walks_the_plan_of_the_first(arms):
    requests = list(REQUESTS)
    arms.base.loglikelihood(requests)
    first = arms.base.shared.last["loglikelihood"][2]
    arms.tuned.loglikelihood(requests)
    assert arms.tuned.shared.last["loglikelihood"][2] is first


def test_replies_come_with_their_index_as_batches_finish_and_in_order_in_the_end(arms):
    seen = {}
    arms.base.weights.budget = 100
    replies = arms.base.loglikelihood(REQUESTS, on_reply=lambda index, reply: seen.__setitem__(index, reply))
    assert [seen[index] for index in range(len(REQUESTS))] == replies


def test_options_are_read_by_token_round_trip(arms, slow):
    """After a space, ` A` is one token: it must not be scored as a space followed by `A`."""
    tokenizer = arms.base.shared.text.tokenizer
    text = "The answer is "
    whole = tokenizer(text + "A", add_special_tokens=False)["input_ids"]
    alone = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert whole[: len(alone)] != alone
    (reply,) = arms.base.loglikelihood([LogLikelihood(context=text, continuations=("A", "B"))])
    with torch.inference_mode():
        logp = slow.model("base")(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    assert reply.logprobs[0] == pytest.approx(float(logp[len(whole) - 2, whole[-1]]), abs=1e-4)
    assert reply.lengths[0] == 1


def test_a_boundary_that_moves_moves_for_all_options_of_the_request(arms):
    (reply,) = arms.base.loglikelihood([LogLikelihood(context="The answer is ", continuations=("A", "(A)", "~"))])
    longest = max(reply.lengths)
    assert reply.lengths[0] == 1
    assert longest > 1
    # '~' stands behind the same boundary, so its space is scored with it
    assert reply.lengths[2] == 2


def test_per_token_scores_agree_with_the_definition(arms, slow):
    context, continuation = STORY.strip(), " Yes, it is not the doctor."
    (reply,) = arms.tuned.loglikelihood([LogLikelihood(context=context, continuations=(continuation,), per_token=True)])
    logp, whole, start = slow.tokens("tuned", context, continuation)
    rows = logp[start - 1 : len(whole) - 1]
    targets = torch.tensor(whole[start:])
    chosen = rows[torch.arange(len(targets)), targets]
    mean = (rows.exp() * rows).sum(-1)
    variance = (rows.exp() * rows.square()).sum(-1) - mean.square()
    (tokens,) = reply.tokens
    assert tokens.logprob == pytest.approx(chosen.tolist(), abs=1e-4)
    assert tokens.mean == pytest.approx(mean.tolist(), abs=1e-4)
    assert tokens.variance == pytest.approx(variance.tolist(), abs=1e-3)
    assert tokens.rank == tuple((rows > chosen[:, None]).sum(-1).tolist())
    assert math.fsum(tokens.logprob) == pytest.approx(reply.logprobs[0])


def test_moments_of_a_vocabulary_of_three_by_hand(arms):
    """p = (1/2, 1/4, 1/4): E ln p = −1.5 ln 2 and Var ln p = 0.25 (ln 2)²."""
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log() + 7
    columns = scoring._head(arms.base.weights, lambda a, b: logits[a:b], 1, np.array([0, 0]), np.array([0, 2]), True)
    assert columns[0].tolist() == pytest.approx([-math.log(2), -2 * math.log(2)], abs=1e-6)
    assert columns[1].tolist() == pytest.approx([-1.5 * math.log(2)] * 2, abs=1e-6)
    assert columns[2].tolist() == pytest.approx([0.25 * math.log(2) ** 2] * 2, abs=1e-6)
    assert columns[3].tolist() == [0, 1]


def test_the_head_never_sees_more_rows_than_a_chunk(arms, monkeypatch):
    weights = arms.base.weights
    monkeypatch.setitem(scoring.CHUNK_BYTES, "cpu", 4 * 320 * 5)
    weights.budget = 100_000
    seen = []
    hook = weights.head.register_forward_hook(lambda module, args, out: seen.append(args[0].shape))
    try:
        replies = arms.base.loglikelihood([LogLikelihood(context="", continuations=(STORY,), per_token=True)] * 2)
    finally:
        hook.remove()
    assert replies[0].lengths[0] > 50
    assert max(shape[:-1].numel() for shape in seen) <= 5
    # equal requests are computed once
    assert sum(shape[:-1].numel() for shape in seen) == replies[0].lengths[0]


def test_options_of_one_token_need_one_row_of_the_head(arms):
    seen = []
    hook = arms.base.weights.head.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[0]))
    try:
        arms.base.loglikelihood([LogLikelihood(context=chat("Which?"), continuations=("A", "B", "C", "D"))])
    finally:
        hook.remove()
    assert seen == [1]


@pytest.mark.parametrize(
    "words", ["CUDA out of memory. Tried to allocate", "DefaultCPUAllocator: can't allocate memory"]
)
def test_running_out_of_memory_halves_the_batch_and_changes_nothing(folder, monkeypatch, words):
    arms = open_arms(str(folder / "base"), str(folder / "adapter"), device="cpu", offline=True, batch_tokens=4096)
    expected = arms.base.loglikelihood(REQUESTS)
    real, sizes = scoring._decode, []

    def small(weights, ids, *rest):
        if ids.numel() > 500:
            raise RuntimeError(words)
        sizes.append(ids.numel())
        return real(weights, ids, *rest)

    monkeypatch.setattr(scoring, "_decode", small)
    arms.base.weights.budget = 4096
    again = arms.base.loglikelihood(REQUESTS)
    assert [r.logprobs for r in again] == [pytest.approx(r.logprobs, abs=1e-4) for r in expected]
    assert max(sizes) <= 500
    assert arms.base.weights.budget < 4096
    arms.base.loglikelihood(REQUESTS)


def test_a_single_row_that_does_not_fit_fails_alone(arms, monkeypatch):
    real = Weights.logits

    def small(weights, hidden):
        if len(hidden) > 40:
            raise torch.OutOfMemoryError("out of memory")
        return real(weights, hidden)

    monkeypatch.setattr(Weights, "logits", small)
    arms.base.weights.budget = 4096
    requests = [LogLikelihood(context="", continuations=(text,)) for text in (STORY, "Nobody", "Is it")]
    first, second, third = arms.base.loglikelihood(requests)
    assert first.error == "out of memory at one row"
    assert first.logprobs is None
    assert second.logprobs and third.logprobs


def test_another_runtime_error_is_not_taken_for_a_lack_of_memory(arms, monkeypatch):
    def broken(*args):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Weights, "logits", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        arms.base.loglikelihood(REQUESTS[:1])


def test_a_context_too_long_is_an_error_and_its_neighbours_are_answered(arms):
    long, short = arms.base.loglikelihood(
        [
            LogLikelihood(context=STORY * 20, continuations=("A",)),
            LogLikelihood(context=STORY, continuations=("A",)),
        ]
    )
    assert re.fullmatch(r"too long: \d+ tokens, context 512", long.error)
    assert long.logprobs is None
    assert short.logprobs


def test_a_message_the_template_refuses_is_an_error_without_its_text(folder):
    (folder / "strict.jinja").write_text("{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}x")
    arms = open_arms(
        str(folder / "base"),
        str(folder / "adapter"),
        device="cpu",
        template=str(folder / "strict.jinja"),
        batch_tokens=99,
    )
    (reply,) = arms.base.loglikelihood([LogLikelihood(context=(Message("system", "secret"),), continuations=("A",))])
    assert reply.error == "the chat template refuses the messages (TemplateError)"


def test_logits_that_are_not_finite_are_an_error_of_their_row(arms):
    weights = arms.base.weights
    token = arms.base.shared.text.tokenizer("~", add_special_tokens=False)["input_ids"]
    table = weights.causal.get_input_embeddings().weight
    kept = table[token].clone()
    with torch.no_grad():
        table[token] = math.nan
    try:
        bad, good = arms.base.loglikelihood(
            [
                LogLikelihood(context="Nobody~", continuations=("A",)),
                LogLikelihood(context="Nobody", continuations=("A",)),
            ]
        )
    finally:
        with torch.no_grad():
            table[token] = kept
    assert bad.error == "non-finite logits"
    assert good.logprobs


def test_hidden_states_are_those_of_the_model_averaged_where_asked(arms, slow):
    text = "The nurse told the doctor"
    ids = slow.tokenizer(text, add_special_tokens=False)["input_ids"]
    inputs, outputs = [], []
    model = slow.model("base")
    hooks = [layer.register_forward_hook(lambda m, a, o: outputs.append(o)) for layer in model.model.layers]
    hooks.append(model.model.layers[0].register_forward_pre_hook(lambda m, a: inputs.append(a[0])))
    with torch.inference_mode():
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    states = [inputs[0][0], *(out[0] for out in outputs)]
    last, mean, some, bad = arms.base.hidden_states(
        [
            HiddenStates(text=text, layers=(0, 1, -1)),
            HiddenStates(text=text + " about", layers=(2,), positions="mean"),
            HiddenStates(text=text, layers=(1,), positions=(0, -2)),
            HiddenStates(text=text, layers=(3,)),
        ]
    )
    assert last.hidden == tuple(pytest.approx(states[k][-1].tolist(), abs=1e-5) for k in (0, 1, 2))
    assert len(mean.hidden) == 1
    assert mean.hidden[0] != pytest.approx(states[2].mean(0).tolist(), abs=1e-3)
    assert some.hidden[0] == pytest.approx(((states[1][0] + states[1][-2]) / 2).tolist(), abs=1e-5)
    assert "no such layer" in bad.error


def test_hidden_states_leave_no_hook_behind(arms):
    arms.base.hidden_states([HiddenStates(text="abc", layers=(0, 1))])
    modules = arms.base.weights.causal.modules()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
