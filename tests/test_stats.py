"""Rates, clustered intervals, paired tests, several seeds and verdict numbers, against exact enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from scipy import stats as distributions

from discretion import stats
from discretion.stats import ClusterTable


def single(values: list[int] | np.ndarray) -> ClusterTable:
    column = np.asarray(values, dtype=float)[:, None]
    return ClusterTable(column, np.ones_like(column))


def pair_of(n: int, up: int, down: int) -> tuple[ClusterTable, ClusterTable]:
    """n single pairs of which `up` rise and `down` fall."""
    base = np.r_[np.zeros(up), np.ones(down), np.zeros(n - up - down)]
    tuned = np.r_[np.ones(up), np.zeros(down), np.zeros(n - up - down)]
    return single(base), single(tuned)


def clustered(k: int, seed: int = 0, strata: int = 2) -> tuple[ClusterTable, ClusterTable]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, (2, k, strata))
    counts = rng.binomial(sizes, np.array([0.6, 0.4])[:, None, None])
    return ClusterTable(counts[0], sizes[0]), ClusterTable(counts[1], sizes[1])


def d_prime(ratios: np.ndarray) -> np.ndarray:
    return special.ndtri(np.clip(ratios, 0.01, 0.99)).sum(axis=-1)


# ------------------------------------------------------------------------------------------------ rates


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17:857, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(k: int, n: int, low: float, high: float) -> None:
    assert stats.wilson(k, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # the same table, method 5
    [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0.0, 0.1684), (1, 29, 0.0009, 0.1776)],
)
def test_clopper_pearson_gives_the_published_intervals(k: int, n: int, low: float, high: float) -> None:
    assert stats.clopper_pearson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_clopper_pearson_ends_are_the_binomial_tails() -> None:
    ends = stats.clopper_pearson(7, 31, 0.9)
    assert ends is not None
    assert distributions.binom.sf(6, 31, ends[0]) == pytest.approx(0.05)
    assert distributions.binom.cdf(7, 31, ends[1]) == pytest.approx(0.05)


def test_a_rate_over_nothing_has_no_interval() -> None:
    assert stats.wilson(0, 0) is None
    assert stats.clopper_pearson(0, 0) is None


@given(st.integers(1, 400), st.data())
def test_rate_intervals_hold_the_rate_and_stay_in_the_unit_interval(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    for ends in (stats.wilson(k, n), stats.clopper_pearson(k, n)):
        assert ends is not None
        assert 0 <= ends[0] <= k / n <= ends[1] <= 1


def test_mcnemar_is_the_binomial_by_hand() -> None:
    # 1 against 6: 2 · (C(7,0) + C(7,1)) / 2^7
    assert stats.mcnemar_exact(1, 6) == pytest.approx(2 * 8 / 128)
    assert stats.mcnemar_exact(6, 1) == stats.mcnemar_exact(1, 6)


def test_one_discordant_pair_and_none_give_a_p_of_one() -> None:
    assert [stats.mcnemar_exact(b, c) for b, c in ((0, 0), (1, 0), (0, 1))] == [1.0, 1.0, 1.0]


# ------------------------------------------------------------------------------------------------ one arm


def test_estimate_is_the_mean_over_strata_of_ratios_of_sums() -> None:
    table = ClusterTable([[1, 0], [2, 3]], [[2, 0], [2, 4]])
    assert stats.estimate(table) == pytest.approx((3 / 4 + 3 / 4) / 2)
    assert stats.estimate(table, lambda r: r[..., 0] - r[..., 1]) == pytest.approx(0.0)


def test_an_empty_stratum_has_no_figure() -> None:
    assert math.isnan(stats.estimate(ClusterTable([[1.0, 0.0]], [[1.0, 0.0]])))
    assert math.isnan(stats.estimate(ClusterTable(np.zeros((0, 1)), np.zeros((0, 1)))))


@pytest.mark.parametrize(
    ("numerator", "denominator"),
    [([[1.0]], [[1.0, 1.0]]), ([1.0], [1.0]), ([[math.nan]], [[1.0]]), ([[1.0]], [[-1.0]])],
)
def test_a_table_that_is_none_is_refused(numerator: list, denominator: list) -> None:
    with pytest.raises(ValueError, match="a cluster table needs"):
        ClusterTable(numerator, denominator)


def test_one_arm_of_single_items_is_wilson() -> None:
    assert stats.interval(single([1] * 9 + [0] * 41)) == stats.wilson(9, 50)


@pytest.mark.parametrize("value", [0, 1])
def test_a_rate_at_its_bound_keeps_an_interval_in_clusters_as_in_single_items(value: int) -> None:
    sizes = np.full((50, 1), 4.0)
    low, high = stats.interval(ClusterTable(value * sizes, sizes)) or (0, 0)
    wilson = stats.wilson(50 * value, 50)
    assert wilson is not None
    assert (low, high) == pytest.approx(wilson, abs=0.035)


def test_balanced_accuracy_of_always_yes_keeps_an_interval() -> None:
    ones = np.ones((40, 2))
    low, high = stats.interval(ClusterTable(np.tile([1.0, 0.0], (40, 1)), ones)) or (0.5, 0.5)
    assert low < 0.49
    assert high > 0.51


def test_items_that_repeat_each_other_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(3)
    one = rng.random((80, 1)) < 0.3
    alone = stats.interval(ClusterTable(one, np.ones((80, 1))))
    repeated = stats.interval(ClusterTable(5 * one, np.full((80, 1), 5.0)))
    assert alone is not None
    assert repeated is not None
    assert repeated == pytest.approx(alone, abs=0.015)


def test_one_arm_without_figure_or_variation_has_no_interval() -> None:
    assert stats.interval(ClusterTable(np.zeros((0, 1)), np.zeros((0, 1)))) is None
    assert stats.interval(ClusterTable([[3.0]], [[4.0]])) is None
    assert stats.interval(single([2] * 30), bounds=None) is None


def test_bootstrap_draws_follow_the_enumeration_of_all_resamples() -> None:
    rows = np.array([[0.0, 1.0], [1.0, 2.0], [1.0, 2.0], [3.0, 3.0]])[:, :, None]
    real = stats._resampled_sums(rows, np.zeros((0, 2, 1)), 200_000, np.random.default_rng(0))
    drawn = real[:, 0, 0] / real[:, 1, 0]
    every = np.array([rows[list(i)].sum(axis=0) for i in itertools.product(range(4), repeat=4)])
    exact = every[:, 0, 0] / every[:, 1, 0]
    for point in np.unique(exact):
        assert np.mean(drawn <= point + 1e-9) == pytest.approx(np.mean(exact <= point + 1e-9), abs=0.005)


def test_both_ways_of_drawing_give_the_same_moments() -> None:
    rng = np.random.default_rng(0)
    few = (rng.random((400, 2, 1)) < 0.5).astype(float)
    many = few + rng.normal(0, 1e-7, few.shape)
    a, b = (stats._resampled_sums(r, np.zeros((0, 2, 1)), 8000, np.random.default_rng(1)) for r in (few, many))
    assert a.mean(axis=0) == pytest.approx(b.mean(axis=0), rel=3e-3)
    assert a.std(axis=0) == pytest.approx(b.std(axis=0), rel=5e-2)


def test_bca_of_a_mean_is_the_closed_form() -> None:
    # skewed data: percentile ends moved by the acceleration; Efron and Tibshirani (1993), 14.3
    rng = np.random.default_rng(5)
    x = rng.exponential(size=(300, 1))
    ends = stats.interval(ClusterTable(x, np.ones_like(x)), bounds=None, draws=40_000)
    skew = float(distributions.skew(x[:, 0])) / math.sqrt(300)
    t = float(distributions.t.ppf(0.975, 299)) * math.sqrt(300 / 299)
    error = float(x.std()) / math.sqrt(300)
    wanted = [float(x.mean()) + error * (s * t + skew * (2 * t * t + 1) / 6) for s in (-1, 1)]
    assert ends == pytest.approx(wanted, abs=0.05 * error)


# ------------------------------------------------------------------------------------------------ paired


def brute_force_sign_flip(base: ClusterTable, tuned: ClusterTable, combine: object = None) -> float:
    k = len(base.numerator)
    observed = abs(stats.estimate(tuned, combine) - stats.estimate(base, combine))  # type: ignore[arg-type]
    extreme = 0
    for swap in itertools.product((False, True), repeat=k):
        mask = np.array(swap)[:, None]
        one, two = (
            ClusterTable(np.where(m, b.numerator, a.numerator), np.where(m, b.denominator, a.denominator))
            for m, a, b in ((mask, base, tuned), (~mask, base, tuned))
        )
        change = abs(stats.estimate(two, combine) - stats.estimate(one, combine))  # type: ignore[arg-type]
        extreme += change >= observed - 1e-10
    return extreme / 2**k


@pytest.mark.parametrize("combine", [None, d_prime])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sign_flip_is_the_brute_force_over_all_swaps(seed: int, combine: object) -> None:
    base, tuned = clustered(9, seed)
    found = stats.paired(base, tuned, combine=combine, draws=1000)  # type: ignore[arg-type]
    assert found.method == "exact cluster sign-flip"
    assert found.p == pytest.approx(brute_force_sign_flip(base, tuned, combine))


def test_monte_carlo_sign_flip_agrees_with_the_exact_one_and_is_never_zero() -> None:
    base, tuned = clustered(13, 4)
    exact = stats.paired(base, tuned, draws=10_000)
    drawn = stats.paired(base, tuned, draws=4000)
    assert (exact.method, drawn.method) == ("exact cluster sign-flip", "cluster sign-flip permutation, 4000 draws")
    assert drawn.p == pytest.approx(exact.p, abs=0.025)
    assert stats.paired(*pair_of(200, 100, 0), draws=999).p == pytest.approx(1 / 1000)


def test_sign_flip_of_single_binary_items_is_mcnemar() -> None:
    base, tuned = pair_of(40, 8, 2)
    exact, flipped = stats.paired(base, tuned, binary=True), stats.paired(base, tuned)
    assert (exact.method, flipped.method) == ("exact McNemar", "exact cluster sign-flip")
    assert exact.p == pytest.approx(stats.mcnemar_exact(8, 2))
    assert flipped.p == pytest.approx(exact.p)


def test_mcnemar_is_not_used_where_clusters_hold_several_items() -> None:
    base, tuned = clustered(8, strata=1)
    assert stats.paired(base, tuned, binary=True).method == "exact cluster sign-flip"


@pytest.mark.parametrize("n", [3, 10, 30, 45, 58])
def test_pairs_that_all_agree_show_no_equivalence_at_small_n(n: int) -> None:
    found = stats.paired(*pair_of(n, 0, 0), binary=True)
    assert found.value == 0
    assert found.p == 1
    assert not stats.equivalent(found.interval90, 0.05)


def test_pairs_that_all_agree_show_equivalence_at_large_n() -> None:
    assert stats.equivalent(stats.paired(*pair_of(80, 0, 0), binary=True).interval90, 0.05)


@pytest.mark.parametrize("combine", [None, d_prime, lambda r: r[..., 0] - r[..., 1]])
def test_agreeing_clusters_never_give_a_zero_width_interval_whatever_the_figure(combine: object) -> None:
    base, _ = clustered(6)
    found = stats.paired(base, base, combine=combine)  # type: ignore[arg-type]
    assert found.interval95 is not None
    assert found.interval95[0] < -0.05
    assert found.interval95[1] > 0.05


def test_one_tiny_change_does_not_stand_for_all_clusters() -> None:
    sizes = np.full((20, 1), 500.0)
    base, tuned = np.full((20, 1), 250.0), np.full((20, 1), 250.0)
    tuned[0] += 1
    found = stats.paired(ClusterTable(base, sizes), ClusterTable(tuned, sizes))
    assert not stats.equivalent(found.interval90, 0.05)


def test_an_unbounded_figure_that_never_moved_has_no_interval() -> None:
    base = single(np.arange(30.0))
    found = stats.paired(base, base, bounds=None)
    assert (found.value, found.interval95, found.interval90, found.p) == (0.0, None, None, 1.0)


def test_an_unbounded_mean_difference_has_the_t_interval() -> None:
    rng = np.random.default_rng(0)
    base, change = rng.normal(size=400), rng.normal(0.3, 1, 400)
    found = stats.paired(single(base), single(base + change), bounds=None)
    wanted = distributions.ttest_1samp(change, 0).confidence_interval(0.95)
    assert found.interval95 == pytest.approx(tuple(wanted), abs=0.01)
    assert found.standard_error == pytest.approx(float(change.std(ddof=1)) / 20, rel=0.03)


def test_no_cluster_gives_nan_and_none_and_one_cluster_no_interval() -> None:
    empty = ClusterTable(np.zeros((0, 2)), np.zeros((0, 2)))
    none = stats.paired(empty, empty)
    assert math.isnan(none.value)
    assert (none.interval95, none.interval90, none.p) == (None, None, None)
    one = stats.paired(single([0]), single([1]))
    assert (one.value, one.interval95, one.interval90, one.p) == (1.0, None, None, 1.0)


def test_clusters_empty_in_both_arms_change_nothing() -> None:
    base, tuned = clustered(10)
    zeros = np.zeros((5, 2))
    padded = [ClusterTable(np.r_[t.numerator, zeros], np.r_[t.denominator, zeros]) for t in (base, tuned)]
    assert stats.paired(*padded) == stats.paired(base, tuned)


def test_arms_over_other_clusters_are_refused() -> None:
    with pytest.raises(ValueError, match="same clusters and strata"):
        stats.paired(single([0, 1]), single([0, 1, 1]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(8, 30), st.integers(1, 3))
def test_swapping_arms_negates_and_mirrors_and_order_of_clusters_does_not_count(seed: int, k: int, strata: int) -> None:
    base, tuned = clustered(k, seed, strata)
    found = stats.paired(base, tuned, draws=4000)
    swapped = stats.paired(tuned, base, draws=4000)
    assert swapped.value == pytest.approx(-found.value)
    assert found.interval95 is not None
    assert swapped.interval95 is not None
    width = found.interval95[1] - found.interval95[0]
    assert swapped.interval95 == pytest.approx((-found.interval95[1], -found.interval95[0]), abs=0.2 * width)
    order = np.random.default_rng(seed).permutation(k)
    shuffled = [ClusterTable(t.numerator[order], t.denominator[order]) for t in (base, tuned)]
    again = stats.paired(*shuffled, draws=4000)
    assert again.value == pytest.approx(found.value)
    assert again.interval95 == pytest.approx(found.interval95)
    assert again.p == found.p


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 60), st.integers(0, 20), st.integers(0, 20))
def test_intervals_hold_the_value_and_each_other(n: int, up: int, down: int) -> None:
    up = min(up, n)
    found = stats.paired(*pair_of(n, up, min(down, n - up)), draws=1000)
    assert found.interval95 is not None
    assert found.interval90 is not None
    assert -1 <= found.interval95[0] <= found.interval90[0] <= found.value
    assert found.value <= found.interval90[1] <= found.interval95[1] <= 1


def test_the_same_seed_gives_the_same_answer_and_another_seed_another() -> None:
    base, tuned = clustered(40)
    assert stats.paired(base, tuned, seed=7) == stats.paired(base, tuned, seed=7)
    assert stats.paired(base, tuned, seed=7) != stats.paired(base, tuned, seed=8)


def test_a_rare_stratum_that_a_resample_misses_still_has_an_interval() -> None:
    denominator = np.c_[np.ones(30), np.r_[np.ones(2), np.zeros(28)]]
    rng = np.random.default_rng(0)
    base = ClusterTable((rng.random((30, 2)) < 0.5) * denominator, denominator)
    tuned = ClusterTable((rng.random((30, 2)) < 0.5) * denominator, denominator)
    found = stats.paired(base, tuned)
    assert found.interval95 is not None
    assert np.isfinite(found.interval95).all()


# ------------------------------------------------------------------------------------------------ several seeds


def seeds_of(effects: list[float], k: int = 300, seed: int = 0) -> list[tuple[ClusterTable, ClusterTable]]:
    rng = np.random.default_rng(seed)
    base = rng.random(k) < 0.6
    return [(single(base), single(np.where(rng.random(k) < abs(e), e > 0, base))) for e in effects]


def test_seed_spread_widens_the_interval_beyond_that_of_one_seed() -> None:
    alike, apart = seeds_of([0.2, 0.2, 0.2, 0.2]), seeds_of([0.02, 0.15, 0.3, 0.45])
    narrow, wide = stats.hierarchical_bootstrap(alike), stats.hierarchical_bootstrap(apart)
    assert wide.standard_error > 2 * narrow.standard_error
    assert wide.seed_share > 0.8
    assert narrow.seed_share < 0.5


def test_seeds_part_of_the_error_is_the_standard_error_of_the_seed_means() -> None:
    pairs = seeds_of([0.02, 0.15, 0.3, 0.45, 0.6], k=4000)
    found = stats.hierarchical_bootstrap(pairs, draws=20_000)
    means = [stats.estimate(t) - stats.estimate(b) for b, t in pairs]
    assert found.value == pytest.approx(np.mean(means))
    assert found.standard_error == pytest.approx(float(np.std(means, ddof=1)) / math.sqrt(5), rel=0.03)
    half = found.interval95[1] - found.value if found.interval95 else 0
    assert half == pytest.approx(2.776 * found.standard_error, rel=0.02)


def test_one_training_seed_has_no_interval_over_seeds() -> None:
    found = stats.hierarchical_bootstrap(seeds_of([0.2]))
    assert found.interval95 is None
    assert math.isfinite(found.value)


# ------------------------------------------------------------------------------------------------ corrections, verdicts


def test_holm_on_a_hand_example_leaves_out_what_was_not_tested() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = stats.holm([0.01, None, 0.04, math.nan, 0.03])
    assert adjusted == pytest.approx([0.03, math.nan, 0.06, math.nan, 0.06], nan_ok=True)
    assert stats.holm([]) == []
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]


def test_benjamini_hochberg_on_a_hand_example() -> None:
    # 0.01·4/1, 0.02·4/2, 0.03·4/3, 0.5
    adjusted = stats.benjamini_hochberg([0.03, None, 0.01, 0.5, 0.02])
    assert adjusted == pytest.approx([0.04, math.nan, 0.04, 0.5, 0.04], nan_ok=True)
    assert all(math.isnan(p) for p in stats.benjamini_hochberg([None]))


@given(st.lists(st.floats(0, 1), max_size=12))
def test_adjusted_p_is_never_smaller_and_holm_never_below_benjamini_hochberg(ps: list[float]) -> None:
    for p, bh, holm in zip(ps, stats.benjamini_hochberg(ps), stats.holm(ps), strict=True):
        assert p - 1e-12 <= bh <= holm + 1e-12


def test_equivalence_needs_the_whole_interval_strictly_inside() -> None:
    assert stats.equivalent((-0.04, 0.049), 0.05)
    assert not stats.equivalent((-0.04, 0.05), 0.05)
    assert not stats.equivalent((-0.06, 0.0), 0.05)
    assert not stats.equivalent(None, 0.05)


def test_minimum_detectable_effect_is_found_with_the_power_asked_for() -> None:
    effect = stats.minimum_detectable(0.02, alpha=0.05, power=0.8)
    assert distributions.norm.sf(1.959964 - effect / 0.02) == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("difference", [-0.3, 0.12, 0.0, 0.02, -0.03])
def test_n_to_settle_settles_with_the_power_asked_for(difference: float) -> None:
    spread, n = 0.6, 20
    needed = stats.n_to_settle(difference, spread / math.sqrt(n), n)
    assert needed is not None
    rng = np.random.default_rng(0)
    error = spread / math.sqrt(needed)
    seen = rng.normal(difference, error, 40_000)
    if abs(difference) > 0.05:
        settled = (np.abs(seen) / error > 1.96) & (np.abs(seen) >= 0.05)
    else:
        settled = np.abs(seen) + 1.645 * error < 0.05
    assert 0.79 < settled.mean() < 0.9


def test_no_n_settles_a_difference_on_the_boundary_or_an_unknown_one() -> None:
    assert stats.n_to_settle(0.05, 0.02, 100) is None
    assert stats.n_to_settle(-0.06, 0.02, 100, tau=0.08) is None
    assert stats.n_to_settle(0.0500001, 0.02, 100) is None
    assert stats.n_to_settle(math.nan, 0.02, 100) is None
    assert stats.n_to_settle(0.2, math.nan, 100) is None
    assert stats.n_to_settle(0.2, 0.001, 100) == 101


# ------------------------------------------------------------------------------------------------ lost items


def test_lost_items_widen_the_bounds_as_by_hand() -> None:
    found = stats.worst_case(ClusterTable([[30]], [[90]]), ClusterTable([[20]], [[60]]), [10], [40])
    assert found is not None
    assert found.base == pytest.approx((0.3, 0.4))
    assert found.tuned == pytest.approx((0.2, 0.6))
    assert found.difference == pytest.approx((-0.2, 0.3))


def test_nothing_lost_leaves_the_figure_alone() -> None:
    base, tuned = clustered(12)
    found = stats.worst_case(base, tuned, [0, 0], [0, 0])
    change = stats.estimate(tuned) - stats.estimate(base)
    assert found is not None
    assert found.difference == pytest.approx((change, change))


def test_an_arm_that_lost_everything_is_bounded_by_the_metric_and_never_looks_private() -> None:
    nothing = ClusterTable([[0]], [[0]])
    found = stats.worst_case(ClusterTable([[5]], [[10]]), nothing, [0], [10])
    assert found is not None
    assert found.tuned == (0.0, 1.0)
    assert stats.worst_case(nothing, nothing, [0], [10]) is None


def test_bounds_of_a_custom_figure_are_those_of_all_fillings() -> None:
    base, tuned = clustered(12)

    def criterion(ratios: np.ndarray) -> np.ndarray:
        return special.ndtri(np.clip(ratios[..., 0], 0.01, 0.99)) - special.ndtri(np.clip(ratios[..., 1], 0.01, 0.99))

    found = stats.worst_case(base, tuned, [3, 2], [0, 4], combine=criterion)
    sums = base.numerator.sum(axis=0), base.denominator.sum(axis=0) + np.array([3, 2])
    every = [criterion((sums[0] + np.array(fill)) / sums[1]) for fill in itertools.product(range(4), range(3))]
    assert found is not None
    assert found.base == pytest.approx((min(every), max(every)))


def test_too_many_strata_for_a_custom_figure_are_refused() -> None:
    table = ClusterTable(np.ones((1, 13)), np.ones((1, 13)))
    with pytest.raises(ValueError, match="at most 12 strata, got 13"):
        stats.worst_case(table, table, np.zeros(13), np.zeros(13), combine=d_prime)
