"""Intervals, paired tests, equivalence, AUC and power; numpy and scipy only, float64, seeded: same input, same answer.

Two arms are compared on the same clusters, and clusters are what is resampled or swapped. What cannot be known from
the data is None (an interval, a p) or nan (a value), never a zero-width interval. Formulas, sources and measured
coverage: docs/statistics.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy import stats as distributions

Array = NDArray[np.float64]
Combine = Callable[[Array], Array]
"""Ratios [..., strata] → figures [...]. Must be finite on every ratio within the bounds, the ends included."""
Interval = tuple[float, float]
Statistic = Callable[[Array], Array]

_CELLS = 4_000_000
"""Float64 cells of the largest temporary array: 32 MB."""
_PSEUDO_PAIR = 1.15
"""Weight of the pseudo-clusters under a difference. With Bonett and Price's 1, equivalence is granted up to 6.9 % of
the time at a true difference of ε when every change goes one way; with 1.15 at most 5.1 % (benchmarks/intervals.py)."""
_PSEUDO_ONE_ARM = 1.3
"""Under the interval of one arm: a rate of 0 then has the upper end of Wilson's interval."""
_TIE = 1e-10
"""Figures closer than this are equal: a permutation must not lose a tie to rounding."""


@dataclass(frozen=True)
class ClusterTable:
    """One metric in one arm: Σ numerator and Σ denominator, float64 [clusters, strata]; rows as in the other arm."""

    numerator: Array
    denominator: Array

    def __post_init__(self) -> None:
        for name in ("numerator", "denominator"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        if self.numerator.ndim != 2 or self.numerator.shape != self.denominator.shape or self.numerator.shape[1] == 0:
            shapes = f"{self.numerator.shape} and {self.denominator.shape}"
            raise ValueError(f"a cluster table needs two equal [clusters, strata] arrays, got {shapes}")
        finite = np.isfinite(self.numerator).all() and np.isfinite(self.denominator).all()
        if not finite or (self.denominator < 0).any():
            raise ValueError("a cluster table needs finite numerators and denominators of at least 0")


@dataclass(frozen=True)
class Paired:
    """tuned − base."""

    value: float
    """nan when an arm has a stratum without denominator."""
    interval95: Interval | None
    """None with fewer than two clusters, or when nothing bounds a figure that never moved."""
    interval90: Interval | None
    """The one `equivalent` reads."""
    p: float | None
    method: str
    standard_error: float


class Bounds(NamedTuple):
    """Lowest and highest figure that the lost items leave possible."""

    base: Interval
    tuned: Interval
    difference: Interval


# ------------------------------------------------------------------------------------------------ rates


def wilson(k: float, n: float, level: float = 0.95) -> Interval | None:
    """Score interval of a proportion (Wilson 1927); None when n is 0."""
    if n <= 0:
        return None
    z = float(special.ndtri((1 + level) / 2))
    p = k / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return (0.0 if k == 0 else (centre - half) / scale, 1.0 if k == n else (centre + half) / scale)


def clopper_pearson(k: int, n: int, level: float = 0.95) -> Interval | None:
    """Exact binomial interval (Clopper and Pearson 1934); None when n is 0."""
    if n <= 0:
        return None
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(special.betaincinv(k, n - k + 1, tail))
    return low, 1.0 if k == n else float(special.betaincinv(k + 1, n - k, 1 - tail))


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact p from the discordant pairs alone; no discordant pair, and one, give 1."""
    return float(distributions.binomtest(min(b, c), b + c, 0.5).pvalue) if b + c else 1.0


# ------------------------------------------------------------------------------------------------ figures


def _mean_over_strata(ratios: Array) -> Array:
    return np.asarray(ratios.mean(axis=-1))


def _figure(sums: Array, combine: Combine | None) -> Array:
    """Sums [..., 2, strata] (numerator, denominator) → figures [...]; nan where a stratum has no denominator."""
    denominator = sums[..., 1, :]
    empty = denominator <= _TIE
    ratios = sums[..., 0, :] / np.where(empty, 1.0, denominator)
    figures = np.asarray((combine or _mean_over_strata)(ratios), dtype=np.float64)
    return np.where(empty.any(axis=-1), np.nan, figures)


def _rows(table: ClusterTable) -> Array:
    """[clusters, 2, strata]"""
    return np.stack([table.numerator, table.denominator], axis=1)


def _pair_rows(base: ClusterTable, tuned: ClusterTable) -> Array:
    """[clusters, arms, 2, strata], without clusters that are empty in both arms."""
    if base.numerator.shape != tuned.numerator.shape:
        shapes = f"{base.numerator.shape} and {tuned.numerator.shape}"
        raise ValueError(f"two arms need tables over the same clusters and strata, got {shapes}")
    rows = np.stack([_rows(base), _rows(tuned)], axis=1)
    return rows[(rows[:, :, 1] > 0).any(axis=(1, 2))]


def _difference(sums: Array, combine: Combine | None) -> Array:
    figures = _figure(sums, combine)
    return np.asarray(figures[..., 1] - figures[..., 0])


def estimate(table: ClusterTable, combine: Combine | None = None) -> float:
    """The figure of one arm: by default the mean over strata of Σ numerator / Σ denominator; nan when one is empty."""
    return float(_figure(_rows(table).sum(axis=0), combine))


# ------------------------------------------------------------------------------------------------ bootstrap


def _distinct(rows: Array) -> tuple[Array, NDArray[np.int64]]:
    """The different rows, flattened and sorted, and how often each occurs: all that a resample depends on."""
    flat, counts = np.unique(rows.reshape(len(rows), -1), axis=0, return_counts=True)
    return flat, counts


def _resampled_sums(rows: Array, pseudo: Array, draws: int, rng: np.random.Generator) -> Array:
    """Sums [draws, …] over bootstrap samples of the rows and pseudo rows together."""
    flat, counts = _distinct(rows)
    weights = np.concatenate([counts, np.ones(len(pseudo), dtype=np.int64)])
    size, kinds = int(weights.sum()), len(weights)
    owner = np.repeat(np.arange(kinds), weights)
    kept = np.concatenate([flat, pseudo.reshape(len(pseudo), flat.shape[1])])
    sums = []
    step = max(1, _CELLS // max(size, kinds))
    for start in range(0, draws, step):
        n = min(step, draws - start)
        if kinds * 8 < size:  # a multinomial draw costs about as much as eight drawn clusters per kind of row
            drawn = rng.multinomial(size, weights / size, size=n)
        else:
            picks = owner[rng.integers(0, size, size=(n, size), dtype=np.int32)]
            picks += np.arange(n)[:, None] * kinds
            drawn = np.bincount(picks.ravel(), minlength=n * kinds).reshape(n, kinds)
        sums.append(drawn.astype(np.float64) @ kept)
    return np.concatenate(sums).reshape(draws, *rows.shape[1:])


def _quantiles(
    draws: Array, clusters: int, level: float, value: float = 0.0, skew: float | None = None
) -> Interval | None:
    """Bootstrap interval at the levels of t·√(k/(k−1)) in place of the normal quantile (Hesterberg 2015).

    Percentile, or BCa (Efron 1987) when the acceleration `skew` of the figure `value` is given. Counts make draws
    discrete: quantiles are read from the mid-distribution function (Ma, Genton and Parzen 2011). Draws that miss a
    stratum are left out; None when the figure cannot vary.
    """
    draws = draws[np.isfinite(draws)]
    if not math.isfinite(value) or not len(draws) or np.ptp(draws) <= _TIE:
        return None
    points, counts = np.unique(np.round(draws, 10), return_counts=True)
    below = (np.cumsum(counts) - counts / 2) / len(draws)
    reach = float(special.stdtrit(clusters - 1, (1 + level) / 2)) * math.sqrt(clusters / (clusters - 1))
    shifted = np.array([-reach, reach])
    if skew is not None:
        bias = float(special.ndtri(np.interp(value, points, below)))
        shifted = bias + (bias + shifted) / np.maximum(1 - skew * (bias + shifted), 0.05)
    ends = np.interp(special.ndtr(shifted), below, points)
    return float(ends[0]), float(ends[1])


def _acceleration(figure: Statistic, rows: Array) -> float:
    """A sixth of the skewness of the leave-one-cluster-out figures, turned round (Efron 1987)."""
    left_out = figure(rows.sum(axis=0) - rows)
    left_out = left_out[np.isfinite(left_out)]
    influence = left_out.mean() - left_out if len(left_out) else left_out
    spread = float((influence**2).sum()) ** 1.5
    return float((influence**3).sum()) / (6 * spread) if spread > 0 else 0.0


def _strata_share(denominator: Array) -> Array:
    """Per stratum: mean weight of a cluster that is in it, times (strata a cluster is in) / √strata.

    Pseudo-clusters move one stratum at a time. This size makes their joint effect on the mean over strata that of one
    cluster, whether clusters lie in one stratum or in all.
    """
    inside = denominator > 0
    mean = denominator.sum(axis=0) / np.maximum(inside.sum(axis=0), 1)
    touched = inside.sum() / max(int(inside.any(axis=1).sum()), 1)
    return np.asarray(mean * touched / math.sqrt(denominator.shape[1]))


def _pseudo_pairs(rows: Array, bounds: Interval | None) -> Array | None:
    """Two pseudo-clusters per stratum, one changed all the way up and one down [2·strata, arms, 2, strata].

    Bonett and Price (2012), carried to clusters: a pseudo-cluster changes as much as a cluster that did change
    (root mean square, with one whole cluster as 1/m-th observation beside m changed ones), so a set without any
    change is as uncertain as one whole cluster up and one whole cluster down. Without bounds there is no whole change:
    no pseudo-cluster is added, and None comes back when fewer than two clusters changed in a stratum, for nothing
    then says how large a change could be.
    """
    strata = rows.shape[-1]
    changed = (np.abs(rows[:, 1] - rows[:, 0]) > _TIE).any(axis=1)
    m = changed.sum(axis=0)
    if bounds is None:
        return np.zeros((0, 2, 2, strata)) if (m >= 2).all() else None
    low, high = bounds
    sums = rows.sum(axis=0)
    error = (rows[:, :, 0] - sums[:, 0] / sums[:, 1] * rows[:, :, 1]) / sums[:, 1]
    moved = (error[:, 1] - error[:, 0]) * sums[:, 1].mean(axis=0)
    weight = rows[:, :, 1].max(axis=1)
    whole = weight.sum(axis=0) / (weight > 0).sum(axis=0) * (high - low)
    squares = (np.where(changed, moved / whole, 0.0) ** 2).sum(axis=0)
    prior = 1 / np.maximum(m, 1)
    size = _PSEUDO_PAIR * _strata_share(weight) * np.where(m == 0, 1.0, np.sqrt((squares + prior) / (m + prior)))
    pseudo = np.zeros((2, strata, 2, 2, strata))
    for s in range(strata):
        pseudo[:, s, :, 1, s] = size[s]
        pseudo[0, s, :, 0, s] = size[s] * low, size[s] * high
        pseudo[1, s, :, 0, s] = size[s] * high, size[s] * low
    return pseudo.reshape(2 * strata, 2, 2, strata)


def _spread(draws: Array, clusters: int) -> float:
    """Standard error from bootstrap draws, unbiased for few clusters."""
    return float(np.nanstd(draws)) * math.sqrt(clusters / (clusters - 1))


def interval(
    table: ClusterTable,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
    combine: Combine | None = None,
    bounds: Interval | None = (0.0, 1.0),
) -> Interval | None:
    """Interval of one arm's figure, clusters resampled; `bounds` are those of a stratum's ratio.

    Wilson where every cluster is one 0/1 item of a single stratum. Otherwise percentiles with, per stratum, a
    pseudo-cluster at either bound that weighs 1.3 effective items (Σe²/(p(1−p)Σd) items make one): a rate of 0 or 1
    keeps an interval, and the centre moves as Wilson's does, which is why BCa would correct twice. BCa without bounds.
    None when there is no figure, fewer than two clusters, or no bounds and no variation.
    """
    rows = _rows(table)
    rows = rows[(rows[:, 1] > 0).any(axis=1)]
    clusters, _, strata = rows.shape
    sums = rows.sum(axis=0)
    if clusters == 0 or (sums[1] <= 0).any():
        return None
    if strata == 1 and combine is None and bounds == (0.0, 1.0) and _single_items(rows):
        return wilson(float(sums[0, 0]), clusters, level)
    if clusters < 2:
        return None
    pseudo = np.zeros((0, 2, strata))
    if bounds is not None:
        low, high = bounds
        rate = (sums[0] / sums[1] - low) / (high - low)
        error = (rows[:, 0] - sums[0] / sums[1] * rows[:, 1]) / (high - low)
        inside = np.maximum((rows[:, 1] > 0).sum(axis=0), 1)
        chance = rate * (1 - rate) * sums[1]
        effect = np.where(chance > _TIE, (error**2).sum(axis=0) / np.where(chance > _TIE, chance, 1), sums[1] / inside)
        weight = _PSEUDO_ONE_ARM * effect * _strata_share(rows[:, 1]) * inside / sums[1]
        pseudo = np.zeros((2, strata, 2, strata))
        for s, side in itertools.product(range(strata), (0, 1)):
            pseudo[side, s, :, s] = weight[s] * np.array([bounds[side], 1.0])
        pseudo = pseudo.reshape(2 * strata, 2, strata)
    sampled = _resampled_sums(rows, pseudo, draws, np.random.default_rng(seed))
    value = float(_figure(sums, combine))
    skew = _acceleration(lambda total: _figure(total, combine), rows) if bounds is None else None
    ends = _quantiles(_figure(sampled, combine), clusters, level, value, skew)
    return None if ends is None else (min(ends[0], value), max(ends[1], value))


def _single_items(rows: Array) -> bool:
    """Whether every cluster [..., 2, 1] is one item with the value 0 or 1."""
    return bool((rows[..., 1, :] == 1).all() and np.isin(rows[..., 0, :], (0.0, 1.0)).all())


# ------------------------------------------------------------------------------------------------ paired comparison


def paired(
    base: ClusterTable,
    tuned: ClusterTable,
    *,
    draws: int = 10_000,
    seed: int = 0,
    combine: Combine | None = None,
    binary: bool = False,
    bounds: Interval | None = (0.0, 1.0),
) -> Paired:
    """tuned − base on the same clusters: BCa intervals over clusters and pseudo-clusters, and a paired test.

    `binary` says that the metric is one 0/1 item per cluster, for which the test is the exact McNemar; where the
    tables do not bear that out, and otherwise, arms are swapped within clusters. `bounds` are those of a stratum's
    ratio (None: unbounded, such as nats). No cluster: all nan and None. One cluster: no interval, and p is 1.
    """
    rows = _pair_rows(base, tuned)
    clusters = len(rows)
    sums = rows.sum(axis=0)
    value = float(_difference(sums, combine)) if clusters else math.nan
    if not math.isfinite(value):
        return Paired(math.nan, None, None, None, "not tested: an arm has nothing to measure", math.nan)
    rng = np.random.default_rng(seed)
    if binary and rows.shape[-1] == 1 and combine is None and _single_items(rows):
        change = rows[:, 1, 0, 0] - rows[:, 0, 0, 0]
        p, method = mcnemar_exact(int((change < 0).sum()), int((change > 0).sum())), "exact McNemar"
    else:
        p, method = _sign_flip(rows, draws, rng, combine)
    pseudo = _pseudo_pairs(rows, bounds)
    if clusters < 2 or pseudo is None:
        return Paired(value, None, None, p, method, math.nan)

    def figure(total: Array) -> Array:
        return _difference(total, combine)

    every = np.concatenate([rows, pseudo])
    centre, skew = float(figure(every.sum(axis=0))), _acceleration(figure, every)
    drawn = figure(_resampled_sums(rows, pseudo, draws, rng))
    wide, narrow = (_quantiles(drawn, clusters, level, centre, skew) for level in (0.95, 0.90))
    if wide is None or narrow is None:
        return Paired(value, None, None, p, method, math.nan)
    wide, narrow = ((min(low, value), max(high, value)) for low, high in (wide, narrow))
    return Paired(value, wide, narrow, p, method, _spread(drawn, clusters))


def _sign_flip(rows: Array, draws: int, rng: np.random.Generator, combine: Combine | None) -> tuple[float, str]:
    """Two-sided p of |tuned − base| when the arms of each cluster are exchangeable, and which test gave it.

    All 2^k swaps of the k clusters that changed when there are at most `draws`, else Monte Carlo with the observed
    table counted in (Phipson and Smyth 2010).
    """
    total = rows.sum(axis=0)
    flat, counts = _distinct(rows[:, ::-1] - rows)
    moves = (np.abs(flat) > _TIE).any(axis=1)
    flat, counts = flat[moves], counts[moves]
    exact = int(counts.sum()) <= math.log2(draws)
    if exact:
        # of m equal clusters, j are swapped in C(m, j) of the 2^m ways
        swaps = np.array(list(itertools.product(*(range(c + 1) for c in counts))), dtype=np.float64)
        ways = special.comb(counts, swaps).prod(axis=1)
    observed = abs(float(_difference(total, combine)))
    extreme, step = 0.0, max(1, _CELLS // max(1, len(flat)))
    for start in range(0, len(swaps) if exact else draws, step):
        if exact:
            part, weight = swaps[start : start + step], ways[start : start + step]
        else:
            part = rng.binomial(counts, 0.5, size=(min(step, draws - start), len(counts))).astype(np.float64)
            weight = np.ones(len(part))
        figures = np.abs(_difference(total + (part @ flat).reshape(-1, *total.shape), combine))
        # a swap that empties a stratum has no figure; counting it as extreme keeps the test valid
        extreme += float(weight[~(figures < observed - _TIE)].sum())
    if exact:
        return extreme / float(ways.sum()), "exact cluster sign-flip"
    return (extreme + 1) / (draws + 1), f"cluster sign-flip permutation, {draws} draws"


@dataclass(frozen=True)
class Seeds:
    """tuned − base over several training seeds."""

    value: float
    """Mean over seeds."""
    interval95: Interval | None
    interval90: Interval | None
    p: float | None
    standard_error: float
    seed_share: float
    """Share of the variance that comes from the training seed."""


def hierarchical_bootstrap(
    pairs: Sequence[tuple[ClusterTable, ClusterTable]],
    *,
    draws: int = 10_000,
    seed: int = 0,
    combine: Combine | None = None,
    bounds: Interval | None = (0.0, 1.0),
) -> Seeds:
    """Mean difference over training seeds: seeds are resampled first, then clusters, the same clusters in every seed.

    `pairs` holds (base, tuned) of each seed, all over the same clusters. The seeds' part of the variance is scaled by
    S/(S−1); the interval is value ± t·SE with Satterthwaite's degrees of freedom, since a percentile of three seeds
    means nothing. One seed says nothing about others: the interval is None.
    """
    rows = np.stack([np.stack([_rows(base), _rows(tuned)], axis=1) for base, tuned in pairs], axis=1)
    rows = rows[(rows[:, :, :, 1] > 0).any(axis=(1, 2, 3))]
    clusters, n_seeds = rows.shape[:2]
    value = float(_difference(rows.sum(axis=0), combine).mean()) if clusters else math.nan
    pseudo = [_pseudo_pairs(rows[:, s], bounds) for s in range(n_seeds)] if math.isfinite(value) else []
    known = [p for p in pseudo if p is not None]
    if n_seeds < 2 or clusters < 2 or len(known) < n_seeds:
        return Seeds(value, None, None, None, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    by_seed = _difference(_resampled_sums(rows, np.stack(known, axis=1), draws, rng), combine)
    by_seed = by_seed[np.isfinite(by_seed).all(axis=1)]
    over_items = by_seed.mean(axis=1)
    chosen = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=len(by_seed)) / n_seeds
    over_seeds = (chosen * (by_seed - over_items[:, None])).sum(axis=1) * math.sqrt(n_seeds / (n_seeds - 1))
    items = float(over_items.var()) * clusters / (clusters - 1)
    training = float(over_seeds.var())
    variance = items + training
    freedom = variance**2 / (items**2 / (clusters - 1) + training**2 / (n_seeds - 1))
    error = math.sqrt(variance)
    half95, half90 = (float(special.stdtrit(freedom, q)) * error for q in (0.975, 0.95))
    p = 2 * float(special.stdtr(freedom, -abs(value) / error))
    return Seeds(
        value, (value - half95, value + half95), (value - half90, value + half90), p, error, training / variance
    )


def mean_of(values: Sequence[float], errors: Sequence[float] = ()) -> tuple[float, Interval, Interval, float]:
    """Mean of independent values with its t intervals (95 %, 90 %) and the two-sided p of a mean of 0.

    `errors`: each value's standard error over items that all values share, which no further value makes smaller; the
    degrees of freedom are then Satterthwaite's. At least two values, not all equal: no spread, no interval.
    """
    n, mean = len(values), float(np.mean(values))
    spread, shared = float(np.var(values, ddof=1)) / n, float(np.mean(np.square(errors))) if len(errors) else 0.0
    freedom = (n - 1) * ((spread + shared) / spread) ** 2
    error = math.sqrt(spread + shared)
    half95, half90 = (float(special.stdtrit(freedom, q)) * error for q in (0.975, 0.95))
    p = 2 * float(special.stdtr(freedom, -abs(mean) / error))
    return mean, (mean - half95, mean + half95), (mean - half90, mean + half90), p


# ------------------------------------------------------------------------------------------------ many tests, verdicts


def holm(ps: Sequence[float | None]) -> list[float]:
    """Adjusted p (Holm 1979), in the order given; None and nan are no tests: they stay nan and are not counted."""
    values = np.array([math.nan if p is None else p for p in ps], dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    values[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)), 1.0)
    return [float(v) for v in values]


def benjamini_hochberg(ps: Sequence[float | None]) -> list[float]:
    """Adjusted p (Benjamini and Hochberg 1995), in the order given; None and nan as in `holm`."""
    values = np.array([math.nan if p is None else p for p in ps], dtype=np.float64)
    tested = ~np.isnan(values)
    if tested.any():
        values[tested] = distributions.false_discovery_control(values[tested])
    return [float(v) for v in values]


def equivalent(interval90: Interval | None, epsilon: float) -> bool:
    """Two one-sided tests at 5 % (Schuirmann 1987): the 90 % interval lies strictly inside ±epsilon."""
    return interval90 is not None and -epsilon < interval90[0] and interval90[1] < epsilon


def minimum_detectable(standard_error: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true difference that a two-sided test at `alpha` finds with probability `power`."""
    return float(special.ndtri(1 - alpha / 2) + special.ndtri(power)) * standard_error


def n_to_settle(
    difference: float,
    standard_error: float,
    n: int,
    *,
    tau: float = 0.05,
    epsilon: float = 0.05,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int | None:
    """Items that settle the question with probability `power` if the true difference is the observed one; n < result.

    Settled is: significant at `alpha` and seen at `tau` or more, or equivalent within `epsilon`. The standard error is
    taken to shrink with √n. None when the difference lies on a boundary or between them (no n, or over 10 million),
    or when difference or error is not known.
    """
    if not (math.isfinite(difference) and math.isfinite(standard_error) and n > 0):
        return None
    size, beta = abs(difference), float(special.ndtri(power))
    if size > tau:
        reach = max((float(special.ndtri(1 - alpha / 2)) + beta) / size, beta / (size - tau))
    elif size < epsilon:
        # both one-sided tests must pass: near 0 either can fail, and 1 − power is shared between them
        far = float(special.ndtri(0.95)) + float(special.ndtri((1 + power) / 2))
        reach = max((float(special.ndtri(0.95)) + beta) / (epsilon - size), far / epsilon)
    else:
        return None
    needed = n * (reach * standard_error) ** 2
    return max(n + 1, math.ceil(needed)) if needed <= 1e7 else None


def worst_case(
    base: ClusterTable,
    tuned: ClusterTable,
    base_lost: ArrayLike,
    tuned_lost: ArrayLike,
    *,
    combine: Combine | None = None,
    bounds: Interval = (0.0, 1.0),
) -> Bounds | None:
    """What the lost items could do at most: lost denominators [strata] of each arm, at one bound or at the other.

    Each arm's table holds what that arm scored, whatever the other arm did. A custom `combine` must be monotone in
    each ratio: its extremes are then at the 2^strata corners, which are all tried (at most 12 strata). None when an
    arm has a stratum with nothing scored and nothing lost.
    """
    ends = []
    strata = base.numerator.shape[1]
    if combine is not None and strata > 12:
        raise ValueError(f"bounds of a custom figure are tried corner by corner for at most 12 strata, got {strata}")
    sides = [(0,) * strata, (1,) * strata] if combine is None else list(itertools.product((0, 1), repeat=strata))
    corners = np.asarray(bounds)[np.array(sides)]
    for table, lost in ((base, np.asarray(base_lost, float)), (tuned, np.asarray(tuned_lost, float))):
        sums = _rows(table).sum(axis=0)
        filled = np.stack([sums[0] + corners * lost, np.broadcast_to(sums[1] + lost, corners.shape)], axis=1)
        figures = _figure(filled, combine)
        if not np.isfinite(figures).all():
            return None
        ends.append((float(figures.min()), float(figures.max())))
    (base_low, base_high), (tuned_low, tuned_high) = ends
    return Bounds(ends[0], ends[1], (tuned_low - base_high, tuned_high - base_low))
