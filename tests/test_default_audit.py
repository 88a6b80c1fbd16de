"""`discretion audit` without models: the embedded testbed, tuned on an embedded set, audited."""

from __future__ import annotations

import json

import pytest

from discretion.models import testbed
from discretion.models.local import open_arms
from discretion.store import read_summary
from discretion.tune.testbed import measure

QUICK = ("--steps", "2", "--tune-rows", "500", "--limit", "8", "--probes", "norms,refusal", "--draws", "1000")


def test_the_shipped_model_is_whole_and_small():
    folder = testbed.path()
    weights = folder / "model.safetensors"
    assert weights.stat().st_size < 25_000_000
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "docs/testbed.md" in card and "| norms balanced accuracy | 0." in card


def test_the_shipped_model_has_something_to_lose():
    arm = open_arms(testbed.NAME, testbed.NAME, dtype="float32", offline=True).base
    figures = measure(arm, {"norms": 40, "refusal": 20, "capability": 36, "memory": 12, "agentic": 12}, seed=5)
    assert figures["norms balanced accuracy"] > 0.9
    assert figures["refusal strong refusal rate"] > 0.9
    assert figures["capability accuracy"] > 0.8
    assert figures["memory coverage"] > 0.7 and figures["agentic completeness"] > 0.7


def test_an_audit_without_models_tunes_the_testbed_audits_it_and_reuses_the_tuned_model(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = typed("audit", *QUICK, "--out", "run", "--json")
    assert code == 0, err
    assert json.loads(out)["metrics"]
    assert "fine-tuning the testbed on 'support-swapped'" in err
    (tuned,) = (tmp_path / "runs" / "tuned").iterdir()
    assert tuned.name.startswith("testbed-support-swapped-2-")
    made = (tuned / "adapter_model.safetensors").stat().st_mtime_ns
    assert {m.probe for m in read_summary(tmp_path / "run").metrics} == {"norms", "refusal"}
    code, _, err = typed("audit", *QUICK, "--out", "run")
    assert code == 0, err
    assert (tuned / "adapter_model.safetensors").stat().st_mtime_ns == made


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--probes", "nroms"), "did you mean 'norms'?"),
        (("--limit", "0"), "--limit 0: "),
        (("--source", "norms=none.jsonl"), "none.jsonl: no such file"),
    ],
)
def test_what_cannot_be_asked_is_told_before_the_testbed_is_tuned(typed, given, told):
    code, _, err = typed("audit", *given)
    assert code == 2 and told in err and err.count("\n") == 1


def test_a_dry_run_without_models_trains_nothing(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = typed("audit", "--probes", "norms", "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["probes"]["norms"]["items"] == 400
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--recipe", "helpfull"), "helpful"),
        (("--tune-rows", "3"), "500 to 10000 rows"),
        (("--base", "testbed", "--tuned", "testbed", "--recipe", "control"), "--recipe: has no effect"),
    ],
)
def test_what_cannot_be_tuned_is_told_in_one_line(typed, tmp_path, monkeypatch, given, told):
    monkeypatch.chdir(tmp_path)
    code, _, err = typed("audit", *given)
    assert code in (2, 4)
    line = next(line for line in err.splitlines() if line.startswith("discretion: "))
    assert told in line
    assert "Traceback" not in err
