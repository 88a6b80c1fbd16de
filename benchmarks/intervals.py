"""Measures the statistics themselves: how often intervals cover, alarms are false, and equivalence is granted wrongly.

    python benchmarks/intervals.py [--sims 1000] [--draws 1000] [--only SECTION]

Cells of single 0/1 items are enumerated exactly over all tables (b, c), with the product's 10,000 bootstrap draws; the
others are simulated, seeded, with --draws. Prints markdown tables; a star marks a coverage outside 95 ± 1.5 %.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from scipy import special
from scipy import stats as distributions

from discretion import stats, stats_auc
from discretion.stats import ClusterTable

SIZES = (50, 200, 493)
BASES = (0.05, 0.3, 0.9)
DIFFERENCES = (0.0, 0.05, 0.2)
EPSILON = 0.05


def d_prime(ratios: np.ndarray) -> np.ndarray:
    """z(stratum 0) + z(stratum 1): sensitivity from the share right among allowed and among forbidden flows."""
    return special.ndtri(np.clip(ratios, 0.01, 0.99)).sum(axis=-1)


# ---------------------------------------------------------------------------------------------- exact enumeration


def tables(n: int, up: float, down: float, tail: float = 1e-5) -> Iterator[tuple[int, int, float]]:
    """(items that rose, items that fell, probability) for n pairs; tables of negligible probability are left out."""
    for u in range(int(distributions.binom.ppf(tail, n, up)), int(distributions.binom.ppf(1 - tail, n, up)) + 1):
        left, rate = n - u, down / (1 - up)
        for d in range(
            int(distributions.binom.ppf(tail, left, rate)), int(distributions.binom.ppf(1 - tail, left, rate)) + 1
        ):
            p = float(distributions.binom.pmf(u, n, up) * distributions.binom.pmf(d, left, rate))
            if p > 1e-6:
                yield u, d, p


class SinglePairs:
    """Intervals of n single 0/1 pairs by (rose, fell); the agreeing pairs' level does not enter the difference."""

    def __init__(self, draws: int) -> None:
        self.draws = draws
        self.known: dict[tuple[int, int, int], stats.Paired] = {}

    def __call__(self, n: int, up: int, down: int) -> stats.Paired:
        if (n, up, down) not in self.known:
            base, tuned = np.zeros((n, 1)), np.zeros((n, 1))
            base[:down], tuned[down : down + up] = 1, 1
            one = np.ones((n, 1))
            pair = stats.paired(ClusterTable(base, one), ClusterTable(tuned, one), binary=True, draws=self.draws)
            self.known[n, up, down] = pair
        return self.known[n, up, down]


def exact_cell(n: int, up: float, down: float, pairs: SinglePairs) -> tuple[float, float]:
    """Exact coverage of the 95 % interval, and the probability that equivalence within EPSILON is granted."""
    cover = granted = total = 0.0
    for u, d, p in tables(n, up, down):
        pair = pairs(n, u, d)
        assert pair.interval95 is not None
        total += p
        cover += p * (pair.interval95[0] - 1e-12 <= up - down <= pair.interval95[1] + 1e-12)
        granted += p * stats.equivalent(pair.interval90, EPSILON)
    return cover / total, granted / total


# ---------------------------------------------------------------------------------------------- simulated cells


def shares(base: float, difference: float, churn: float = 0.15) -> tuple[float, float, float]:
    """(signed difference, P(rises), P(falls)): high bases fall, low bases rise, and some answers change either way."""
    both = churn * min(base, 1 - base)
    if base > 0.5:
        return -difference, both, difference + both
    return difference, difference + both, both


def beta(rng: np.random.Generator, mean: float, icc: float, size: tuple[int, ...]) -> np.ndarray:
    """Rates that differ between clusters so that items of one cluster correlate by `icc`."""
    if mean in {0.0, 1.0} or icc == 0:
        return np.full(size, mean)
    scale = 1 / icc - 1
    return rng.beta(mean * scale, (1 - mean) * scale, size)


def simulate(
    rng: np.random.Generator,
    items: int,
    per: int,
    base: float,
    difference: float,
    strata: int,
    mirrored: bool,
    icc: float,
) -> tuple[ClusterTable, ClusterTable]:
    """Two arms over clusters of `per` 0/1 items; strata lie inside each cluster (mirrored) or between clusters."""
    clusters = items // per
    _, up, down = shares(base, difference)
    level = beta(rng, base, icc, (clusters, 1, 1))
    rise = beta(rng, up / (1 - base), icc, (clusters, 1, 1))
    fall = beta(rng, down / base, icc, (clusters, 1, 1))
    size = (clusters, per, 1)
    before = rng.random(size) < level
    after = np.where(before, rng.random(size) >= fall, rng.random(size) < rise)
    if mirrored:
        member = np.arange(per)[:, None] % strata == np.arange(strata)
        member = np.broadcast_to(member, (clusters, per, strata))
    else:
        member = np.broadcast_to(
            (np.arange(clusters) % strata)[:, None, None] == np.arange(strata), (clusters, per, strata)
        )
    weight = member.sum(axis=1).astype(float)
    return ClusterTable((before & member).sum(axis=1), weight), ClusterTable((after & member).sum(axis=1), weight)


def coverage(make: Callable[[np.random.Generator], tuple[float, stats.Interval | None]], sims: int, seed: int) -> float:
    """Share of simulations whose interval holds the truth; an absent interval does not."""
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(sims):
        truth, ends = make(rng)
        hits += ends is not None and ends[0] - 1e-12 <= truth <= ends[1] + 1e-12
    return hits / sims


LAYOUTS: dict[str, dict[str, object]] = {
    "clusters of 4, 1 stratum": {"per": 4, "strata": 1, "mirrored": False, "icc": 0.3},
    "single items, 2 strata": {"per": 1, "strata": 2, "mirrored": False, "icc": 0.0},
    "clusters of 4, 2 strata between": {"per": 4, "strata": 2, "mirrored": False, "icc": 0.3},
    "clusters of 4, 2 strata within": {"per": 4, "strata": 2, "mirrored": True, "icc": 0.3},
}


def paired_coverage(layout: str, items: int, base: float, difference: float, sims: int, draws: int, seed: int) -> float:
    """Coverage of the paired 95 % interval in one cell of the table."""
    signed = shares(base, difference)[0]

    def make(rng: np.random.Generator) -> tuple[float, stats.Interval | None]:
        one, two = simulate(rng, items, base=base, difference=difference, **LAYOUTS[layout])  # type: ignore[arg-type]
        return signed, stats.paired(one, two, draws=draws, seed=int(rng.integers(2**31))).interval95

    return coverage(make, sims, seed)


def continuous_coverage(clusters: int, difference: float, sims: int, draws: int, seed: int, bounded: bool) -> float:
    """Users with ragged numbers of attributes, rates that move by `difference` ± 0.05; denominators differ by arm."""

    def make(rng: np.random.Generator) -> tuple[float, stats.Interval | None]:
        level = rng.uniform(0.3, 0.6, clusters)
        sizes = rng.integers(20, 60, (2, clusters))
        moved = level + rng.normal(difference, 0.05, clusters)
        counts = rng.binomial(sizes, np.stack([level, np.clip(moved, 0, 1)]))
        arms = [ClusterTable(c[:, None], s[:, None]) for c, s in zip(counts, sizes, strict=True)]
        seed_here = int(rng.integers(2**31))
        bounds = (0.0, 1.0) if bounded else None
        return difference, stats.paired(*arms, draws=draws, seed=seed_here, bounds=bounds).interval95

    return coverage(make, sims, seed)


def d_prime_coverage(clusters: int, sims: int, draws: int, seed: int) -> float:
    """d' falls by 0.65, from hits .85 and correct rejections .75 to .75 and .65, one mirrored pair per cluster."""
    before, after = np.array([0.85, 0.75]), np.array([0.75, 0.65])
    truth = float(d_prime(after) - d_prime(before))

    def make(rng: np.random.Generator) -> tuple[float, stats.Interval | None]:
        draw = rng.random((clusters, 2))
        one = np.ones((clusters, 2))
        again = np.where(rng.random((clusters, 2)) < 0.8, draw, rng.random((clusters, 2)))
        arms = ClusterTable(draw < before, one), ClusterTable(again < after, one)
        return truth, stats.paired(*arms, draws=draws, seed=int(rng.integers(2**31)), combine=d_prime).interval95

    return coverage(make, sims, seed)


def arm_coverage(layout: str, items: int, base: float, sims: int, draws: int, seed: int) -> float:
    """Coverage of one arm's 95 % interval."""

    def make(rng: np.random.Generator) -> tuple[float, stats.Interval | None]:
        one, _ = simulate(rng, items, base=base, difference=0.0, **LAYOUTS[layout])  # type: ignore[arg-type]
        return base, stats.interval(one, draws=draws, seed=int(rng.integers(2**31)))

    return coverage(make, sims, seed)


def false_alarms(sims: int, draws: int, seed: int, items: int = 200, base: float = 0.3) -> dict[str, float]:
    """Five primary metrics, all unchanged: share of audits in which Holm leaves one below 0.05."""
    rng = np.random.default_rng(seed)
    raw = adjusted = alarms = 0
    for _ in range(sims):
        ps, seen = [], []
        for layout in ("binary", *LAYOUTS):
            if layout == "binary":
                pair = simulate(rng, items, per=1, base=base, difference=0.0, strata=1, mirrored=False, icc=0.0)
            else:
                pair = simulate(rng, items, base=base, difference=0.0, **LAYOUTS[layout])  # type: ignore[arg-type]
            found = stats.paired(*pair, draws=draws, seed=int(rng.integers(2**31)), binary=layout == "binary")
            ps.append(found.p)
            seen.append(abs(found.value) >= 0.05)
        corrected = np.array(stats.holm(ps))
        raw += min(p for p in ps if p is not None) < 0.05
        adjusted += bool((corrected < 0.05).any())
        alarms += bool(((corrected < 0.05) & np.array(seen)).any())
    return {"any raw p": raw / sims, "any Holm p": adjusted / sims, "Holm p and ≥ 5 points": alarms / sims}


def clustered_equivalence(layout: str, items: int, base: float, sims: int, draws: int, seed: int) -> float:
    """Share of simulations in which a true difference of EPSILON is called equivalent."""
    rng = np.random.default_rng(seed)
    granted = 0
    for _ in range(sims):
        pair = simulate(rng, items, base=base, difference=EPSILON, **LAYOUTS[layout])  # type: ignore[arg-type]
        found = stats.paired(*pair, draws=draws, seed=int(rng.integers(2**31)))
        granted += stats.equivalent(found.interval90, EPSILON)
    return granted / sims


def auc_coverage(n: int, shift: float, sims: int, draws: int, seed: int) -> tuple[float, float, float]:
    """Coverage of the single AUC, of the paired difference, and of the clustered difference (clusters of 2)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4 < 2
    tuned_shift = shift * 0.7
    truth = [float(special.ndtr(s / np.sqrt(2))) for s in (shift, tuned_shift)]
    hits = np.zeros(3)
    for _ in range(sims):
        group = np.repeat(rng.normal(size=n // 2), 2)
        for clustered in (False, True):
            noise = rng.normal(size=n) if not clustered else np.sqrt(0.4) * group + np.sqrt(0.6) * rng.normal(size=n)
            base = noise + shift * labels
            tuned = 0.8 * noise + 0.6 * rng.normal(size=n) + tuned_shift * labels
            if clustered:
                ends = stats_auc.clustered_auc_difference(
                    base, tuned, labels, np.arange(n) // 2, draws=draws, seed=int(rng.integers(2**31))
                ).interval95
                hits[2] += ends is not None and ends[0] <= truth[1] - truth[0] <= ends[1]
            else:
                single = stats_auc.auc(base, labels).interval95
                ends = stats_auc.auc_difference(base, tuned, labels).interval95
                hits[0] += single is not None and single[0] <= truth[0] <= single[1]
                hits[1] += ends is not None and ends[0] <= truth[1] - truth[0] <= ends[1]
    return float(hits[0] / sims), float(hits[1] / sims), float(hits[2] / sims)


def trainings_coverage(n: int, trainings: int, spread: float, sims: int, seed: int) -> tuple[float, float]:
    """Coverage of an area's mean change over trainings that were asked the same items: with the items' error, without.

    A training's scores are its items' noise, half of it shared by all, moved by a shift of its own. The truth is the
    mean change over all trainings and all items.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2 == 0
    shift = 0.5
    truth = float(special.ndtr(shift / np.sqrt(2 + spread**2))) - 0.5
    hits = np.zeros(2)
    for _ in range(sims):
        item = rng.normal(size=n)
        base = np.sqrt(0.5) * item + np.sqrt(0.5) * rng.normal(size=n)
        each = []
        for _ in range(trainings):
            moved = shift + spread * rng.normal()
            tuned = np.sqrt(0.5) * item + np.sqrt(0.5) * rng.normal(size=n) + moved * labels
            each.append(stats_auc.auc_difference(base, tuned, labels))
        for k, errors in enumerate(([one.standard_error for one in each], [])):
            ends = stats.mean_of([one.value for one in each], errors)[1]
            hits[k] += ends[0] <= truth <= ends[1]
    return float(hits[0] / sims), float(hits[1] / sims)


def low_fpr(members: int, others: int, gain: float, sims: int, draws: int, seed: int) -> tuple[float, float, float]:
    """Of a calibrated rate at 1 % FPR: coverage, coverage of Clopper-Pearson with the threshold as given, p < 0.05."""
    rng = np.random.default_rng(seed)
    labels = np.arange(members + others) < members
    chance = stats_auc.tpr_of_chance(others, 0.01)
    truth = float(special.ndtr(gain / 0.2 - special.ndtri(1 - chance)))
    hits = np.zeros(3)
    for _ in range(sims):
        score = rng.normal(0, 0.2, len(labels)) + gain * labels
        found = stats_auc.tpr_difference(
            0 * score, score, labels, 0.01, np.arange(len(labels)), draws=draws, seed=int(rng.integers(2**31))
        )
        ends = found.interval95
        hits[0] += ends is not None and ends[0] <= truth - chance <= ends[1]
        given = stats.clopper_pearson(round((found.value + chance) * members), members)
        hits[1] += given is not None and given[0] <= truth <= given[1]
        hits[2] += found.p is not None and found.p < 0.05
    return float(hits[0] / sims), float(hits[1] / sims), float(hits[2] / sims)


# ---------------------------------------------------------------------------------------------- tables


def percent(share: float) -> str:
    """`95.1`, with a star outside 93.5…96.5."""
    return f"{100 * share:.1f}{'' if 0.935 <= share <= 0.965 else ' *'}"


def show(title: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """One markdown table, each row as soon as it is there."""
    print(f"\n### {title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


GRID = tuple(itertools.product(BASES, DIFFERENCES))
COLUMNS = tuple(f"{b}, {100 * shares(b, d)[0]:+.0f}" for b, d in GRID)
"""Base rate, true difference in points."""


def exact(pairs: SinglePairs, _sims: int, _draws: int, _seed: int) -> None:
    """Single 0/1 items: coverage."""
    rows = ((str(n), *(percent(exact_cell(n, *shares(b, d)[1:], pairs)[0]) for b, d in GRID)) for n in SIZES)
    show("Paired 95 % interval, single 0/1 items: exact coverage in %", ("n", *COLUMNS), rows)


def equivalence(pairs: SinglePairs, _sims: int, _draws: int, _seed: int) -> None:
    """Single 0/1 items: equivalence at a true difference of EPSILON, some items changing the other way as well."""
    others = (0.0, 0.005, 0.01, 0.03)
    rows = (
        (str(n), *(f"{100 * exact_cell(n, other, EPSILON + other, pairs)[1]:.2f}" for other in others))
        for n in (45, 52, 59, 65, 80, 95, 130, 160, 200, 250, 320, 493)
    )
    head = ("n", *(f"{100 * other:g} % the other way" for other in others))
    show("Equivalence granted in % at a true difference of 5 points, ε = 5 points: exact", head, rows)
    first = next(n for n in range(2, 201) if stats.equivalent(pairs(n, 0, 0).interval90, EPSILON))
    print(f"\nPairs that all agree show equivalence within 5 points from n = {first}.")


def equivalence_clusters(_pairs: SinglePairs, sims: int, draws: int, seed: int) -> None:
    """The same with clusters and strata."""
    rows = (
        (layout, str(n), *(f"{100 * clustered_equivalence(layout, n, b, sims, draws, seed):.1f}" for b in BASES))
        for layout, n in itertools.product(LAYOUTS, (200, 493))
    )
    head = ("layout", "items", *(f"base {b}" for b in BASES))
    show("Equivalence granted in % at a true difference of 5 points, ε = 5 points: simulated", head, rows)


def clusters(_pairs: SinglePairs, sims: int, draws: int, seed: int) -> None:
    """Clusters and strata: coverage of the paired interval."""
    rows = (
        (layout, str(n), *(percent(paired_coverage(layout, n, b, d, sims, draws, seed)) for b, d in GRID))
        for layout, n in itertools.product(LAYOUTS, SIZES)
    )
    show("Paired 95 % interval: simulated coverage in %", ("layout", "items", *COLUMNS), rows)


def ragged(_pairs: SinglePairs, sims: int, draws: int, seed: int) -> None:
    """Few users with many attributes each, and a curved figure."""
    cells = tuple(itertools.product((True, False), (0.0, 0.2)))
    rows = (
        (
            str(k),
            *(percent(continuous_coverage(k, d, sims, draws, seed, bounded)) for bounded, d in cells),
            percent(d_prime_coverage(k, sims, draws, seed)),
        )
        for k in (10, 20, 50, 200)
    )
    head = ("clusters", "rates, 0", "rates, +20", "unbounded, 0", "unbounded, +20", "d', −0.65")
    show("Ragged users with unequal denominators, and d': simulated coverage in %", head, rows)


def arm(_pairs: SinglePairs, sims: int, draws: int, seed: int) -> None:
    """Coverage of one arm's interval."""
    rows = (
        (layout, str(n), *(percent(arm_coverage(layout, n, b, sims, draws, seed)) for b in BASES))
        for layout, n in itertools.product(LAYOUTS, SIZES)
    )
    head = ("layout", "items", *(f"rate {b}" for b in BASES))
    show("One arm's 95 % interval: simulated coverage in %", head, rows)


def holm(_pairs: SinglePairs, sims: int, draws: int, seed: int) -> None:
    """False alarms over five metrics."""
    found = false_alarms(sims, draws, seed)
    rows = [tuple(f"{100 * share:.1f} %" for share in found.values())]
    show("Five unchanged primary metrics, 200 items: audits with", tuple(found), rows)


def auc(_pairs: SinglePairs, sims: int, draws: int, seed: int) -> None:
    """Coverage of the intervals of areas."""
    cells = itertools.product(SIZES, (0.5, 1.5))
    rows = ((str(n), str(s), *map(percent, auc_coverage(n, s, sims, draws, seed))) for n, s in cells)
    show("AUC: simulated coverage in %", ("items", "shift", "one AUC", "difference", "difference, clusters of 2"), rows)


def trainings(_pairs: SinglePairs, sims: int, _draws: int, seed: int) -> None:
    """Coverage of the interval of an area over several trainings."""
    cells = itertools.product((120, 480), (3, 5), (0.05, 0.3))
    rows = ((str(n), str(k), str(s), *map(percent, trainings_coverage(n, k, s, sims, seed))) for n, k, s in cells)
    head = ("items", "trainings", "spread of their shifts", "with the items' error", "trainings alone")
    show("AUC over trainings that share their items: simulated coverage in %", head, rows)


def rates(_pairs: SinglePairs, sims: int, draws: int, seed: int) -> None:
    """Coverage and false alarms of the true positive rate at 1 % false positives."""
    rows = []
    for members, others, gain in itertools.product((300, 1000), (300, 1000), (0.0, 0.3)):
        found = low_fpr(members, others, gain, sims, draws, seed)
        rows.append((str(members), str(others), f"{gain / 0.2:g}", *map(percent, found[:2]), f"{100 * found[2]:.1f}"))
    head = ("members", "non-members", "gain in sd", "interval", "Clopper-Pearson, threshold as given", "p < 0.05")
    show("TPR at 1 % FPR, calibrated: simulated coverage, and p < 0.05, in %", head, rows)


SECTIONS = {
    f.__name__: f
    for f in (exact, equivalence, equivalence_clusters, clusters, ragged, arm, holm, auc, trainings, rates)
}


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sims", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=tuple(SECTIONS))
    options = parser.parse_args()
    pairs = SinglePairs(10_000)
    for name, section in SECTIONS.items():
        if options.only in {None, name}:
            section(pairs, options.sims, options.draws, options.seed)


if __name__ == "__main__":
    main()
