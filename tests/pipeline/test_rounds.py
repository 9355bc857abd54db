"""The state machine on the miniature in this process instead of on Ray: what is kept, and what a kill leaves."""

import shutil
from pathlib import Path

import pytest
from running import carried_out, must_not_work, opened, quiet

from pipeline import assignments
from pipeline.carry_out import carry_out, phases_of
from pipeline.phases import is_anything_left
from pipeline.ready import ready
from pipeline.settings.config import load_run
from pipeline.tables import journal, store

RUN_FILE = "jobs/configs/miniature.yaml"
SMALL = (
    "method.objective=dco", "method.steps=6", "method.batch=2", "rounds=1", "candidates=6", "keep=2", "watched_images=1",
    "sampling.steps=4", "sampling.batch=3", "retrain.steps=4", "retrain.batch=2", "score.threshold=0.05",
)  # fmt: skip


def small_run(folder, *overrides):
    """A run of two sweeps of six candidates and one refit, a few seconds on one core."""
    return opened(load_run(Path(RUN_FILE), [f"runs={folder}", *SMALL, *overrides]))


def table(run_dir):
    """Everything of a run that must not depend on how it was interrupted."""
    frame = store.read(run_dir, "candidates").to_pandas().drop(columns=["seconds"])
    scores = store.read(run_dir, "scores").to_pandas()
    selections = store.read(run_dir, "selections").to_pandas()
    return (
        frame.sort_values("candidate_id").reset_index(drop=True),
        scores.sort_values(["candidate_id", "metric"]).reset_index(drop=True),
        selections.sort_values(["round", "rank"]).reset_index(drop=True),
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return carried_out(small_run(tmp_path_factory.mktemp("undisturbed")))


@pytest.mark.slow
def test_every_planned_candidate_is_stored_once(undisturbed):
    """Two rounds of six candidates and two watched prompts with one image each: 2 x (6 + 2) = 16 rows."""
    ids = store.read(undisturbed, "candidates")["candidate_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 16


@pytest.mark.slow
def test_selections_hold_exactly_the_best_that_are_not_watched(undisturbed):
    """Recomputed here by sorting: positive values, best first, at most `keep`, no watched prompt."""
    candidates, scores, selections = table(undisturbed)
    values = scores[scores["metric"] == "dnc_linear_dreamsim"].set_index("candidate_id")["value"]
    for round in (0, 1):
        mine = candidates[(candidates["round"] == round) & ~candidates["prompt_id"].str.startswith("watch-")]
        ranked = sorted(((values[i], i) for i in mine["candidate_id"] if values[i] > 0), key=lambda pair: (-pair[0], pair[1]))
        assert selections[selections["round"] == round]["candidate_id"].tolist() == [i for _, i in ranked[:2]]


@pytest.mark.slow
def test_watched_images_start_from_the_same_noise_in_every_round(undisturbed):
    """Equal seeds in both rounds for watched prompts, and no seed of round 0 again for the others."""
    candidates, _, _ = table(undisturbed)
    watched = candidates["prompt_id"].str.startswith("watch-")
    by_round = [set(candidates[watched & (candidates["round"] == r)]["seed"]) for r in (0, 1)]
    others = [set(candidates[~watched & (candidates["round"] == r)]["seed"]) for r in (0, 1)]
    assert by_round[0] == by_round[1]
    assert not others[0] & others[1]


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [(1,), (8,), (9,), (11,), (14,), (18,), (20,), (3, 2), (9, 1), (15, 1)])
def test_a_run_killed_anywhere_ends_like_an_undisturbed_one(undisturbed, tmp_path, killed_at):
    """The n-th progress report raises; n walks through the first fit, both sweeps and the refit; some starts are killed twice in a row."""
    run = small_run(tmp_path)
    for at in killed_at:
        reports = 0

        def kill(label, done, total, at=at):
            nonlocal reports
            reports += 1
            if reports == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            carried_out(run, kill)
        assert is_anything_left(phases_of(run))
    for ours, theirs in zip(table(carried_out(run)), table(undisturbed), strict=True):
        assert ours.equals(theirs)


@pytest.mark.slow
def test_a_finished_run_is_not_done_again(undisturbed, tmp_path):
    """No piece of work is handed out, the list of phases says that nothing is left, and no table changes."""
    run_dir = tmp_path / "miniature"
    shutil.copytree(undisturbed, run_dir)
    run = small_run(tmp_path)
    assert not is_anything_left(phases_of(run))
    carry_out(run, must_not_work, quiet)
    assert all(ours.equals(theirs) for ours, theirs in zip(table(run_dir), table(undisturbed), strict=True))


@pytest.mark.slow
def test_a_round_that_keeps_nothing_hands_its_adapter_on(tmp_path):
    """At threshold 1 nothing is ever detected: all scores are 0, none is kept, and the run still finishes."""
    run_dir = carried_out(small_run(tmp_path, "score.threshold=1.0"))
    candidates, _, selections = table(run_dir)
    assert len(candidates) == 16
    assert selections.empty
    assert candidates["adapter_sha256"].nunique() == 1
    assert journal.read_marker(run_dir, 1, "publish")["kept"] == 0


def test_fit_seeds_differ_between_cells_and_rounds():
    seeds = {assignments.fit_seed(0, key, round) for key in ("a", "b") for round in range(3)}
    assert len(seeds) == 6


def test_an_unknown_hyperparameter_is_refused_with_a_suggestion(tmp_path):
    config = load_run(Path(RUN_FILE), ["method.step=3"])
    with pytest.raises(ValueError, match=r"method\.step: .*did you mean 'steps'"):
        ready(config)
