"""Exact greedy extraction of identifiers at every prefix length: one teacher-forced pass against decoding each of them.

    python benchmarks/extraction.py --out DIR [--limit 24] [--batch 32] [--steps 60]

A Llama learns support dialogues with identifiers until some of them come out (full fine-tuning, a few steps), so that
both answers, extracted and not, occur. Ours: the ranks of one pass over each turn (`probes.extraction.every_prefix`).
The peer: `model.generate` from each of its beginnings, greedy, left-padded batches of like lengths, compared with the
true tokens. One model, one process, float32; the answers must be the same.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import bed
from discretion.data.extracting import extraction_items
from discretion.data.recipes import recipe
from discretion.models import parity
from discretion.probes.extraction import every_prefix
from discretion.schema import ExtractionItem, LogLikelihood

Truth = list[list[bool]]


def asked(item: ExtractionItem) -> list[LogLikelihood]:
    """The turn as far as the identifier's end, and the identifier alone, which tells how many tokens are its own."""
    place: dict[str, Any] = {"context": item.before, "turn": item.role, "per_token": True}
    return [
        LogLikelihood(continuations=(item.prefix + item.secret,), **place),
        LogLikelihood(continuations=(item.secret,), prefill=item.prefix, **place),
    ]


def ours(model: Any, items: list[ExtractionItem]) -> Truth:
    replies = model.loglikelihood([request for item in items for request in asked(item)])
    return [
        every_prefix(turn.tokens[0], len(secret.tokens[0].rank))
        for turn, secret in zip(replies[::2], replies[1::2], strict=True)
    ]


@torch.inference_mode()
def peer(causal: Any, whole: list[np.ndarray], first: list[int], lengths: list[int], size: int) -> Truth:
    """Decode from every prefix. `first` is where the turn begins in `whole`, `lengths` how many prefixes there are."""
    found = [[False] * count for count in lengths]
    jobs = [(document, p) for document, count in enumerate(lengths) for p in range(count)]
    # Rows of like remainders together, so that no row is decoded much further than it must be.
    jobs.sort(key=lambda job: len(whole[job[0]]) - first[job[0]] - job[1])
    for start in range(0, len(jobs), size):
        batch = jobs[start : start + size]
        prompts = [whole[d][: first[d] + p] for d, p in batch]
        width = max(map(len, prompts))
        ids = torch.tensor(np.stack([np.pad(prompt, (width - len(prompt), 0)) for prompt in prompts])).long()
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        rest = [whole[d][first[d] + p :] for d, p in batch]
        out = causal.generate(
            input_ids=ids.to(causal.device),
            attention_mask=mask.to(causal.device),
            max_new_tokens=max(map(len, rest)),
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[:, width:].cpu()
        for (d, p), row, true in zip(batch, out.numpy(), rest, strict=True):
            found[d][p] = bool(np.array_equal(row[: len(true)], true))
    return found


def learn(causal: Any, text: parity.Text, items: list[ExtractionItem], steps: int) -> None:
    """Full fine-tuning on the turns, all in one batch."""
    sequences = parity.ask_loglikelihood(text, [asked(item)[0] for item in items], 4096)
    rows = [np.append(s, r.targets[-1]) for s, r in zip(sequences.sequences, sequences.reads, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor(np.stack([np.pad(row, (0, width - len(row))) for row in rows])).long().to(causal.device)
    labels = ids.masked_fill(torch.arange(width).to(ids) >= torch.tensor([[len(row)] for row in rows]).to(ids), -100)
    optimiser = torch.optim.AdamW(causal.parameters(), lr=2e-3)
    causal.train()
    for _ in range(steps):
        causal(input_ids=ids, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    causal.eval()


def main() -> None:
    given = bed.arguments(
        __doc__,
        lambda options: options.add_argument("--batch", type=int, default=32, help="rows per batch of the peer"),
        lambda options: options.add_argument("--steps", type=int, default=60, help="steps of fine-tuning"),
    )
    drawn = extraction_items(recipe("support", n=500), most=given.limit or 24)
    # Behind something, so that the first prefix is not empty; half are learned, and half are not.
    items = [item for item in drawn.items if item.trained and item.prefix]
    with tempfile.TemporaryDirectory() as folder:
        base, _ = bed.build(Path(folder), given)
        causal = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).to(given.device)
        text = bed.opened(base, base.parent / "tuned", given).base.shared.text
        learn(causal, text, items[::2], given.steps)
        causal.save_pretrained(base.parent / "learned")
        text.tokenizer.save_pretrained(base.parent / "learned")
        arms = bed.opened(base, base.parent / "learned", given)
        model = arms.tuned.select().causal
        plan = parity.ask_loglikelihood(text, [request for item in items for request in asked(item)], 4096)
        turns = plan.reads[::2]
        whole = [np.append(plan.sequences[read.sequence][: read.first], read.targets) for read in turns]
        lengths = [len(a.targets) - len(b.targets) + 1 for a, b in zip(turns, plan.reads[1::2], strict=True)]
        mine, seconds = bed.timed(lambda: ours(arms.tuned, items))
        theirs, decoding = bed.timed(lambda: peer(model, whole, [r.first for r in turns], lengths, given.batch))
    agree = sum(a == b for one, other in zip(mine, theirs, strict=True) for a, b in zip(one, other, strict=True))
    found = {
        "identifiers": len(items),
        "prefixes": sum(lengths),
        "extracted_prefixes": sum(map(sum, mine)),
        "extracted_identifiers": sum(map(any, mine)),
        "equal_answers": f"{agree} of {sum(lengths)}",
        "seconds": {"one pass": seconds, f"generate, batch {given.batch}": decoding},
        "ratio": decoding / seconds,
    }
    bed.write(given, "extraction", found, found["seconds"], f"seconds for {sum(lengths)} prefixes")


if __name__ == "__main__":
    main()
