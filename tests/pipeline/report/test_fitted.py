"""The fitted combination: judged where it was not fitted, better than its parts where each tells a part, silent where it cannot be."""

import numpy as np
import pandas as pd
import pytest

from pipeline.report.fitted import fitted
from pipeline.report.statistics import auroc


def tables(count: int, combinations: int, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pictures whose success is x + y > 0; the scores are x and y."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, count))
    ids = [f"picture-{i:03}" for i in range(count)]
    truth = pd.DataFrame({"candidate_id": ids, "combination": [f"c{i % combinations}" for i in range(count)], "truth": (x + y > 0) * 1.0})
    scores = pd.concat([pd.DataFrame({"candidate_id": ids, "metric": name, "value": value}) for name, value in (("x", x), ("y", y))])
    return scores, truth


def test_scores_that_each_tell_half_tell_all_together():
    """Success is x + y > 0: a line through both separates it, on pictures that the line was not fitted on; x alone ranks at .75."""
    scores, truth = tables(300, 3)
    together = fitted(scores, truth)
    assert auroc(together["value"], together["truth"]) > 0.99
    alone = scores[scores["metric"] == "x"].merge(truth, on="candidate_id")
    assert auroc(alone["value"], alone["truth"]) == pytest.approx(0.75, abs=0.1)


def test_a_combination_is_not_judged_by_what_it_taught():
    """Chance scores rank a combination that was left out at chance, where fitting on it would rank it above."""
    truth = tables(90, 3)[1]
    chance = truth.assign(truth=np.random.default_rng(5).permutation(truth["truth"]))
    noise = pd.concat(
        [
            pd.DataFrame({"candidate_id": truth["candidate_id"], "metric": f"n{i}", "value": np.random.default_rng(i).normal(size=90)})
            for i in range(30)
        ]
    )
    together = fitted(noise, chance)
    assert auroc(together["value"], together["truth"]) < 0.65


def test_the_order_of_rows_changes_nothing():
    scores, truth = tables(60, 3)
    mixed = fitted(scores.sample(frac=1, random_state=1), truth.sample(frac=1, random_state=2))
    pd.testing.assert_frame_equal(mixed, fitted(scores, truth))


def test_a_score_that_some_pictures_lack_is_used_where_it_is():
    scores, truth = tables(300, 3)
    lacking = scores[~((scores["metric"] == "y") & scores["candidate_id"].isin(truth["candidate_id"][:100]))]
    together = fitted(lacking, truth)
    assert len(together) == 300
    assert auroc(together["value"][100:], together["truth"][100:]) > 0.97


def test_there_is_none_with_one_combination_or_where_the_others_are_all_alike():
    assert fitted(*tables(50, 1)) is None
    scores, truth = tables(50, 2)
    assert fitted(scores, truth.assign(truth=(truth["combination"] == "c0") * truth["truth"])) is None
