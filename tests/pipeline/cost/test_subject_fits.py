"""What a plan counts of methods that fit each subject alone: every subject once, paths, and what the UNet counts itself."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from places import DOGS, ROOT

from mudi.adapter_size import payload_bytes
from pipeline import assignments, rounds
from pipeline.cost.calibration import architecture_of
from pipeline.cost.count import workload_of
from pipeline.cost.disk import adapter_numbers
from pipeline.cost.workload import Counts, count_draw, total
from pipeline.ready import ready
from pipeline.settings.config import load_run
from pipeline.tables.run_folder import open_run, run_folder
from pipeline.workers.fit_job import run_job
from pipeline.workers.in_process import PLAIN
from tests.pipeline.test_rounds import RUN_FILE, SMALL

CONDUCTED = (
    "method={name: concept_conductor, objective: denoising, rank: 2}", "rounds=0", "watched_prompts=[]", "sampling.layout=given",
)  # fmt: skip


def test_a_chunk_by_several_paths_is_counted_by_hand(tmp_path):
    """Two subjects are three passes: a picture of 2 steps and both sides of guidance is 2 x 2 x 3 = 12 rows in 6 calls."""
    overrides = (*CONDUCTED, "candidates=1", "keep=1", "sampling.steps=2", "sampling.batch=1", "sampling.gamma=0.0")
    (draw,) = workload_of(load_run(Path(RUN_FILE), [f"runs={tmp_path}", *overrides])).draws
    assert (draw.paths, count_draw(draw).forward, draw.calls) == (3, 12, 6)
    assert draw.kind.endswith("paths=3")


@pytest.mark.slow
def test_a_run_of_the_plain_loop_passes_as_many_rows_as_planned(tmp_path):
    """Fits of subjects alone, and a sweep by three paths, counted at the UNet; then nothing is left."""
    config = load_run(Path(RUN_FILE), [f"runs={tmp_path}", *SMALL, *CONDUCTED, "method.steps=3", "sampling.gamma=0.0"])
    expected = total(workload_of(config).phases, whole=True)
    counted = Counter()

    def count(module, args, output):
        if isinstance(module, UNet2DConditionModel):
            counted["backward" if output.sample.requires_grad else "forward only"] += len(output.sample)

    hook = torch.nn.modules.module.register_module_forward_hook(count)
    rounds.selftrain(config, ready(config).combinations, open_run(config), PLAIN, lambda label, done, total: None)
    hook.remove()
    assert (counted.total(), counted["backward"]) == (expected.forward, expected.backward)
    assert total(workload_of(config).phases, whole=False) == Counts()


def test_a_plan_counts_shared_subjects_once_and_knows_their_files(tmp_path):
    """The same two dogs in two folders: 2 subjects x 2 steps, all with the first; three files of residuals for each folder but
    the subjects' own only once; after the first fit nothing is left of the second."""
    for name in ("one", "other"):
        shutil.copytree(DOGS, tmp_path / name)
    method = "method={name: cones2, tuning: direct, steps: 2, descriptive_class: false}"
    folders = f"combinations=[{tmp_path / 'one'},{tmp_path / 'other'}]"
    config = load_run(ROOT / "jobs/configs/miniature.yaml", [f"runs={tmp_path / 'runs'}", folders, method, "rounds=0"])
    counts = total(workload_of(config).phases, whole=True)
    assert (counts.fits, counts.steps, counts.backward) == (2, 4, 4)
    predicted = sum(adapter_numbers(fit, architecture_of(config))[1] for fit in workload_of(config).fits)
    combinations = ready(config).combinations
    jobs = assignments.first_fits(config, run_folder(config.runs, config.name), combinations)
    assert combinations[0].prompts[0].text == "a photo of a dog and a dog on the grass"
    for job in jobs:
        run_job(job, "cpu")
        assert total(workload_of(config).phases, whole=False).steps == 0
    assert predicted == sum(payload_bytes(path.parent) for path in tmp_path.rglob("residuals.safetensors"))
