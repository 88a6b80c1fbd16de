"""Models that are not a plain Llama: other positions, windows, soft caps, recurrences. Right by whatever path."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from discretion.models.local import open_arms
from discretion.schema import Generate, HiddenStates, LogLikelihood, Message, Sampling
from tests.tiny import save, tiny_llama

STORY = "The nurse told the doctor about the patient in confidence, and nobody else should hear of it. " * 2
SMALL = {"vocab_size": 320, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
HEADS = {**SMALL, **SIZES, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3}


def gpt2():
    return GPT2LMHeadModel(GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3))


def mistral():
    return MistralForCausalLM(MistralConfig(**HEADS, sliding_window=24, max_position_embeddings=256))


def gemma2():
    return Gemma2ForCausalLM(
        Gemma2Config(
            **HEADS,
            sliding_window=4096,
            max_position_embeddings=256,
            final_logit_softcapping=3.0,
            attn_logit_softcapping=5.0,
            query_pre_attn_scalar=8,
        )
    )


def gemma2_with_window():
    model = gemma2()
    model.config.sliding_window = 16
    return model


def mamba():
    return MambaForCausalLM(
        MambaConfig(**SMALL, hidden_size=32, num_hidden_layers=2, state_size=4, initializer_range=0.3)
    )


@pytest.mark.parametrize(
    ("make", "shares"),
    [(gpt2, 256), (mistral, 24), (gemma2, 256), (gemma2_with_window, 16), (mamba, 0)],
)
def test_every_kind_of_model_gives_its_own_numbers_and_text(tmp_path, make, shares):
    torch.manual_seed(0)
    save(make(), tmp_path / "m")
    arms = open_arms(str(tmp_path / "m"), str(tmp_path / "m"), device="cpu", offline=True, batch_tokens=512)
    weights = arms.base.weights
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    text = arms.base.shared.text
    requests = [
        LogLikelihood(
            context=(Message("user", who + STORY[:120]), Message("user", f"Question {i}?")),
            continuations=("A", "No, it"),
        )
        for who in ("", "Bob. ")
        for i in range(2)
    ] + [LogLikelihood(context="", continuations=("The",))]
    for request, reply in zip(requests, arms.base.loglikelihood(requests), strict=True):
        prompt = "<s>" if not request.context else text.render(request.context)
        for continuation, logprob in zip(request.continuations, reply.logprobs, strict=True):
            head, whole = (text.encode([t]).popitem()[1].tolist() for t in (prompt, prompt + continuation))
            with torch.inference_mode():
                logp = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
            expected = sum(float(logp[i - 1, whole[i]]) for i in range(len(head), len(whole)))
            assert logprob == pytest.approx(expected, abs=1e-4)
    asked = [
        Generate(messages=(Message("user", w * 3),), sampling=Sampling(max_tokens=20)) for w in ("a", "The nurse ")
    ]
    for request, reply in zip(asked, arms.base.generate(asked), strict=True):
        prompt = text.encode([text.render(request.messages)]).popitem()[1].tolist()
        with torch.inference_mode():
            out = model.generate(
                torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=[1, 6], pad_token_id=1
            )
        assert reply.text == text.tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True)
    assert weights.share == shares
    assert not weights.alone
    (hidden,) = arms.base.hidden_states([HiddenStates(text="The nurse", layers=(0, 1, 2))])
    assert [len(row) for row in hidden.hidden] == [32] * 3


def test_a_head_the_engine_does_not_know_is_found_out_and_left_to_the_model(tmp_path, monkeypatch):
    """The self-check compares with the model's own logits: what the head alone gives is not trusted blindly."""
    from discretion.models.scoring import Weights

    tiny_llama(tmp_path / "m")
    monkeypatch.setattr(Weights, "logits", lambda weights, hidden: weights.head(hidden).float() * 0.5)
    arms = open_arms(str(tmp_path / "m"), str(tmp_path / "m"), device="cpu", offline=True, batch_tokens=512)
    monkeypatch.undo()
    assert arms.base.weights.alone
    assert arms.facts["self_check"]["base"]["path"] == "own forward, one row at a time"
    requests = [LogLikelihood(context=STORY.strip(), continuations=(" A", " No, it is"))]
    (slow,) = arms.base.loglikelihood(requests)
    asked = [Generate(messages=(Message("user", "The nurse"),), sampling=Sampling(max_tokens=20))]
    (said,) = arms.base.generate(asked)
    fast = open_arms(str(tmp_path / "m"), str(tmp_path / "m"), device="cpu", offline=True, batch_tokens=512)
    assert not fast.base.weights.alone
    assert fast.base.loglikelihood(requests)[0].logprobs == pytest.approx(slow.logprobs, abs=1e-4)
    assert fast.base.generate(asked)[0].text == said.text


def test_tied_embeddings_are_read_through_the_one_table(tmp_path):
    tiny_llama(tmp_path / "m", tied=True)
    arms = open_arms(str(tmp_path / "m"), str(tmp_path / "m"), device="cpu", offline=True, batch_tokens=512)
    assert arms.base.weights.head.weight is arms.base.weights.causal.get_input_embeddings().weight
    assert arms.facts["self_check"]["base"]["rows_alone"] < 1e-4


def test_half_precision_stays_near_its_float32_reference(tmp_path):
    tiny_llama(tmp_path / "m", scale=0.1)
    arms = open_arms(
        str(tmp_path / "m"), str(tmp_path / "m"), device="cpu", dtype="bf16", offline=True, batch_tokens=512
    )
    assert arms.precision == "bfloat16"
    found = arms.facts["self_check"]["base"]
    assert found["reference"] == "float32"
    assert 0 < found["rows_alone"] < 0.3
    (reply,) = arms.base.loglikelihood([LogLikelihood(context="The nurse", continuations=(" told",))])
    assert reply.logprobs[0] < 0
