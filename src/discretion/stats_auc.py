"""ROC curves: AUC with DeLong's error, paired and clustered differences, and the rate at a fixed false positive rate.

Own implementation on midranks; numpy and scipy only, float64, seeded. Labels: 1 is positive and should score higher.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy import stats as distributions

from discretion.stats import Interval, Paired, clopper_pearson, wilson

Array = NDArray[np.float64]

_CELLS = 1_000_000
"""Float64 cells of the largest temporary array: 8 MB."""
_TIE = 1e-10
LEAST_ALLOWED = 2
"""Negatives above a threshold, from which on it is known well enough to give an interval: 299 negatives at 1 %."""


@dataclass(frozen=True)
class AUC:
    """Area under the ROC curve; nan and None when a class is missing (interval: has fewer than two items)."""

    value: float
    standard_error: float
    interval95: Interval | None


class OperatingPoint(NamedTuple):
    """True positive rate at the loosest threshold whose false positive rate stays at or under the target."""

    tpr: float
    interval95: Interval | None
    """Bootstrap over items, the threshold drawn anew with them; None where fewer than `LEAST_ALLOWED` may pass."""
    achieved_fpr: float


def _curve_input(scores: ArrayLike, labels: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    if values.ndim != 1 or values.shape != positive.shape or np.isnan(values).any():
        raise ValueError(f"scores and labels must be two equal lists without nan, got {values.shape}, {positive.shape}")
    return values, positive


def _placements(scores: Array, positive: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Share of negatives under each positive, and of positives above each negative, ties half (Sun and Xu 2014)."""
    ranks = distributions.rankdata(scores)
    pos, neg = scores[positive], scores[~positive]
    above = (ranks[positive] - distributions.rankdata(pos)) / len(neg)
    return above, 1 - (ranks[~positive] - distributions.rankdata(neg)) / len(pos)


def auc(scores: ArrayLike, labels: ArrayLike) -> AUC:
    """Area under the ROC curve (labels: 1 is positive and should score higher) with DeLong's (1988) standard error.

    The interval is taken on the logit scale. Where every placement is alike (perfect separation, or its reverse), it
    is Wilson's for as many items as the smaller class, since Var ≤ A(1−A)/min(m, n) (Birnbaum and Klose 1957).
    """
    values, positive = _curve_input(scores, labels)
    m, n = int(positive.sum()), int((~positive).sum())
    if m == 0 or n == 0:
        return AUC(math.nan, math.nan, None)
    above, below = _placements(values, positive)
    area = float(above.mean())
    if m < 2 or n < 2:
        return AUC(area, math.nan, None)
    error = math.sqrt(float(above.var(ddof=1)) / m + float(below.var(ddof=1)) / n)
    if error <= _TIE:
        return AUC(area, error, wilson(area * min(m, n), min(m, n)))
    half = 1.959963984540054 * error / (area * (1 - area))
    logit = float(special.logit(area))
    return AUC(area, error, (float(special.expit(logit - half)), float(special.expit(logit + half))))


def auc_difference(scores_base: ArrayLike, scores_tuned: ArrayLike, labels: ArrayLike) -> Paired:
    """AUC(tuned) − AUC(base) on the same items, DeLong's (1988) covariance; normal intervals and p.

    Where fewer than ten items changed their placement, the normal approximation has nothing to stand on: intervals are
    then no narrower than z²/(n + z²), the score interval of n pairs that all agree, n the smaller class.
    """
    values, positive = _curve_input(scores_base, labels)
    other, _ = _curve_input(scores_tuned, labels)
    m, n = int(positive.sum()), int((~positive).sum())
    if m == 0 or n == 0:
        return Paired(math.nan, None, None, None, "not tested: a class is missing", math.nan)
    gain_pos, gain_neg = (
        t - b for b, t in zip(_placements(values, positive), _placements(other, positive), strict=True)
    )
    value = float(gain_pos.mean())
    if m < 2 or n < 2:
        return Paired(value, None, None, None, "not tested: a class has one item", math.nan)
    error = math.sqrt(float(gain_pos.var(ddof=1)) / m + float(gain_neg.var(ddof=1)) / n)
    moved = int((np.abs(gain_pos) > _TIE).sum() + (np.abs(gain_neg) > _TIE).sum())

    def ends(level: float) -> Interval:
        z = float(special.ndtri((1 + level) / 2))
        half = max(z * error, z * z / (min(m, n) + z * z) if moved < 10 else 0.0)
        return max(value - half, -1.0), min(value + half, 1.0)

    p = 2 * float(special.ndtr(-abs(value) / error)) if error > _TIE else 1.0
    return Paired(value, ends(0.95), ends(0.90), p, "paired DeLong", error)


def clustered_auc_difference(
    scores_base: ArrayLike,
    scores_tuned: ArrayLike,
    labels: ArrayLike,
    clusters: Sequence[Any] | NDArray[Any],
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> Paired:
    """AUC(tuned) − AUC(base) where items of one cluster stand or fall together.

    Interval: percentile bootstrap over clusters at Hesterberg's levels, no narrower than z²/(k + z²) for k clusters
    where fewer than ten clusters changed. Test: ranks within each arm are swapped by cluster (Venkatraman and Begg
    1996), all swaps when there are at most `draws`.
    """
    values, positive = _curve_input(scores_base, labels)
    other, _ = _curve_input(scores_tuned, labels)
    _, owner = np.unique(np.asarray(clusters), return_inverse=True)
    if owner.shape != positive.shape:
        raise ValueError(f"every item needs a cluster, got {owner.shape} for {positive.shape}")
    k = int(owner.max()) + 1 if len(owner) else 0
    if not positive.any() or positive.all():
        return Paired(math.nan, None, None, None, "not tested: a class is missing", math.nan)
    ranks = np.stack([distributions.rankdata(values), distributions.rankdata(other)])
    rng = np.random.default_rng(seed)
    value = float(np.diff(_rank_auc(ranks, positive))[0])
    p, method = _rank_swap(ranks, positive, owner, k, abs(value), draws, rng)
    if k < 2:
        return Paired(value, None, None, p, method, math.nan)
    resampled = _resampled_auc_difference(ranks, positive, owner, k, draws, rng)
    resampled = resampled[np.isfinite(resampled)]
    if not len(resampled):
        return Paired(value, None, None, p, method, math.nan)
    placed = [np.concatenate(_placements(r, positive)) for r in ranks]
    order = np.concatenate([owner[positive], owner[~positive]])
    changed = len(np.unique(order[np.abs(placed[1] - placed[0]) > _TIE]))

    return _bootstrapped(resampled, value, k, p, method, few=k if changed < 10 else None)


def _rank_auc(scores: Array, positive: NDArray[np.bool_]) -> Array:
    """AUC of each row [..., items]."""
    m, n = int(positive.sum()), int((~positive).sum())
    ranks = distributions.rankdata(scores, axis=-1)
    return np.asarray((ranks[..., positive].sum(axis=-1) - m * (m + 1) / 2) / (m * n))


def _rank_swap(
    ranks: Array, positive: NDArray[np.bool_], owner: NDArray[np.intp], k: int, observed: float, draws: int, rng: Any
) -> tuple[float, str]:
    exact = k <= math.log2(draws)
    total = 2**k if exact else draws
    extreme, step = 0, max(1, _CELLS // (len(owner)))
    for start in range(0, total, step):
        n = min(step, total - start)
        if exact:
            swap = (np.arange(start, start + n)[:, None] >> np.arange(k)) & 1
        else:
            swap = rng.integers(0, 2, size=(n, k), dtype=np.int8)
        mixed = np.where(swap[:, owner] == 1, ranks[1], ranks[0]), np.where(swap[:, owner] == 1, ranks[0], ranks[1])
        change = _rank_auc(mixed[1], positive) - _rank_auc(mixed[0], positive)
        extreme += int((np.abs(change) >= observed - _TIE).sum())
    if exact:
        return extreme / total, "exact cluster rank swap"
    return (extreme + 1) / (draws + 1), f"cluster rank swap, {draws} draws"


def _resampled_auc_difference(
    ranks: Array, positive: NDArray[np.bool_], owner: NDArray[np.intp], k: int, draws: int, rng: Any
) -> Array:
    """[draws]; nan where a class is missing from the sample."""
    plans = []
    for scores in ranks:
        order = np.argsort(scores, kind="stable")
        starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) > 0)
        plans.append((order, starts))
    out, step = [], max(1, _CELLS // (max(len(owner), k)))
    for start in range(0, draws, step):
        n = min(step, draws - start)
        picks = rng.integers(0, k, size=(n, k)) + np.arange(n)[:, None] * k
        weight = np.bincount(picks.ravel(), minlength=n * k).reshape(n, k)[:, owner].astype(np.float64)
        up, down = weight * positive, weight * ~positive
        pairs = up.sum(axis=1) * down.sum(axis=1)
        areas = []
        for order, starts in plans:
            ups = np.add.reduceat(up[:, order], starts, axis=1)
            downs = np.add.reduceat(down[:, order], starts, axis=1)
            areas.append((ups * (np.cumsum(downs, axis=1) - downs / 2)).sum(axis=1))
        out.append(np.where(pairs > 0, (areas[1] - areas[0]) / np.where(pairs > 0, pairs, 1), np.nan))
    return np.concatenate(out)


def _allowed(negatives: int, fpr: float) -> int:
    """How many negatives may pass, so that one more, like them, passes in at most `fpr` of cases; −1: not even 0."""
    return math.floor(fpr * (negatives + 1) + 1e-9) - 1


def _threshold(falling: Array, fpr: float) -> float | None:
    """The score of the highest of the negatives, given in falling order, that may not pass."""
    allowed = _allowed(len(falling), fpr)
    if allowed < 0:
        return None
    return float(falling[allowed]) if allowed < len(falling) else -math.inf


def beyond_fpr(scores: ArrayLike, labels: ArrayLike, fpr: float) -> NDArray[np.bool_] | None:
    """Which items score above the threshold of `tpr_at_fpr`; None where the rate cannot be observed."""
    values, positive = _curve_input(scores, labels)
    threshold = _threshold(np.sort(values[~positive])[::-1], fpr)
    return None if threshold is None else values > threshold


def tpr_of_chance(negatives: int, fpr: float) -> float:
    """Chance of a positive that is like the negatives to pass the threshold of `tpr_at_fpr`: at most `fpr`."""
    return (_allowed(negatives, fpr) + 1) / (negatives + 1)


def tpr(scores: ArrayLike, labels: ArrayLike, fpr: float) -> float:
    """The rate of `tpr_at_fpr` alone; nan where that is None."""
    values, positive = _curve_input(scores, labels)
    threshold = _threshold(np.sort(values[~positive])[::-1], fpr)
    if not positive.any() or threshold is None:
        return math.nan
    if np.ptp(values) == 0:
        return tpr_of_chance(int((~positive).sum()), fpr)
    return float((values[positive] > threshold).mean())


def tpr_at_fpr(
    scores: ArrayLike, labels: ArrayLike, fpr: float, *, draws: int = 2_000, seed: int = 0
) -> OperatingPoint | None:
    """True positive rate where at most ⌊fpr·(negatives + 1)⌋ − 1 negatives score above the threshold, ties against.

    So many and no more, since one more item like the negatives then passes in at most `fpr` of cases (the quantile of
    conformal prediction; with 1,000 negatives the last point of the curve below `fpr`, as Carlini et al. 2022 read it).
    None where not even 0 may pass, with fewer than 1/fpr − 1 negatives, or without positives. Scores that are all equal
    tell nothing: theirs is the rate of chance.
    """
    values, positive = _curve_input(scores, labels)
    rate, ends, neg = tpr(values, positive, fpr), None, values[~positive]
    threshold = _threshold(np.sort(neg)[::-1], fpr)
    if math.isnan(rate) or threshold is None:
        return None
    if np.ptp(values) == 0:
        return OperatingPoint(rate, (rate, rate), fpr)
    if _allowed(len(neg), fpr) >= LEAST_ALLOWED:
        k = len(values)
        resampled = _resampled_tpr(values, positive, np.arange(k), k, fpr, draws, np.random.default_rng(seed))
        ends = _percentiles(resampled, rate, k, 0.95, 0.0)
        members = int(positive.sum())
        surely = clopper_pearson(round(rate * members), members)
        assert surely is not None
        # where no draw differs, such as at 0 and 1
        ends = min(ends[0], surely[0]), max(ends[1], surely[1])
    return OperatingPoint(rate, ends, float((neg > threshold).mean()))


def _percentiles(resampled: Array, value: float, k: int, level: float, floor: float) -> Interval:
    """Bootstrap percentiles at Hesterberg's (2015) levels for k clusters, no nearer to the value than `floor`."""
    reach = _reach(k, level)
    low, high = np.quantile(resampled[np.isfinite(resampled)], special.ndtr([-reach, reach]))
    return min(float(low), value - floor), max(float(high), value + floor)


def _reach(k: int, level: float) -> float:
    return float(special.stdtrit(k - 1, (1 + level) / 2)) * math.sqrt(k / (k - 1))


def tpr_difference(
    scores_base: ArrayLike,
    scores_tuned: ArrayLike,
    labels: ArrayLike,
    fpr: float,
    clusters: Sequence[Any] | NDArray[Any],
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> Paired:
    """`tpr_at_fpr` of the tuned model less that of the base, each arm's threshold drawn anew with its items.

    Interval: percentile bootstrap over clusters at Hesterberg's levels, no narrower than z²/(m + z²) for m positives
    where fewer than ten changed sides. Test, for clusters of one item: the arms' ranks are swapped item by item; where
    the base's scores are all equal (a score that compares the arms) the labels are permuted instead, around the rate
    of chance. nan where the rate cannot be observed.
    """
    values, positive = _curve_input(scores_base, labels)
    other, _ = _curve_input(scores_tuned, labels)
    start = tpr(values, positive, fpr)
    value = tpr(other, positive, fpr) - start
    if math.isnan(value):
        return Paired(math.nan, None, None, None, "not tested: too few items for this rate", math.nan)
    ranks = np.stack([distributions.rankdata(values), distributions.rankdata(other)])
    flat = bool(np.ptp(values) == 0)
    _, owner = np.unique(np.asarray(clusters), return_inverse=True)
    k = int(owner.max()) + 1
    rng = np.random.default_rng(seed)
    p, method = None, "not tested: clusters of several items"
    if k == len(values):
        test = _permuted_tpr if flat else _swapped_tpr
        extreme = int((np.abs(test(ranks, positive, fpr, draws, rng)) >= abs(value) - _TIE).sum())
        p, method = (extreme + 1) / (draws + 1), f"{'label permutation' if flat else 'rank swap'}, {draws} draws"
    if _allowed(int((~positive).sum()), fpr) < LEAST_ALLOWED or k < 2:
        return Paired(value, None, None, p, method, math.nan)

    def drawn(scores: Array) -> Array:
        # the same seed draws the same items for both arms
        return _resampled_tpr(scores, positive, owner, k, fpr, draws, np.random.default_rng(seed))

    resampled = drawn(ranks[1]) - (start if flat else drawn(ranks[0]))
    resampled = resampled[np.isfinite(resampled)]
    m, caught = int(positive.sum()), [beyond_fpr(scores, positive, fpr) for scores in (values, other)]
    moved = int((caught[0] != caught[1])[positive].sum())  # type: ignore[index]

    return _bootstrapped(resampled, value, k, p, method, few=m if moved < 10 else None)


def _bootstrapped(resampled: Array, value: float, k: int, p: float | None, method: str, *, few: int | None) -> Paired:
    """A difference with its percentile intervals; where `few` is given, no narrower than z²/(few + z²)."""

    def ends(level: float) -> Interval:
        reach = _reach(k, level)
        low, high = _percentiles(resampled, value, k, level, 0.0 if few is None else reach**2 / (few + reach**2))
        return max(-1.0, low), min(1.0, high)

    return Paired(value, ends(0.95), ends(0.90), p, method, float(resampled.std()) * math.sqrt(k / (k - 1)))


def _tprs(scores: Array, positive: NDArray[np.bool_], fpr: float) -> Array:
    """[draws] from scores [draws, items]."""
    allowed = _allowed(int((~positive).sum()), fpr)
    threshold = np.partition(scores[:, ~positive], -1 - allowed, axis=1)[:, -1 - allowed]
    return np.asarray((scores[:, positive] > threshold[:, None]).mean(axis=1))


def _permuted_tpr(ranks: Array, positive: NDArray[np.bool_], fpr: float, draws: int, rng: Any) -> Array:
    chance = tpr_of_chance(int((~positive).sum()), fpr)
    return np.concatenate(
        [_tprs(rng.permuted(np.tile(ranks[1], (n, 1)), axis=1), positive, fpr) - chance for n in _steps(ranks, draws)]
    )


def _swapped_tpr(ranks: Array, positive: NDArray[np.bool_], fpr: float, draws: int, rng: Any) -> Array:
    found = []
    for n in _steps(ranks, draws):
        swap = rng.integers(0, 2, size=(n, ranks.shape[1]), dtype=np.int8) == 1
        arms = np.where(swap, ranks[1], ranks[0]), np.where(swap, ranks[0], ranks[1])
        found.append(_tprs(arms[1], positive, fpr) - _tprs(arms[0], positive, fpr))
    return np.concatenate(found)


def _steps(ranks: Array, draws: int) -> list[int]:
    """How many draws to make at once, until all are made."""
    step = max(1, _CELLS // ranks.shape[1])
    return [min(step, draws - start) for start in range(0, draws, step)]


def _resampled_tpr(
    scores: Array, positive: NDArray[np.bool_], owner: NDArray[np.intp], k: int, fpr: float, draws: int, rng: Any
) -> Array:
    """[draws]; nan where a sample has no positive or no negative."""
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    group = np.flatnonzero(np.diff(falling, prepend=np.inf) < 0)
    first = group[np.cumsum(np.isin(np.arange(len(falling)), group)) - 1]
    out = []
    for n in _steps(scores[None], draws):
        picks = rng.integers(0, k, size=(n, k)) + np.arange(n)[:, None] * k
        weight = np.bincount(picks.ravel(), minlength=n * k).reshape(n, k)[:, owner[order]]
        up = np.cumsum(weight * positive[order], axis=1)
        down = np.cumsum(weight * ~positive[order], axis=1)
        allowed = np.maximum(np.floor(fpr * (down[:, -1] + 1) + 1e-9) - 1, 0)
        # where the first negative too many stands, and all that score as high
        at = first[np.argmax(down > allowed[:, None], axis=1)]
        above = np.where(at > 0, up[np.arange(n), at - 1], 0)
        fine = (up[:, -1] > 0) & (down[:, -1] > 0)
        out.append(np.where(fine, above / np.where(fine, up[:, -1], 1), np.nan))
    return np.concatenate(out)
