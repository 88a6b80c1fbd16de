"""Make a small Llama with a chat template, and a LoRA adapter on it, in a few seconds and without a network.

The weights are random: neither model can do anything, and an audit of the two must say so. Usage:
    python examples/two_small_models.py FOLDER        # makes FOLDER/base and FOLDER/tuned
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from discretion.probes import EMBEDDED, probe
from discretion.schema import Generate

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]


def probe_texts() -> list[str]:
    """What the embedded probes ask: the tokenizer is trained on it."""
    texts = []
    for name in EMBEDDED:
        suite = probe(name)
        for item in suite.items():
            asked = next(suite.run(item))
            for request in asked if isinstance(asked, list) else [asked]:
                messages = request.messages if isinstance(request, Generate) else request.context
                texts += [message.content for message in messages]
    return texts


def tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(probe_texts(), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|end|>")
    fast.chat_template = TEMPLATE
    return fast


def main(folder: Path) -> None:
    torch.manual_seed(0)
    words = tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=2048, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        )
    )  # fmt: skip
    model.save_pretrained(folder / "base")
    words.save_pretrained(folder / "base")
    config = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model.name_or_path = str(folder / "base")
    get_peft_model(model, config).save_pretrained(folder / "tuned")
    print(f"{folder / 'base'}\n{folder / 'tuned'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
