"""The benchmark on the miniature in this process: sharing, pairing, resuming, and a metric that comes later."""

import shutil

import pytest
from running import carried_out, opened, quiet

from mudi.metrics import METRICS
from mudi.records import Candidate, CandidateKey, ScoredCandidate
from pipeline import refits
from pipeline.settings.benchmark_config import load_benchmark
from pipeline.tables import store
from pipeline.workers.judge import Judge, JudgeSettings, judge
from pipeline.workers.loaded import Loaded

FILE = """
name: tiny
runs: RUNS
combinations: [jobs/configs/miniature/tuning/two_dogs_tuning]
prompts: ["a photo of {subjects} on the grass", "a photo of {subjects} at night"]
training_prompts: ["a photo of {subjects} in the snow"]
images: 2
fits: 2
defaults: {objective: dco, steps: 3, learning_rate: 1.0e-2, batch: 2, accumulation: 1, rank: 4}
sampling: {steps: 3, guidance_scale: 2.0, negative_prompt: "", gamma: 0.0, batch: 2}
score: {threshold: 0.05}
methods:
  dreambooth: {method: dreambooth}
  mudi: {method: mudi, sampling: {gamma: 0.3}}
  without: {like: mudi, sampling: {gamma: 0.0}}
  refitted: {refit: {of: mudi, pool: 4, keep: 2, select: random, steps: 2, batch: 2, accumulation: 1, learning_rate: 1.0e-3}}
"""


def load(folder, *overrides, text=FILE):
    path = folder / "benchmark.yaml"
    path.write_text(text.replace("RUNS", str(folder / "runs")))
    return load_benchmark(path, overrides)


def run(config, progress=quiet):
    return carried_out(opened(config), progress)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return load(folder), run(load(folder))


# What a fit cost is measured, and differs from start to start.
COSTS = ("seconds", "peak_bytes")


def rows(run_dir, dataset, drop=COSTS):
    frame = store.read(run_dir, dataset).to_pandas()
    frame = frame.drop(columns=[c for c in drop if c in frame])
    return frame.sort_values([c for c in ("candidate_id", "metric", "method", "fit") if c in frame]).reset_index(drop=True)


@pytest.mark.slow
def test_every_cell_is_drawn_and_all_arms_start_from_the_same_seeds(finished):
    """Four arms x two fits x two prompts x two images: 32 pictures, four seeds, each with eight of them."""
    candidates = rows(finished[1], "candidates")
    assert len(candidates) == 32
    assert candidates.groupby("seed").size().tolist() == [8] * 4
    assert set(candidates.groupby(["method", "prompt_id", "index"]).size()) == {2}


@pytest.mark.slow
def test_fits_say_who_made_what(finished):
    """Eight cells; `without` shares mudi's two adapters and costs nothing; the refits start from mudi's."""
    fits = rows(finished[1], "fits", drop=())
    by_arm = {label: group.sort_values("fit") for label, group in fits.groupby("method")}
    assert len(fits) == 8
    assert by_arm["without"]["adapter_sha256"].tolist() == by_arm["mudi"]["adapter_sha256"].tolist()
    assert by_arm["without"]["shared_with"].tolist() == ["mudi", "mudi"]
    assert by_arm["without"]["seconds"].isna().all()
    assert by_arm["mudi"]["seconds"].gt(0).all()
    assert by_arm["refitted"]["started_from"].tolist() == by_arm["mudi"]["adapter_sha256"].tolist()
    assert by_arm["refitted"]["drift"].gt(0).all()
    assert by_arm["dreambooth"]["drift"].isna().all()


@pytest.mark.slow
def test_pools_and_reported_pictures_share_no_seed(finished):
    pool = store.read(refits.pool_dir(finished[1]), "candidates").to_pandas()
    assert len(pool) == 8
    assert not set(pool["seed"]) & set(rows(finished[1], "candidates")["seed"])


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [3, 20, 30])
def test_a_benchmark_killed_anywhere_ends_like_an_undisturbed_one(finished, tmp_path, killed_at):
    """The n-th progress report raises; n walks through fits, pool, refits and pictures."""
    reports = 0

    def kill(label, done, total):
        nonlocal reports
        reports += 1
        if reports == killed_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(load(tmp_path), kill)
    run_dir = run(load(tmp_path))
    assert rows(run_dir, "candidates").equals(rows(finished[1], "candidates"))
    assert rows(run_dir, "scores").equals(rows(finished[1], "scores"))
    assert rows(run_dir, "fits").equals(rows(finished[1], "fits"))


@pytest.mark.slow
def test_a_metric_that_comes_later_draws_nothing_again(finished, tmp_path):
    """Same files of images and candidates, untouched to the nanosecond; new rows of the new metric, one a picture and score."""
    shutil.copytree(finished[1], tmp_path / "runs" / "tiny")
    run_dir = tmp_path / "runs" / "tiny"
    before = {p: p.stat().st_mtime_ns for d in ("candidates", "images") for p in (run_dir / d).rglob("*.parquet")}
    run(load(tmp_path, "metrics=[detect_and_compare, whole_image]"))
    assert {p: p.stat().st_mtime_ns for d in ("candidates", "images") for p in (run_dir / d).rglob("*.parquet")} == before
    added = rows(run_dir, "scores")
    names = set(METRICS["whole_image"].NAMES)
    assert added[added["metric"].isin(names)].groupby("metric").size().tolist() == [32] * len(names)
    old = added[~added["metric"].isin(names)].reset_index(drop=True)
    assert old.equals(rows(finished[1], "scores"))


@pytest.mark.slow
def test_an_arm_can_be_added_and_one_that_is_drawn_cannot_change(finished, tmp_path):
    shutil.copytree(finished[1], tmp_path / "runs" / "tiny")
    run_dir = run(load(tmp_path, "methods.half={like: mudi, sampling: {gamma: 0.15}}"))
    assert len(rows(run_dir, "candidates")) == 40
    with pytest.raises(ValueError, match=r"methods\.mudi\.sampling\.gamma was 0\.3, is 0\.2"):
        run(load(tmp_path, "methods.mudi={method: mudi, sampling: {gamma: 0.2}}"))
    with pytest.raises(ValueError, match="images was 2, is 3"):
        run(load(tmp_path, "images=3"))


def test_missing_models_and_unknown_metrics_are_refused_before_anything_is_written(tmp_path):
    for override, message in {
        "metrics=[clip_score]": r"models\.clip: the metric clip_score needs it",
        "metrics=[clipscore]": "'clipscore' is unknown; allowed are detect_and_compare",
        "models.clipp=weights/none": r"models\.clipp: no metric uses such a model",
        "score.select_by=dnc_linear_clip": "is not computed by this run",
    }.items():
        with pytest.raises(ValueError, match=message):
            run(load(tmp_path, override))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_chunk_without_a_usable_picture_counts_as_judged(tmp_path):
    """Overflowed pictures have no pixels to score: the added file is there and empty, so a restart does not ask again."""
    store.create_tables(tmp_path)
    key = CandidateKey(run="r", method="m", combination="two", prompt_id="p00", index=0, round=0, adapter_sha256="a")
    candidate = Candidate(key=key, prompt="x", seed=1, image=None, status="invalid", error="constant", seconds=1.0)
    lost = ScoredCandidate(candidate=candidate, detections=(), scores=())
    store.write_chunk(tmp_path, "p00-0000-a", 0, [lost], device="cpu", dtype="float32", batch=1)
    settings = JudgeSettings(run_dir=str(tmp_path), metrics={"whole_image": {}}, combinations={})
    piece = Judge(chunk_id="p00-0000-a", round=0, metrics=("whole_image",), settings=settings)
    assert judge(Loaded("cpu", 1), piece, quiet).pictures == 0
    assert store.stored_metrics(tmp_path, 0) == {"p00-0000-a": {"whole_image"}}
