"""Estimates with intervals: means over nested images, paired differences, rates, and how well a score ranks.

Images of one combination, one fit and one prompt resemble one another. Counting each as independent makes
intervals far too narrow, so combinations, fits and prompts are resampled as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest, rankdata

KEYS = ("combination", "fit", "prompt_id", "index")
QUANTILES = (0.025, 0.975)
BATCH = 100  # resamples of a ranking worked on together, which bounds memory


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value over `count` images with its 95 % interval, None where the data allow none."""

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Paired differences: `frame` has the key columns and `value`; the counts are rows without a partner."""

    frame: pd.DataFrame
    unmatched_a: int
    unmatched_b: int


def paired_bootstrap(frame: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> Estimate:
    """The mean of `value` over rows of (combination, fit, prompt_id, index), with a 95 % percentile interval.

    The mean weighs combinations equally, and within one its cells, a cell being one fit and one prompt. A
    resample draws combinations with replacement, and within each drawn one its fits and its prompts, crossed;
    all images of a drawn cell count. With one combination only fits and prompts are drawn. For a comparison
    pass differences of images that share a seed (`difference`): the variance that they share cancels.

    Covers: other combinations, fits and prompts like these. Does not cover: that a template is shared by all
    combinations (its prompts are drawn anew in each), other seeds of a cell beyond what cells differ by, and
    the error of the judge. Percentile intervals of few combinations are too narrow where combinations differ
    much: on simulated tables (2 fits, 5 prompts, 4 images; standard deviations 0.1 between combinations, 0.05
    fits, 0.08 prompts, 0.2 images; 1000 repetitions) they cover the truth in 90.5 % at 4 combinations, 91.8 % at
    8, 94.5 % at 12. Where combinations do not differ they are too wide: 99 %.

    The order of rows changes nothing. The interval is None where there is a single cell. Raises ValueError for
    no rows, or a missing value.
    """
    if not len(frame):
        raise ValueError("no values; a mean needs at least one row")
    if frame["value"].isna().any():
        raise ValueError(f"{int(frame['value'].isna().sum())} of {len(frame)} values are missing; drop those rows and say so")
    # Sums depend on their order in the last bits; sorting makes the result that of the set of rows.
    ordered = frame.sort_values([*KEYS, "value"], kind="stable")
    cells = ordered.groupby(["combination", "fit", "prompt_id"])["value"].mean()
    tables = [group.unstack("prompt_id").to_numpy() for _, group in cells.groupby(level="combination")]
    mean = float(np.mean([np.nanmean(table) for table in tables]))
    if len(cells) < 2:
        return Estimate(mean=mean, low=None, high=None, count=len(frame))
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(tables), size=(resamples, len(tables)))
    values = np.empty(drawn.shape)
    for number, table in enumerate(tables):
        chosen = drawn == number
        values[chosen] = _resampled_means(table, int(chosen.sum()), rng)
    low, high = np.quantile(values.mean(axis=1), QUANTILES)
    return Estimate(mean=mean, low=float(low), high=float(high), count=len(frame))


def difference(a: pd.DataFrame, b: pd.DataFrame, keys: Sequence[str] = KEYS) -> Difference:
    """a minus b of rows that have the same keys, which may be none; rows without a value count as absent.

    Raises ValueError if one side has a key twice.
    """
    sides = [side.dropna(subset=["value"])[[*keys, "value"]] for side in (a, b)]
    for side in sides:
        if (twice := side.duplicated(list(keys))).any():
            raise ValueError(f"two values for {side[twice].iloc[0][list(keys)].to_dict()}; pairs need keys that occur once")
    pairs = sides[0].merge(sides[1], on=list(keys), suffixes=("_a", "_b"))
    frame = pairs.assign(value=pairs["value_a"] - pairs["value_b"])[[*keys, "value"]]
    return Difference(frame=frame, unmatched_a=len(sides[0]) - len(pairs), unmatched_b=len(sides[1]) - len(pairs))


def wilson(successes: int, trials: int) -> Estimate:
    """A rate with Wilson's 95 % score interval, for independent trials (Wilson 1927)."""
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes of {trials} trials; give 0 <= successes <= trials and at least one trial")
    low, high = binomtest(successes, trials).proportion_ci(method="wilson")
    return Estimate(mean=successes / trials, low=float(low), high=float(high), count=trials)


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties sharing their mean rank; None if one side is constant."""
    ranks = np.stack([rankdata(x), rankdata(y)])
    spread = ranks.std(axis=1)
    return None if not spread.all() else float(((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())).mean() / spread.prod())


def auroc(score: Sequence[float], truth: Sequence[float]) -> float | None:
    """How often a true item scores above a false one, ties counting half; None if only one class occurs."""
    positive = _binary(truth)
    true, false = int(positive.sum()), int((~positive).sum())
    if not true or not false:
        return None
    return float((rankdata(score)[positive].sum() - true * (true + 1) / 2) / (true * false))


def validity(frame: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> tuple[Estimate | None, Estimate | None]:
    """(Spearman, AUROC) of `value` against the binary `truth`, with intervals that draw combinations anew.

    Every image counts alike. Both are None if the score is constant or one class only occurs. The interval is
    None with a single combination; a resample in which the number is undefined is left out of it.
    """
    value, truth = frame["value"].to_numpy(dtype=float), frame["truth"].to_numpy(dtype=float)
    means = (spearman(value, truth), auroc(value, truth)) if len(frame) else (None, None)
    if None in means:
        return None, None
    codes = pd.factorize(frame["combination"], sort=True)[0]
    combinations = int(codes.max()) + 1
    intervals = [(None, None), (None, None)]
    if combinations > 1:
        counts, positives = _tie_counts(value, _binary(truth), codes, combinations)
        weights = np.random.default_rng(seed).multinomial(combinations, np.full(combinations, 1 / combinations), size=resamples)
        numbers = [_weighted_ranking(counts, positives, weights[start : start + BATCH]) for start in range(0, resamples, BATCH)]
        intervals = [tuple(map(float, np.nanquantile(column, QUANTILES))) for column in np.concatenate(numbers).T]
    found = [Estimate(mean=mean, low=low, high=high, count=len(frame)) for mean, (low, high) in zip(means, intervals, strict=True)]
    return found[0], found[1]


def show(value: Estimate | float | None, sign: bool = False) -> str:
    """ "0.412 [0.380, 0.443]", "0.412", or "-" for None."""
    form = "+.3f" if sign else ".3f"
    if value is None:
        return "-"
    if isinstance(value, Estimate):
        return format(value.mean, form) + ("" if value.low is None else f" [{value.low:{form}}, {value.high:{form}}]")
    return format(value, form)


def _resampled_means(table: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` means of cells (F, P), fits and prompts drawn with replacement; a cell without images is NaN.

    A draw of absent cells alone is made again.
    """
    present = ~np.isnan(table)
    filled = np.where(present, table, 0.0)
    means = np.full(count, np.nan)
    while (open_ := np.isnan(means)).any():
        fits, prompts = (rng.multinomial(size, np.full(size, 1 / size), size=int(open_.sum())) for size in table.shape)
        weight = np.einsum("rf,fp,rp->r", fits, present, prompts)
        total = np.einsum("rf,fp,rp->r", fits, filled, prompts)
        means[open_] = np.divide(total, weight, out=np.full(len(total), np.nan), where=weight > 0)
    return means


def _binary(truth: Sequence[float]) -> np.ndarray:
    truth = np.asarray(truth, dtype=float)
    if not np.isin(truth, (0.0, 1.0)).all():
        raise ValueError(f"truth holds {truth[~np.isin(truth, (0.0, 1.0))][0]}; it is 0 or 1")
    return truth == 1.0


def _tie_counts(value: np.ndarray, positive: np.ndarray, codes: np.ndarray, combinations: int) -> tuple[np.ndarray, np.ndarray]:
    """How many images, and how many true ones, each distinct value (ascending, T) has in each combination: (T, C) twice."""
    distinct, place = np.unique(value, return_inverse=True)
    counts, positives = np.zeros((2, len(distinct), combinations))
    np.add.at(counts, (place, codes), 1)
    np.add.at(positives, (place, codes), positive)
    return counts, positives


def _weighted_ranking(counts: np.ndarray, positives: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(Spearman, AUROC) of each resample, (R, 2), where weights (R, C) say how often it drew a combination.

    A group of ties whose W images follow N smaller ones has the mean rank N + (W + 1) / 2. With a binary truth
    both numbers follow from the sum of the true images' ranks, which spares sorting each resample.
    """
    size, true = weights @ counts.T, weights @ positives.T
    ranks = size.cumsum(axis=1) - size + (size + 1) / 2
    n, n_true, rank_sum = size.sum(axis=1), true.sum(axis=1), (ranks * true).sum(axis=1)
    n_false, centre = n - n_true, (n + 1) / 2
    variance = (size * (ranks - centre[:, None]) ** 2).sum(axis=1) / n
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (rank_sum / n - centre * n_true / n) / np.sqrt(variance * n_true * n_false / n**2)
        area = (rank_sum - n_true * (n_true + 1) / 2) / (n_true * n_false)
    return np.stack([correlation, area], axis=1)
