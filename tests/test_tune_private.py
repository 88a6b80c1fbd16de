"""Private tuning: each gradient is clipped alone, the noise is what the accountant was told, and it trains."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from discretion.errors import ConfigError, DataError
from discretion.models.local import open_arms
from discretion.tune import private
from discretion.tune.private import Units, users_of
from discretion.tune.sft import lora, quiet, read_tuning, tune
from discretion.tune.tokens import check_rows, encode, text_for
from discretion.tune_config import PrivacyConfig, TuneConfig
from tests.tiny import tiny_llama

ROWS = [
    {
        "id": f"r{n}",
        "user": f"u{n % 6}",
        "messages": [
            {"role": "user", "content": f"What is {n} plus five?"},
            {"role": "assistant", "content": "The answer is twelve. " * (1 + n % 3)},
        ],
    }
    for n in range(24)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("private") / "base")


def config(base, *, epsilon=8.0, noise_seed=7, **options) -> TuneConfig:
    given = {name: options.pop(name) for name in list(options) if name in PrivacyConfig.model_fields}
    return TuneConfig(
        base=str(base),
        device="cpu",
        privacy=PrivacyConfig(epsilon=epsilon, noise_seed=noise_seed, **given),
        **{"batch": 8, "max_steps": 3, **options},
    )


@pytest.fixture
def quickly(monkeypatch):
    """The search for the noise takes seconds, and most tests are about something else."""
    monkeypatch.setattr(private, "_noise", lambda *asked: (1.0, 3.0))


def running(base, asked, users=None):
    """The loop's parts, on a model with an adapter whose weights are not zero."""
    with quiet():
        text = text_for(AutoTokenizer.from_pretrained(base), None, "base")
        encoded = encode(text, check_rows(ROWS), "assistant", 256)
        torch.manual_seed(0)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora(asked))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)
    units = Units.of(encoded, users, asked.privacy.rows_per_user, 0)
    return private._Run(model, encoded, units, asked, 1.0, 1, 0), model


def gradients_alone(base, places):
    """Of each row by itself, by plain backward passes without a hook [rows, weights]."""
    run, model = running(base, config(base))
    run.end()
    run.hooked = model
    found = []
    for place in places:
        model.zero_grad()
        run._losses([place])[0].backward()
        found.append(torch.cat([weight.grad.flatten() for weight in run.trained]))
    return torch.stack(found)


def per_unit(run, units):
    run.hooked.train()
    with quiet():
        run._gradients(units)
    return torch.cat([weight.grad_sample.flatten(1) for weight in run.trained], dim=1)


# ------------------------------------------------------------------------------------------------ the gradients


def test_each_row_has_the_gradient_it_has_alone(base):
    run, _ = running(base, config(base))
    together = per_unit(run, [0, 1, 2, 5])
    torch.testing.assert_close(together, gradients_alone(base, (0, 1, 2, 5)), rtol=1e-4, atol=1e-6)


def test_a_user_has_the_mean_gradient_of_its_rows(base):
    run, _ = running(base, config(base), users_of(ROWS, "user"))
    together = per_unit(run, [0, 3])
    for row, unit in zip(together, (0, 3), strict=True):
        alone = gradients_alone(base, run.units.rows[unit])
        assert len(alone) == 4
        torch.testing.assert_close(row, alone.mean(0), rtol=1e-4, atol=1e-6)


def step(base, noise, *, clip=0.05, accumulate=1, users=None):
    """The change of the weights in one step over all rows, with plain gradient descent at rate 1."""
    run, _ = running(base, config(base, clip=clip, accumulate=accumulate, learning_rate=1.0, warmup=0), users)
    start = run.weights()
    original, torch.optim.AdamW = torch.optim.AdamW, lambda weights, lr, weight_decay: torch.optim.SGD(weights, lr=lr)
    try:
        with quiet():
            run.go(noise, lambda *row: None)
    finally:
        torch.optim.AdamW = original
    return run, run.weights() - start


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_without_noise_is_the_mean_of_the_clipped_gradients(base, accumulate):
    run, moved = step(base, 0.0, accumulate=accumulate)
    alone = gradients_alone(base, range(len(ROWS)))
    norms = alone.norm(dim=1, keepdim=True)
    assert (norms > 0.05).all()
    wanted = -(alone * (0.05 / norms)).mean(0)
    torch.testing.assert_close(moved, wanted, rtol=1e-3, atol=1e-7)
    assert set(run.clipped) == {1.0}


def test_the_noise_has_the_size_the_accountant_is_told(base):
    (_, clean), (_, noisy) = step(base, 0.0), step(base, 1.5)
    noise = (noisy - clean) * len(ROWS)
    assert float(noise.std()) == pytest.approx(1.5 * 0.05, rel=0.05)
    assert abs(float(noise.mean())) < 4 * 1.5 * 0.05 / math.sqrt(len(noise))


def test_a_step_in_which_nobody_was_drawn_is_noise_alone(base):
    run, _ = running(base, config(base, warmup=0))
    run.rate, start = 1e-12, run.weights()
    with quiet():
        losses = run.go(1.0, lambda *row: None)
    assert losses == [0.0]
    assert not torch.equal(start, run.weights())


# ------------------------------------------------------------------------------------------------ users


def test_a_users_rows_are_bounded_and_the_choice_is_its_own(base):
    run, _ = running(base, config(base, rows_per_user=2), users_of(ROWS, "user"))
    assert [len(places) for places in run.units.rows] == [2] * 6
    owners = [{ROWS[place]["user"] for place in places} for places in run.units.rows]
    assert all(len(owner) == 1 for owner in owners)
    without = {row["id"]: "other" if row["user"] == "u0" else row["user"] for row in ROWS}
    again = Units.of(run.encoded, without, 2, 0)
    assert run.units.rows[1:] == again.rows[1:]


def test_a_row_without_a_user_is_named():
    with pytest.raises(DataError, match=r"row 2 \(b\): no user in 'owner'; name the column: --user-column"):
        users_of([{"id": "a", "owner": 1}, {"id": "b"}], "owner")


# ------------------------------------------------------------------------------------------------ the whole


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.5, 8.0])
def test_no_more_noise_is_added_than_epsilon_needs(epsilon):
    from opacus.accountants import create_accountant

    with quiet():
        noise, spent = private._noise(epsilon, 1e-4, 0.016, 100)
        accountant = create_accountant(private.ACCOUNTANT)
        accountant.history = [(noise, 0.016, 100)]
        assert spent == accountant.get_epsilon(delta=1e-4) <= epsilon
        accountant.history = [(noise * 0.98, 0.016, 100)]
        assert accountant.get_epsilon(delta=1e-4) > epsilon


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("private") / "tuned"
    return tune(ROWS, config(base, epsilon=60.0, max_steps=20, learning_rate=0.02, clip=5.0), out)


def test_a_private_run_trains_and_says_what_it_spent(base, tuned):
    made = read_tuning(tuned)
    spent = made.privacy
    assert 0 < spent.epsilon <= 60
    assert spent.delta == pytest.approx(0.1 / 24)
    assert (spent.unit, spent.units, spent.steps, spent.sample_rate) == ("row", 24, 20, 8 / 24)
    assert spent.trained
    assert spent.loss_after < spent.loss_before
    assert spent.agreement > spent.chance_agreement
    assert not spent.secret
    assert len(made.losses) == 20
    open_arms(str(base), str(tuned), device="cpu")


@pytest.mark.slow
def test_drowned_in_noise_a_run_does_not_pass_for_trained(base, tmp_path):
    out = tune(ROWS, config(base, epsilon=0.05, max_steps=10, learning_rate=0.02), tmp_path / "out")
    spent = read_tuning(out).privacy
    assert spent.epsilon <= 0.05
    assert spent.signal_to_noise < 0.1
    assert not spent.trained


def test_the_accountant_knows_the_published_figure():
    from opacus.accountants import create_accountant

    with quiet():
        accountant = create_accountant(private.ACCOUNTANT)
        accountant.history = [(1.0, 0.01, 1000)]
        # dp-accounting 0.6.0, privacy loss distributions: 1.83.
        assert accountant.get_epsilon(delta=1e-5) == pytest.approx(1.83, abs=0.02)


def test_users_spend_by_user(base, tmp_path, quickly):
    out = tune(ROWS, config(base, unit="user", batch=3, skip_check=True), tmp_path / "out")
    spent = read_tuning(out).privacy
    assert (spent.unit, spent.units, spent.sample_rate, spent.agreement) == ("user", 6, 0.5, None)


def test_a_seed_that_was_not_given_is_secret_and_another_each_time(base, tmp_path, quickly):
    asked = config(base, noise_seed=None, skip_check=True)
    one, two = (tune(ROWS, asked, tmp_path / name) for name in "ab")
    assert read_tuning(one).privacy.secret
    weights = [load_file(out / "adapter_model.safetensors") for out in (one, two)]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    manifest = (one / "manifest.json").read_text()
    assert '"noise_seed": null' in manifest


def test_the_same_noise_seed_gives_the_same_bits(base, tmp_path, quickly):
    one, two = (tune(ROWS, config(base, skip_check=True, checkpoint_every=2), tmp_path / name) for name in "ab")
    for name in ("adapter_model.safetensors", "step-2/adapter_model.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_other_owners_of_the_rows_make_another_tuning(base, tmp_path, quickly):
    tune(ROWS, config(base, unit="user", skip_check=True, max_steps=1), tmp_path / "out")
    moved = [{**row, "user": "all"} for row in ROWS]
    with pytest.raises(DataError, match="differs in data"):
        tune(moved, config(base, unit="user", skip_check=True, max_steps=1), tmp_path / "out")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"method": "full"}, "--method full is not there for private tuning"),
        ({"packing": True}, "--packing True is not there"),
        ({"watch": "stop"}, "--watch stop is not there"),
    ],
)
def test_what_private_tuning_has_not_is_refused(base, option, said):
    with pytest.raises(ValueError, match=said):
        config(base, **option)


@pytest.mark.slow
def test_a_budget_that_no_noise_keeps_is_refused(base, tmp_path):
    with pytest.raises(ConfigError, match="no noise keeps"):
        tune(ROWS, config(base, epsilon=0.001), tmp_path / "out")
    with pytest.raises(ConfigError, match="too small for the accountant"):
        tune(ROWS, config(base, delta=1e-300), tmp_path / "out")
