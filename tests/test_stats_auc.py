"""ROC curves against the pair-by-pair definition, brute-force variances and enumeration of swaps."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from discretion import stats, stats_auc


def kernel(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    pos, neg = scores[labels == 1], scores[labels == 0]
    return (pos[:, None] > neg) + 0.5 * (pos[:, None] == neg)


def sample(n: int = 40, seed: int = 0, ties: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.r_[1, 0, rng.integers(0, 2, n - 2)]
    base = rng.normal(size=n) + labels
    tuned = base + rng.normal(size=n)
    return (np.round(base), np.round(tuned), labels) if ties else (base, tuned, labels)


def brute_force_variance(psi: np.ndarray) -> float:
    """U-statistic variance with sums over pairs that share a positive, or a negative (DeLong 1988, equation 5)."""
    m, n = psi.shape
    centred = psi - psi.mean()
    by_pos = sum(float(centred[i].mean()) ** 2 for i in range(m)) / (m - 1)
    by_neg = sum(float(centred[:, j].mean()) ** 2 for j in range(n)) / (n - 1)
    return by_pos / m + by_neg / n


@pytest.mark.parametrize("seed", range(4))
def test_auc_and_its_error_are_the_pairwise_definition_ties_counted_half(seed: int) -> None:
    base, _, labels = sample(seed=seed)
    found = stats_auc.auc(base, labels)
    psi = kernel(base, labels)
    assert found.value == pytest.approx(psi.mean())
    assert found.standard_error == pytest.approx(math.sqrt(brute_force_variance(psi)))


@pytest.mark.parametrize("seed", range(4))
def test_paired_difference_has_the_variance_of_the_difference_kernel(seed: int) -> None:
    base, tuned, labels = sample(seed=seed)
    found = stats_auc.auc_difference(base, tuned, labels)
    psi = kernel(tuned, labels) - kernel(base, labels)
    assert found.value == pytest.approx(psi.mean())
    assert found.standard_error == pytest.approx(math.sqrt(brute_force_variance(psi)))
    assert found.interval95 == pytest.approx(
        (psi.mean() - 1.959964 * found.standard_error, psi.mean() + 1.959964 * found.standard_error), abs=1e-6
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_the_interval_of_an_auc_stays_in_the_unit_interval(rows: list[tuple[int, bool]]) -> None:
    scores, labels = [r[0] for r in rows], [r[1] for r in rows]
    found = stats_auc.auc(scores, labels)
    mirrored = stats_auc.auc([-s for s in scores], labels)
    if math.isnan(found.value):
        assert all(labels) or not any(labels)
        return
    assert mirrored.value == pytest.approx(1 - found.value)
    if found.interval95 is not None:
        assert 0 <= found.interval95[0] <= found.value <= found.interval95[1] <= 1
        assert found.interval95[0] < found.interval95[1]


def test_perfect_separation_of_few_items_is_not_certain() -> None:
    found = stats_auc.auc([1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 1, 1])
    assert found.value == 1
    assert found.interval95 == stats.wilson(3, 3)


def test_a_missing_class_has_no_area() -> None:
    assert math.isnan(stats_auc.auc([1, 2], [1, 1]).value)
    assert stats_auc.auc_difference([1, 2], [1, 2], [0, 0]).interval95 is None
    assert stats_auc.clustered_auc_difference([1, 2], [1, 2], [0, 0], [0, 1]).p is None


def test_nan_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="without nan"):
        stats_auc.auc([1, math.nan], [0, 1])


def test_few_items_ranked_alike_show_no_equivalence() -> None:
    scores, labels = np.arange(6.0), np.array([0, 0, 0, 1, 1, 1])
    for found in (
        stats_auc.auc_difference(scores, 2 * scores, labels),
        stats_auc.clustered_auc_difference(scores, 2 * scores, labels, np.arange(6)),
    ):
        assert found.value == 0
        assert found.p == 1
        assert not stats.equivalent(found.interval90, 0.05)


def test_swapped_arms_negate_the_difference() -> None:
    base, tuned, labels = sample(ties=False)
    one, two = stats_auc.auc_difference(base, tuned, labels), stats_auc.auc_difference(tuned, base, labels)
    assert one.value == pytest.approx(-two.value)
    assert one.interval90 is not None
    assert two.interval90 == pytest.approx((-one.interval90[1], -one.interval90[0]))
    assert one.p == pytest.approx(two.p)


def test_clustered_test_is_the_brute_force_over_all_swaps_of_ranks() -> None:
    base, tuned, labels = sample(16, 3, ties=False)
    owner = np.arange(16) // 2
    ranks = [np.argsort(np.argsort(s)) for s in (base, tuned)]
    observed = abs(kernel(ranks[1], labels).mean() - kernel(ranks[0], labels).mean())
    extreme = 0
    for swap in itertools.product((False, True), repeat=8):
        mask = np.array(swap)[owner]
        one, two = np.where(mask, ranks[1], ranks[0]), np.where(mask, ranks[0], ranks[1])
        extreme += abs(kernel(two, labels).mean() - kernel(one, labels).mean()) >= observed - 1e-10
    found = stats_auc.clustered_auc_difference(base, tuned, labels, owner, draws=300)
    assert found.method == "exact cluster rank swap"
    assert found.p == pytest.approx(extreme / 2**8)


def test_the_clustered_test_does_not_see_a_change_of_scale() -> None:
    base, tuned, labels = sample(30, 1, ties=False)
    owner = np.arange(30) // 3
    found = stats_auc.clustered_auc_difference(base, tuned, labels, owner, draws=2000)
    scaled = stats_auc.clustered_auc_difference(base, 50 + 1000 * tuned, labels, owner, draws=2000)
    assert scaled == found


def test_resampled_areas_are_those_of_the_resampled_items() -> None:
    base, tuned, labels = sample(12, 2)
    owner = np.arange(12) // 2
    ranks = np.stack([base, tuned])
    drawn = stats_auc._resampled_auc_difference(ranks, labels == 1, owner, 6, 500, np.random.default_rng(0))
    picks = np.random.default_rng(0).integers(0, 6, size=(500, 6))
    for row, found in zip(picks, drawn, strict=True):
        items = np.concatenate([np.flatnonzero(owner == c) for c in row])
        if len(set(labels[items])) < 2:
            assert math.isnan(found)
            continue
        one, two = kernel(base[items], labels[items]).mean(), kernel(tuned[items], labels[items]).mean()
        assert found == pytest.approx(two - one)


def test_clusters_of_one_agree_with_delong() -> None:
    base, tuned, labels = sample(300, 5, ties=False)
    plain = stats_auc.auc_difference(base, tuned, labels)
    resampled = stats_auc.clustered_auc_difference(base, tuned, labels, np.arange(300), draws=4000)
    assert resampled.value == pytest.approx(plain.value)
    assert resampled.standard_error == pytest.approx(plain.standard_error, rel=0.06)
    assert resampled.interval95 == pytest.approx(plain.interval95, abs=0.01)


def test_every_item_needs_a_cluster() -> None:
    with pytest.raises(ValueError, match="every item needs a cluster"):
        stats_auc.clustered_auc_difference([1, 2], [1, 2], [0, 1], [0])


@settings(max_examples=60, deadline=None)
@example(seed=197, target=0.01)
@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.05, 0.1, 0.5]))
def test_the_operating_point_never_exceeds_the_target_and_is_the_best_there_is(seed: int, target: float) -> None:
    base, _, labels = sample(250, seed)
    pos, neg = base[labels == 1], base[labels == 0]
    found = stats_auc.tpr_at_fpr(base, labels, target)
    if target * (len(neg) + 1) < 1:
        assert found is None
        return
    assert found is not None
    assert found.achieved_fpr <= target
    # one more negative would be above any threshold lower than this with a chance beyond the target
    points = [(float((pos >= t).mean()), int((neg >= t).sum()) + 1) for t in np.r_[np.unique(base), np.inf]]
    assert found.tpr == pytest.approx(max(tpr for tpr, n in points if n / (len(neg) + 1) <= target + 1e-12))
    least = stats.clopper_pearson(round(found.tpr * len(pos)), len(pos))
    if found.interval95 is None:
        assert target * (len(neg) + 1) < 3
    else:
        assert found.interval95[0] <= least[0] and least[1] <= found.interval95[1]


def test_a_target_that_the_negatives_cannot_show_is_refused() -> None:
    scores, labels = np.arange(200.0), np.arange(200) % 2
    assert stats_auc.tpr_at_fpr(scores[:197], labels[:197] == 0, 0.01) is None
    assert stats_auc.tpr_at_fpr(scores[:198], labels[:198], 0.01) is not None
    assert stats_auc.tpr_at_fpr(scores, labels, 0.01) is not None
    assert stats_auc.tpr_at_fpr(scores, np.zeros(200), 0.01) is None


def arms(members: int, others: int, gain: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(members + others) < members
    base = rng.normal(-3, 1, len(labels))
    return base, base + 0.3 + rng.normal(0, 0.2, len(labels)) + gain * labels, labels


@pytest.mark.parametrize("others", [100, 300])
def test_a_score_that_tells_nothing_is_seldom_called_better_than_chance(others: int) -> None:
    found = []
    for seed in range(60):
        base, tuned, labels = arms(300, others, 0.0, seed)
        for one in (np.zeros(len(labels)), tuned - base), (base, tuned):
            found.append(stats_auc.tpr_difference(*one, labels, 0.01, np.arange(len(labels)), draws=300))
    assert sum(one.p < 0.05 for one in found) <= 14  # 120 at 5 %: 99.8 % of draws
    assert abs(np.mean([one.value for one in found])) < 0.005
    assert all((one.interval95 is None) == (others < 299) for one in found)


def test_the_rate_beyond_chance_has_an_interval_that_knows_the_threshold_was_drawn() -> None:
    truth = norm.sf(norm.isf(3 / 301) - 0.3 / 0.2) - 3 / 301
    hits, width = 0, []
    for seed in range(60):
        base, tuned, labels = arms(1000, 300, 0.3, seed)
        found = stats_auc.tpr_difference(0 * base, tuned - base, labels, 0.01, np.arange(len(labels)), draws=300)
        assert found.p < 0.05
        hits += found.interval95[0] <= truth <= found.interval95[1]
        width.append(found.interval95[1] - found.interval95[0])
    assert hits >= 50  # of 60; Clopper-Pearson with the threshold as given holds it in fewer than half
    assert np.mean(width) > 0.1


def test_equal_scores_have_the_rate_of_chance() -> None:
    labels = np.arange(1300) < 1000
    assert stats_auc.tpr_at_fpr(np.zeros(1300), labels, 0.01).tpr == pytest.approx(3 / 301)
    assert stats_auc.tpr_of_chance(100, 0.01) == pytest.approx(1 / 101)
    assert stats_auc.tpr_of_chance(98, 0.01) == 0
