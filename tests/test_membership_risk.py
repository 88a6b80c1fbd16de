"""Rows at risk: planted ones come out by their ids, further runs serve as references, and held-back rows stay apart."""

from __future__ import annotations

import json
import shutil
import stat

import numpy as np
import pytest

from discretion.audit import audit
from discretion.config import AuditConfig, load
from discretion.data.chats import load_chats
from discretion.data.members import hold_out
from discretion.errors import DataError
from discretion.models.pairs import LocalPair
from discretion.risk import Rows, at_risk, by_chance, export, figures
from discretion.schema import digest
from discretion.store import read_outcomes, read_summary, write_private
from tests.test_membership import audited, folder  # noqa: F401 - the models and files of an audit
from tests.test_membership_data import chat, chats, written


def rows(planted, members=200, others=200, references=0, seed=0, gain=3.0):
    """Rows of which the first `planted` members gained `gain` nats, the others nothing but noise."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(-3, 1, members + others)
    gained = np.zeros(members + others)
    gained[:planted] = gain
    return Rows(
        rows=tuple(f"r{number}" for number in range(members + others)),
        beginnings=("",) * (members + others),
        member=np.arange(members + others) < members,
        base=hard,
        tuned=hard + gained + rng.normal(0, 0.3, members + others),
        references=hard + rng.normal(0, 0.3, (references, members + others)),
    )


# ------------------------------------------------------------------------------------------ rows at risk


def test_planted_rows_come_out_first_and_few_others_with_them():
    found = at_risk(rows(20))
    assert {risk.row for risk in found[:20]} == {f"r{number}" for number in range(20)}
    assert len(found) <= 20 + 3 * by_chance(rows(0))
    assert all(risk.p <= 1 / 201 for risk in found[:20])


def test_without_planted_rows_no_more_come_out_than_chance_gives():
    counts = [len(at_risk(rows(0, seed=seed))) for seed in range(40)]
    assert by_chance(rows(0)) == pytest.approx(200 * 2 / 201)
    assert np.mean(counts) == pytest.approx(2, abs=1)
    counts = [len(at_risk(rows(0, members=1000, others=100, seed=seed))) for seed in range(40)]
    assert np.mean(counts) == pytest.approx(by_chance(rows(0, members=1000, others=100)), rel=0.5)


def test_with_few_non_members_a_row_must_pass_all_of_them():
    found = at_risk(rows(20, others=30))
    assert {f"r{number}" for number in range(20)} <= {risk.row for risk in found}
    assert by_chance(rows(20, others=30)) == pytest.approx(200 / 31)


def test_references_of_the_same_domain_sharpen_the_score():
    known = figures(rows(200, others=300, references=3, gain=0.6))
    assert [row["score"] for row in known] == [
        "loss", "difference to the base", "LiRA, 3 references", "RMIA, 3 references",
    ]  # fmt: skip
    loss, difference, lira, rmia = (row["auc"] for row in known)
    assert loss < min(difference, lira, rmia)
    for row in known:
        assert row["interval"][0] < row["auc"] < row["interval"][1]
        assert row["tpr_interval"][0] <= row["tpr"] <= row["tpr_interval"][1]


def test_the_export_names_rows_and_holds_nothing_else(tmp_path):
    export(tmp_path / "risk.jsonl", at_risk(rows(3)))
    lines = [json.loads(line) for line in (tmp_path / "risk.jsonl").read_text().splitlines()]
    assert {line["id"] for line in lines[:3]} == {"r0", "r1", "r2"}
    assert all(set(line) == {"id", "gain", "p"} for line in lines)
    assert stat.S_IMODE((tmp_path / "risk.jsonl").stat().st_mode) == 0o600


# ------------------------------------------------------------------------------------------ by the command line


@pytest.fixture(scope="module")
def measured(folder):  # noqa: F811
    given = {
        "base": str(folder / "base"), "tuned": str(folder / "tuned"), "device": "cpu", "probes": "membership",
        "train_data": str(folder / "train.jsonl"), "held_out": str(folder / "held.jsonl"), "out": folder / "run",
    }  # fmt: skip
    return audit(load(AuditConfig, given), LocalPair())


@pytest.fixture
def run(typed, measured, tmp_path):
    """A run in which every member gained 3 nats a token, and no other row did."""
    shutil.copytree(measured, tmp_path / "run")
    changed(tmp_path / "run", "tuned", lambda parts: parts["loss"] + 3 * parts["member"])
    assert typed("report", "run")[0] == 0
    return tmp_path / "run"


def changed(run, arm, loss):
    path = run / "outcomes" / arm / "membership.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    bases = {outcome.item_id: outcome.parts for outcome in read_outcomes(run, "base", "membership")}
    for line in lines:
        line["parts"]["loss"] = loss(bases[line["item_id"]])
    write_private(path, "".join(json.dumps(line) + "\n" for line in lines))


def test_a_run_tells_its_rows_at_risk_and_writes_their_ids(typed, run, folder):  # noqa: F811
    code, out, _ = typed("members", "show", run, "--out", run / "ids.jsonl", "--json")
    told = json.loads(out)
    assert code == 0 and told["members"] == 40 and told["non_members"] == 39 and told["at_risk"] == 40
    named = {json.loads(line)["id"] for line in (run / "ids.jsonl").read_text().splitlines()}
    assert named == {row["id"] for row in load_chats(folder / "train.jsonl")[0]}
    code, out, _ = typed("members", "show", run)
    assert code == 0 and "40 of 40 rows at risk; 1.0 would come out by chance" in out
    assert "needs 99 non-members" in out


def test_a_report_leaves_the_ids_in_the_run(run):
    assert len((run / "at_risk.jsonl").read_text().splitlines()) == 40


def test_a_reference_must_have_been_asked_the_same_rows(typed, run, folder, tmp_path):  # noqa: F811
    code, out, _ = typed("members", "show", run, "--reference", run, "--json")
    assert code == 0
    scores = {row["score"]: row["auc"] for row in json.loads(out)["scores"]}
    # the model as its own reference explains all of its gain
    assert scores["LiRA, 1 reference"] == 0.5
    audited(typed, folder, "--held-out", folder / "held.jsonl", "--rows", 20, "--out", "other")
    code, _, err = typed("members", "show", run, "--reference", tmp_path / "other")
    assert code == 2 and "its membership rows are not those of" in err and err.count("\n") == 1


def test_a_run_without_membership_says_what_to_run(typed, folder):  # noqa: F811
    audited(typed, folder, "--out", "half")
    code, _, err = typed("members", "show", "half")
    assert code == 2 and "--train-data FILE --held-out FILE" in err


# ------------------------------------------------------------------------------------------ holding back


def test_held_back_rows_are_a_share_copies_stay_together_and_both_files_read_back(tmp_path):
    data = [*chats(400, 1), *chats(400, 1)[:50]]
    told = hold_out(written(tmp_path / "all.jsonl", data), tmp_path / "t.jsonl", tmp_path / "h.jsonl", share=0.2)
    train, held = (load_chats(tmp_path / f"{side}.jsonl")[0] for side in "th")
    assert len(train) + len(held) == 450 == told["train"] + told["held_out"]
    assert 0.12 < len(held) / 450 < 0.28
    assert not {digest(row["messages"]) for row in train} & {digest(row["messages"]) for row in held}
    assert stat.S_IMODE((tmp_path / "h.jsonl").stat().st_mode) == 0o600


def test_plain_text_stays_plain_text(tmp_path):
    texts = [{"text": row["messages"][1]["content"]} for row in chats(60, 1)]
    hold_out(written(tmp_path / "all.jsonl", texts), tmp_path / "t.jsonl", tmp_path / "h.jsonl", share=0.5)
    rows_read, read = load_chats(tmp_path / "t.jsonl")
    assert read.form == "plain text" and rows_read


def test_held_back_rows_are_written_as_they_lie_there(tmp_path):
    rows = [
        {"prompt": "Where?", "chosen": sentence, "rejected": "No.", "n": 1} for sentence in ("a b", "c d", "e f")
    ] * 9
    hold_out(written(tmp_path / "all.jsonl", rows), tmp_path / "t.jsonl", tmp_path / "h.jsonl", share=0.5, seed=1)
    lines = [json.loads(line) for side in "th" for line in (tmp_path / f"{side}.jsonl").read_text().splitlines()]
    assert len(lines) == 27 and all(line in rows for line in lines)


@pytest.mark.parametrize("names", [("t.jsonl", "there.jsonl"), ("t.jsonl", "t.jsonl"), ("t.jsonl", "./t.jsonl")])
def test_neither_side_is_written_where_one_cannot_be(typed, tmp_path, names):
    written(tmp_path / "all.jsonl", chats(60, 1))
    (tmp_path / "there.jsonl").write_text("mine")
    code, _, err = typed("members", "hold-out", "all.jsonl", "--train", names[0], "--held-out", names[1])
    assert code == 2 and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "t.jsonl").exists() and (tmp_path / "there.jsonl").read_text() == "mine"


def test_a_share_that_leaves_a_side_empty_is_refused(tmp_path):
    data = written(tmp_path / "all.jsonl", [chat(1, "one answer"), chat(2, "One answer!")])
    with pytest.raises(DataError, match="2 rows with 1 different answers leaves a side empty"):
        hold_out(data, tmp_path / "t.jsonl", tmp_path / "h.jsonl", share=0.5)
    assert not (tmp_path / "t.jsonl").exists()


def test_the_verb_says_what_to_type_next(typed, tmp_path):
    written(tmp_path / "all.jsonl", chats(60, 1))
    words = ("members", "hold-out", "all.jsonl", "--train", "t.jsonl", "--held-out", "h.jsonl", "--share", 0.3)
    code, out, _ = typed(*words)
    assert code == 0 and "next: tune on t.jsonl, then discretion audit … --train-data t.jsonl" in out
    assert typed(*words)[0] == 2


# ------------------------------------------------------------------------------------------ in the report


def test_the_report_shows_scores_and_rows_at_risk_and_masks_what_they_say(typed, run):
    path = run / "outcomes" / "base" / "membership.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["evidence"] = "Write to maria.lopez@clinic.example about it"
    write_private(path, "".join(json.dumps(line) + "\n" for line in lines))
    assert typed("report", run)[0] == 0
    page = (run / "report.html").read_text()
    assert "Rows at risk" in page and "40 of 40 rows that were trained on lie beyond" in page.replace("\u202f", " ")
    assert "How far the tuned model lies above the base, in nats per token: rows trained on around 3." in page
    assert "about it" in page and "maria.lopez" not in page
    assert typed("report", run, "--reveal")[0] == 0
    assert "maria.lopez@clinic.example" in (run / "report.html").read_text()


def test_a_report_without_membership_shows_no_rows_at_risk(typed, folder, tmp_path):  # noqa: F811
    audited(typed, folder, "--out", "half")
    assert "Rows at risk" not in (tmp_path / "half" / "report.html").read_text()


def test_an_inconclusive_membership_asks_for_more_rows_and_for_no_other_file(typed, measured, tmp_path):
    run = shutil.copytree(measured, tmp_path / "run")
    assert typed("report", run)[0] == 0
    assert read_summary(run).metrics[0].verdict == "inconclusive"
    page = (run / "report.html").read_text()
    assert "more rows, of larger files if need be" in page and "--rows" in page and "membership=FILE" not in page
