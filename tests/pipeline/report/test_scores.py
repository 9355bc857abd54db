"""The plan against the scores that are there: counted by hand on a plan of two combinations, two prompts, one fit, two images."""

import pandas as pd
import pytest

from pipeline.report.scores import DRIFT, Plan, expected, gaps, undefined

PLAN = Plan(methods=("mudi",), combinations=("x", "y"), prompts={"x": ("p00", "p01"), "y": ("p00", "p01")}, fits=1, images=2)
FITS = pd.DataFrame([("mudi", key, 0, None) for key in PLAN.combinations], columns=["method", "combination", "fit", "started_from"])


def drawn() -> pd.DataFrame:
    rows = [("mudi", key, 0.0, prompt, index) for key in ("x", "y") for prompt in ("p00", "p01") for index in (0, 1)]
    return pd.DataFrame(rows, columns=["method", "combination", "fit", "prompt_id", "index"])


def scored(images: pd.DataFrame, **metrics: float | None) -> pd.DataFrame:
    tables = [images.assign(metric=metric, value=value) for metric, value in metrics.items()]
    return pd.concat(tables, ignore_index=True).astype({"value": float})


def lines(images: pd.DataFrame, scores: pd.DataFrame, metrics=("dnc",)) -> list[str]:
    return list(gaps(PLAN, images, FITS, scores, metrics))


def test_a_complete_benchmark_has_no_gap():
    assert lines(drawn(), scored(drawn(), dnc=0.0)) == []


def test_a_score_that_a_picture_may_lack_is_no_gap_where_it_is_stored_without_a_value():
    """Two boxes are compared by id_conf, so a picture of one box has none; six rows of eight are stored, one of them without a value."""
    scores = scored(drawn(), id_conf_dinov2=0.5)
    scores.loc[3, "value"] = float("nan")
    assert lines(drawn(), scores, ["id_conf_dinov2"]) == []
    assert lines(drawn(), scores.iloc[2:], ["id_conf_dinov2"]) == ["mudi: id_conf_dinov2 missing for 2 of 8 images"]
    assert lines(drawn(), scores.assign(metric="dnc"), ["dnc"]) == ["mudi: dnc missing for 1 of 8 images"]


def test_every_missing_image_and_score_is_counted_once():
    images = drawn().iloc[:-1]
    assert lines(images, scored(images, dnc=0.5).iloc[1:]) == [
        "mudi / y / fit 0: 1 of 4 images missing",
        "mudi: dnc missing for 1 of 7 images",
    ]
    assert lines(drawn().iloc[:0], scored(drawn().iloc[:0], dnc=0.5)) == ["mudi: no images (8 planned)"]


def test_images_of_unknown_adapters_are_counted_and_fill_no_gap():
    images = drawn()
    images.loc[0, "fit"] = None
    assert lines(images, scored(images.iloc[1:], dnc=0.5)) == [
        "1 images belong to adapters that are not in the fits table, and are left out",
        "mudi / x / fit 0: 1 of 4 images missing",
    ]


def test_a_score_applies_to_a_prompt_unless_it_has_values_in_other_prompts_alone():
    scores = scored(drawn(), place=1.0, never=None)
    scores.loc[(scores["metric"] == "place") & (scores["prompt_id"] == "p01") & (scores["combination"] == "x"), "value"] = None
    assert undefined(scores) == {("place", "x", "p01")}
    assert lines(drawn(), scores, ("place", "never")) == ["mudi: never not computed"]


@pytest.mark.parametrize(("metric", "skipped", "values"), [("dnc", (), 4), ("dnc", {("dnc", "x", "p01")}, 2), (DRIFT, (), 1)])
def test_values_expected_of_an_arm_on_a_combination(metric, skipped, values):
    """Two prompts of two images of one fit; drift is of the fit."""
    assert expected(PLAN, metric, "x", skipped) == values


def test_drift_is_missing_where_a_fit_began_with_an_adapter():
    refits = FITS.assign(started_from=["earlier", None])
    assert list(gaps(PLAN, drawn(), refits, scored(drawn(), dnc=0.5), (DRIFT,))) == ["mudi: drift not computed"]
