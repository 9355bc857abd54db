"""A benchmark's tables: hand-derived cells, verdicts, what is missing by name, and the paper's numbers apart."""

import io
import json

import pytest
from rich.console import Console
from stored_benchmark import DNC, benchmark_run, constant

from mudi.records import Score
from pipeline.report.records import Benchmark, Cell
from pipeline.report.scores import load_scores
from pipeline.report.statistics import Estimate
from pipeline.report.tables import benchmark, verdict
from pipeline.report.text import markdown, print_tables
from pipeline.tables import store
from pipeline.tables.journal import publish


def cell(result: Benchmark, method: str, metric: str = DNC) -> Cell:
    return next(c for table in result.tables for c in table.cells if (c.method, c.metric) == (method, metric))


def test_a_cell_by_hand(tmp_path):
    """x: prompts 0.5 (of 0 and 1) and 1, mean 0.75 in both fits; y: 0.25; combinations equally: 0.5.
    2 x 2 x 2 x 2 images. Both combinations drawn are y in 1/4 of resamples: low 0.25. A drawn x has mean 0.5, 0.75, 1 with
    probability 1/4, 1/2, 1/4 by its prompts; twice x with mean 1 has 1/4 * 1/16 < 2.5 %, mean 0.875 or more 5/64: high 0.875."""
    values = {("x", "p00", 0): 0.0, ("y", "p00", 0): 0.25, ("y", "p00", 1): 0.25, ("y", "p01", 0): 0.25, ("y", "p01", 1): 0.25}
    result = benchmark(benchmark_run(tmp_path, lambda _, c, __, p, i: {DNC: values.get((c, p, i), 1.0)}))
    assert result.missing == ()
    found = cell(result, "mudi")
    assert (found.estimate.mean, found.estimate.count, found.missing) == (0.5, 16, 0)
    assert found.per_combination == {"x": 0.75, "y": 0.25}
    assert (found.estimate.low, found.estimate.high) == (0.25, 0.875)
    assert (found.published, cell(result, "dreambooth").published) == (0.434, 0.147)


def test_a_rate_has_wilson_intervals_for_single_combinations(tmp_path):
    """Every image but those of index 0 is right: 4 of 8. Wilson's centre is 0.5, its reach
    1.96 * sqrt(0.25 / 8 + 3.8415 / 256) / (1 + 3.8415 / 8) = 1.96 * 0.21508 / 1.48018 = 0.2848."""
    run_dir = benchmark_run(tmp_path, lambda *key: {"count_correct": float(key[-1])}, metrics={"count_correct": True})
    rates = cell(benchmark(run_dir), "mudi", "count_correct").rates
    assert (rates["x"].mean, rates["x"].low, rates["x"].high) == pytest.approx((0.5, 0.215, 0.785), abs=1e-3)


def test_images_that_are_missing_are_named_and_marked(tmp_path):
    def judge(method, combination, fit, prompt_id, index):
        return None if (method, combination, fit) == ("dreambooth", "x", 1) and (prompt_id, index) != ("p00", 0) else {DNC: 0.5}

    result = benchmark(benchmark_run(tmp_path, judge))
    assert result.missing == ("dreambooth / x / fit 1: 3 of 4 images missing",)
    assert (cell(result, "dreambooth").missing, cell(result, "dreambooth").estimate.mean) == (3, 0.5)
    assert cell(result, "mudi").missing == 0


def test_no_mean_without_a_whole_combination(tmp_path):
    def judge(method, combination, *_):
        return None if method == "mudi" and combination == "y" else {DNC: 0.5}

    run_dir = benchmark_run(tmp_path, judge, claims=[("mudi", "dreambooth", DNC, 0.0)])
    result = benchmark(run_dir)
    found = cell(result, "mudi")
    assert (found.estimate, found.per_combination, found.missing) == (None, {"x": 0.5}, 8)
    assert (result.claims[0].verdict, result.claims[0].estimate, result.claims[0].per_combination) == ("missing", None, {"x": 0.0})
    assert result.missing == ("mudi / y / fit 0: 4 of 4 images missing", "mudi / y / fit 1: 4 of 4 images missing")


def test_an_arm_or_score_that_is_not_there_is_named(tmp_path):
    def judge(method, combination, fit, prompt_id, index):
        beauty = {"image_reward": 1.0} if method == "cut_mix" or (method == "mudi" and index == 0) else {}
        return None if method == "late" else {DNC: 0.5, **beauty}

    arms = ("dreambooth", "mudi", "cut_mix", "late")
    result = benchmark(benchmark_run(tmp_path, judge, methods=arms, metrics={DNC: True, "image_reward": True}))
    assert result.missing == (
        "dreambooth: image_reward not computed",
        "mudi: image_reward missing for 8 of 16 images",
        "late: no images (16 planned)",
    )
    assert cell(result, "dreambooth", "image_reward").estimate is None
    assert cell(result, "mudi", "image_reward").missing == 8


def test_a_score_that_does_not_apply_to_a_prompt_is_no_gap(tmp_path):
    """Prompt p01 names no place: stored as not computed for all. The mean is that of p00, and nothing is missing."""
    run_dir = benchmark_run(tmp_path, lambda *key: {"oracle_place": 0.5 if key[3] == "p00" else None}, metrics={"oracle_place": True})
    found = cell(benchmark(run_dir), "mudi", "oracle_place")
    assert (found.estimate.mean, found.estimate.count, found.missing) == (0.5, 8, 0)
    assert benchmark(run_dir).missing == ()


def test_images_of_unknown_adapters_are_left_out_and_counted(tmp_path):
    run_dir = benchmark_run(tmp_path, constant(dreambooth=0.2, mudi=0.4))
    (run_dir / "fits" / "round=0" / "mudi-x-0.parquet").unlink()
    result = benchmark(run_dir)
    assert result.missing == (
        "4 images belong to adapters that are not in the fits table, and are left out",
        "mudi / x / fit 0: 4 of 4 images missing",
    )


@pytest.mark.parametrize(
    ("mudi", "margin", "expected"),
    [(0.4, 0.0, "holds"), (0.1, 0.0, "fails"), (0.15, 0.1, "holds"), (0.05, 0.1, "fails"), (0.2, 0.0, "undecided")],
)
def test_verdicts_of_constant_differences(tmp_path, mudi, margin, expected):
    """Every image differs by mudi - 0.2, so the interval is that one number: 0.2, -0.1, -0.05 > -0.1, -0.15 < -0.1, 0."""
    run_dir = benchmark_run(tmp_path, constant(dreambooth=0.2, mudi=mudi), claims=[("mudi", "dreambooth", DNC, margin)])
    (claim,) = benchmark(run_dir).claims
    assert claim.verdict == expected
    assert (claim.estimate.mean, claim.estimate.low, claim.estimate.high) == pytest.approx((mudi - 0.2,) * 3)


@pytest.mark.parametrize(
    ("low", "high", "margin", "expected"),
    [
        (0.1, 0.3, 0, "holds"),
        (-0.1, 0.3, 0, "undecided"),
        (-0.3, -0.1, 0, "fails"),
        (-0.1, 0.3, 0.2, "holds"),
        (-0.3, 0.1, 0.2, "undecided"),
        (-0.5, -0.3, 0.2, "fails"),
        (None, None, 0, "undecided"),
    ],
)
def test_a_verdict_needs_the_whole_interval(low, high, margin, expected):
    assert verdict(Estimate(mean=0.0, low=low, high=high, count=4), margin) == expected


def test_less_drift_is_better_and_belongs_to_a_fit(tmp_path):
    """Drift 0.1 against 0.4 in four fits each: the difference speaks for the smaller one, +0.3."""
    drift = {"dreambooth": 0.4, "mudi": 0.1}
    run_dir = benchmark_run(
        tmp_path,
        constant(dreambooth=0.2, mudi=0.2),
        claims=[("mudi", "dreambooth", "drift", 0.0)],
        fit_row=lambda method, combination, fit: {
            "started_from": "feed", "drift": None if (method, combination, fit) == ("mudi", "y", 1) else drift[method]
        },
    )  # fmt: skip
    result = benchmark(run_dir)
    (claim,) = result.claims
    assert (claim.verdict, claim.estimate.count) == ("holds", 3)
    assert claim.estimate.mean == pytest.approx(0.3)
    assert result.metrics == {DNC: True, "drift": False}
    assert result.missing == ("mudi: drift missing for 1 of 4 fits",)


def test_a_claim_about_what_was_not_measured_is_missing(tmp_path):
    run_dir = benchmark_run(tmp_path, constant(dreambooth=0.2, mudi=0.4), claims=[("mudi", "dreambooth", "beauty", 0.0)])
    assert benchmark(run_dir).claims[0].verdict == "missing"


def test_validity_is_that_of_each_score_against_the_oracle(tmp_path):
    """mudi succeeds and scores 0.4, dreambooth fails and scores 0.2: the score tells them perfectly, its opposite too
    once lower counts as better, and so do all together; a constant tells nothing. The oracle is not judged by itself."""

    def judge(method, *_):
        good = method == "mudi"
        return {
            DNC: 0.4 if good else 0.2,
            "blur": -0.4 if good else -0.2,
            "flat": 1.0,
            "oracle_success": float(good),
            "oracle_identity": 0.5,
        }

    metrics = {DNC: True, "blur": False, "flat": True, "oracle_success": True, "oracle_identity": True}
    result = benchmark(benchmark_run(tmp_path, judge, metrics=metrics))
    dnc, blur, flat, together = result.validity
    assert (together.metric, together.auroc.mean) == ("fitted", 1.0)
    for found in (dnc, blur):
        assert (found.images, found.auroc.mean, found.auroc.low) == (32, 1.0, 1.0)
        assert found.spearman.mean == pytest.approx(1.0)
    assert (flat.metric, flat.spearman, flat.auroc) == ("flat", None, None)
    assert (dnc.published_spearman, dnc.published_auroc, blur.published_auroc) == (0.455, 0.764, None)


def test_arms_may_share_an_adapter(tmp_path):
    """The second arm's fits took no time of their own; their cost is that of the first, 3 and 4 seconds. Its images are its own."""
    arms = ("mudi", "mudi_without_initialization")

    def shared(method, combination, fit):
        own = {"adapter_sha256": f"adapter{combination}{fit}"}
        return own if method == "mudi" else {**own, "seconds": None, "shared_with": "mudi"}

    run_dir = benchmark_run(tmp_path, constant(mudi=0.4, mudi_without_initialization=0.3), methods=arms, fit_row=shared)
    result = benchmark(run_dir)
    assert [cell(result, arm).estimate.mean for arm in arms] == pytest.approx([0.4, 0.3])
    assert [(cost.fits, cost.fit_seconds, cost.images, cost.seconds_per_image, cost.parameters) for cost in result.costs] == [
        (4, 3.5, 16, 0.5, 99)
    ] * 2
    scores = load_scores(run_dir)
    assert sorted(scores[scores["method"] == arms[1]]["fit"].unique()) == [0, 1]


def test_a_metric_added_later_fills_its_cells(tmp_path):
    run_dir = benchmark_run(tmp_path, constant(dreambooth=0.2, mudi=0.4), metrics={DNC: True, "clip_text": True})
    for chunk_id in store.committed_chunks(run_dir, 0):
        scores = {
            row["candidate_id"]: (Score(metric="clip_text", value=0.25, scorer="tiny"),)
            for row, _ in store.read_chunk(run_dir, 0, chunk_id)
        }
        store.write_scores(run_dir, chunk_id, 0, "clip_score", scores)
    result = benchmark(run_dir)
    assert result.missing == ()
    assert cell(result, "mudi", "clip_text").estimate.mean == 0.25


def test_a_number_that_is_stored_twice_is_refused(tmp_path):
    run_dir = benchmark_run(tmp_path, constant(dreambooth=0.2, mudi=0.4))
    store.write_fits(run_dir, "again", store.read(run_dir, "fits").drop_columns(["round", "schema_version"]).slice(0, 1).to_pylist())
    with pytest.raises(ValueError, match="dreambooth / x has adapter_sha256 dreambooth0 twice"):
        benchmark(run_dir)


def test_text_shows_means_claims_and_gaps_with_the_papers_numbers_apart(tmp_path):
    claims = [("mudi", "dreambooth", DNC, 0.0), ("dreambooth", "mudi", DNC, 0.0)]

    def judge(method, combination, fit, prompt_id, index):
        return (
            None if (method, combination, fit, prompt_id, index) == ("mudi", "x", 0, "p00", 0) else {DNC: 0.4 if method == "mudi" else 0.2}
        )

    run_dir = benchmark_run(tmp_path, judge, claims=claims)
    text = markdown(benchmark(run_dir))
    assert "- mudi / x / fit 0: 1 of 4 images missing" in text
    assert f"| method | {DNC} ↑ | {DNC} (paper, other models) |" in text
    assert "| mudi | 0.400 [0.400, 0.400] (1 missing) | 0.434 |" in text
    assert f"| mudi beats dreambooth | holds | mudi - dreambooth, {DNC} | +0.200 [+0.200, +0.200] | 2 of 2 |" in text
    assert "| dreambooth beats mudi | fails |" in text
    assert "| mudi | 4 | 3.5 | 15 | 0.500 | 99 |" in text
    output = io.StringIO()
    print_tables(benchmark(run_dir), Console(file=output, width=160))
    for shown in ("0.400 [0.400, 0.400] (1 missing)", "holds", "fails", "missing: mudi / x / fit 0: 1 of 4 images missing"):
        assert shown in output.getvalue()


def test_a_run_of_another_kind_is_refused(tmp_path):
    publish(tmp_path, "run.json", b'{"config": {}}')
    with pytest.raises(ValueError, match="no benchmark but a run of another kind"):
        benchmark(tmp_path)


def test_the_paper_s_numbers_can_be_kept_out_of_a_table(tmp_path):
    """An arm that happens to be named as the paper's method, but is drawn otherwise, must not stand beside its number."""
    run_dir = benchmark_run(tmp_path, lambda *_: {DNC: 0.5})
    facts = json.loads((run_dir / "run.json").read_text())
    facts["config"]["tables"][0]["paper"] = False
    publish(run_dir, "run.json", json.dumps(facts).encode())
    assert cell(benchmark(run_dir), "mudi").published is None
