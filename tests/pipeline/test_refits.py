"""Rounds of a refit on the miniature in this process: what each starts from and draws, sharing, resuming, and what a plan says."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from running import carried_out, must_not_work, opened, quiet

from mudi import adapter_folder
from mudi.records import Adapter
from pipeline import arms, refits
from pipeline.carry_out import carry_out
from pipeline.cost.count import total, workload_of
from pipeline.cost.show import print_plan
from pipeline.ready import ready
from pipeline.settings.benchmark_config import Refit, load_benchmark
from pipeline.settings.config import Scoring
from pipeline.tables import store
from pipeline.workers.fit_job import read_cost

PAIR = "two_dogs_tuning"
FILE = f"""
name: tiny
runs: RUNS
combinations: [jobs/configs/miniature/tuning/{PAIR}]
prompts: ["a photo of {{subjects}} on the grass"]
training_prompts: ["a photo of {{subjects}} in the snow"]
images: 1
defaults: {{objective: dco, steps: 2, learning_rate: 1.0e-2, batch: 2, accumulation: 1, rank: 4}}
sampling: {{steps: 2, guidance_scale: 2.0, negative_prompt: "", gamma: 0.0, batch: 4}}
score: {{threshold: 0.05}}
methods:
  mudi: {{method: mudi}}
"""
REFIT = "of: mudi, pool: 4, keep: 2, select: random, steps: 2, batch: 2, accumulation: 1, learning_rate: 1.0e-3"
ONCE = f"  once: {{refit: {{{REFIT}}}}}\n"
TWICE = f"  twice: {{refit: {{{REFIT}, rounds: 2}}}}\n  unguided: {{like: twice, sampling: {{guidance_scale: 1.0}}}}\n"


def load(folder, methods=TWICE, *overrides):
    path = folder / "benchmark.yaml"
    path.write_text(FILE.replace("RUNS", str(folder / "runs")) + methods)
    return load_benchmark(path, overrides)


def run(config, progress=quiet):
    return carried_out(opened(config), progress)


def manifests(config, label="twice"):
    """Of the arm below and of each round, in their order."""
    asked = ready(config)
    arm = asked.arms[label]
    below = arms.fit_folder(asked.run_dir, asked.arms[arm.refit.of], PAIR, 0)
    folders = [refits.folder_after(asked, (label, PAIR, 0), round) for round in range(arm.refit.rounds)]
    return [adapter_folder.read_manifest(folder) for folder in (below, *folders)]


def drawn(config):
    """The candidates of the pools."""
    return store.read(refits.pool_dir(ready(config).run_dir), "candidates").to_pandas()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two rounds, with what its plan counted before and counts now."""
    config = load(tmp_path_factory.mktemp("finished"))
    before = workload_of(ready(config))
    run(config)
    return config, before, workload_of(ready(config))


@pytest.mark.slow
def test_a_round_starts_from_what_the_round_before_left_and_draws_with_it(finished):
    """Four candidates a round, by the arm's own fit and then by the first refit, all with seeds of their own."""
    below, first, last = manifests(finished[0])
    assert [first["start"], last["start"]] == [below["sha256"], first["sha256"]]
    assert [below["round"], first["round"], last["round"]] == [0, 1, 2]
    assert first["seed"] != last["seed"]
    pools = drawn(finished[0])
    assert pools.groupby("round")["adapter_sha256"].unique().map(list).to_dict() == {0: [below["sha256"]], 1: [first["sha256"]]}
    assert len(set(pools["seed"])) == len(pools) == 8


@pytest.mark.slow
def test_pictures_are_drawn_with_the_last_adapter_alone_and_arms_that_draw_otherwise_share_it(finished):
    """`unguided` is `twice` with its own pictures of the same seed: one adapter, one pool, and no cost."""
    config = finished[0]
    below, _, last = manifests(config)
    run_dir = ready(config).run_dir
    pictures = store.read(run_dir, "candidates").to_pandas().set_index("method")
    assert pictures["adapter_sha256"].to_dict() == {"mudi": below["sha256"], "twice": last["sha256"], "unguided": last["sha256"]}
    assert pictures["image_sha256"]["twice"] != pictures["image_sha256"]["unguided"]
    fits = store.read(run_dir, "fits").to_pandas().set_index("method")
    assert fits["shared_with"].dropna().to_dict() == {"unguided": "twice"}


@pytest.mark.slow
def test_the_row_of_a_fit_sums_up_its_rounds(finished):
    """Two rounds of two steps on two candidates each; drift is the last one's, and the start the arm below."""
    config = finished[0]
    below, _, last = manifests(config)
    asked = ready(config)
    row = store.read(asked.run_dir, "fits").to_pandas().set_index("method").loc["twice"]
    assert (row["steps"], row["kept"], row["started_from"], row["drift"]) == (4, 4, below["sha256"], last["drift"])
    costs = [read_cost(refits.folder_after(asked, ("twice", PAIR, 0), round)) for round in (0, 1)]
    assert row["seconds"] == pytest.approx(sum(cost["seconds"] for cost in costs))


@pytest.mark.slow
def test_a_plan_counts_all_rounds_as_the_run_made_them(finished):
    """Before anything is there, and afterwards, when nothing is left."""
    config, before, after = finished
    made, run_dir = total(before.tasks()), ready(config).run_dir
    assert made == total(after.tasks())
    assert not total(after.tasks(), whole=False)
    settings = [manifest.get("retrain") or manifest["hyperparameters"] for manifest in manifests(config)]
    assert (made["fits"], made["steps"]) == (3, sum(each["steps"] for each in settings))
    assert made["images"] == len(drawn(config)) + len(store.read(run_dir, "candidates"))
    assert len(list((run_dir / "adapters").rglob("manifest.json"))) == 3


@pytest.mark.slow
def test_a_run_killed_between_two_rounds_ends_like_an_undisturbed_one(finished, tmp_path):
    """It dies before the second pool, with the first refit alone; a third start finds nothing to do."""

    def kill(label, done, total):
        if label == "round 2 pool":
            raise KeyboardInterrupt

    config = load(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(config, kill)
    assert set(drawn(config)["round"]) == {0}
    run(config)
    assert manifests(config) == manifests(finished[0])
    assert drawn(config)["image_sha256"].tolist() == drawn(finished[0])["image_sha256"].tolist()
    carry_out(opened(config), must_not_work, quiet)


@pytest.mark.slow
def test_an_arm_that_goes_on_for_longer_goes_on_from_the_shorter_one(finished, tmp_path):
    """A run of one round leaves the first adapter of two; with an arm of two added, no more than the second round is fitted."""
    run(load(tmp_path, ONCE))
    longer = load(tmp_path, ONCE + TWICE)
    assert manifests(longer, "once") == manifests(finished[0])[:2]
    left = total(workload_of(ready(longer)).tasks(), whole=False)
    # A pool of four, and a picture of each of the two arms.
    assert (left["fits"], left["steps"], left["images"]) == (1, 2, 6)
    run(longer)
    assert manifests(longer) == manifests(finished[0])


@pytest.mark.slow
def test_rounds_that_keep_nothing_draw_anew_with_the_adapter_that_is_there(tmp_path):
    """The detector is asked for more certainty than there is, so all scores are zero: no refit, two pools, a cell without pictures."""
    config = load(tmp_path, TWICE, "methods.twice.refit.select=top", "score.threshold=0.999")
    run_dir = run(config)
    pools = drawn(config)
    assert pools.groupby("round").size().to_dict() == {0: 4, 1: 4}
    assert pools["adapter_sha256"].nunique() == 1
    assert (
        set(store.read(run_dir, "candidates")["method"].to_pylist()) == set(store.read(run_dir, "fits")["method"].to_pylist()) == {"mudi"}
    )
    said = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    nothing = [(event["round"], event["cell"][0]) for event in said if event["event"] == "nothing kept"]
    assert nothing == [(0, "twice"), (0, "unguided"), (1, "twice"), (1, "unguided")]
    carry_out(opened(config), must_not_work, quiet)


UNGUIDED = f"  weak: {{refit: {{{REFIT}, sampling: {{guidance_scale: 1.0}}}}}}\n  drawn: {{like: weak, sampling: {{gamma: 0.5}}}}\n"


@pytest.mark.slow
def test_a_score_that_drawing_does_not_give_selects_from_pools_too(tmp_path):
    """The two kept of each round are the best of the four by `dnc_assigned_dreamsim`, which no other phase computes for pools."""
    keys = ["metrics=[identity_matrix]", "score.select_by=dnc_assigned_dreamsim"]
    config = load(tmp_path, TWICE.replace("random", "top"), *keys)
    run(config)
    scores = store.read(refits.pool_dir(ready(config).run_dir), "scores").to_pandas()
    chosen = scores[scores["metric"] == "dnc_assigned_dreamsim"]
    assert len(chosen) == 8
    positive = chosen[chosen["value"] > 0].groupby("round").size().clip(upper=2)
    assert [manifest["kept"] for manifest in manifests(config)[1:]] == positive.tolist()


@pytest.mark.slow
def test_pools_that_are_drawn_otherwise_are_pools_of_their_own(tmp_path, capsys):
    """The same noise twice, with guidance and without; arms that draw their pictures otherwise share either, and a plan has a row of
    each."""
    config = load(tmp_path, ONCE + UNGUIDED)
    made = total(workload_of(ready(config)).tasks())
    run(config)
    pools = drawn(config)
    labels = sorted(set(pools["method"]))
    assert labels[0] == "mudi"
    assert labels[1].startswith("mudi-pool-")
    guided, weak = (pools[pools["method"] == label].set_index("seed")["image_sha256"] for label in labels)
    assert sorted(guided.index) == sorted(weak.index)
    assert not set(guided) & set(weak)
    fits = store.read(ready(config).run_dir, "fits").to_pandas().set_index("method")
    assert fits["adapter_sha256"]["weak"] == fits["adapter_sha256"]["drawn"] != fits["adapter_sha256"]["once"]
    assert made["images"] == 4 + 4 + len(config.methods) == len(pools) + store.read(ready(config).run_dir, "candidates").num_rows
    print_plan(ready(config), workload_of(ready(config)), [], None)
    assert labels[1] in capsys.readouterr().out


def test_a_pool_that_says_how_it_is_drawn_anyway_is_the_same_pool(tmp_path):
    """One folder and one label; with a key that differs both differ, and the size is that pool's own."""
    same, other = "sampling: {guidance_scale: 2.0}", "sampling: {guidance_scale: 1.0}, pool: 8"
    text = f"  same: {{refit: {{{REFIT}, {same}}}}}\n  other: {{refit: {{{REFIT.replace('pool: 4, ', '')}, {other}}}}}\n"
    asked = ready(load(tmp_path, ONCE + text))
    folders = {label: refits.folder_after(asked, (label, PAIR, 0), 0) for label in ("once", "same", "other")}
    assert folders["once"] == folders["same"] != folders["other"]
    assert asked.arms["once"].pool.label == asked.arms["same"].pool.label == "mudi"
    made = {("mudi", PAIR, 0): (adapter("own", 0),)}
    chunks = refits.pool(asked, refits.starts(asked, made, 0), 0).chunks
    assert Counter(key.method for chunk in chunks for key in chunk.keys) == {"mudi": 4, asked.arms["other"].pool.label: 8}


def test_what_a_pool_needs_of_a_combination_is_asked_for(tmp_path):
    text = f"  sized: {{refit: {{{REFIT}, sampling: {{scales: [0.5]}}}}}}\n"
    with pytest.raises(ValueError, match=r"methods\.sized\.refit: sampling.scales has 1 numbers, two_dogs_tuning 2 subjects"):
        ready(load(tmp_path, text))


def adapter(name, round):
    return Adapter(method="mudi", combination=PAIR, round=round, path=Path(name), sha256=name)


def test_a_cell_starts_from_its_last_refit_or_from_the_arm_below(tmp_path):
    """Of four arms one has no third round, one kept something in the first alone, one nothing at all."""
    arms_of = "".join(f"  {name}: {{refit: {{{REFIT}, rounds: {n}}}}}\n" for name, n in (("two", 2), ("kept", 3), ("lost", 4)))
    asked = ready(load(tmp_path, arms_of))
    made = {("mudi", PAIR, 0): (adapter("own", 0),), ("two", PAIR, 0): (adapter("x", 1),), ("kept", PAIR, 0): (adapter("y", 1),)}
    found = refits.starts(asked, made, 2)
    assert {label: start.sha256 for (label, _, _), start in found.items()} == {"kept": "y", "lost": "own"}
    assert refits.most_rounds(asked.arms) == 4


def test_refits_of_other_lengths_differ_in_their_last_folder_alone(tmp_path):
    """The first of two rounds lies where one round lies, the last beside it."""
    asked = ready(load(tmp_path, ONCE + TWICE))
    once, first, last = (refits.folder_after(asked, (label, PAIR, 0), r) for label, r in (("once", 0), ("twice", 0), ("twice", 1)))
    assert once == first != last
    assert first.parent == last.parent
    assert arms.adapter_folder(asked.run_dir, asked.config, asked.arms, asked.arms["unguided"], PAIR, 0) == last


def test_random_selection_takes_zeros_and_top_does_not():
    """Of four scored and one unscored candidate, top 3 finds two positive ones, random 4 all that have a score."""
    pool = [(name, "prompt", value) for name, value in zip("abcde", [0.0, 0.5, None, 0.2, 0.0], strict=True)]
    rng, top = np.random.default_rng(0), Refit(of="x", keep=3)
    assert [name for name, _, _ in refits.choose(top, pool, rng, Scoring())] == ["b", "d"]
    assert [name for name, _, _ in refits.choose(replace(top, keep=4, select="random"), pool, rng, Scoring())] == ["a", "b", "d", "e"]
