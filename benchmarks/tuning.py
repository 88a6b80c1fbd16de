"""Fine-tuning against bare TRL: what our own part of `discretion tune` costs, and the watch on it.

The model is of the embedded testbed's shape (4 million parameters, 2,048 tokens; random weights), the rows are the
embedded helpful set. Every side starts from the same files and runs in turn, the sides interleaved; the best of
`--repeats` counts, in processor seconds, so that other work on the machine does not. Bare TRL is `SFTTrainer` on the
same rows with the same adapter, batch and arithmetic, as its own documentation writes it: it tokenises by itself, and
its last loss must come out the same.

    python benchmarks/tuning.py --out DIR
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from discretion.data.recipes import recipe
from discretion.tune.sft import autocasts, lora, quiet, read_tuning, tune
from discretion.tune.stream import Recipe, train_tokenizer
from discretion.tune.testbed import new_model
from discretion.tune_config import TuneConfig
from discretion.world.norms import load_world


def testbed(folder: Path) -> Path:
    """An untrained model of the testbed's shape."""
    shape = Recipe()
    tokenizer = train_tokenizer(load_world(), shape)
    new_model(shape, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bare(rows: list[Mapping[str, Any]], config: TuneConfig, out: Path) -> dict[str, float]:
    """TRL alone: seconds of the whole call, seconds of the loop, last loss."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    began = time.process_time()
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(config.base, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(config.base),
        train_dataset=Dataset.from_list([{"messages": row["messages"]} for row in rows]),
        peft_config=lora(config),
        args=SFTConfig(
            output_dir=str(out),
            per_device_train_batch_size=config.batch,
            max_steps=config.max_steps,
            learning_rate=config.rate,
            warmup_steps=config.warmup,
            max_length=config.max_length,
            assistant_only_loss=True,
            bf16=autocasts(config, "cpu"),
            gradient_checkpointing=False,
            seed=config.seed,
            data_seed=config.seed,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        ),
    )
    loop = time.process_time()
    trainer.train()
    ended = time.process_time()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {"seconds": ended - began, "loop": ended - loop, "loss": losses[-1], "tokens": trainer._total_train_tokens}


def ours(rows: list[Mapping[str, Any]], config: TuneConfig, out: Path) -> dict[str, float]:
    """`tune()`: the same figures; the loop is what lies between its first step's end and the last's, per step."""
    at: list[float] = []
    began = time.process_time()
    made = read_tuning(tune(rows, config, out, on_progress=lambda row: at.append(time.process_time())))
    return {
        "seconds": time.process_time() - began,
        "loop": (at[-1] - at[0]) / (len(at) - 1) * made.steps,
        "loss": made.losses[-1],
        "tokens": made.tokens_per_second * made.seconds,
        "asked": float(len(made.watch)),
        "asking": sum(look.seconds for look in made.watch) / made.seconds,
    }


def watched(rows: list[Mapping[str, Any]], config: TuneConfig, out: Path) -> dict[str, float]:
    """`tune()` with the watch: `asking` is its share of the loop's wall time, as the watch itself counts it."""
    return ours(rows, config.model_copy(update={"watch": "warn"}), out)


SIDES: dict[str, Callable[..., dict[str, float]]] = {"bare": bare, "tune": ours, "watched": watched}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, required=True, help="folder for the JSON")
    options.add_argument("--steps", type=int, default=100)
    options.add_argument("--rows", type=int, default=1600)
    options.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    rows = recipe("helpful", n=given.rows)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in given.sides}
    with tempfile.TemporaryDirectory() as scratch, quiet(), contextlib.redirect_stdout(io.StringIO()):
        base = testbed(Path(scratch) / "base")
        config = TuneConfig(base=str(base), max_steps=given.steps, device="cpu")
        for turn in range(given.repeats):
            for number, name in enumerate(given.sides):
                runs[name].append(SIDES[name](rows, config, Path(scratch) / f"{turn}-{number}"))
    best = {name: min(found, key=lambda run: run["loop"]) for name, found in runs.items()}
    result: dict[str, Any] = {"best": best, "all": runs, **vars(given), "out": str(given.out)}
    result["machine"] = platform.platform()
    for name, run in best.items():
        speed = run["tokens"] / run["loop"]
        print(f"{name:<8} {run['seconds']:6.1f} s whole, {run['loop']:6.1f} s loop, {speed:6.0f} tokens/s")
    if {"bare", "tune"} <= best.keys():
        result |= {key: best["bare"][key] / best["tune"][key] for key in ("loop", "seconds")}
        result["loss difference"] = abs(best["bare"]["loss"] - best["tune"]["loss"])
        print(f"tune is {result['loop']:.2f} x bare TRL in the loop, {result['seconds']:.2f} x whole;", end=" ")
        print(f"last losses differ by {result['loss difference']:.1e}")
    if "watched" in best:
        asked = best["watched"]
        print(f"the watch asked {asked['asked']:.0f} times, {asked['asking']:.1%} of the loop")
    (given.out / "tuning.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
