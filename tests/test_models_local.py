"""Opening two arms: what can be compared is proven to be, what cannot is refused in one line."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from discretion.errors import ModelError, NonFinite, NotComparable
from discretion.models.local import open_arms, preview
from discretion.models.parity import PLAIN
from discretion.schema import Generate, LogLikelihood, Message, Sampling
from tests.tiny import CHATML, merged, tiny_adapter, tiny_llama, tiny_tokenizer

STORY = "The nurse told the doctor about the patient in confidence, and nobody else should hear of it. " * 3
REQUESTS = [
    LogLikelihood(context=(Message("user", STORY), Message("user", f"Question {i}?")), continuations=("A", "No, it"))
    for i in range(3)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    tiny_llama(folder / "base")
    tiny_adapter(folder / "base", folder / "adapter")
    return folder


def opened(base, tuned, **options):
    return open_arms(str(base), str(tuned), device="cpu", offline=True, batch_tokens=512, **options)


def refused(error, base, tuned, **options):
    """The one line with which opening these two ends, and a preview too where it can see it."""
    with pytest.raises(error) as caught:
        opened(base, tuned, **options)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 600
    return line


# ------------------------------------------------------------------------------------------ one copy, two arms


def test_the_adapter_switched_off_is_the_plain_base_to_the_last_bit(folder):
    with_adapter, plain = opened(folder / "base", folder / "adapter"), opened(folder / "base", folder / "base")
    with_adapter.tuned.loglikelihood(REQUESTS)
    ours = [reply.logprobs for reply in with_adapter.base.loglikelihood(REQUESTS)]
    assert ours == [reply.logprobs for reply in plain.base.loglikelihood(REQUESTS)]
    assert with_adapter.base.weights is with_adapter.tuned.weights


def test_an_adapter_and_its_merged_checkpoint_agree(folder, tmp_path):
    merged(folder / "base", folder / "adapter", tmp_path / "merged")
    one, other = opened(folder / "base", folder / "adapter"), opened(folder / "base", tmp_path / "merged")
    for here, there in zip(one.tuned.loglikelihood(REQUESTS), other.tuned.loglikelihood(REQUESTS), strict=True):
        assert here.logprobs == pytest.approx(there.logprobs, abs=1e-4)
    assert other.facts["tuned"] == "checkpoint"
    assert one.facts["tuned"] == "adapter"
    assert other.base.weights is not other.tuned.weights


def test_no_two_arms_share_a_digest_unless_they_are_the_same(folder, tmp_path):
    tiny_adapter(folder / "base", tmp_path / "other", seed=9)
    first, second = opened(folder / "base", folder / "adapter"), opened(folder / "base", tmp_path / "other")
    same = opened(folder / "base", folder / "base")
    assert len({first.base_digest, first.tuned_digest, second.tuned_digest}) == 3
    assert first.base_digest == second.base_digest == same.base_digest == same.tuned_digest
    assert first.base.digest == same.base.digest == same.tuned.digest
    plain = opened(folder / "base", folder / "adapter", template="plain")
    assert plain.base.digest != first.base.digest
    assert plain.base_digest == first.base_digest


def test_a_reply_is_kept_for_the_room_and_the_end_tokens_that_both_arms_share(folder, tmp_path):
    alone = opened(folder / "base", folder / "base").base
    short = opened(folder / "base", tiny_llama(tmp_path / "short", seed=1, context=256)).base
    assert short.digest != alone.digest
    stops = tiny_llama(tmp_path / "stops", seed=1)
    settings = json.loads((stops / "generation_config.json").read_text())
    (stops / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [1, 9]}))
    assert opened(folder / "base", stops).base.digest != alone.digest
    assert opened(folder / "base", folder / "adapter").base.digest == alone.digest


def test_a_changed_weight_file_changes_the_digest(folder, tmp_path):
    copy = shutil.copytree(folder / "base", tmp_path / "copy")
    before = preview(str(copy), str(copy), offline=True).base_digest
    assert before == preview(str(folder / "base"), str(folder / "adapter"), offline=True).base_digest
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert preview(str(copy), str(copy), offline=True).base_digest != before


def test_a_file_of_the_hub_cache_is_digested_by_its_name(folder, tmp_path):
    copy = shutil.copytree(folder / "base", tmp_path / "snapshot")
    expected = preview(str(copy), str(copy), offline=True).base_digest
    blob = copy / "model.safetensors"
    stored = tmp_path / hashlib.sha256(blob.read_bytes()).hexdigest()
    blob.rename(stored)
    blob.symlink_to(stored)
    assert preview(str(copy), str(copy), offline=True).base_digest == expected


def test_facts_are_plain_json(folder):
    facts = opened(folder / "base", folder / "adapter").facts
    assert json.loads(json.dumps(facts)) == facts
    assert facts["self_check"]["tuned"]["prefix_sharing"] < 1e-4
    assert facts["batch_tokens"] == 512
    assert facts["context"] == 512
    assert facts["prefix_sharing"]["base"] == "up to 512 tokens"


def test_the_budget_is_measured_when_none_is_given(folder):
    arms = open_arms(str(folder / "base"), str(folder / "adapter"), device="cpu", offline=True)
    assert arms.facts["batch_tokens"] in (256, 512, 1024, 2048, 4096, 8192)


# ------------------------------------------------------------------------------------------ preview


def test_a_preview_counts_what_is_computed_and_loads_no_weights(folder):
    seen = preview(str(folder / "base"), str(folder / "adapter"), offline=True)
    arms = opened(folder / "base", folder / "adapter")
    assert (seen.base_digest, seen.tuned_digest) == (arms.base_digest, arms.tuned_digest)
    assert (seen.template_digest, seen.context) == (arms.template_digest, 512)
    lengths = [reply.prompt_tokens for reply in arms.base.loglikelihood(REQUESTS)]
    count = seen.tokens(REQUESTS)
    assert max(lengths) < count < max(lengths) + 3 * 40
    generate = Generate(messages=(Message("user", "Hello."),), sampling=Sampling(max_tokens=30))
    (reply,) = arms.base.generate([generate])
    assert seen.tokens([generate]) == reply.prompt_tokens + 30
    assert seen.tokens([LogLikelihood(context=STORY * 20, continuations=("A",))]) == 0


def test_a_preview_does_not_read_weights(folder, tmp_path):
    copy = shutil.copytree(folder / "base", tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"not weights at all")
    assert preview(str(copy), str(copy), offline=True).context == 512


def test_importing_the_seam_and_the_plan_imports_no_torch():
    code = "import sys, discretion.models.plan, discretion.models.base; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------ bad input


def test_a_missing_folder_is_named(folder, tmp_path):
    assert "no such folder" in refused(ModelError, tmp_path / "nothing", folder / "adapter")
    assert "not in the hub cache" in refused(ModelError, "somebody/nothing", folder / "adapter")
    assert "this is a file" in refused(ModelError, folder / "base" / "config.json", folder / "adapter")


def test_a_folder_without_config_tokenizer_or_weights_says_which(folder, tmp_path):
    for name, gone in (("config", ["config.json"]), ("weights", ["model.safetensors"]), ("token", ["tokenizer.json"])):
        copy = shutil.copytree(folder / "base", tmp_path / name)
        for file in gone:
            (copy / file).unlink()
    assert "config.json" in refused(ModelError, tmp_path / "config", folder / "adapter")
    assert "no weights" in refused(ModelError, tmp_path / "weights", folder / "adapter")
    assert "no tokenizer" in refused(ModelError, tmp_path / "token", folder / "adapter")


def test_a_pickle_checkpoint_is_refused_with_a_way_to_convert_it(folder, tmp_path):
    copy = shutil.copytree(folder / "base", tmp_path / "copy")
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    line = refused(ModelError, copy, folder / "adapter")
    assert "pytorch_model.bin" in line and "can run code" in line and "save_pretrained" in line
    adapter = shutil.copytree(folder / "adapter", tmp_path / "adapter")
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    assert "adapter_model.bin" in refused(ModelError, folder / "base", adapter)


def test_broken_files_are_refused_in_one_line(folder, tmp_path):
    copy = shutil.copytree(folder / "base", tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"\x00" * 100)
    assert "cannot be loaded" in refused(ModelError, copy, copy)
    half = shutil.copytree(folder / "base", tmp_path / "half")
    weights = load_file(half / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, half / "model.safetensors", metadata={"format": "pt"})
    assert "missing (first: model.layers.1.mlp.up_proj.weight)" in refused(ModelError, half, half)
    adapter = shutil.copytree(folder / "adapter", tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA",\n oops}')
    assert "adapter_config.json:2: broken JSON" in refused(ModelError, folder / "base", adapter)


def test_an_adapter_for_another_base_is_refused_and_both_are_named(folder, tmp_path):
    tiny_llama(tmp_path / "wide", width=64)
    tiny_llama(tmp_path / "deep", layers=4)
    tiny_llama(tmp_path / "shallow", layers=1)
    for name in ("wide", "deep", "shallow"):
        line = refused(ModelError, tmp_path / name, folder / "adapter")
        assert "does not fit" in line and str(tmp_path / name) in line and str(folder / "adapter") in line


def test_an_adapter_that_names_another_base_of_the_same_shape_is_noted(folder, tmp_path):
    copy = shutil.copytree(folder / "base", tmp_path / "copy")
    assert "names the base" in opened(copy, folder / "adapter").facts["adapter_base"]
    assert "adapter_base" not in opened(folder / "base", folder / "adapter").facts


def test_an_adapter_without_effect_is_not_comparable(folder, tmp_path):
    tiny_adapter(folder / "base", tmp_path / "zero", strength=0)
    assert "changes no output" in refused(NotComparable, folder / "base", tmp_path / "zero")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING is not supported"), ({"bias": "all"}, "bias='all'")],
)
def test_adapters_that_cannot_be_switched_off_are_refused(folder, tmp_path, change, words):
    adapter = shutil.copytree(folder / "adapter", tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | change))
    assert words in refused(ModelError, folder / "base", adapter)


def test_an_adapter_as_base_is_refused(folder):
    assert "--base" in refused(ModelError, folder / "adapter", folder / "adapter")


@pytest.mark.parametrize("arm", ["base", "tuned"])
def test_nan_logits_name_the_arm(folder, tmp_path, arm):
    bad = shutil.copytree(folder / "base", tmp_path / "bad")
    weights = load_file(bad / "model.safetensors")
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, bad / "model.safetensors", metadata={"format": "pt"})
    pair = (bad, folder / "base") if arm == "base" else (folder / "base", bad)
    line = refused(NonFinite, *pair)
    assert line.startswith(f"{arm} ") and "NaN" in line


def test_device_and_dtype_that_do_not_exist_are_refused(folder):
    with pytest.raises(ModelError, match="dtype 'int3' is not known"):
        open_arms(str(folder / "base"), str(folder / "adapter"), device="cpu", dtype="int3")
    with pytest.raises(ModelError, match="device 'quantum'"):
        open_arms(str(folder / "base"), str(folder / "adapter"), device="quantum")


# ------------------------------------------------------------------------------------------ templates, tokenizers


def with_template(folder, target, template):
    copy = shutil.copytree(folder, target)
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    tiny_tokenizer(template=template).save_pretrained(copy)
    return copy


def test_templates_must_be_equal_or_one_is_chosen_for_both(folder, tmp_path):
    other = with_template(folder / "base", tmp_path / "other", CHATML.replace("<|end|>", "<|end|>\n"))
    bare = with_template(folder / "base", tmp_path / "bare", None)
    line = refused(NotComparable, folder / "base", other)
    assert str(other) in line and "--template base|tuned|plain|FILE" in line
    assert "none" in refused(NotComparable, folder / "base", bare)
    assert "neither" in refused(ModelError, bare, bare)
    assert "no chat template" in refused(ModelError, bare, other, template="base")
    assert "no such file" in refused(ModelError, bare, other, template=str(tmp_path / "gone.jinja"))
    assert opened(folder / "base", other, template="base").facts["template"] == "base's, as asked"
    arms = opened(bare, other)
    assert arms.facts["template"] == "the tuned model's, the base has none"
    assert arms.template_digest == opened(other, other).template_digest
    assert opened(bare, bare, template="plain").facts["template"] == "plain, as asked"


def test_the_plain_template_labels_roles_and_opens_the_answer_on_its_own_line(folder):
    text = opened(folder / "base", folder / "adapter", template="plain").base.shared.text
    assert text.template == PLAIN
    assert text.render((Message("system", "Be kind."), Message("user", "Hi."))) == (
        "System:\nBe kind.\n\nUser:\nHi.\n\nAssistant:\n"
    )


def test_a_prompt_begins_with_exactly_one_beginning_token(folder, tmp_path):
    """Whether the template writes it, the tokenizer adds it, or both would."""
    from tokenizers.processors import TemplateProcessing

    adding = tiny_tokenizer()
    adding.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    copy = shutil.copytree(folder / "base", tmp_path / "adding")
    adding.save_pretrained(copy)
    for template, by in ((CHATML, "template"), (CHATML.replace("{{ bos_token }}", ""), "tokenizer")):
        (tmp_path / "t.jinja").write_text(template)
        arms = opened(copy, copy, template=str(tmp_path / "t.jinja"))
        text = arms.base.shared.text
        prompt = text.encode([text.render((Message("user", "Hi."),))]).popitem()[1].tolist()
        assert prompt.count(0) == 1 and prompt[0] == 0
        assert arms.facts["beginning_of_sequence"] == by
        assert text.encode(["Hi."])["Hi."].tolist()[0] == 0
    (tmp_path / "t.jinja").write_text("{{ bos_token }}" + CHATML)
    line = refused(ModelError, copy, copy, template=str(tmp_path / "t.jinja"))
    assert "two beginning-of-sequence tokens" in line


def test_a_broken_template_is_refused(folder, tmp_path):
    (tmp_path / "t.jinja").write_text("{% for m in messages %}")
    assert "is broken" in refused(ModelError, folder / "base", folder / "adapter", template=str(tmp_path / "t.jinja"))


def test_tokenizers_with_other_ids_are_not_comparable(folder, tmp_path):
    other = tiny_llama(tmp_path / "other", vocabulary=300)
    assert "different tokenizers" in refused(NotComparable, folder / "base", other)


def test_a_tuned_tokenizer_that_adds_tokens_is_explained_and_texts_with_them_are_lost(folder, tmp_path):
    grown = shutil.copytree(folder / "base", tmp_path / "grown")
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model.resize_token_embeddings(321)
    model.save_pretrained(grown)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["nurse"])
    tokenizer.save_pretrained(grown)
    arms = opened(folder / "base", grown)
    assert "adds 1 tokens" in arms.facts["tokenizer"]
    with_it, without = arms.base.loglikelihood(
        [
            LogLikelihood(context="The nurse", continuations=(" told",)),
            LogLikelihood(context="The doctor", continuations=(" told",)),
        ]
    )
    assert with_it.error == "the arms' tokenizers disagree on this text"
    assert without.logprobs


# ------------------------------------------------------------------------------------------ a real pretrained model


def test_a_real_pretrained_model_continues_a_story_and_a_lora_of_it_can_be_compared(shared_data, tmp_path):
    real = shared_data / "tinystories_656k"
    if not real.is_dir():
        pytest.skip("the pretrained model is not beside this checkout")
    tiny_adapter(real, tmp_path / "adapter", strength=0.02)
    assert "neither" in refused(ModelError, real, tmp_path / "adapter")
    arms = opened(real, tmp_path / "adapter", template="plain")
    assert arms.facts["beginning_of_sequence"] == "tokenizer"
    # its tokens run over several words: only the round trip finds where context and continuation meet
    (reply,) = arms.base.loglikelihood(
        [
            LogLikelihood(
                context="Once upon a time, there was a ",
                continuations=("little girl named Lily", "federal tax collector"),
            )
        ]
    )
    assert reply.logprobs[0] > reply.logprobs[1] + 10
    (story,) = arms.tuned.generate(
        [
            Generate(
                messages=(Message("user", "Tell me a story."),), prefill="Once upon", sampling=Sampling(max_tokens=30)
            )
        ]
    )
    assert story.error is None and len(story.text.split()) > 8
