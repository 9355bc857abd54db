"""Fits of subjects alone that several adapters unite: made before these, each once, and nothing else comes out of it."""

import json
import shutil
from pathlib import Path

import pytest

from mudi.adapter_folder import find
from pipeline import assignments
from pipeline.ready import ready
from pipeline.settings.config import load_run
from pipeline.workers.fit_job import cost_file, fit, read_cost, subject_fits
from pipeline.workers.loaded import Loaded
from tests.pipeline.test_rounds import RUN_FILE

DOGS = Path("jobs/configs/miniature/two_dogs")
METHODS = {
    "merged_loras": ["method={name: merged_loras, single: {steps: 2, rank: 2, batch: 1, accumulation: 1, objective: denoising}}"],
    "concept_conductor": [
        "method={name: concept_conductor, steps: 2, rank: 2, batch: 1, accumulation: 1, objective: denoising}",
        "sampling.layout=given",
    ],
    "cones2": ["method={name: cones2, tuning: direct, steps: 2, batch: 1}"],
}


def run_job(job, report=lambda step, loss: None):
    return fit(Loaded("cpu", 1), job, report)


def jobs_of(folder, name, *pairs):
    """The jobs of these pairs, each the same two dogs."""
    for pair in pairs:
        if not (folder / pair).is_dir():
            shutil.copytree(DOGS, folder / pair)
    folders = ",".join(str(folder / pair) for pair in pairs)
    config = load_run(Path(RUN_FILE), [f"runs={folder / 'runs'}", f"combinations=[{folders}]", *METHODS[name], "rounds=0"])
    run = ready(config)
    return assignments.first_fits(config, run.run_dir, run.combinations)


@pytest.mark.parametrize("name", METHODS)
def test_subjects_that_two_pairs_share_are_fitted_once_and_first(tmp_path, name):
    """Two pairs of the same two dogs: two fits, not four. Then the pairs' own jobs train nothing, and their adapters have the very
    numbers of one that fitted its subjects by itself."""
    jobs = jobs_of(tmp_path, name, "one", "other")
    first = subject_fits(jobs)
    assert [(job.combination.key, job.alone, job.steps) for job in first] == [("one", "a", 2), ("one", "b", 2)]
    for job in first:
        run_job(job)
    steps = []
    made = [run_job(job, lambda step, loss: steps.append(step)) for job in jobs]
    assert steps == []
    by_itself = run_job(jobs_of(tmp_path / "apart", name, "one")[0], lambda step, loss: steps.append(step))
    assert steps
    assert {adapter.sha256 for adapter in made} == {by_itself.sha256}


def test_what_an_adapter_cost_counts_the_fits_that_it_unites(tmp_path):
    """Seconds of its own and, apart, those of its subjects' fits, noted by hand here as 3 and 4; the highest peak of all."""
    (job,) = jobs_of(tmp_path, "cones2", "one")
    for single, seconds, peak in zip(subject_fits([job]), (3.0, 4.0), (10**15, 5), strict=True):
        place = run_job(single).path
        assert read_cost(place)["alone_seconds"] == 0
        cost_file(place).write_text(json.dumps({"seconds": seconds, "device": "cpu", "peak_bytes": peak}))
    cost = read_cost(run_job(job).path)
    assert (cost["alone_seconds"], cost["peak_bytes"]) == (7.0, 10**15)


def test_a_method_that_fits_all_together_has_no_fits_to_make_first(tmp_path):
    config = load_run(Path(RUN_FILE), [f"runs={tmp_path}"])
    run = ready(config)
    jobs = assignments.first_fits(config, run.run_dir, run.combinations)
    assert subject_fits(jobs) == ()
    assert find(Path(jobs[0].out_dir)) is None
