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


@dataclass(frozen=True)
class AUC:
    """Area under the ROC curve; nan and None when a class is missing (interval: has fewer than two items)."""

    value: float
    standard_error: float
    interval95: Interval | None


class OperatingPoint(NamedTuple):
    """True positive rate at the loosest threshold whose false positive rate stays at or under the target."""

    tpr: float
    interval95: Interval
    """Clopper-Pearson, the threshold taken as given."""
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

    def ends(level: float) -> Interval:
        reach = float(special.stdtrit(k - 1, (1 + level) / 2)) * math.sqrt(k / (k - 1))
        low, high = np.quantile(resampled, special.ndtr([-reach, reach]))
        floor = reach**2 / (k + reach**2) if changed < 10 else 0.0
        return max(-1.0, min(float(low), value - floor)), min(1.0, max(float(high), value + floor))

    return Paired(value, ends(0.95), ends(0.90), p, method, float(resampled.std()) * math.sqrt(k / (k - 1)))


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


def _threshold(falling: Array, fpr: float) -> float | None:
    """The lowest score that at most ⌊fpr·negatives⌋ of the negatives, given in falling order, are above."""
    allowed = math.floor(fpr * len(falling) + 1e-9)
    if allowed < 1:
        return None
    return float(falling[allowed]) if allowed < len(falling) else -math.inf


def beyond_fpr(scores: ArrayLike, labels: ArrayLike, fpr: float) -> NDArray[np.bool_] | None:
    """Which items score above the threshold of `tpr_at_fpr`; None where the rate cannot be observed."""
    values, positive = _curve_input(scores, labels)
    threshold = _threshold(np.sort(values[~positive])[::-1], fpr)
    return None if threshold is None else values > threshold


def tpr_at_fpr(scores: ArrayLike, labels: ArrayLike, fpr: float) -> OperatingPoint | None:
    """True positive rate where at most ⌊fpr·negatives⌋ negatives score above the threshold, ties counted against.

    None when there are fewer than 1/fpr negatives (the rate could not be observed) or no positives.
    """
    values, positive = _curve_input(scores, labels)
    pos, neg = values[positive], np.sort(values[~positive])[::-1]
    threshold = _threshold(neg, fpr)
    if len(pos) == 0 or threshold is None:
        return None
    hits = int((pos > threshold).sum())
    ends = clopper_pearson(hits, len(pos))
    assert ends is not None
    return OperatingPoint(hits / len(pos), ends, float((neg > threshold).mean()))
