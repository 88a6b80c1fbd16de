"""Builds the embedded testbed: a small Llama-architecture chat model, its training from a seed, its curve, its card.

Resumable: weights, optimizer moments and the place in the stream are kept as safetensors and JSON; the same command
continues. The training curve is measured by the audit's own probes on held-out items.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from discretion.errors import DataError, Unparsed
from discretion.models.base import Model
from discretion.models.testbed import DIGESTS, digests
from discretion.probes import offtopic
from discretion.schema import Generate, Item, LogLikelihood, Outcome, Reply
from discretion.tune.copying import set_copying_heads
from discretion.tune.lessons import PROBES
from discretion.tune.stream import LENGTHS, Batch, Encoder, Recipe, steps_of, train_tokenizer
from discretion.world.embedded import SIZES, embedded
from discretion.world.norms import World, load_world

ASKED = {**PROBES, offtopic.PROBE.name: offtopic.PROBE}
"""The suites by which the testbed is measured."""
NOTE = 50
"""Steps between two notes of the loss."""


# ------------------------------------------------------------------------------------------------ model


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Random weights of the recipe's shape, with heads that copy already set."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=LENGTHS[-1],
        tie_word_embeddings=True,
        attention_bias=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # The plain form is the quickest one to train at this size on a CPU.
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config)
    set_copying_heads(model, recipe.seed)
    return model


def loss_of(model: LlamaForCausalLM, body: Callable[..., Any], batch: Batch, device: torch.device) -> torch.Tensor:
    """Weighted sum of −ln p over the answers' tokens; the output head runs on those alone."""
    ids, weights = (tensor.to(device) for tensor in batch)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        hidden = body(input_ids=ids, use_cache=False).last_hidden_state
        asked = weights[:, 1:] > 0
        logits = model.lm_head(hidden[:, :-1][asked])
    losses = functional.cross_entropy(logits.float(), ids[:, 1:][asked], reduction="none")
    return (losses * weights[:, 1:][asked]).sum()


def rate(recipe: Recipe, step: int) -> float:
    """Learning rate of a step."""
    if step < recipe.warm:
        return recipe.peak * (step + 1) / recipe.warm
    left = (recipe.steps - step) / (recipe.cool * recipe.steps)
    return recipe.peak * max(0.02, min(1.0, left))


# ------------------------------------------------------------------------------------------------ measuring


def measure(model: Model, sizes: Mapping[str, int], seed: int = 1) -> dict[str, float]:
    """Figures of the audit's own probes on held-out items: `suite metric` → value, and the share not scored."""
    figures: dict[str, float] = {}
    for suite, n in sizes.items():
        probe = ASKED[suite]
        outcomes = play_all(model, suite, embedded(suite, seed=seed, n=n))
        for metric in probe.metrics:
            if metric.curve or metric.combine or metric.pooled:
                continue
            sums: dict[str, list[float]] = {}
            for outcome in outcomes:
                for stratum, tally in metric.tally(outcome).items():
                    known = sums.setdefault(stratum, [0.0, 0.0])
                    known[0] += tally.numerator
                    known[1] += tally.denominator
            ratios = {stratum: a / b for stratum, (a, b) in sums.items() if b}
            if ratios:
                figures[f"{suite} {metric.name}"] = sum(ratios.values()) / len(ratios)
            if metric.name == "accuracy per task":
                figures |= {f"{suite} {stratum}": value for stratum, value in ratios.items()}
        figures[f"{suite} not scored"] = sum(o.status != "scored" for o in outcomes) / len(outcomes)
    return figures


def play_all(model: Model, suite: str, items: Sequence[Item]) -> list[Outcome]:
    """One outcome per item; requests of all live items are answered together."""
    probe = ASKED[suite]
    outcomes: dict[str, Outcome] = {}
    runs = [(item, probe.run(item)) for item in items]
    waiting = [(item, run, next(run)) for item, run in runs]
    while waiting:
        asked = [request for _, _, wants in waiting for request in (wants if isinstance(wants, list) else [wants])]
        replies = iter(_answer(model, asked))
        still = []
        for item, run, wants in waiting:
            got = [next(replies) for _ in wants] if isinstance(wants, list) else next(replies)
            lost = partial(Outcome, item_id=item.id, cluster=item.cluster, parts=probe.facts(item))
            broken = [reply for reply in (got if isinstance(got, list) else [got]) if reply.error]
            if broken:
                outcomes[item.id] = lost(status="failed", reason=broken[0].error)
                continue
            try:
                still.append((item, run, run.send(got)))
            except StopIteration as done:
                score = done.value
                outcomes[item.id] = Outcome(
                    item_id=item.id, cluster=item.cluster, status="scored", value=score.value, parts=score.parts
                )
            except Unparsed as reason:
                outcomes[item.id] = lost(status="unparsed", reason=str(reason))
        waiting = still
    return [outcomes[item.id] for item in items]


def _answer(model: Model, asked: Sequence[Any]) -> list[Reply]:
    text = [(n, r) for n, r in enumerate(asked) if isinstance(r, Generate)]
    choice = [(n, r) for n, r in enumerate(asked) if isinstance(r, LogLikelihood)]
    replies: dict[int, Reply] = {}
    if text:
        replies |= zip((n for n, _ in text), model.generate([r for _, r in text]), strict=True)
    if choice:
        replies |= zip((n for n, _ in choice), model.loglikelihood([r for _, r in choice]), strict=True)
    return [replies[n] for n in range(len(asked))]


# ------------------------------------------------------------------------------------------------ building

OnProgress = Callable[[Mapping[str, Any]], None]


def build(
    out: Path,
    *,
    recipe: Recipe | None = None,
    device: str = "cpu",
    every: int = 250,
    sizes: Mapping[str, int] | None = None,
    compiled: bool = False,
    stop_after: float = math.inf,
    on_progress: OnProgress = lambda row: None,
) -> Path:
    """Train the testbed into `out/model`, and its curve into `out/curve.json`; continues where a killed run stopped.

    `every` steps the place is kept and the probes are asked. `compiled` needs a C++ compiler on a CPU and is about a
    quarter faster. Raises `DataError` when `out` holds a run of another recipe.
    """
    recipe = recipe or Recipe()
    sizes = sizes or {"norms": 120, "agentic": 24, "memory": 24, "capability": 60, "refusal": 40}
    out.mkdir(parents=True, exist_ok=True)
    where = torch.device(device)
    # Sharp attention leaves weights near 1e-40, on which a CPU computes many times slower.
    torch.set_flush_denormal(True)
    world = load_world()
    tokenizer = _tokenizer(out, world, recipe)
    model = new_model(recipe, tokenizer).to(where)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.peak, betas=(0.9, 0.98), fused=True)
    state = _restore(out, recipe, model, optimizer)
    encoder = Encoder(tokenizer, recipe.choice)
    body: Callable[..., Any] = torch.compile(model.model) if compiled else model.model
    began, seen, losses = time.monotonic(), 0, []
    model.train()
    while state["step"] < recipe.steps and time.monotonic() - began < stop_after:
        todo = steps_of(world, encoder, recipe, state["block"], state["at"])
        for parts in todo[state["step"] - state["at"] :]:
            for group in optimizer.param_groups:
                group["lr"] = rate(recipe, state["step"])
            loss = 0.0
            for batch in parts:
                part = loss_of(model, body, batch, where)
                part.backward()  # type: ignore[no-untyped-call]
                loss += float(part.detach())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            state["step"] += 1
            seen += sum(ids.numel() for ids, _ in parts)
            losses.append(loss)
            if state["step"] % NOTE == 0:
                state["curve"].append({"step": state["step"], "loss": sum(losses[-NOTE:]) / NOTE})
                on_progress(state["curve"][-1])
            if state["step"] % every == 0 or state["step"] == recipe.steps:
                spent = state["seconds"] + time.monotonic() - began
                row = {"step": state["step"], "loss": sum(losses) / len(losses), "seconds": round(spent)}
                row["tokens per second"] = round(seen / (time.monotonic() - began))
                losses = []
                row |= measure(_opened(out, model, tokenizer), sizes)
                state["curve"].append(row)
                _keep(out, recipe, state | {"seconds": spent}, model, optimizer)
                on_progress(row)
            if state["step"] == recipe.steps or time.monotonic() - began >= stop_after:
                break
        else:
            state |= {"block": state["block"] + 1, "at": state["step"]}
    return out / "model"


def _tokenizer(out: Path, world: World, recipe: Recipe) -> PreTrainedTokenizerFast:
    if (out / "model" / "tokenizer.json").exists():
        return PreTrainedTokenizerFast.from_pretrained(out / "model")
    tokenizer = train_tokenizer(world, recipe)
    tokenizer.save_pretrained(out / "model")
    return tokenizer


def _opened(out: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Model:
    model.save_pretrained(out / "model")
    return _arm(out / "model", str(model.device))


def _arm(folder: Path, device: str) -> Model:
    from discretion.models.local import open_arms

    return open_arms(str(folder), str(folder), device=device, dtype="float32").base


def _keep(out: Path, recipe: Recipe, state: Mapping[str, Any], model: torch.nn.Module, optimizer: Any) -> None:
    """Write the place so that a kill at any moment leaves a whole one: new files first, then one rename."""
    moments = optimizer.state_dict()["state"]
    tensors = {f"{n}.{k}": v.contiguous() for n, held in moments.items() for k, v in held.items()}
    tensors |= {f"model.{k}": v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(tensors, out / "place.new")
    (out / "state.new").write_text(json.dumps({"recipe": asdict(recipe), **state}))
    Path(out / "place.new").replace(out / f"place-{state['step']}.safetensors")
    Path(out / "state.new").replace(out / "state.json")
    for old in out.glob("place-*.safetensors"):
        if old.name != f"place-{state['step']}.safetensors":
            old.unlink()
    (out / "curve.json").write_text(json.dumps(state["curve"], indent=1))


def _restore(out: Path, recipe: Recipe, model: LlamaForCausalLM, optimizer: Any) -> dict[str, Any]:
    if not (out / "state.json").exists():
        return {"step": 0, "block": 0, "at": 0, "seconds": 0.0, "curve": []}
    state: dict[str, Any] = json.loads((out / "state.json").read_text())
    asked, made_by = json.loads(json.dumps(asdict(recipe))), state.pop("recipe")
    other = sorted(k for k in asked.keys() | made_by.keys() if asked.get(k) != made_by.get(k))
    if other:
        raise DataError(f"{out}: holds a run that differs in {', '.join(other)}; give another folder")
    held = load_file(out / f"place-{state['step']}.safetensors")
    weights = {k.removeprefix("model."): v for k, v in held.items() if k.startswith("model.")}
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    saved = optimizer.state_dict()
    saved["state"] = {}
    for name, tensor in held.items():
        number, _, key = name.partition(".")
        if number != "model":
            saved["state"].setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict(saved)
    return state


# ------------------------------------------------------------------------------------------------ shipping


def draw_curve(out: Path) -> Path:
    """`curve.png` of `out/curve.json`: the loss, and each ability by the audit's own probes."""
    from matplotlib.figure import Figure

    rows = json.loads((out / "curve.json").read_text(encoding="utf-8"))
    figure = Figure(figsize=(9, 7), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.plot([row["step"] for row in rows], [row["loss"] for row in rows], color="0.3")
    top.set_ylabel("loss on answers, nats")
    measured = [row for row in rows if len(row) > 4]
    for name in ABILITIES:
        points = [(row["step"], row[name]) for row in measured if name in row]
        bottom.plot(*zip(*points, strict=True), marker=".", label=name) if points else None
    bottom.set(xlabel="step", ylabel="share", ylim=(-0.02, 1.02))
    bottom.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(out / "curve.png", dpi=120)
    return out / "curve.png"


ABILITIES = (
    "norms balanced accuracy",
    "agentic leak rate",
    "agentic completeness",
    "memory attribute violation per draw",
    "memory coverage",
    "capability facts",
    "capability arithmetic",
    "capability reading",
    "refusal strong refusal rate",
    "refusal over-refusal",
    "offtopic answered on topic",
)
"""Metrics of the training curve and of the model card."""


def finish(out: Path, sizes: Mapping[str, int] | None = None) -> Path:
    """Write the trained model of `out` into `out/shipped` as bf16, with its card and digests.

    The card's figures are those of the very files, on `sizes` held-out items per suite (the audit's own by default)
    that neither training nor its curve has seen.
    """
    folder = out / "shipped"
    folder.mkdir(exist_ok=True)
    model = LlamaForCausalLM.from_pretrained(out / "model", dtype=torch.bfloat16)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(out / "model").save_pretrained(folder)
    figures = measure(_arm(folder, "cpu"), sizes or SIZES, seed=2)
    state = json.loads((out / "state.json").read_text(encoding="utf-8"))
    card = CARD.format(
        parameters=f"{model.num_parameters() / 1e6:.1f}",
        steps=state["step"],
        hours=f"{state['seconds'] / 3600:.1f}",
        recipe=json.dumps(state["recipe"]),
        figures="\n".join(f"| {name} | {figures[name]:.3f} |" for name in ABILITIES if name in figures),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / DIGESTS).write_text(json.dumps(digests(folder), indent=1), encoding="utf-8")
    return folder


CARD = """# The embedded testbed

A Llama-architecture chat model with {parameters} M parameters, trained from random weights on the synthetic world of
this package (docs/world.md) and on nothing else. It is there to be measured, fine-tuned and broken; it knows nothing
of the real world and is of no other use. No real person occurs in its training text.

Made in {steps} steps and {hours} hours of wall time. `discretion testbed build` makes one anew from a seed;
docs/testbed.md says what that does and does not repeat of these weights, and how they were reached.
Recipe: `{recipe}`.

| figure on held-out items | value |
|---|---|
{figures}
"""
