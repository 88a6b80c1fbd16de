"""The statistics by simulation and by exact enumeration of all tables; the larger tables: benchmarks/intervals.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow

SIMS = 400
NOISE = 0.033
"""Three standard errors of a share of 0.95 over 400 simulations, so that a sound interval passes."""


@pytest.fixture(scope="module")
def intervals() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "intervals.py"
    spec = importlib.util.spec_from_file_location("intervals", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["intervals"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("base", "difference"), [(0.3, 0.0), (0.3, 0.05), (0.3, 0.2), (0.9, 0.2), (0.05, 0.2)])
def test_paired_intervals_of_single_items_cover_at_95_percent_exactly(
    intervals: ModuleType, base: float, difference: float
) -> None:
    _, up, down = intervals.shares(base, difference)
    cover, _ = intervals.exact_cell(200, up, down, intervals.SinglePairs(2000))
    assert 0.935 <= cover <= 0.965


@pytest.mark.parametrize("n", [50, 59, 80, 95, 200])
def test_equivalence_is_granted_at_most_five_percent_of_the_time_at_a_difference_of_epsilon(
    intervals: ModuleType, n: int
) -> None:
    for other in (0.0, 0.01):
        _, granted = intervals.exact_cell(n, other, 0.05 + other, intervals.SinglePairs(10_000))
        assert granted <= 0.05


@pytest.mark.parametrize(
    "layout", ["clusters of 4, 1 stratum", "single items, 2 strata", "clusters of 4, 2 strata within"]
)
@pytest.mark.parametrize("difference", [0.0, 0.2])
def test_paired_intervals_cover_with_clusters_and_strata(intervals: ModuleType, layout: str, difference: float) -> None:
    cover = intervals.paired_coverage(layout, 200, 0.3, difference, SIMS, 800, 0)
    assert 0.95 - NOISE <= cover <= 0.95 + NOISE


@pytest.mark.parametrize("bounded", [True, False])
def test_paired_intervals_cover_for_twenty_ragged_users(intervals: ModuleType, bounded: bool) -> None:
    cover = intervals.continuous_coverage(20, 0.2, SIMS, 800, 0, bounded)
    assert 0.95 - NOISE <= cover <= 0.95 + NOISE


def test_intervals_of_a_curved_figure_cover(intervals: ModuleType) -> None:
    assert 0.95 - NOISE <= intervals.d_prime_coverage(200, SIMS, 800, 0) <= 0.95 + NOISE


@pytest.mark.parametrize("layout", ["clusters of 4, 1 stratum", "single items, 2 strata"])
def test_one_arms_interval_covers(intervals: ModuleType, layout: str) -> None:
    assert 0.95 - NOISE <= intervals.arm_coverage(layout, 200, 0.3, SIMS, 800, 0) <= 0.95 + NOISE


def test_false_alarms_over_five_metrics_stay_under_five_percent_after_holm(intervals: ModuleType) -> None:
    found = intervals.false_alarms(SIMS, 500, 0)
    assert found["any Holm p"] <= 0.05
    assert found["any raw p"] > found["any Holm p"]


def test_auc_intervals_cover(intervals: ModuleType) -> None:
    for cover in intervals.auc_coverage(200, 0.5, SIMS, 500, 0):
        assert 0.95 - NOISE <= cover <= 0.95 + NOISE
