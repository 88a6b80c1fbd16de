"""`discretion study plan`, `run` and `status` as they are typed; the whole way, on a tiny model, is marked slow."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from discretion import audit as auditing
from discretion.models import loading
from discretion.store import read_manifest
from discretion.study import work
from tests.study_cases import PlantedPair, study_file, tuned


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(auditing, "pair_for", lambda options: PlantedPair([]))
    monkeypatch.setattr(work, "tune", tuned)


def test_a_study_is_planned_run_and_told(typed, tmp_path, scripted):
    path = study_file(tmp_path, seeds=[0, 1])
    code, out, _ = typed("study", "plan", path, "--json")
    assert code == 0
    assert [cell["name"] for cell in json.loads(out)["cells"]] == [
        "helpful/seed 0",
        "helpful/seed 1",
        "control/seed 0",
        "control/seed 1",
    ]
    assert not (tmp_path / "studies").exists()
    code, out, err = typed("study", "run", path)
    assert code == 0
    assert out.splitlines()[2].startswith("helpful − control")
    assert out.splitlines()[-1] == "studies/planted/report.html"
    assert "4 cells: 4 trainings, 4 audits, 1 bases; 9 steps left" in err
    page = (tmp_path / "studies" / "planted" / "report.html").read_text()
    for run in (tmp_path / "studies" / "planted" / "runs").iterdir():
        assert (run / "report.html").exists()
        assert f'href="runs/{run.name}/report.html"' in page
    code, out, _ = typed("study", "status", path)
    assert (code, out.count(" done ")) == (0, 4)
    code, out, _ = typed("study", "report", path, "--markdown", "kept/planted.md")
    assert (code, out.splitlines()) == (0, ["kept/planted.md", "studies/planted/report.html"])
    assert "4 of 4 cells are done" in (tmp_path / "kept" / "planted.md").read_text()
    study_file(
        tmp_path, seeds=[0, 1], audit={"probes": ["capability"], "seed": 1, "source": {"capability": "questions.jsonl"}}
    )
    code, out, err = typed("study", "report", path, "--markdown", "kept/planted.md")
    assert code == 0
    assert "4 cells were done before something changed" in err
    assert "4 of 4 cells are done" in (tmp_path / "kept" / "planted.md").read_text()


def test_a_failed_cell_is_named_and_the_exit_code_says_so(typed, tmp_path, scripted, monkeypatch):
    def broken(job):
        if job["config"]["seed"] == 1:
            raise ValueError("words of the data")
        return tuned(job)

    monkeypatch.setattr(work, "tune", broken)
    path = study_file(tmp_path, seeds=[0, 1])
    code, out, err = typed("study", "run", path, "--out", "here")
    assert code == 4
    assert "helpful/seed 1: failed the tune it needs failed: ValueError was raised" in out
    assert "words of the data" not in out + err
    code, out, _ = typed("study", "status", path, "--out", "here", "--json")
    assert [cell["status"] for cell in json.loads(out)["cells"]] == ["done", "failed", "done", "failed"]


def test_a_wrong_file_is_one_line_and_exit_code_2(typed, tmp_path, scripted):
    code, out, err = typed("study", "run", study_file(tmp_path, modls={}))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "did you mean 'models'?" in err


def test_a_figure_that_no_suite_has_stops_before_any_work(typed, tmp_path, scripted):
    code, out, err = typed("study", "run", study_file(tmp_path, metrics=["capability: acuracy"]))
    assert (code, out) == (2, "")
    assert "did you mean 'capability: accuracy'?" in err
    assert not (tmp_path / "studies").exists()


def test_a_report_of_a_study_that_was_never_run_says_to_run_it(typed, tmp_path, scripted):
    code, out, err = typed("study", "report", study_file(tmp_path), "--out", "absent")
    assert (code, out) == (2, "")
    assert "absent: no study there; run it first: discretion study run" in err
    assert not (tmp_path / "absent").exists()


def test_a_model_that_does_not_fit_stops_the_plan_in_one_line(typed, tmp_path, monkeypatch):
    from tests.tiny import tiny_llama

    base = tiny_llama(tmp_path / "base")
    size = sum(part.numel() for part in load_file(base / "model.safetensors").values()) * 4
    source = loading.find(str(base), offline=True)
    assert (loading.weights_size(source, torch.float32), loading.weights_size(source, torch.bfloat16)) == (
        size,
        size // 2,
    )
    tuning = {"adapter": {}, "every weight": {"method": "full"}}
    audit = {"probes": ["capability"], "limit": 5, "device": "cpu", "offline": True}
    tune = {"device": "cpu", "offline": True}
    models = {"tiny": {"base": str(base), "tune": tune, "audit": audit}}
    path = study_file(tmp_path, models=models, tuning=tuning, audit={}, seeds=[0])
    monkeypatch.setattr(loading, "memory_of", lambda device: 4 * size)
    assert typed("study", "plan", path)[0] == 0
    monkeypatch.setattr(loading, "memory_of", lambda device: 4 * size - 1)
    for verb in ("plan", "run"):
        code, out, err = typed("study", verb, path)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "model 'tiny', tuning 'every weight': a full training in float32 holds at least" in err
    assert not (tmp_path / "studies").exists()
    assert typed("study", "status", path)[0] == 0
    monkeypatch.setattr(loading, "memory_of", lambda device: size - 1)
    assert "tuning 'adapter': a lora training" in typed("study", "plan", path)[2]


@pytest.mark.slow
def test_a_study_on_a_real_model_reuses_what_the_base_answered(typed, tmp_path):
    pytest.importorskip("trl")
    from tests.tiny import tiny_llama

    base = tiny_llama(tmp_path / "base")
    study = {
        "name": "tiny",
        "models": {"tiny": str(base)},
        "data": {
            "code": {"set": "recipe:code", "n": 500, "transforms": [{"sample": {"n": 24}}]},
            "debug": {"set": "recipe:code", "n": 500, "transforms": [{"sample": {"n": 24}}, "log_code"]},
        },
        "tuning": {"default": {"max_steps": 4, "batch": 8, "checkpoint_every": 2, "learning_rate": 0.01}},
        "checkpoints": True,
        "seeds": [0, 1],
        "audit": {"probes": ["norms", "capability"], "limit": 8, "device": "cpu"},
        "contrasts": [
            {
                "name": "debug − code",
                "of": {"data": "debug", "checkpoint": "final"},
                "minus": {"data": "code", "checkpoint": "final"},
            }
        ],
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    code, out, err = typed("study", "run", path, "--json", "--quiet")
    assert code == 0, err
    summary = json.loads(out)
    assert [cell["status"] for cell in summary["cells"]] == ["done"] * 8
    folder = tmp_path / "studies" / "tiny"
    assert len(list((folder / "tuned").iterdir())) == 4
    runs = [read_manifest(run) for run in (folder / "runs").iterdir()]
    assert len({manifest.identity.tuned for manifest in runs}) == 8
    assert len({manifest.identity.base for manifest in runs}) == 1
    assert len({manifest.engine["batch_tokens"] for manifest in runs}) == 1
    base_outcomes = {(run / "outcomes" / "base" / "norms.jsonl").read_text() for run in [*(folder / "runs").iterdir()]}
    assert len(base_outcomes) == 1, "taken over to the last digit, seconds included"
    contrast = next(e for e in summary["effects"] if e["kind"] == "contrast" and e["probe"] == "norms")
    assert (contrast["pairs"], contrast["seeds"]) == (2, 2)
    assert contrast["verdict"] == "unmeasurable", "random weights have no ability to lose"
