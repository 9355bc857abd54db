"""The phase before a fit that needs class priors: shared by content, resumed to the same bytes, found again by whoever wants the same."""

import json
import shutil
from dataclasses import replace

import pytest
from running import carried_out, must_not_work, quiet

from mudi import adapter_folder
from pipeline import assignments
from pipeline.carry_out import carry_out
from pipeline.class_priors import with_priors
from pipeline.phases import Priors
from pipeline.settings.config import Cluster
from pipeline.workers.fit_job import FitJob
from pipeline.workers.in_process import in_this_process
from tests.mudi.test_priors import everything
from tests.pipeline.test_rounds import small_run

# Ten a class take two batches of eight each; few steps, because nothing here asks how good a picture is.
VALUES = {
    "steps": 2, "batch": 1, "accumulation": 1, "prior_images": 10, "prior_prompt": "a photo of a {} on the grass",
    "prior_negative_prompt": "", "prior_steps": 8, "prior_guidance_scale": 4.0, "detector": "miniature", "segmenter": "miniature",
}  # fmt: skip


CLUSTER = Cluster().model_dump(mode="json")


def job(combination, run_dir, seed=0, **values):
    return FitJob(
        label=f"fit {seed}", combination=combination, method="mudi", hyperparameters={**VALUES, **values}, backbone="miniature",
        precision="float32", out_dir=str(run_dir / "adapter"), seed=seed, steps=2,
    )  # fmt: skip


def phase(jobs, run_dir, do=None, progress=quiet):
    run_dir.mkdir(parents=True, exist_ok=True)
    with in_this_process(Cluster()) as (here, _):
        return with_priors(Priors(jobs=tuple(jobs)), CLUSTER, run_dir, do or here, progress)


@pytest.fixture(scope="module")
def drawn(two_dogs, tmp_path_factory):
    """The folder of the runs after one run's phase, undisturbed, and the job as it came back."""
    runs = tmp_path_factory.mktemp("runs")
    (filled,) = phase([job(two_dogs, runs / "one")], runs / "one")
    return runs, filled


@pytest.mark.slow
def test_another_fit_seed_or_run_draws_nothing(drawn, two_dogs):
    """Workers that must not run are enough for three more fits of another run, one of which needs fewer pictures."""
    runs, first = drawn
    before = everything(runs / "_priors")
    jobs = [job(two_dogs, runs / "two", seed=1), job(two_dogs, runs / "two", seed=2, steps=9), job(two_dogs, runs / "two", prior_images=3)]
    for filled in phase(jobs, runs / "two", must_not_work):
        assert filled.hyperparameters["priors"] == first.hyperparameters["priors"]
    assert everything(runs / "_priors") == before
    with pytest.raises(AssertionError, match="handed out again"):
        phase([job(two_dogs, runs / "two", prior_prompt="a photo of a {} at night")], runs / "two", must_not_work)


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [2, 4])
def test_a_phase_killed_after_any_batch_ends_with_the_same_bytes(drawn, two_dogs, tmp_path, killed_at):
    """The n-th report raises, after n - 1 batches; the same call then draws the rest and leaves those as they are."""
    reports = 0

    def kill(label, done, total):
        nonlocal reports
        reports += 1
        assert label == "class priors"
        assert total == 20
        if reports == killed_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        phase([job(two_dogs, tmp_path / "run")], tmp_path / "run", progress=kill)
    survived = everything(tmp_path / "_priors")
    recipe = tmp_path / "_priors" / min(survived).parts[0]
    own, foreign = (recipe / f".batch-0009.{run}.{32 * '0'}" for run in ("run", "other"))
    for part in (own, foreign):
        part.mkdir()
    assert len({path.parent for path in survived}) == killed_at - 1
    phase([job(two_dogs, tmp_path / "run")], tmp_path / "run")
    after = everything(tmp_path / "_priors")
    assert not own.exists(), "what a killed start left half made goes"
    assert foreign.is_dir(), "another run may be making it"
    assert survived.items() <= after.items()
    pngs = [{p: data for p, (_, data) in files.items() if p.suffix == ".png"} for files in (after, everything(drawn[0] / "_priors"))]
    assert pngs[0] == pngs[1]


@pytest.mark.slow
def test_a_class_that_cannot_be_drawn_stops_the_run_and_is_not_tried_again(two_dogs, tmp_path):
    """No lighthouse in two batches, the bound for one picture; the second start says so without drawing."""
    unknown = replace(two_dogs, subjects=tuple(replace(s, class_noun="dog", detection_query="lighthouse") for s in two_dogs.subjects[:1]))
    for workers in (None, must_not_work):
        with pytest.raises(ValueError, match=r"\Aclass noun 'dog'[^\n]* 0 of 16 pictures, 1 are needed[^\n]*\Z"):
            phase([job(unknown, tmp_path / "run", prior_images=1)], tmp_path / "run", workers)
    assert len(list(tmp_path.glob("_priors/*/batch-*"))) == 2


@pytest.mark.slow
def test_a_run_fits_on_the_shared_priors_what_a_fit_alone_would(tmp_path):
    """The adapter's bytes equal those of the method called as a library, which draws its own and takes them away. With the
    priors deleted the finished run starts again without drawing any: its fits want none."""
    priors = [f"method.{key}={json.dumps(value)}" for key, value in VALUES.items() if "prior" in key]
    run = small_run(tmp_path, "method.objective=prior_preservation", *priors, "method.prior_images=2", "rounds=0")
    carried_out(run)
    made = adapter_folder.find(assignments.adapter_folder(run.run_dir, "two_dogs", 0))
    manifest = adapter_folder.read_manifest(made.path)
    assert "priors" not in manifest["hyperparameters"]
    from mudi import models

    (method,) = run.methods.values()
    alone = method.train(models.load("miniature"), run.combinations[0], tmp_path / "alone", manifest["seed"])
    assert alone.sha256 == made.sha256
    assert not list(tmp_path.rglob("*.work"))
    shutil.rmtree(tmp_path / "_priors")
    carry_out(run, must_not_work, quiet)
    assert not (tmp_path / "_priors").exists()
