"""What the engine's benchmarks stand on: a Llama with random weights, a 32k tokenizer, PrivacyLens prompts, a plot.

Not a benchmark itself. Everything is made in a temporary folder, offline.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from discretion.models.local import Arms, open_arms
from discretion.models.plan import Plan
from discretion.models.scoring import Weights
from discretion.probes import probe
from discretion.schema import Item, Request

VOCABULARY = 32_000
SIZES = {"full": (768, 12, 12, 4), "small": (256, 6, 4, 2), "tiny": (64, 2, 4, 2)}
"""width, blocks, heads, key-value heads: 100 million parameters at full size, embeddings tied."""
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
PRIVACYLENS = Path(__file__).parents[2] / "shared" / "data" / "privacylens" / "main_data_1_100.json"


def arguments(description: str | None, *more: Callable[[argparse.ArgumentParser], Any]) -> argparse.Namespace:
    """The options all three scripts have; ends with a message when the prompts are not there."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, required=True, help="folder for the JSON and the plot")
    options.add_argument("--data", type=Path, default=PRIVACYLENS, help="PrivacyLens file with trajectories")
    options.add_argument("--limit", type=int, help="use the first N trajectories, or texts")
    options.add_argument("--model-size", choices=SIZES, default="full")
    options.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
    options.add_argument("--device", default="cpu")
    options.add_argument("--dtype", default="fp32")
    for add in more:
        add(options)
    given = options.parse_args()
    if not given.data.is_file():
        sys.exit(f"no prompts: {given.data} is not there; pass PrivacyLens' main_data.json with --data")
    torch.set_num_threads(given.threads)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    given.out.mkdir(parents=True, exist_ok=True)
    return given


def items(name: str, data: Path, limit: int | None) -> list[Item]:
    """Items of a probe on PrivacyLens trajectories, one per trajectory."""
    source = f"{data}#trajectory" if name == "norms" else str(data)
    seen: dict[str, Item] = {}
    for item in probe(name).items(source):
        seen.setdefault(item.cluster, item)
    return list(seen.values())[:limit]


def requests(name: str, chosen: Sequence[Item]) -> list[Request]:
    """What the probe asks about each item first."""
    found: list[Request] = []
    for item in chosen:
        asked = next(probe(name).run(item))
        found += asked if isinstance(asked, list) else [asked]
    return found


def tokenizer(data: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most 32,000 tokens, trained on the prompts' own file."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [json.dumps(row, ensure_ascii=False) for row in json.loads(data.read_text())]
    bpe.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|end|>")
    fast.chat_template = TEMPLATE
    return fast


def build(folder: Path, given: argparse.Namespace) -> tuple[Path, Path]:
    """A base with random weights and a LoRA adapter on it: their folders."""
    torch.manual_seed(0)
    width, blocks, heads, shared = SIZES[given.model_size]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    base, tuned = folder / "base", folder / "tuned"
    LlamaForCausalLM(config).save_pretrained(base)
    tokenizer(given.data).save_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base),
            LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
    with torch.no_grad():
        for name, weight in adapter.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.05)
    adapter.save_pretrained(tuned)
    return base, tuned


def opened(base: Path, tuned: Path, given: argparse.Namespace, **options: Any) -> Arms:
    return open_arms(str(base), str(tuned), device=given.device, dtype=given.dtype, offline=True, **options)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """(what it gives, wall seconds)."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


@torch.inference_mode()
def bound(weights: Weights, plan: Plan) -> float:
    """Seconds for bare forwards of the backbone on as many tokens as the plan has distinct ones: no head, no padding.

    Rows are as long as the plan's trunks are on average, and fill the engine's own budget.
    """
    length = max(1, sum(group.trunk for group in plan.groups) // len(plan.groups))
    left, seconds = plan.tokens, 0.0
    while left > 0:
        rows = max(1, min(weights.budget, left) // length)
        ids = torch.randint(6, VOCABULARY, (rows, min(length, left)), device=weights.device)
        _, spent = timed(
            lambda ids=ids: weights.decoder(input_ids=ids, use_cache=False).last_hidden_state[0, 0, 0].item()
        )
        seconds += spent
        left -= ids.numel()
    return seconds


def machine(given: argparse.Namespace) -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if given.device == "cuda" else platform.processor() or "cpu",
        "threads": given.threads,
        "dtype": given.dtype,
        "model_size": given.model_size,
    }


def write(given: argparse.Namespace, name: str, found: dict[str, Any], bars: dict[str, float], unit: str) -> None:
    """NAME.json and NAME.png in the folder asked for."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    (given.out / f"{name}.json").write_text(json.dumps({"machine": machine(given), **found}, indent=2) + "\n")
    figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.5 * len(bars)), layout="constrained")
    drawn = axes.barh(list(bars), list(bars.values()), color=["#1b6e53", *["#9aa5b1"] * (len(bars) - 1)])
    axes.bar_label(drawn, fmt="%.3g", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(given.out / f"{name}.png", dpi=150)
    print(json.dumps(found, indent=2))
