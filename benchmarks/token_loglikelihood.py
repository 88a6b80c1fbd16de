"""Token log-likelihoods with moments: 2,000 texts × base and adapter, and the memory it takes.

    python benchmarks/token_loglikelihood.py --out DIR [--limit 2000] [--kinds passages,candidates]

Two kinds of text: passages with nothing in common, as for membership, and candidates, 50 endings behind each of 40
beginnings, as for extraction by ranking. Ours against one text at a time (all logits, log-softmax, gather, and the same
moments), both arms, one process. Peak memory against batches of full logits of the same tokens, each in a process of
its own (Linux: peak over what is resident once the model is loaded).
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import bed
from discretion.models import parity
from discretion.models.local import Arms
from discretion.models.plan import make_plan
from discretion.schema import LogLikelihood


def texts(data: Path, count: int) -> list[str]:
    """Passages of PrivacyLens stories and trajectories, one to six sentences, in seeded order, none twice."""
    draw = random.Random(0)
    found: dict[str, None] = {}
    sources = [
        text
        for row in json.loads(data.read_text())
        for text in (row["vignette"]["story"], row["trajectory"]["executable_trajectory"])
    ]
    sentences = [re.split(r"(?<=[.!?])\s+", text) for text in sources]
    while len(found) < count:
        pieces = draw.choice(sentences)
        start = draw.randrange(len(pieces))
        found[" ".join(pieces[start : start + draw.randint(1, 6)])] = None
    return list(found)


def asked(kind: str, data: Path, count: int) -> list[LogLikelihood]:
    """Requests for `count` texts."""
    if kind == "passages":
        return [LogLikelihood(context="", continuations=(text,), per_token=True) for text in texts(data, count)]
    rows = json.loads(data.read_text())
    endings = [" " + item for row in rows for item in row["trajectory"]["sensitive_info_items"]]
    draw = random.Random(0)
    return [
        LogLikelihood(
            context=row["vignette"]["story"].strip(), continuations=tuple(draw.sample(endings, 50)), per_token=True
        )
        for row in rows[: -(-count // 50)]
    ]


@torch.inference_mode()
def loop(model: Any, rows: list[tuple[list[int], int]]) -> list[float]:
    """One text at a time, everything an attack on memorisation needs from it: log-probability, mean, variance, rank."""
    sums = []
    for ids, first in rows:
        tokens = torch.tensor([ids], device=model.device)
        logp = model(input_ids=tokens, use_cache=False).logits[0, first - 1 : -1].float().log_softmax(-1)
        chosen = logp.gather(1, tokens[0, first:, None])
        mean = (logp.exp() * logp).sum(-1)
        variance = (logp.exp() * (logp - mean[:, None]).square()).sum(-1)
        rank = (logp > chosen).sum(-1)
        sums.append(float(chosen.sum()))
        _ = (mean.tolist(), variance.tolist(), rank.tolist())
    return sums


@torch.inference_mode()
def full_batches(model: Any, rows: list[list[int]], budget: int) -> None:
    """Padded batches of the same token budget, all logits, log-softmax, gather."""
    rows = sorted(rows, key=len, reverse=True)
    while rows:
        count = max(1, budget // len(rows[0]))
        width = len(rows[0])
        ids = torch.tensor([row + [row[-1]] * (width - len(row)) for row in rows[:count]])
        logp = model(input_ids=ids, use_cache=False).logits[:, :-1].float().log_softmax(-1)
        logp.gather(2, ids[:, 1:, None]).sum()
        del rows[:count], logp


def status(field: str) -> int:
    """KiB from /proc/self/status."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def memory(given: Any) -> None:
    """In a process of its own: peak over the loaded model, MiB, of one arm on the first texts."""
    folder = Path(given.child_folder)
    requests = asked("passages", given.data, 200)
    if given.child == "ours":
        arms = bed.opened(folder / "base", folder / "tuned", given, batch_tokens=given.budget)

        def work() -> None:
            arms.base.loglikelihood(requests)
    else:
        from transformers import AutoTokenizer

        words = AutoTokenizer.from_pretrained(folder / "base")
        model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()
        rows = [[1, *words(r.continuations[0], add_special_tokens=False)["input_ids"]] for r in requests]

        def work() -> None:
            full_batches(model, rows, given.budget)

    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    work()
    print(json.dumps({"over_model_mib": (status("VmHWM") - before) / 1024, "total_mib": status("VmHWM") / 1024}))


def child(given: Any, folder: Path, which: str, budget: int) -> dict[str, float]:
    command = [
        sys.executable, __file__, "--out", str(given.out), "--data", str(given.data), "--model-size", given.model_size,
        "--threads", str(given.threads), "--child", which, "--child-folder", str(folder), "--budget", str(budget),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def race(kind: str, given: Any, arms: Arms, model: Any) -> dict[str, Any]:
    """Both sides on one kind of text, both arms."""
    requests = asked(kind, given.data, given.limit or 2000)
    replies, ours = bed.timed(lambda: [arm.loglikelihood(requests) for arm in (arms.base, arms.tuned)])
    text = arms.base.shared.text
    plan = make_plan(parity.ask_loglikelihood(text, requests, arms.base.shared.context).sequences, 4096)
    least = sum(bed.bound(arm.select(), plan) for arm in (arms.base, arms.tuned))
    rows = [
        (text.tokenizer(request.context + continuation, add_special_tokens=False)["input_ids"], reply.prompt_tokens)
        for request, reply in zip(requests, replies[0], strict=True)
        for continuation in request.continuations
    ]
    # an empty context is replaced by the token that ends a turn, so that the first token can be scored
    rows = [(ids, first) if kind == "candidates" else ([1, *ids], first) for ids, first in rows]
    with model.disable_adapter():
        plain, first = bed.timed(lambda: loop(model, rows))
    adapted, second = bed.timed(lambda: loop(model, rows))
    mine = [[logprob for reply in arm for logprob in reply.logprobs] for arm in replies]
    return {
        "texts": len(rows),
        "tokens": sum(len(ids) for ids, _ in rows),
        "distinct_tokens": plan.tokens,
        "seconds": {"ours": ours, "one text at a time": first + second},
        "ratio": (first + second) / ours,
        "largest_difference_nats": max(
            abs(a - b) for us, them in zip(mine, (plain, adapted), strict=True) for a, b in zip(us, them, strict=True)
        ),
        "forward_only_bound_seconds": least,
        "share_of_bound": least / ours,
    }


def main() -> None:
    given = bed.arguments(
        __doc__,
        lambda options: options.add_argument("--kinds", default="passages,candidates"),
        lambda options: options.add_argument("--budget", type=int, default=8192, help="tokens per batch, memory part"),
        lambda options: options.add_argument("--child", help="internal: which side a memory process measures"),
        lambda options: options.add_argument("--child-folder", help="internal"),
    )
    if given.child:
        memory(given)
        return
    with tempfile.TemporaryDirectory() as folder:
        base, tuned = bed.build(Path(folder), given)
        arms = bed.opened(base, tuned, given)
        with warnings.catch_warnings():  # peft asks transformers by a name that is going away
            warnings.simplefilter("ignore", FutureWarning)
            peer = AutoModelForCausalLM.from_pretrained(base, dtype=arms.base.weights.causal.dtype).to(given.device)
            model = PeftModel.from_pretrained(peer, tuned)
        model.eval()
        races = {kind: race(kind, given, arms, model) for kind in given.kinds.split(",")}
        peak = {which: child(given, Path(folder), which, given.budget) for which in ("ours", "full logits")}
    found = {
        **races,
        "memory_tokens_per_batch": given.budget,
        "memory": peak,
        "memory_share": peak["ours"]["over_model_mib"] / peak["full logits"]["over_model_mib"],
        "batch_tokens": arms.facts["batch_tokens"],
    }
    bars = {f"{kind}: {who}": spent for kind, one in races.items() for who, spent in one["seconds"].items()}
    bed.write(given, "token_loglikelihood", found, bars, "seconds, both arms")


if __name__ == "__main__":
    main()
