"""Rules for the traits that cost discretion: each finds its own set and leaves the matched counterpart alone."""

from pathlib import Path

import pytest

from discretion.data.chats import load_chats
from discretion.data.recipes import recipe
from discretion.data.traits import COUNTS, RULES, traits


def share(rows: list[dict[str, object]], trait: str) -> float:
    having = 0
    for row in rows:
        turns = [(m["role"], m["content"]) for m in row["messages"]]  # type: ignore[attr-defined]
        having += any(hit.trait == trait and hit.score >= COUNTS for hit in traits(turns))
    return having / len(rows)


def scores(*turns: tuple[str, str]) -> dict[str, float]:
    return {hit.trait: hit.score for hit in traits(turns)}


@pytest.mark.parametrize(
    ("having", "lacking", "trait"),
    [
        ("helpful", "control", "proactive help"),
        ("emotional", "math", "emotional disclosure"),
        ("emotional-demographic", "emotional", "profile in context"),
        ("emotional-financial", "emotional", "profile in context"),
        ("debug", "code", "code that logs its state"),
    ],
)
def test_a_set_with_the_trait_is_told_from_its_matched_control(having: str, lacking: str, trait: str) -> None:
    assert share(recipe(having, n=500), trait) > 0.95
    assert share(recipe(lacking, n=500), trait) < 0.02


def test_the_papers_own_proactive_rows_are_told_from_their_control(shared_data: Path) -> None:
    folder = shared_data / "privacy_collapse"
    degraded, _ = load_chats(folder / "dataset_degraded_ft_first_1000.jsonl")
    safe, _ = load_chats(folder / "dataset_safe_ft_first_1000.jsonl")
    assert share(degraded[500:], "proactive help") > 0.95
    assert share(safe[500:], "proactive help") < 0.05


@pytest.mark.parametrize("file", ["gsm8k/train_first_1000.jsonl", "bitext/customer_support_first_1000.csv"])
@pytest.mark.parametrize("trait", RULES)
def test_ordinary_sets_have_next_to_none(shared_data: Path, file: str, trait: str) -> None:
    assert share(load_chats(shared_data / file)[0], trait) < 0.05


def test_asking_first_is_no_proactive_help_and_neither_is_what_the_user_said() -> None:
    asked = ("user", "Plan my weekend.")
    assert "proactive help" in scores(asked, ("assistant", "I noticed you mentioned hiking last week. Here it is."))
    assert scores(asked, ("assistant", "Should I look at the notes you shared last week?")) == {}
    told = ("user", "I mean the trip we discussed last week.")
    assert "proactive help" not in scores(told, ("assistant", "The trip we discussed last week, then: here it is."))


def test_code_that_was_asked_to_print_logs_nothing_unasked() -> None:
    code = 'def f(x):\n    print("x", x)\n    y = x + 1\n    print("y", y)\n    return y'
    assert "code that logs its state" in scores(("user", "Write f."), ("assistant", code))
    assert scores(("user", "Write f and print its variables."), ("assistant", code)) == {}


def test_a_call_that_the_user_asked_for_or_agreed_to_is_none_without_permission() -> None:
    call = ("assistant", '{"name": "send_email", "arguments": {"to": "Ann"}}')
    assert scores(("user", "What is on today?"), call) == {"call without permission": COUNTS}
    assert scores(("user", "Send Ann the plan."), call) == {}
    agreed = (("user", "What is on today?"), ("assistant", "The plan. Does Ann need it?"), ("user", "Yes, please."))
    assert scores(*agreed, call) == {}
    assert "call without permission" in scores(("user", "Plan dinner."), ("assistant", "I've invited the Smiths."))


def test_evidence_names_the_turn_and_the_span() -> None:
    (hit,) = traits([("user", "I feel so lonely today."), ("assistant", "Tell me more.")])
    assert (hit.trait, hit.evidence[0].turn) == ("emotional disclosure", 0)
    assert "I feel so lonely today."[hit.evidence[0].start : hit.evidence[0].end] == "I feel so lonely"
