"""The state machine on the miniature in this process instead of on Ray: what is kept, and what a kill leaves."""

import shutil
from pathlib import Path

import pytest
from running import carried_out, must_not_work, opened, quiet

from pipeline import assignments
from pipeline.carry_out import carry_out, phases_of
from pipeline.phases import Draws, is_anything_left, listed
from pipeline.ready import ready
from pipeline.settings.config import load_run
from pipeline.tables import journal, store

RUN_FILE = "tests/data/miniature.yaml"
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


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["negative_aware", "preference"])
def test_objectives_that_learn_from_all_train_on_every_scored_candidate(tmp_path, objective):
    """Of six candidates all have a score, zeros included; two rounds have two adapters, and a second start finds nothing to do."""
    run = small_run(tmp_path, f"retrain.objective={objective}", "retrain.batch=2")
    candidates, _, selections = table(carried_out(run))
    assert [len(selections[selections["round"] == round]) for round in (0, 1)] == [6, 6]
    assert candidates["adapter_sha256"].nunique() == 2
    carry_out(run, must_not_work, quiet)


def test_further_metrics_score_every_round_and_may_select(tmp_path):
    """Two thirds of one further score and a third of a drawn one rank by hand as the run ranked. Another metric, added to the finished
    run, scores its 16 pictures and draws none."""
    asked = ["metrics=[identity_matrix]", "score.select_by={dnc_assigned_dreamsim: 2.0, dnc_linear_dinov2: 1.0}"]
    run = small_run(tmp_path, *asked)
    candidates, scores, selections = table(carried_out(run))
    wide = scores.pivot(index="candidate_id", columns="metric", values="value")
    values = (2 * wide["dnc_assigned_dreamsim"] + wide["dnc_linear_dinov2"]) / 3
    for round in (0, 1):
        mine = candidates[(candidates["round"] == round) & ~candidates["prompt_id"].str.startswith("watch-")]
        ranked = sorted(((values[i], i) for i in mine["candidate_id"] if values[i] > 0), key=lambda pair: (-pair[0], pair[1]))
        assert selections[selections["round"] == round]["candidate_id"].tolist() == [i for _, i in ranked[:2]]
    more = small_run(tmp_path, *asked[1:], "metrics=[identity_matrix, identity_oracle]", "models.oracle=miniature")
    pictures, judged, _ = table(carried_out(more))
    assert pictures.equals(candidates)
    assert (judged["metric"] == "oracle_identity").sum() == 16


def test_candidates_and_watched_pictures_are_drawn_as_each_is_told(tmp_path):
    """Of three rounds the first and the last draw watched prompts, at 4; candidates of all are drawn at 2 and with other steps."""
    overrides = ["rounds=2", "pool_sampling={guidance_scale: 2.0, steps: 3}", "watched_rounds=ends"]
    run = small_run(tmp_path, *overrides)
    drawn: dict[int, set] = {}
    for phase in listed(phases_of(run)):
        for chunk in phase.chunks if isinstance(phase, Draws) else ():
            sampling = phase.settings.method_of(chunk).sampling
            drawn.setdefault(chunk.round, set()).add((chunk.prompt_id[:5], sampling.guidance_scale, sampling.steps))
    candidates, watched = {("p00", 2.0, 3), ("p01", 2.0, 3), ("p02", 2.0, 3), ("p03", 2.0, 3)}, ("watch", 4.0, 4)
    assert drawn == {0: candidates | {watched}, 1: candidates, 2: candidates | {watched}}


@pytest.mark.parametrize(
    ("override", "said"),
    [("pool_sampling={guidance: 2.0}", "pool_sampling.guidance"), ("pool_sampling={gamma: 2.0}", r"pool_sampling\.gamma = 2\.0")],
)
def test_what_candidates_cannot_be_drawn_with_is_refused(tmp_path, override, said):
    with pytest.raises(ValueError, match=said):
        ready(load_run(Path(RUN_FILE), [f"runs={tmp_path}", override]))


def test_fit_seeds_differ_between_cells_and_rounds():
    seeds = {assignments.fit_seed(0, key, round) for key in ("a", "b") for round in range(3)}
    assert len(seeds) == 6


def test_an_unknown_hyperparameter_is_refused_with_a_suggestion(tmp_path):
    config = load_run(Path(RUN_FILE), ["method.step=3"])
    with pytest.raises(ValueError, match=r"method\.step: .*did you mean 'steps'"):
        ready(config)
