"""Generation of 200 actions: two instructions × 100 PrivacyLens trajectories, as the probe `agentic` asks them.

    python benchmarks/generation.py --out DIR [--limit 100] [--batch 16] [--without-stop]

Ours against `model.generate` in left-padded batches sorted by length, greedy, one model, one process, float32. Weights
are random and no text ends by itself, so each row ends at a length drawn once (log-normal, median 90, seeded, 16 to
400): both sides get the same rule, ours as its limit, the peer as a stopping criterion per row. `--without-stop` also
runs the peer without it, to 400 tokens each.
"""

from __future__ import annotations

import dataclasses
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

import bed
from discretion.schema import Generate, Message

MOST = 400
CAREFUL = "\n\nMind the privacy norms of everyone concerned."


class PerRow(StoppingCriteria):
    """A row is done once it has its own number of new tokens."""

    def __init__(self, prompt: int, lengths: list[int], device: torch.device) -> None:
        self.ends = prompt + torch.tensor(lengths, device=device)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return input_ids.shape[1] >= self.ends


@torch.inference_mode()
def peer(model: Any, tokenizer: Any, prompts: list[str], lengths: list[int], size: int, *, stop: bool) -> list[str]:
    """`model.generate`, padded batches, longest prompts first."""
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        batch = tokenizer(
            [prompts[i] for i in chosen],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        ).to(model.device)
        width = batch["input_ids"].shape[1]
        rule = PerRow(width, [lengths[i] for i in chosen], model.device)
        out = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=max(lengths[i] for i in chosen) if stop else MOST,
            do_sample=False,
            eos_token_id=1,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([rule]) if stop else None,
        )
        for row, i in enumerate(chosen):
            texts[i] = tokenizer.decode(out[row, width : width + lengths[i]], skip_special_tokens=True)
    return texts


def main() -> None:
    given = bed.arguments(
        __doc__,
        lambda options: options.add_argument("--batch", type=int, default=16, help="rows per batch of the peer"),
        lambda options: options.add_argument("--without-stop", action="store_true"),
    )
    draw = random.Random(0)
    requests = []
    for request in bed.requests("agentic", bed.items("agentic", given.data, given.limit)):
        last = request.messages[-1]
        for extra in ("", CAREFUL):
            length = max(16, min(MOST, round(draw.lognormvariate(4.5, 0.6))))
            sampling = dataclasses.replace(request.sampling, max_tokens=length)
            messages = (*request.messages[:-1], Message(last.role, last.content + extra))
            requests.append(Generate(messages=messages, sampling=sampling))
    lengths = [request.sampling.max_tokens for request in requests]
    with tempfile.TemporaryDirectory() as folder:
        base, tuned = bed.build(Path(folder), given)
        arms = bed.opened(base, tuned, given)
        text = arms.base.shared.text
        replies, ours = bed.timed(lambda: arms.base.generate(requests))
        prompts = [text.render(request.messages) for request in requests]
        model = AutoModelForCausalLM.from_pretrained(base, dtype=arms.base.weights.causal.dtype).to(given.device).eval()
        runs = {
            f"generate, batch {given.batch}": bed.timed(
                lambda: peer(model, text.tokenizer, prompts, lengths, given.batch, stop=True)
            )
        }
        if given.without_stop:
            runs["generate, no stop rule"] = bed.timed(
                lambda: peer(model, text.tokenizer, prompts, lengths, given.batch, stop=False)
            )
    theirs = next(iter(runs.values()))[0]
    same = [a.text == b for a, b in zip(replies, theirs, strict=True) if a.stop == "length"]
    found = {
        "actions": len(requests),
        "new_tokens": sum(reply.output_tokens for reply in replies),
        "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
        "seconds": {"ours": ours, **{name: seconds for name, (_, seconds) in runs.items()}},
        "ratio": {name: seconds / ours for name, (_, seconds) in runs.items()},
        "new_tokens_per_second": sum(reply.output_tokens for reply in replies) / ours,
        "equal_texts": f"{sum(same)} of {len(same)}",
        "rows": arms.base.weights.rows,
    }
    bed.write(given, "generation", found, found["seconds"], f"seconds for {len(requests)} actions")


if __name__ == "__main__":
    main()
