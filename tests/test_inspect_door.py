"""With inspect-ai: logs that it reads back, and the suites as its tasks. Skipped where it is not installed."""

from __future__ import annotations

import gc
import json
import math

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")
"""Of other people's code."""

inspect_ai = pytest.importorskip("inspect_ai")

from inspect_ai.log import list_eval_logs, read_eval_log  # noqa: E402
from inspect_ai.model import ModelOutput, get_model  # noqa: E402

from discretion import export  # noqa: E402
from tests.test_export import ROWS, run  # noqa: E402, F401

QUESTION = {"id": "q1", "cluster": "q1", "task": "t", "question": "Which?", "choices": ["blue", "red"], "answer": "red"}


@pytest.fixture
def task(tmp_path):
    """Evaluate one suite on items of a file with a model that answers from a function."""
    from inspect_ai import eval as evaluate
    from inspect_ai.model._providers.mockllm import MockLLM

    async def length(self, text):
        # Inspect counts the double's tokens with a table that it would download.
        return len(text)

    def carry_out(name, rows, answer, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MockLLM, "count_text_tokens", length)
            path = tmp_path / "items.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            model = get_model("mockllm/model", custom_outputs=answer, memoize=False)
            (log,) = evaluate(
                f"discretion/{name}", model=model, task_args={"source": str(path)}, log_dir=str(tmp_path / "logs"),
                display="none", **options,
            )  # fmt: skip
        return log

    yield carry_out
    # Streams that Inspect leaves open warn when they are collected: here, where that is ignored.
    gc.collect()


def letters(right: str):
    """Log-probabilities in which the letter before this option is ahead."""

    def answer(messages, tools, choice, config):
        wanted = next(line[0] for line in messages[-1].text.splitlines() if line.endswith(f". {right}"))
        top = [{"token": c, "logprob": -0.2 if c == wanted else -2.0, "bytes": None} for c in "AB"]
        output = ModelOutput.from_content("mockllm", wanted)
        assert config.logprobs and config.max_tokens == 1
        return output.model_validate(
            output.model_dump()
            | {
                "choices": [
                    output.choices[0].model_dump() | {"logprobs": {"content": [top[0] | {"top_logprobs": top}]}}
                ]
            }
        )

    return answer


def test_inspect_reads_our_logs_back(run, tmp_path):  # noqa: F811
    paths = export.write_inspect(run, tmp_path / "logs", reveal=True)
    assert len(list_eval_logs(str(tmp_path / "logs"))) == 2
    log = read_eval_log(str(paths[0]))
    assert log.status == "success" and len(log.samples) == len(ROWS)
    assert log.results.scores[0].metrics["accuracy"].value == 1.0
    scores = {sample.id: sample.scores["discretion/capability"] for sample in log.samples}
    assert scores["w1"].as_float() == 1.0 and math.isnan(scores["w2"].value) and scores["w2"].explanation == "empty"
    assert {sample.id for sample in log.samples if sample.error} == {"w3"}


@pytest.mark.parametrize(("said", "accuracy"), [("red", 1.0), ("blue", 0.0)])
def test_a_choice_is_read_from_log_probabilities_under_inspect_too(task, said, accuracy):
    log = task("capability", [QUESTION], letters(said))
    assert log.status == "success"
    assert log.results.scores[0].metrics["accuracy"].value == accuracy


def test_a_model_without_log_probabilities_leaves_choices_unscored(task):
    log = task("capability", [QUESTION], lambda *_: ModelOutput.from_content("mockllm", "B"))
    (sample,) = log.samples
    (score,) = sample.scores.values()
    assert math.isnan(score.value) and score.explanation == "the endpoint gives no log-probabilities"
    assert log.results.scores[0].unscored_samples == 1 and log.results.scores[0].scored_samples == 0


def test_a_written_answer_goes_through_the_same_scorer(task):
    rows = [
        {"id": "w", "cluster": "w", "task": "t", "question": "Say red.", "answer": "red"},
        {"id": "v", "cluster": "v", "task": "t", "question": "Say green.", "answer": "green"},
    ]
    log = task("capability", rows, lambda *_: ModelOutput.from_content("mockllm", "The red."))
    assert log.results.scores[0].metrics["accuracy"].value == 0.5
    assert {s.id: s.output.completion for s in log.samples} == {"w": "The red.", "v": "The red."}
