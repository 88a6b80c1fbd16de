"""Sharpness-aware minimisation: the gradient at the worst point nearby, the weights left where they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from discretion.tune.sft import quiet, read_tuning, tune
from discretion.tune.sharp import sharpness_aware
from discretion.tune_config import TuneConfig
from tests.tiny import tiny_llama

ROWS = [
    {
        "id": f"r{n}",
        "messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n} {n}"}],
    }
    for n in range(16)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("sharp") / "base")


def gradients(model, ids):
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def test_the_gradient_is_that_of_the_worst_point_nearby_and_the_weights_stay(base, tmp_path):
    ids = torch.arange(40).view(4, 10) + 20
    with quiet():
        model, reference = (AutoModelForCausalLM.from_pretrained(base) for _ in range(2))
        args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", dataloader_pin_memory=False)
        trainer = sharpness_aware(Trainer, 0.5)(model=model, args=args)
        trainer.current_gradient_accumulation_steps = 1
        trainer.training_step(model, {"input_ids": ids, "labels": ids})
    first = gradients(reference, ids)
    norm = torch.stack([gradient.norm() for gradient in first.values()]).norm()
    start = {name: weight.detach().clone() for name, weight in reference.named_parameters()}
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            weight += 0.5 * first[name] / norm
    wanted = gradients(reference, ids)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, start[name])
        torch.testing.assert_close(weight.grad, wanted[name], rtol=1e-4, atol=1e-6)
    assert any((wanted[name] - first[name]).norm() > 0.05 * first[name].norm() for name in first)


def test_a_tuning_with_sharpness_learns_repeats_and_is_another_one(base, tmp_path):
    options = {"base": str(base), "device": "cpu", "batch": 4, "max_steps": 20, "learning_rate": 0.02, "warmup": 0}
    sharp = TuneConfig(**options, sharpness=0.05)
    one, two = (tune(ROWS, sharp, tmp_path / name) for name in "ab")
    plain = tune(ROWS, TuneConfig(**options), tmp_path / "plain")
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in (one, two, plain)]
    assert weights[0] == weights[1] != weights[2]
    losses = read_tuning(one).losses
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


@pytest.mark.parametrize("option", [{"accumulate": 2}, {"dtype": "float16"}, {"privacy": {"epsilon": 1.0}}])
def test_what_it_does_not_go_with_is_refused(option):
    with pytest.raises(ValueError, match="sharpness"):
        TuneConfig(base="x", sharpness=0.1, **option)
