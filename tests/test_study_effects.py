"""Effects over several trainings: what is paired, what is resampled, what may be said and what may not."""

from __future__ import annotations

import json
import math
from random import Random
from types import SimpleNamespace

import pytest
from scipy import special

from discretion import audit as auditing
from discretion.compare import Suite, across, judge
from discretion.errors import ConfigError
from discretion.probes.base import Metric, Tally
from discretion.probes.membership import PROBE
from discretion.schema import Outcome, to_json
from discretion.stats import mean_of
from discretion.store import make_private, outcomes_path, write_private
from discretion.study import cells, config, effects
from discretion.study.effects import _adjusted
from tests.study_cases import PlantedPair, an_effect, study_file
from tests.test_membership import items, model, planted

RATE = Metric(name="rate", worse="lower", primary=True, tally=lambda o: {"": _tally(o)})


def _tally(outcome):
    return Tally(outcome.value, 1.0) if outcome.status == "scored" else Tally(0.0, 0.0, 1.0)


def arm(share, *, seed=0, n=200, lost=(), name="i"):
    rng = Random(seed)
    found = []
    for k in range(n):
        right = float(rng.random() < share)
        if k in lost:
            found.append(Outcome(item_id=f"{name}{k}", cluster=f"c{k // 2}", status="failed", reason="x"))
        else:
            found.append(Outcome(item_id=f"{name}{k}", cluster=f"c{k // 2}", status="scored", value=right))
    return found


def test_the_mean_over_trainings_has_an_interval_over_trainings_and_items():
    pairs = [(arm(0.8, seed=s), arm(0.6 + 0.05 * (s - 1), seed=10 + s)) for s in range(3)]
    found = across(RATE, pairs, 2000)
    each = [sum(o.value for o in b) / 200 - sum(o.value for o in a) / 200 for a, b in pairs]
    assert found.value == pytest.approx(sum(each) / 3)
    assert found.interval[0] < found.interval90[0] < found.value < found.interval90[1] < found.interval[1]
    assert 0 < found.seed_share < 1
    assert (found.items, found.lost) == (600, 0)
    assert found.method.startswith("hierarchical bootstrap over 3 pairs")


def test_trainings_that_disagree_widen_the_interval():
    agree = across(RATE, [(arm(0.8, seed=1), arm(0.6, seed=2))] * 3, 2000)
    apart = across(RATE, [(arm(0.8, seed=1), arm(share, seed=2)) for share in (0.4, 0.6, 0.8)], 2000)
    width = [found.interval[1] - found.interval[0] for found in (agree, apart)]
    assert width[1] > 1.5 * width[0]


def test_one_training_speaks_of_items_alone_and_says_so():
    found = across(RATE, [(arm(0.8, seed=1), arm(0.6, seed=2))], 2000)
    assert found.interval is not None
    assert found.seed_share is None
    assert found.method.startswith("one training, over items alone")


def test_an_item_lost_on_either_side_is_left_out_of_both_and_counted():
    first, second = arm(0.8, seed=1, lost=range(20)), arm(0.8, seed=1, lost=range(10, 30))
    found = across(RATE, [(first, second)] * 2, 1000)
    assert (found.items, found.lost) == (2 * 170, 2 * 30)
    assert found.value == 0.0


def test_a_pair_without_a_common_item_gives_no_figure_and_not_that_of_the_others():
    good = (arm(0.8, seed=1), arm(0.6, seed=2))
    found = across(RATE, [good, (arm(0.8, name="a"), arm(0.6, name="b"))], 1000)
    assert (found.value, found.interval, found.p) == (None, None, None)
    assert "no item scored on both sides" in found.method


AREA = Metric(
    name="area",
    worse="lower",
    auc=True,
    tally=lambda o: {"positive" if o.parts["allowed"] else "negative": Tally(o.margin, 1.0)},
)


def flows(gap, seed):
    """Margins of allowed and forbidden flows, `2 * gap` apart."""
    rng = Random(seed)
    return [
        Outcome(
            item_id=f"f{k}",
            cluster=f"c{k}",
            status="scored",
            value=1.0,
            margin=rng.gauss(gap if k % 2 else -gap, 1),
            parts={"allowed": bool(k % 2)},
        )
        for k in range(120)
    ]


def test_an_area_under_a_curve_is_averaged_over_trainings():
    found = across(AREA, [(flows(1.0, s), flows(0.2, s)) for s in range(3)], 1000)
    assert -0.6 < found.value < -0.1
    assert found.method.startswith("t over 3 pairs")
    assert found.interval[0] < found.value < found.interval[1]


def test_trainings_that_do_not_differ_are_no_certainty():
    same = [(flows(1.0, 0), flows(0.2, 0)) for _ in range(3)]
    one, found = across(AREA, same[:1], 1000), across(AREA, same, 1000)
    assert (found.value, found.interval, found.p) == (one.value, one.interval, one.p)
    assert found.method.startswith("3 trainings that do not differ, over items alone")


def test_a_change_of_one_training_is_the_figure_of_its_audit(tmp_path):
    arms = {"base": model(planted(0.4, 150, 150)[0], "base"), "tuned": model(planted(0.4, 150, 150)[1], "tuned")}
    asked, found = items(150, 150), {"base": [], "tuned": []}
    auditing.carry(PROBE, dict.fromkeys(arms, asked), arms, lambda arm, outcome: found[arm].append(outcome))
    audited = {m.metric: m for m in judge([Suite(PROBE, found["base"], found["tuned"], 300)], thresholds()).metrics}
    for arm, outcomes in found.items():
        path = outcomes_path(tmp_path / "runs" / "d", arm, "membership")
        make_private(path.parent)
        write_private(path, "".join(json.dumps(to_json(outcome)) + "\n" for outcome in outcomes))
    finished = effects._Finished(tmp_path, {"d": SimpleNamespace(metrics=())})
    study = effects._Effects(SimpleNamespace(), finished, thresholds(), set())
    cell = SimpleNamespace(digest="d", coordinates={"seed": "0"})
    for metric in PROBE.metrics:
        effect, of = study._effect("change", "c", *[[(cell, None)]] * 2, "", PROBE, metric), audited[metric.name]
        if of.difference.value is not None:
            assert (effect.value, effect.p) == (of.difference.value, of.difference.p), metric.name
    assert audited["AUC, calibrated by the base"].difference.value > 0.2


def test_the_error_of_shared_items_does_not_shrink_with_the_number_of_trainings():
    few, many = (mean_of([0.2, 0.2 + 1e-4] * n, [0.05] * 2 * n) for n in (2, 200))
    for mean, wide, _, _ in (few, many):
        assert wide == pytest.approx((mean - 1.96 * 0.05, mean + 1.96 * 0.05), abs=1e-3)
    spread = mean_of([0.1, 0.2, 0.3])[1]
    assert mean_of([0.1, 0.2, 0.3], [0.0] * 3)[1] == spread
    # Satterthwaite: variances 0.01/3 over two degrees of freedom, and 0.0025 over many
    error, freedom = math.sqrt(0.01 / 3 + 0.0025), 2 * (1 + 0.0025 / (0.01 / 3)) ** 2
    half = float(special.stdtrit(freedom, 0.975)) * error
    assert mean_of([0.1, 0.2, 0.3], [0.05] * 3)[1] == pytest.approx((0.2 - half, 0.2 + half))


def test_an_interval_of_rates_ends_where_a_difference_of_rates_can_lie():
    found = across(RATE, [(arm(1.0), arm(share, seed=1)) for share in (0.0, 0.1, 0.2)], 1000)
    assert found.interval[0] == -1.0 < found.value < found.interval[1] < -0.6


def test_a_mean_of_values_has_students_interval():
    mean, wide, narrow, p = mean_of([0.1, 0.2, 0.3])
    error = 0.1 / math.sqrt(3)
    assert mean == pytest.approx(0.2)
    assert wide == pytest.approx((0.2 - 4.3027 * error, 0.2 + 4.3027 * error), abs=1e-4)
    assert narrow == pytest.approx((0.2 - 2.9200 * error, 0.2 + 2.9200 * error), abs=1e-4)
    assert p == pytest.approx(0.0742, abs=1e-4)


# ------------------------------------------------------------------------------------------------ many effects


def thresholds():
    return (
        config.StudyConfig(name="x", models={"m": {"base": "b"}}, data={"d": {"set": "s"}})
        .audit_options("m", "b")
        .thresholds
    )


def test_contrasts_are_adjusted_among_themselves_whatever_else_is_looked_at():
    contrasts = [an_effect(f"c{n}", -0.2, "regressed", kind="contrast", p=p) for n, p in enumerate((0.01, 0.02, 0.2))]
    rest = [an_effect(f"f{n}", -0.2, "regressed", kind="factor", axis="data", p=0.9) for n in range(50)]
    alone, among = (_adjusted(found, thresholds())[:3] for found in (contrasts, [*contrasts, *rest]))
    assert alone == among
    assert [effect.p_adjusted for effect in alone] == pytest.approx([0.03, 0.04, 0.2])


def test_a_change_that_does_not_survive_the_adjustment_is_inconclusive():
    many = [an_effect(f"c{n}", -0.2, "regressed", kind="contrast", p=0.03) for n in range(4)]
    assert {effect.verdict for effect in _adjusted(many, thresholds())} == {"inconclusive"}


def test_a_declared_contrast_that_could_not_be_measured_still_counts():
    effects_ = [
        an_effect("a", -0.2, "regressed", kind="contrast", p=0.03),
        an_effect("b", None, "unmeasurable", kind="contrast", p=None, reason="at chance"),
    ]
    assert _adjusted(effects_, thresholds())[0].p_adjusted == pytest.approx(0.06)


def test_a_metric_that_no_suite_has_stops_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.setattr(auditing, "pair_for", lambda options: PlantedPair([]))
    plan = cells.plan(config.read(study_file(tmp_path, metrics=["capability: acuracy"])), tmp_path / "out")
    with pytest.raises(ConfigError, match="did you mean 'capability: accuracy'"):
        effects.summarise(plan, {})


def test_nothing_done_is_a_summary_of_what_was_declared_and_of_no_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(auditing, "pair_for", lambda options: PlantedPair([]))
    plan = cells.plan(config.read(study_file(tmp_path)), tmp_path / "out")
    summary = effects.summarise(plan, {})
    ((effect, told),) = [(e, e.counted) for e in summary.effects]
    assert (effect.kind, effect.value, effect.verdict, told) == ("contrast", None, "unmeasurable", "0 of 3")
    assert effect.reason == "none of its 3 pairs is done"
    assert not summary.complete
    assert {cell.status for cell in summary.cells} == {"waiting"}
