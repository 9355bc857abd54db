"""Estimates: hand-derived numbers, laws, and intervals that hold what they promise on simulated data."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from pipeline.report.statistics import KEYS, auroc, difference, paired_bootstrap, spearman, validity, wilson


def nested(values: np.ndarray) -> pd.DataFrame:
    """Values (combinations, fits, prompts, images) as rows."""
    places = np.indices(values.shape).reshape(4, -1)
    return pd.DataFrame({**dict(zip(KEYS, places, strict=True)), "value": values.ravel()})


def simulated(rng: np.random.Generator, combinations: int = 12, mean: float = 0.0) -> pd.DataFrame:
    """Values that differ between combinations, between fits and prompts of one, and between images."""
    effects = [(0.1, (combinations, 1, 1, 1)), (0.05, (combinations, 2, 1, 1)), (0.08, (combinations, 1, 5, 1))]
    return nested(mean + sum(rng.normal(0, spread, shape) for spread, shape in effects) + rng.normal(0, 0.2, (combinations, 2, 5, 4)))


def interval(frame: pd.DataFrame, **options) -> tuple[float, float]:
    estimate = paired_bootstrap(frame, **options)
    return estimate.low, estimate.high


def test_combinations_weigh_equally_and_within_them_cells():
    """Combination 0: cells (0 + 1) / 2 = 0.5 and 1 of three images: 0.75. Combination 1: 0.25 in one image. Mean 0.5."""
    rows = [(0, 0, 0, 0, 0.0), (0, 0, 0, 1, 1.0), (0, 0, 1, 0, 1.0), (0, 0, 1, 1, 1.0), (0, 0, 1, 2, 1.0), (1, 0, 0, 0, 0.25)]
    estimate = paired_bootstrap(pd.DataFrame(rows, columns=[*KEYS, "value"]))
    assert (estimate.mean, estimate.count) == (0.5, 6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_whatever_an_image_belongs_to_is_drawn_as_a_whole(axis):
    """Two combinations (or fits, or prompts) of 50 equal images, 0 and 1: resampled means are 0, 0.5 and 1 with
    probability 1/4, 1/2, 1/4, so the interval is [0, 1], however many images there are."""
    shape = [1, 1, 1, 50]
    shape[axis] = 2
    values = np.zeros(shape)
    values[(slice(None),) * axis + (1,)] = 1.0
    assert interval(nested(values)) == (0.0, 1.0)


def test_fits_and_prompts_are_crossed():
    """One combination; a cell is 1 only where fit 1 meets prompt 1. A resample's mean is the product of the shares of
    fit 1 and of prompt 1 in it, each 0, 1/2 or 1 with probability 1/4, 1/2, 1/4: one both times with 1/16 > 2.5 %,
    and so the interval reaches 1. Drawn cell by cell, four ones of four would have probability 1/256."""
    values = np.zeros((1, 2, 2, 3))
    values[0, 1, 1] = 1.0
    assert interval(nested(values)) == (0.0, 1.0)


def test_the_interval_of_many_prompts_is_that_of_the_mean():
    """200 prompts of one fit, 0 and 1 in turn: standard error 0.5 / sqrt(200) = 0.0354, 95 % is 0.5 +- 0.0693."""
    low, high = interval(nested(np.tile([0.0, 1.0], 100).reshape(1, 1, 200, 1)))
    assert (low, high) == pytest.approx((0.5 - 0.0693, 0.5 + 0.0693), abs=0.008)


def test_a_single_cell_has_no_interval():
    estimate = paired_bootstrap(nested(np.array([0.0, 1.0]).reshape(1, 1, 1, 2)))
    assert (estimate.mean, estimate.low, estimate.high) == (0.5, None, None)


def test_adding_a_constant_shifts_the_interval_by_it():
    frame = simulated(np.random.default_rng(0))
    low, high = interval(frame)
    assert interval(frame.assign(value=frame["value"] + 3)) == pytest.approx((low + 3, high + 3), abs=1e-12)


def test_the_order_of_rows_changes_nothing():
    frame = simulated(np.random.default_rng(0))
    assert paired_bootstrap(frame.sample(frac=1, random_state=1)) == paired_bootstrap(frame)


def test_cells_without_images_are_left_out_and_not_counted_as_zero():
    """All values are 0.4, whatever is missing: every resample's mean is 0.4, also where nothing but holes was drawn."""
    frame = nested(np.full((3, 2, 2, 2), 0.4))
    holes = (frame["fit"] == 1) & (frame["prompt_id"] == 1)
    estimate = paired_bootstrap(frame[~holes])
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.4, 0.4, 0.4))


def test_no_rows_and_missing_values_are_refused():
    with pytest.raises(ValueError, match="no values"):
        paired_bootstrap(nested(np.zeros((1, 1, 1, 1))).iloc[:0])
    with pytest.raises(ValueError, match="1 of 2 values are missing"):
        paired_bootstrap(nested(np.array([0.0, np.nan]).reshape(2, 1, 1, 1)))


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """200 simulated tables of 12 combinations, true mean 0.3. A percentile interval of 12 is a little narrow, the
    inner draws widen it again: between 85 % and 99 %."""
    rng = np.random.default_rng(5)
    estimates = [paired_bootstrap(simulated(rng, mean=0.3), resamples=300, seed=i) for i in range(200)]
    covered = np.mean([estimate.low <= 0.3 <= estimate.high for estimate in estimates])
    assert 0.85 <= covered <= 0.99


def test_identical_arms_differ_by_exactly_nothing():
    frame = simulated(np.random.default_rng(0))
    estimate = paired_bootstrap(difference(frame, frame.sample(frac=1, random_state=2)).frame)
    assert (estimate.mean, estimate.low, estimate.high) == (0.0, 0.0, 0.0)


def test_pairs_are_narrower_than_two_arms_apart():
    """Both arms share the noise of their images; their difference has only that of the second one, a tenth as large."""
    rng = np.random.default_rng(3)
    a = simulated(rng)
    b = a.assign(value=a["value"] + 0.05 + rng.normal(0, 0.02, len(a)))
    paired = np.diff(interval(difference(b, a).frame))[0]
    apart = np.hypot(*(np.diff(interval(frame))[0] for frame in (a, b)))
    assert paired < apart / 3


def test_only_common_keys_are_subtracted_and_the_others_counted():
    """0.9 - 0.4 = 0.5 of the one pair; a has two more rows, one without a value, b one."""
    a = pd.DataFrame([(0, 0, 0, 0, 0.9), (0, 0, 0, 1, 0.7), (0, 0, 0, 2, np.nan)], columns=[*KEYS, "value"])
    b = pd.DataFrame([(0, 0, 0, 2, 0.1), (0, 0, 0, 0, 0.4)], columns=[*KEYS, "value"])
    found = difference(a, b)
    assert found.frame.to_dict("list") == {"combination": [0], "fit": [0], "prompt_id": [0], "index": [0], "value": [0.5]}
    assert (found.unmatched_a, found.unmatched_b) == (1, 1)
    apart = difference(a.iloc[1:2], b.iloc[1:])
    assert (len(apart.frame), apart.unmatched_a, apart.unmatched_b) == (0, 1, 1)
    with pytest.raises(ValueError, match="two values for"):
        difference(pd.concat([a, a]), b)


def test_wilson_by_hand():
    """8 of 10, z = 1.96, z^2 = 3.8415: centre (0.8 + 0.19207) / 1.38415 = 0.71674; reach
    1.96 * sqrt(0.016 + 0.0096037) / 1.38415 = 1.96 * 0.16001 / 1.38415 = 0.22658; so 0.4902 to 0.9433."""
    estimate = wilson(8, 10)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert (wilson(0, 10).low, wilson(10, 10).high) == pytest.approx((0.0, 1.0))
    with pytest.raises(ValueError, match="3 successes of 2 trials"):
        wilson(3, 2)


def test_auroc_by_hand():
    """True 0.35 beats 0.1 alone, true 0.8 beats 0.1 and 0.4: three of four pairs. A tie counts half."""
    assert auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75
    assert auroc([0.5, 0.5], [0, 1]) == 0.5
    assert auroc([0.1, 0.2], [1, 1]) is None
    with pytest.raises(ValueError, match=r"truth holds 0\.5"):
        auroc([0.1, 0.2], [0.5, 1])


def test_spearman_agrees_with_scipy_ties_included():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 60), rng.integers(0, 2, 60)
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert spearman([1, 1], [0, 1]) is None


def test_validity_draws_combinations_as_a_whole():
    """Of two combinations a resample is the first twice, both, or the second twice, with probability 1/4, 1/2, 1/4:
    each interval reaches from the smallest to the largest of the three numbers, ties and all."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 80)
    value = np.round(rng.normal(0, 1, 80) + np.repeat([0.2, 1.5], 40) * truth, 1)
    frame = pd.DataFrame({"combination": np.repeat(["x", "y"], 40), "value": value, "truth": truth})
    drawn = [frame.iloc[:40], frame, frame.iloc[40:]]
    for estimate, measure in zip(validity(frame), (spearman, auroc), strict=True):
        numbers = [measure(part["value"], part["truth"]) for part in (drawn[0], drawn[1], drawn[2])]
        assert estimate.mean == pytest.approx(numbers[1], abs=1e-12)
        assert (estimate.low, estimate.high) == pytest.approx((min(numbers), max(numbers)), abs=1e-12)
        assert estimate.count == 80


def test_validity_is_none_where_it_is_undefined():
    frame = pd.DataFrame({"combination": ["x", "y"], "value": [0.1, 0.2], "truth": [1.0, 1.0]})
    assert validity(frame) == (None, None)
    correlation, area = validity(frame.assign(combination="x", truth=[0.0, 1.0]))
    assert (correlation.mean, correlation.low, area.mean, area.low) == (1.0, None, 1.0, None)
