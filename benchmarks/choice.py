"""Choice probes: two letter orders × two polarities per PrivacyLens trajectory, as the probe `norms` asks them.

    python benchmarks/choice.py --out DIR [--limit 100] [--auto] [--mirrors]

Ours against lm-evaluation-harness (hf backend, batch 16, and `--auto` for its automatic batch size) and against a plain
padded batched loop, all on one model in one process, in float32. The harness is used where it can be imported:
`pip install 'lm-eval[hf]==0.4.13'` (620 MB), best into an environment of its own beside this one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import bed
from discretion.models import parity
from discretion.models.plan import make_plan
from discretion.probes import probe
from discretion.schema import LogLikelihood

Pairs = list[tuple[str, str]]


@torch.inference_mode()
def plain(model: Any, tokenizer: Any, pairs: Pairs, size: int = 16) -> list[float]:
    """The loop one writes first: sorted by length, padded, all logits; one forward for the options of a prompt."""
    prompts = sorted({prompt for prompt, _ in pairs}, key=len, reverse=True)
    found: dict[str, torch.Tensor] = {}
    for start in range(0, len(prompts), size):
        batch = tokenizer(
            prompts[start : start + size],
            return_tensors="pt",
            padding=True,
            padding_side="right",
            add_special_tokens=False,
        ).to(model.device)
        logp = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
        for row, prompt in enumerate(prompts[start : start + size]):
            found[prompt] = logp[row, int(batch["attention_mask"][row].sum()) - 1].clone()
    ids = {option: tokenizer(option, add_special_tokens=False)["input_ids"] for _, option in pairs}
    assert all(len(tokens) == 1 for tokens in ids.values())
    return [float(found[prompt][ids[option][0]]) for prompt, option in pairs]


def harness(model: Any, tokenizer: Any, pairs: Pairs, batch: int | str) -> tuple[list[float], float] | None:
    """lm-evaluation-harness on the same pairs: (log-probabilities, seconds); None where it is not installed."""
    try:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        return None
    peer = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch, device=str(model.device))
    asked = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=index) for index, pair in enumerate(pairs)
    ]
    answers, seconds = bed.timed(lambda: peer.loglikelihood(asked, disable_tqdm=True))
    return [logprob for logprob, _ in answers], seconds


def asked(given: Any) -> Sequence[LogLikelihood]:
    if not given.mirrors:
        return bed.requests("norms", bed.items("norms", given.data, given.limit))
    kept = {item.cluster for item in bed.items("norms", given.data, given.limit)}
    every = probe("norms").items(f"{given.data}#trajectory")
    return bed.requests("norms", [item for item in every if item.cluster in kept])


def main() -> None:
    given = bed.arguments(
        __doc__,
        lambda options: options.add_argument("--auto", action="store_true", help="the harness also with batch auto"),
        lambda options: options.add_argument(
            "--mirrors", action="store_true", help="with the allowed mirrors, as an audit"
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        base, tuned = bed.build(Path(folder), given)
        arms, opening = bed.timed(lambda: bed.opened(base, tuned, given))
        requests = asked(given)
        replies, ours = bed.timed(lambda: arms.base.loglikelihood(requests))
        text = arms.base.shared.text
        plan = make_plan(parity.ask_loglikelihood(text, requests, arms.base.shared.context).sequences, 4096)
        least = bed.bound(arms.base.weights, plan)
        logprobs = [logprob for reply in replies for logprob in reply.logprobs]
        pairs = [(text.render(r.context), option) for r in requests for option in r.continuations]
        model = AutoModelForCausalLM.from_pretrained(base, dtype=arms.base.weights.causal.dtype).to(given.device).eval()
        runs: dict[str, tuple[list[float], float]] = {
            "plain batched loop, 16": bed.timed(lambda: plain(model, text.tokenizer, pairs))
        }
        for batch in (16, "auto") if given.auto else (16,):
            peer = harness(model, text.tokenizer, pairs, batch)
            if peer is None:
                print("lm-evaluation-harness is not installed here: compared with the plain loop only")
                break
            runs[f"lm-eval, batch {batch}"] = peer
    sums = sum(len(tokens) for tokens in text.encode({prompt for prompt, _ in pairs}).values())
    found = {
        "requests": len(requests),
        "prompt_tokens": sums,
        "distinct_tokens": plan.tokens,
        "seconds": {"ours": ours, **{name: seconds for name, (_, seconds) in runs.items()}},
        "ratio": {name: seconds / ours for name, (_, seconds) in runs.items()},
        "largest_difference_nats": {
            name: max(abs(a - b) for a, b in zip(logprobs, other, strict=True)) for name, (other, _) in runs.items()
        },
        "forward_only_bound_seconds": least,
        "share_of_bound": least / ours,
        "opening_seconds": opening,
        "batch_tokens": arms.facts["batch_tokens"],
    }
    bed.write(given, "choice", found, found["seconds"], f"seconds for {len(requests)} requests")


if __name__ == "__main__":
    main()
