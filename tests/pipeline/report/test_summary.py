"""The summary: hand-computed tables, and intervals that know which images belong together."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mudi.records import Candidate, CandidateKey, Score, ScoredCandidate
from pipeline.report.statistics import Estimate, show
from pipeline.report.summary import cluster_bootstrap, print_summary, summarise
from pipeline.report.text import NARROWEST
from pipeline.settings.config import load_run
from pipeline.tables import store
from pipeline.tables.run_folder import open_run

METRIC = "dnc_linear_dreamsim"


@pytest.fixture
def run_dir(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(f"name: toys\nruns: {tmp_path}\ncombinations: [toys]\nrounds: 1\ncandidates: 4\nkeep: 2\nprompts: ['{{subjects}}']\n")
    return open_run(load_run(path))


def store_round(run_dir: Path, round: int, prompt_id: str, values: list[float | None], combination: str = "toys") -> list[str]:
    """Stores one candidate a value; None stands for an invalid image. Right counts are 1 where the value is above 0."""
    items = []
    for index, value in enumerate(values):
        key = CandidateKey(
            run="toys", method="mudi", combination=combination, prompt_id=prompt_id, index=index, round=round, adapter_sha256=f"{round}"
        )
        image, status = (None, "invalid") if value is None else (np.full((4, 4, 3), index, np.uint8), "ok")
        candidate = Candidate(key=key, prompt="a toy", seed=index, image=image, status=status, error=None, seconds=2.0)
        scores = () if value is None else (("count_correct", float(value > 0)), (METRIC, value))
        named = tuple(Score(metric=metric, value=v, scorer="tiny") for metric, v in scores)
        items.append(ScoredCandidate(candidate=candidate, detections=(), scores=named))
    store.write_chunk(run_dir, f"{combination}-{prompt_id}", round, items, device="cpu", dtype="float32", batch=len(items))
    return [item.candidate.key.candidate_id for item in items]


def test_a_round_is_summed_up_by_hand(run_dir):
    """Values 0.8, 0.0, 0.4 and one invalid image of 4 planned: mean 1.2 / 3 with the zero counted, right count 2 / 3."""
    ids = store_round(run_dir, 0, "p00", [0.8, 0.0, None, 0.4])
    store.write_selection(run_dir, 0, [(ids[0], 1, 0.8), (ids[3], 2, 0.4)])
    store_round(run_dir, 1, "p00", [0.5, 0.7])
    first, second = summarise(run_dir).rounds
    assert (first.round, first.candidates, first.invalid, first.missing, first.kept) == (0, 4, 1, 0, 2)
    assert first.score.mean == pytest.approx(0.4)
    assert first.kept_score == pytest.approx(0.6)
    assert first.right_count.mean == pytest.approx(2 / 3)
    assert first.seconds == 8.0
    assert (second.round, second.missing, second.kept, second.kept_score) == (1, 2, 0, None)


def test_watched_images_stay_out_of_the_mean_and_are_compared_in_pairs(run_dir):
    """Watched values 0.1, 0.5 become 0.4, 0.6: differences 0.3 and 0.1, mean 0.2. The third image has no partner."""
    store_round(run_dir, 0, "p00", [0.6, 0.6])
    store_round(run_dir, 0, "watch-00", [0.1, 0.5])
    store_round(run_dir, 1, "p00", [0.6, 0.6])
    store_round(run_dir, 1, "watch-00", [0.4, 0.6, 0.9])
    summary = summarise(run_dir)
    assert [row.score.mean for row in summary.rounds] == [0.6, 0.6]
    ((round, change),) = summary.watched.items()
    assert (round, change.count) == (1, 2)
    assert change.mean == pytest.approx(0.2)


def test_watched_images_are_compared_with_the_first_round_and_name_the_best(run_dir):
    """Watched means .3, .6 and .5: the changes since round 0 are .3 and .2, and round 1 is the best although round 2 scores higher.
    Nothing was kept in it, so that the adapter of round 0 drew it."""
    (run_dir / "adapters" / "toys" / "round=0").mkdir(parents=True)
    for round, (score, watched) in enumerate([(0.1, [0.1, 0.5]), (0.2, [0.5, 0.7]), (0.9, [0.3, 0.7])]):
        store_round(run_dir, round, "p00", [score, score])
        store_round(run_dir, round, "watch-00", watched)
    summary = summarise(run_dir)
    assert {round: change.mean for round, change in summary.watched.items()} == pytest.approx({1: 0.3, 2: 0.2})
    assert summary.best == 1
    assert [folder.relative_to(run_dir).as_posix() for folder in summary.adapters] == ["adapters/toys/round=0"]


def test_further_scores_of_watched_images_are_told_from_the_first_round_to_the_last(tmp_path):
    """Oracle identities .2 and .4 become .5 and .9 in round 1: means .3 and .7, change .4. The candidates' have no part in it."""
    path = tmp_path / "run.yaml"
    keys = "metrics: [identity_oracle]\nrounds: 1\ncandidates: 1\nkeep: 1\nprompts: ['{subjects}']\n"
    path.write_text(f"name: toys\nruns: {tmp_path}\ncombinations: [toys]\n{keys}")
    run_dir = open_run(load_run(path))
    for round, values in enumerate([(0.2, 0.4), (0.5, 0.9)]):
        for prompt_id, judged in (("watch-00", values), ("p00", (0.0,))):
            ids = store_round(run_dir, round, prompt_id, [1.0] * len(judged))
            of_ids = {i: (Score(metric="oracle_identity", value=v, scorer="tiny"),) for i, v in zip(ids, judged, strict=True)}
            store.write_scores(run_dir, f"toys-{prompt_id}", round, "identity_oracle", of_ids)
    (further,) = summarise(run_dir).further
    assert (further.metric, further.first, further.last) == ("oracle_identity", pytest.approx(0.3), pytest.approx(0.7))
    assert further.change.mean == pytest.approx(0.4)


def test_without_watched_images_the_score_names_the_best_round(run_dir):
    for round, value in enumerate([0.2, 0.6, 0.4]):
        store_round(run_dir, round, "p00", [value, value])
    assert summarise(run_dir).best == 1


def test_a_run_without_candidates_has_no_rows_and_prints(run_dir):
    summary = summarise(run_dir)
    assert (summary.rounds, summary.watched, summary.best) == ((), {}, None)
    print_summary(run_dir, console=Console(file=io.StringIO()))


def test_several_combinations_have_rows_of_their_own(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(f"name: two\nruns: {tmp_path}\ncombinations: [x, y]\ncandidates: 2\nkeep: 1\nprompts: ['{{subjects}}']\n")
    run_dir = open_run(load_run(path))
    store_round(run_dir, 0, "p00", [0.2, 0.4], "x")
    store_round(run_dir, 0, "p00", [0.8], "y")
    rows = {row.combination: row for row in summarise(run_dir).rounds}
    assert [(key, rows[key].candidates, rows[key].missing) for key in (None, "x", "y")] == [(None, 3, 1), ("x", 2, 0), ("y", 1, 1)]
    assert rows["y"].score == Estimate(mean=0.8, low=None, high=None, count=1)
    output = io.StringIO()
    print_summary(run_dir, console=Console(file=output, width=NARROWEST))
    lines = [line.split()[:3] for line in output.getvalue().splitlines()]
    assert all(row in lines for row in (["all", "0", "0.467"], ["x", "0", "0.300"], ["y", "0", "0.800"]))


def test_an_unknown_metric_lists_those_there_are(run_dir):
    store_round(run_dir, 0, "p00", [0.5])
    with pytest.raises(ValueError, match="choose from count_correct, dnc_linear_dreamsim"):
        summarise(run_dir, "beauty")


def test_the_interval_of_one_cluster_is_that_of_the_mean():
    """100 zeros and 100 ones: standard error 0.5 / sqrt(200) = 0.0354, so 95 % is 0.5 +- 0.0693."""
    estimate = cluster_bootstrap([0.0, 1.0] * 100, ["p"] * 200)
    assert estimate.mean == 0.5
    assert (estimate.low, estimate.high) == pytest.approx((0.5 - 0.0693, 0.5 + 0.0693), abs=0.008)


def test_alike_images_of_a_prompt_count_once():
    """Two-valued prompts, 20 of them with identical images: the error is that of 20 values, 0.5 / sqrt(20) = 0.112,
    not that of 200, however many images repeat a prompt."""
    values, prompts = np.repeat([0.0, 1.0] * 10, 10), np.repeat(np.arange(20), 10)
    estimate = cluster_bootstrap(values, prompts)
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * 0.112, abs=0.06)
    naive = cluster_bootstrap(values, ["p"] * 200)
    assert estimate.high - estimate.low > 2.5 * (naive.high - naive.low)


def test_the_interval_is_repeatable_and_degenerate_where_it_must_be():
    values, prompts = [0.1, 0.5, 0.9, 0.3], ["a", "a", "b", "b"]
    assert cluster_bootstrap(values, prompts) == cluster_bootstrap(values, prompts)
    assert show(cluster_bootstrap([0.25, 0.25], ["a", "b"])) == "0.250 [0.250, 0.250]"
    assert (show(cluster_bootstrap([0.25], ["a"])), show(None), show(0.5, sign=True)) == ("0.250", "-", "+0.500")
