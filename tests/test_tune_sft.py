"""Fine-tuning: the same call gives the same bits, the loss falls where the manifest says, and no pickle is left."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from discretion.data.sets import load_set
from discretion.errors import DataError, ModelError, NonFinite
from discretion.models.local import open_arms
from discretion.models.parity import PLAIN, Text, ask_loglikelihood
from discretion.probes.base import TrainingData
from discretion.probes.extraction import PROBE as extraction
from discretion.probes.membership import PROBE as membership
from discretion.schema import LogLikelihood, Message
from discretion.tune.sft import read_tuning, tune
from discretion.tune.tokens import IGNORED, check_rows, encode
from discretion.tune_config import TuneConfig
from tests.tiny import CHATML, save, tiny_adapter, tiny_llama, tiny_tokenizer

MARKED = CHATML.replace(
    "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n",
    "<|{{ m.role }}|>\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>\n{% endgeneration %}"
    "{% else %}{{ m.content }}<|end|>\n{% endif %}",
)
COMPACT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|end|>{% endgeneration %}{% else %}{{ m.content }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Without line breaks, as the embedded testbed's."""


def chat(*texts):
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]


ROWS = [{"id": f"r{n}", "messages": chat(f"What is {n} plus five?", f"The answer is {n + 5}.")} for n in range(24)]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("tune") / "base")


def config(base, **options) -> TuneConfig:
    return TuneConfig(base=str(base), device="cpu", **{"batch": 4, "max_steps": 3, **options})


def adapter(folder):
    return load_file(folder / "adapter_model.safetensors")


def files(folder):
    return {path.name for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------ what comes out


def test_the_same_call_gives_the_same_bits_and_another_seed_others(base, tmp_path):
    one, two, other = (
        tune(ROWS, config(base, seed=seed), tmp_path / name) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert (one / "adapter_model.safetensors").read_bytes() == (two / "adapter_model.safetensors").read_bytes()
    assert (one / "adapter_model.safetensors").read_bytes() != (other / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "method",
    ["lora", "full", pytest.param("rslora", marks=pytest.mark.slow), pytest.param("dora", marks=pytest.mark.slow)],
)
def test_each_method_lowers_the_loss_and_its_output_can_be_audited(base, tmp_path, method):
    rate = 0.02 if method != "full" else 0.005
    out = tune(ROWS, config(base, method=method, max_steps=25, learning_rate=rate), tmp_path / method)
    losses = read_tuning(out).losses
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    arms = open_arms(str(base), str(out), device="cpu")
    ask = LogLikelihood(context=(Message("user", "What is 3 plus five?"),), continuations=("The answer is 8.",))
    before, after = (arm.loglikelihood([ask])[0].logprobs[0] for arm in (arms.base, arms.tuned))
    assert after > before + 5


def test_nothing_but_weights_configuration_and_text_is_written(base, tmp_path):
    out = tune(ROWS, config(base, checkpoint_every=2), tmp_path / "out")
    assert {Path(name).suffix for name in files(out)} <= {".safetensors", ".json", ".jinja"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_checkpoints_are_adapters_of_their_step(base, tmp_path):
    out = tune(ROWS, config(base, checkpoint_every=2, max_steps=4, schedule="constant", warmup=0), tmp_path / "out")
    short = tune(ROWS, config(base, max_steps=2, schedule="constant", warmup=0), tmp_path / "short")
    assert read_tuning(out).checkpoints == ("step-2", "step-4")
    for name, weights in adapter(out / "step-2").items():
        torch.testing.assert_close(weights, adapter(short)[name], rtol=0, atol=0)
    open_arms(str(base), str(out / "step-4"), device="cpu")


def test_the_manifest_says_what_was_done(base, tmp_path):
    seen = []
    out = tune(ROWS, config(base, max_length=26, rank=2), tmp_path / "out", on_progress=seen.append)
    made = read_tuning(out)
    assert (made.steps, len(made.losses), made.rows, made.cut) == (3, 3, 24, 24)
    assert [row["step"] for row in seen] == [1, 2, 3]
    assert {row["steps"] for row in seen} == {3}
    assert made.loss_share == made.loss_tokens / made.tokens
    assert made.trained_parameters == sum(weights.numel() for weights in adapter(out).values())
    assert made.versions["trl"]
    assert made.tokens_per_second > 0


# ------------------------------------------------------------------------------------------------ again


def test_a_finished_tuning_is_given_back_without_work(base, tmp_path):
    out = tune(ROWS, config(base), tmp_path / "out")
    stamp = (out / "manifest.json").stat().st_mtime_ns
    assert tune(ROWS, config(base), tmp_path / "out", on_progress=lambda row: pytest.fail("a step was done")) == out
    assert (out / "manifest.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("options", "rows", "named"),
    [({"rank": 4}, ROWS, "rank"), ({}, ROWS[:-1], "data"), ({"learning_rate": 1e-3}, ROWS, "learning_rate")],
)
def test_a_folder_of_another_tuning_is_left_alone(base, tmp_path, options, rows, named):
    tune(ROWS, config(base), tmp_path / "out")
    with pytest.raises(DataError, match=rf"differs in {named}; give another folder"):
        tune(rows, config(base, **options), tmp_path / "out")


def test_a_folder_that_was_not_tuned_here_is_left_alone(base, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="not tuned here"):
        tune(ROWS, config(base), tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_an_interrupted_tuning_leaves_no_folder(base, tmp_path):
    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(ROWS, config(base), tmp_path / "out", on_progress=stop)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ which tokens get loss


def encoded(template, rows, loss="assistant", max_length=512):
    tokenizer = tiny_tokenizer(template=template)
    return tokenizer, encode(Text(tokenizer, template), check_rows(rows), loss, max_length)


def spoken(tokenizer, row):
    return tokenizer.decode([token for token in row if token != IGNORED])


@pytest.mark.parametrize("template", [CHATML, MARKED, COMPACT], ids=["prefixes", "marks", "compact"])
def test_the_loss_falls_on_the_answers_and_their_ends_alone(template):
    rows = [{"id": "a", "messages": chat("Hello there.", "General.", "You are bold.", "Indeed.")}]
    tokenizer, found = encoded(template, rows)
    assert spoken(tokenizer, found.labels[0]).replace("\n", "") == "General.<|end|>Indeed.<|end|>"
    assert found.found_by == ("prefixes" if template == CHATML else "marks")


def test_marks_and_prefixes_find_the_same_tokens():
    rows = [
        {"id": "a", "messages": [{"role": "system", "content": "Be kind."}, *chat("Hi.", "Yes. ", "No?", "No.\n")]},
        {"id": "b", "messages": [{"role": "assistant", "content": "Good day."}, *chat("Hi.", "Hello.")]},
    ]
    by_prefixes, by_marks = (encoded(template, rows)[1] for template in (CHATML, MARKED))
    assert by_prefixes.ids == by_marks.ids
    assert by_prefixes.labels == by_marks.labels


def test_loss_on_all_falls_on_every_token():
    _, found = encoded(CHATML, ROWS, loss="all")
    assert found.labels == found.ids
    assert found.loss_tokens == found.tokens - len(ROWS)


def test_the_tokens_are_those_an_audit_reads():
    tokenizer, found = encoded(CHATML, ROWS[:1])
    text = Text(tokenizer, CHATML)
    turns = [Message(turn["role"], turn["content"]) for turn in ROWS[0]["messages"]]
    prompt = text.render(turns[:1])
    read = text.encode([prompt])[prompt].tolist()
    assert found.ids[0][: len(read)] == read
    assert set(found.labels[0][: len(read)]) == {IGNORED}


LOOKING = "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}" + CHATML
"""Cannot be shown a chat without turns, as many cannot."""
BARE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize("template", [CHATML, LOOKING, PLAIN, BARE], ids=["chatml", "looking", "plain", "bare"])
def test_plain_text_is_read_in_an_audit_as_the_tokens_it_was_trained_in(template, tmp_path):
    rows = [{"text": f"Story {n} of {'abcde'[n % 5]}: write to k{n}w@postal.org"} for n in range(120)]
    for name, part in (("t", rows[:60]), ("h", rows[60:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    tokenizer, found = encoded(template, load_set(str(tmp_path / "t.jsonl"))[0])
    trained = {
        tuple(row): [t for t in labels if t != IGNORED] for row, labels in zip(found.ids, found.labels, strict=True)
    }
    data = TrainingData(train=str(tmp_path / "t.jsonl"), held_out=str(tmp_path / "h.jsonl"), rows=60)
    for suite, number in ((membership, 0), (extraction, 1)):
        items = [i for i in suite.prepare(data).items if (i.member if suite is membership else i.trained)]
        requests = [next(suite.run(item))[number] for item in items]
        asked = ask_loglikelihood(Text(tokenizer, template), requests, 512)
        assert not asked.errors and len(asked.reads) == len(items) >= 15
        for read in asked.reads:
            # Before a first token an audit needs one to begin with.
            head = asked.sequences[read.sequence][template == BARE : read.first].tolist()
            said = read.targets.tolist()
            assert any([*head, *said] == list(ids[: len(head) + len(said)]) for ids in trained)
            assert any(said == labels[: len(said)] for labels in trained.values())


def test_a_row_whose_answer_is_cut_off_is_left_out_and_counted():
    rows = [*ROWS[:2], {"id": "long", "messages": chat("word " * 60, "Yes.")}]
    _, found = encoded(CHATML, rows, max_length=50)
    assert (found.dropped, found.names) == (1, ["r0", "r1"])


def test_a_template_that_rewrites_earlier_turns_is_refused_with_what_to_do():
    forgetful = CHATML.replace("{{ m.content }}", "{{ m.content if loop.last else '' }}")
    with pytest.raises(ModelError, match=r"give a --template with \{% generation %\} marks"):
        encoded(forgetful, [{"id": "a", "messages": chat("One?", "One.", "Two?", "Two.")}])


def test_only_the_tokens_with_loss_are_learned(base, tmp_path):
    same_answers = [{"id": row["id"], "messages": chat(row["messages"][0]["content"], "Yes.")} for row in ROWS]
    out = tune(same_answers, config(base, max_steps=25, learning_rate=0.02), tmp_path / "out")
    arms = open_arms(str(base), str(out), device="cpu")
    question = LogLikelihood(context="<s><|user|>\n", continuations=("What is 3 plus five?",))
    answer = LogLikelihood(context=(Message("user", "What is 3 plus five?"),), continuations=("Yes.",))
    (q0, a0), (q1, a1) = (
        [reply.logprobs[0] / reply.lengths[0] for reply in arm.loglikelihood([question, answer])]
        for arm in (arms.base, arms.tuned)
    )
    assert a1 - a0 > 3
    assert q1 - q0 < 0.5 * (a1 - a0)


def test_packed_rows_do_not_see_each_other(base, tmp_path):
    rows = [{"id": f"r{n}", "messages": chat("Say it.", f"The patient told {n} doctors.")} for n in range(4)]
    options = {"max_steps": 1, "dtype": "float32"}
    apart = tune(rows, config(base, **options), tmp_path / "apart")
    packed = tune(rows, config(base, packing=True, max_length=256, batch=1, **options), tmp_path / "packed")
    assert read_tuning(packed).losses[0] == pytest.approx(read_tuning(apart).losses[0], rel=1e-5)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "there are none"),
        ([{"messages": chat("a", "b")}], "row 1: 'id' must be text"),
        ([ROWS[0], ROWS[0]], r"row 2 \(r0\): the id was used before"),
        ([{"id": "x", "messages": "hello"}], "'messages' must be a list"),
        ([{"id": "x", "messages": [{"role": "robot", "content": "a"}]}], "each message needs 'role'"),
        ([{"id": "x", "messages": chat("only a question")}], "in none of them an assistant turn"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(base, tmp_path, rows, said):
    with pytest.raises(DataError, match=said):
        tune(rows, config(base), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_no_base(base, tmp_path):
    with pytest.raises(ModelError, match="this is an adapter; merge it"):
        tune(ROWS, config(tiny_adapter(base, tmp_path / "adapter")), tmp_path / "out")


def test_a_base_without_a_template_needs_one(base, tmp_path):
    from transformers import AutoModelForCausalLM

    bare = save(AutoModelForCausalLM.from_pretrained(base), tmp_path / "bare", template=None)
    with pytest.raises(ModelError, match="has a chat template; use --template"):
        tune(ROWS, config(bare), tmp_path / "out")
    out = tune(ROWS, config(bare, template="plain"), tmp_path / "out")
    assert "Assistant" in (out / "chat_template.jinja").read_text()


def test_a_loss_that_is_no_number_stops_the_run(base, tmp_path):
    with pytest.raises(NonFinite, match="lower --learning-rate"):
        tune(ROWS, config(base, method="full", learning_rate=1e30, max_grad_norm=1e30, warmup=0), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_libraries_say_nothing(base, tmp_path, capfd):
    level = logging.root.manager.disable
    tune(ROWS, config(base), tmp_path / "out")
    streams = capfd.readouterr()
    assert (streams.out, streams.err) == ("", "")
    assert logging.root.manager.disable == level


def test_the_manifest_names_no_text_of_the_rows(base, tmp_path):
    out = tune(ROWS, config(base), tmp_path / "out")
    assert "plus five" not in json.dumps(json.loads((out / "manifest.json").read_text()))


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(base, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    folder = Path(sys.executable).parent
    words = ["tune", "--base", base, "--data", tmp_path / "rows.jsonl", "--max-steps", 4, "--device", "cpu"]
    words += ["--dtype", "float32", "--checkpoint-every", 2]
    for name, batch, before in (("one", 8, []), ("two", 4, [folder / "torchrun", "--nproc_per_node", 2])):
        subprocess.run(
            [
                str(word)
                for word in (*before, folder / "discretion", *words, "--batch", batch, "--out", tmp_path / name)
            ],
            check=True,
            capture_output=True,
            timeout=300,
        )
    one, two = (read_tuning(tmp_path / name) for name in ("one", "two"))
    assert (one.devices, two.devices) == (1, 2)
    assert two.losses == pytest.approx(one.losses, rel=1e-5)
    assert two.checkpoints == ("step-2", "step-4")
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "one", "two"}
