"""Tiny models made on the spot, in under a second and without a network: a tokenizer, a Llama, an adapter on it."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""Writes the beginning-of-sequence token itself, as most templates do."""
CORPUS = (
    "The nurse told the doctor about the patient in confidence. Nobody else should hear of it, and nobody did.",
    'Action: SendEmail\nAction Input: {"to": "ann@example.com", "body": "See you on Monday at nine."}',
    "Is it appropriate to share this? (A) Yes, it is. (B) No, it is not. The answer is A, B, C or D.",
    "User: What is seven plus five? Assistant: The answer is twelve. System: You are a careful assistant.",
)


@cache
def _trained(vocabulary: int) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str()


def tiny_tokenizer(*, template: str | None = CHATML, vocabulary: int = 320) -> PreTrainedTokenizerFast:
    """A byte-level BPE that can encode any text. Ends at `<|end|>` or `</s>`."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(vocabulary)), bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_llama(
    folder: Path,
    *,
    seed: int = 0,
    template: str | None = CHATML,
    vocabulary: int = 320,
    layers: int = 2,
    width: int = 32,
    context: int = 512,
    tied: bool = False,
    scale: float = 0.3,
) -> Path:
    """A Llama with grouped-query attention and random weights, saved with its tokenizer. Returns `folder`."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        initializer_range=scale,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return save(LlamaForCausalLM(config), folder, template=template, vocabulary=vocabulary)


def save(model: Any, folder: Path, *, template: str | None = CHATML, vocabulary: int = 320) -> Path:
    """A model and a tiny tokenizer in one folder."""
    folder = Path(folder)
    model.generation_config.eos_token_id = [1, 6]
    model.save_pretrained(folder)
    tiny_tokenizer(template=template, vocabulary=vocabulary).save_pretrained(folder)
    return folder


def tiny_adapter(
    base: Path,
    folder: Path,
    *,
    seed: int = 1,
    strength: float = 0.3,
    rank: int = 4,
    targets: tuple[str, ...] = ("q_proj", "v_proj", "down_proj"),
    **options: Any,
) -> Path:
    """A LoRA adapter for the model in `base`, with B not zero unless `strength` is. Returns `folder`."""
    folder = Path(folder)
    torch.manual_seed(seed)
    model = _with_lora(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), task_type="CAUSAL_LM", **options),
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, strength) if strength else weight.zero_()
    model.save_pretrained(folder)
    return folder


def _with_lora(model: Any, config: LoraConfig) -> Any:
    with warnings.catch_warnings():  # peft asks transformers by a name that is going away
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, config)


def merged(base: Path, adapter: Path, folder: Path) -> Path:
    """The adapter merged into a full checkpoint. Returns `folder`."""
    from peft import PeftModel

    folder = Path(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    return save(model.merge_and_unload(), folder)
