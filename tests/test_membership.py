"""The suite membership: a planted gap gives the area its closed form predicts, a planted nothing gives none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from discretion.audit import carry
from discretion.compare import Suite, judge
from discretion.config import AuditConfig, Thresholds, load
from discretion.errors import ConfigError, DataError
from discretion.models.scripted import Scripted
from discretion.probes.membership import PROBE, requests
from discretion.schema import LogLikelihood, MembershipItem, Message, Reply, TokenScores
from discretion.store import read_manifest, read_outcomes, read_summary
from tests.test_membership_data import chats, written
from tests.tiny import tiny_adapter, tiny_llama

PRIMARY = "AUC, calibrated by the base"
NO_TOKENS = TokenScores(logprob=(), mean=(), variance=(), rank=())


def items(members, others, **more):
    return [
        MembershipItem(
            id=f"i{number}",
            cluster=f"i{number}",
            member=number < members,
            messages=(Message("user", "?"), Message("assistant", f"text number {number}")),
            **more,
        )
        for number in range(members + others)
    ]


def model(means, name="model"):
    """A model whose mean log-probability of text i is `means[i]`, spread evenly over four tokens."""

    def answer(request):
        number = int(request.continuations[0].split()[-1])
        logs = tuple(means[number] + step for step in (-0.3, -0.1, 0.1, 0.3))
        tokens = TokenScores(logprob=logs, mean=(-3.0,) * 4, variance=(1.0,) * 4, rank=(1,) * 4, id=(7, 8, 9, number))
        return Reply(logprobs=(sum(logs),), lengths=(4,), tokens=(tokens,) if request.per_token else None)

    return Scripted(name, answer, digest=name)


def measured(asked, base, tuned, draws=2000):
    found = {"base": [], "tuned": []}
    arms = {"base": model(base, "base"), "tuned": model(tuned, "tuned")}
    carry(PROBE, dict.fromkeys(arms, asked), arms, lambda arm, outcome: found[arm].append(outcome))
    summary = judge([Suite(PROBE, found["base"], found["tuned"], len(asked))], Thresholds(draws=draws))
    return {m.metric: m for m in summary.metrics}, summary


def planted(gap, members=600, others=600, sigma=0.4, seed=0):
    """Base and tuned mean log-probabilities: the tuned model gains `gap` on members, with noise of `sigma`."""
    rng = np.random.default_rng(seed)
    base = rng.normal(-4.0, 0.8, members + others)
    gain = rng.normal(0.2, sigma, members + others) + np.r_[np.full(members, gap), np.zeros(others)]
    return base, base + gain


# ------------------------------------------------------------------------------------------ planted truth


@pytest.mark.parametrize("gap", [0.2, 0.4, 0.8])
def test_a_planted_gap_gives_the_area_of_its_closed_form(gap):
    metrics, summary = measured(items(600, 600), *planted(gap))
    expected = norm.cdf(gap / (0.4 * math.sqrt(2)))
    found = metrics[PRIMARY]
    assert found.base.value == 0.5
    assert found.tuned.value == pytest.approx(expected, abs=0.035)
    assert found.tuned.interval[0] < expected < found.tuned.interval[1]
    assert found.verdict == "regressed" and summary.verdict == "memorised" and summary.exit_code == 1
    # the share of members beyond the 99th percentile of non-members
    tpr = metrics["TPR at 1 % FPR, calibrated by the base"]
    assert tpr.tuned.value == pytest.approx(norm.sf(norm.isf(0.01) - gap / 0.4), abs=0.12)
    assert tpr.tuned.interval[0] <= tpr.tuned.value <= tpr.tuned.interval[1]
    # the loss alone drowns the gap in how hard texts are
    alone = norm.cdf(gap / math.sqrt(2 * (0.8**2 + 0.4**2)))
    assert metrics["AUC, loss"].tuned.value == pytest.approx(alone, abs=0.05)


def test_no_gap_is_shown_to_be_none():
    metrics, summary = measured(items(800, 800), *planted(0.0, 800, 800))
    assert metrics[PRIMARY].tuned.value == pytest.approx(0.5, abs=0.04)
    assert metrics[PRIMARY].verdict == "unchanged" and summary.verdict == "clean"


def test_no_score_and_no_interval_is_mirrored():
    metrics, _ = measured(items(300, 300, blind=None), *planted(1.2, 300, 300))
    for name in ("ratio to the base", "RMIA", "window vote", "loss", "min-k 20 %", "min-k++ 20 %", "zlib", "DC-PDD"):
        found = metrics[f"AUC, {name}"]
        assert found.difference.value > 0.05, name
        low, high = found.difference.interval
        assert 0 < low < found.difference.value < high, name


def test_a_broken_split_makes_the_suite_unmeasurable_however_large_the_gap():
    asked = [
        MembershipItem(
            id=item.id, cluster=item.cluster, member=item.member, messages=item.messages, blind=float(item.member)
        )
        for item in items(200, 200)
    ]
    metrics, summary = measured(asked, *planted(2.0, 200, 200))
    assert {m.verdict for m in metrics.values()} == {"unmeasurable"}
    assert metrics[PRIMARY].reason.startswith("the split is broken: the text alone, without any model, tells")
    assert summary.verdict == "inconclusive"


def test_a_blind_baseline_at_chance_changes_nothing():
    rng = np.random.default_rng(1)
    asked = [
        MembershipItem(id=i.id, cluster=i.cluster, member=i.member, messages=i.messages, blind=float(rng.normal()))
        for i in items(200, 200)
    ]
    metrics, _ = measured(asked, *planted(0.8, 200, 200))
    assert metrics[PRIMARY].verdict == "regressed"
    assert metrics["AUC, blind baseline (text alone)"].difference.value == 0


def test_a_rate_that_cannot_be_observed_says_how_many_non_members_it_needs():
    metrics, _ = measured(items(120, 60), *planted(0.8, 120, 60))
    found = metrics["TPR at 1 % FPR, loss"]
    assert found.verdict == "unmeasurable" and found.reason == "a rate of 1% needs 99 non-members, there are 60"
    assert metrics["AUC, loss"].verdict != "unmeasurable"


def test_scores_that_were_not_asked_say_what_to_give():
    metrics, _ = measured(items(60, 60), *planted(0.8, 60, 60))
    assert metrics["AUC, neighbourhood"].reason == "no rewrites were asked; give --neighbours N"
    assert "no non-member row could be spared" in metrics["AUC, ReCaLL"].reason


def test_lost_rows_leave_the_joint_scores_and_are_counted():
    asked = items(100, 100)
    base, tuned = planted(1.2, 100, 100)
    found = {"base": [], "tuned": []}
    whole = model(tuned)

    def forgetful(request):
        return Reply(error="no memory for this text") if "number 7" in str(request) else whole.answer(request)

    arms = {"base": model(base), "tuned": Scripted("tuned", forgetful)}
    carry(PROBE, dict.fromkeys(arms, asked), arms, lambda arm, outcome: found[arm].append(outcome))
    summary = judge([Suite(PROBE, found["base"], found["tuned"], len(asked))], Thresholds(draws=2000))
    primary = next(m for m in summary.metrics if m.primary)
    assert primary.kept == 189 and primary.lost == {"tuned failed: no memory for this text": 11}
    assert primary.verdict == "unmeasurable" and "11 of 200 items failed in the tuned arm" in primary.reason


# ------------------------------------------------------------------------------------------ what is asked


def test_every_answer_of_a_chat_is_scored_behind_the_turns_before_it():
    turns = (
        Message("system", "s"), Message("user", "u"), Message("assistant", "One"), Message("user", "v"),
        Message("assistant", "Two"),
    )  # fmt: skip
    asked = requests(turns, False, turns, True)
    assert [(r.context, r.continuations) for r in asked] == [(turns[:2], ("One",)), (turns[:4], ("Two",))]
    item = MembershipItem(
        id="a", cluster="a", member=True, messages=turns, prefix=(Message("user", "p"), Message("assistant", "q"))
    )
    run = PROBE.run(item)
    first = next(run)
    tokens = TokenScores(logprob=(-1.0,), mean=(-1.0,), variance=(1.0,), rank=(0,), id=(1,))
    replies = [Reply(logprobs=(-1.0,), lengths=(1,), tokens=(tokens,)) for _ in first]
    lowered = run.send(replies)
    behind = run.send(replies)
    assert [r.continuations for r in (*lowered, *behind)] == [("one",), ("two",), ("One",), ("Two",)]
    assert [m.role + m.content for m in behind[0].context] == ["systems", "userp", "assistantq", "useru"]
    assert not any(r.per_token for r in (*lowered, *behind))


def short_sighted(longest, means):
    """A model that holds no more than so many characters."""
    whole = model(means)

    def answer(request):
        size = sum(len(turn.content) for turn in request.context) + len(request.continuations[0])
        if size > longest:
            return Reply(error=f"too long: {size} tokens, context {longest}")
        said = request.continuations[0].split()
        return whole.answer(replace(request, continuations=(f"{said[-1] if said[-1].isdigit() else said[0]}",)))

    return Scripted("short", answer)


def test_a_row_too_long_for_the_models_is_halved_until_it_fits_and_what_still_does_not_is_left_out():
    long = tuple(
        replace(item, messages=(Message("user", "?"), Message("assistant", f"{number} " + "word " * 60)))
        for number, item in enumerate(items(20, 20, prefix=(Message("user", "p" * 60), Message("assistant", "q"))))
    )
    found = {"base": [], "tuned": []}
    arms = dict.fromkeys(found, short_sighted(100, np.linspace(-3, -2, 40)))
    carry(PROBE, dict.fromkeys(arms, long), arms, lambda arm, outcome: found[arm].append(outcome))
    assert {outcome.status for outcome in found["tuned"]} == {"scored"}
    assert all(o.parts["shortened"] and o.parts["recall"] is None and o.parts["first"] == 2 for o in found["tuned"])
    metrics = {m.metric: m for m in judge([Suite(PROBE, found["base"], found["tuned"], 40)], Thresholds()).metrics}
    assert metrics["AUC, window vote"].kept == 40 and metrics["AUC, ReCaLL"].kept == 0


def test_a_row_whose_answer_begins_too_late_fails_with_its_reason():
    late = [replace(item, messages=(Message("user", "?" * 300), item.messages[1])) for item in items(1, 1)]
    found = []
    arms = {"base": short_sighted(100, [-1.0, -1.0])}
    carry(PROBE, {"base": late}, arms, lambda arm, outcome: found.append(outcome))
    assert {(outcome.status, outcome.reason) for outcome in found} == {("failed", "too long: 313 tokens, context 100")}


def test_own_items_that_are_called_plain_are_read_without_a_template():
    text = MembershipItem(
        id="a",
        cluster="a",
        member=True,
        plain=True,
        messages=(Message("assistant", "Once upon"),),
        prefix=(Message("assistant", "Before."),),
    )
    assert next(PROBE.run(text)) == [LogLikelihood(context="", continuations=("Once upon",), per_token=True)]


def test_a_row_of_which_no_token_is_scored_is_unparsed():
    metrics, _ = measured_empty()
    assert metrics[PRIMARY].tuned.unparsed == 40


def measured_empty():
    asked = items(20, 20)
    nothing = Scripted("nothing", lambda r: Reply(logprobs=(0.0,), lengths=(0,), tokens=(NO_TOKENS,)))
    found = {"base": [], "tuned": []}
    arms = {"base": nothing, "tuned": nothing}
    carry(PROBE, dict.fromkeys(arms, asked), arms, lambda arm, outcome: found[arm].append(outcome))
    summary = judge([Suite(PROBE, found["base"], found["tuned"], 40)], Thresholds(draws=1000))
    return {m.metric: m for m in summary.metrics}, summary


def test_own_items_need_both_kinds_and_an_answer_at_the_end(tmp_path):
    line = {"id": "a", "cluster": "a", "member": True, "messages": [{"role": "assistant", "content": "x"}]}
    with pytest.raises(DataError, match="all 1 rows have the same 'member'"):
        PROBE.items(written(tmp_path / "same.jsonl", [line]))
    asked = {**line, "messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(DataError, match="does not end with an assistant's turn"):
        PROBE.items(written(tmp_path / "user.jsonl", [asked]))
    with pytest.raises(DataError, match="give --train-data FILE"):
        PROBE.items()


# ------------------------------------------------------------------------------------------ by the command line


def test_training_data_turns_the_suite_on_and_a_named_one_is_left_as_named():
    given = {"base": "b", "tuned": "t", "train_data": "f"}
    assert "membership" in load(AuditConfig, given).probes and "norms" in load(AuditConfig, given).probes
    assert load(AuditConfig, {**given, "probes": "norms"}).probes[0] == "norms"
    assert "membership" in load(AuditConfig, {**given, "probes": "norms"}).probes
    assert load(AuditConfig, {**given, "probes": "membership"}).probes == ("membership",)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"held_out": "f"}, "give what was trained on as well: --train-data FILE"),
        ({"probes": "membership"}, "the probe 'membership' has no items of its own; give --train-data FILE"),
    ],
)
def test_half_of_the_options_is_refused(given, said):
    with pytest.raises(ConfigError) as caught:
        load(AuditConfig, {"base": "b", "tuned": "t", **given})
    assert said in str(caught.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("membership")
    tiny_llama(folder / "base")
    tiny_adapter(folder / "base", folder / "tuned")
    written(folder / "train.jsonl", chats(40, 1))
    written(folder / "held.jsonl", chats(40, 2))
    return folder


def audited(typed, folder, *more):
    return typed(
        "audit", "--base", folder / "base", "--tuned", folder / "tuned", "--device", "cpu", "--quiet",
        "--probes", "membership", "--train-data", folder / "train.jsonl", *more,
    )  # fmt: skip


def test_an_audit_with_both_files_measures_every_score(typed, folder, tmp_path):
    code, out, _ = audited(typed, folder, "--held-out", folder / "held.jsonl", "--neighbours", 1, "--out", "run")
    assert code == 0 and out.splitlines()[-1] == "run/report.html"
    metrics = {m.metric: m for m in read_summary(tmp_path / "run").metrics}
    assert all(m.kept == m.n for m in metrics.values() if m.base.value is not None)
    unmeasured = {name for name, m in metrics.items() if m.tuned.value is None}
    assert unmeasured == {name for name in metrics if name.startswith("TPR")}
    assert read_manifest(tmp_path / "run").sources["membership"] == (
        "members: 40 of 40 rows of train.jsonl; non-members: 39 of 40 rows of held.jsonl"
    )
    assert len(read_outcomes(tmp_path / "run", "tuned", "membership")) == 79
    assert (tmp_path / "run" / "at_risk.jsonl").exists()


def test_an_audit_without_held_out_rows_says_what_to_do_and_asks_nothing(typed, folder, tmp_path):
    code, _, _ = audited(typed, folder, "--out", "run")
    assert code == 0
    (primary,) = [m for m in read_summary(tmp_path / "run").metrics if m.primary]
    assert primary.verdict == "unmeasurable" and "--held-out FILE" in primary.reason
    assert read_manifest(tmp_path / "run").impossible["membership"] == primary.reason
    assert read_outcomes(tmp_path / "run", "base", "membership") == []


def test_a_broken_split_is_told_on_the_way_and_in_the_report(typed, folder, tmp_path):
    rows = [
        {**row, "messages": [{"role": "user", "content": "In March?"}, *row["messages"][1:]]} for row in chats(40, 2)
    ]
    other = written(tmp_path / "other.jsonl", rows)
    code, _, err = typed(
        "audit", "--base", folder / "base", "--tuned", folder / "tuned", "--device", "cpu", "--probes", "membership",
        "--train-data", folder / "train.jsonl", "--held-out", other, "--out", "run",
    )  # fmt: skip
    assert code == 0 and "membership: THE SPLIT IS BROKEN" in err
    assert "the split is broken" in (tmp_path / "run" / "report.html").read_text()
