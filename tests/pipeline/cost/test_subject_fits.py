"""A plan's count of methods that fit each subject alone: every subject once, paths, and the rows that the UNet counts itself."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from places import DOGS, ROOT
from running import carried_out, opened

from mudi.adapter_size import payload_bytes
from pipeline import assignments
from pipeline.cost.count import ROWS, total, workload_of
from pipeline.ready import ready
from pipeline.settings.config import load_run
from pipeline.workers.fit_job import fit
from pipeline.workers.loaded import Loaded
from tests.pipeline.test_rounds import RUN_FILE, SMALL

CONDUCTED = (
    "method={name: concept_conductor, objective: denoising, rank: 2}", "rounds=0", "watched_prompts=[]", "sampling.layout=given",
)  # fmt: skip


def test_a_chunk_by_several_paths_is_counted_by_hand(tmp_path):
    """Two subjects are three passes: a picture of 2 steps and both sides of guidance is 2 x 2 x 3 = 12 rows in 6 calls."""
    overrides = (*CONDUCTED, "candidates=1", "keep=1", "sampling.steps=2", "sampling.batch=1", "sampling.gamma=0.0")
    (draw,) = workload_of(ready(load_run(Path(RUN_FILE), [f"runs={tmp_path}", *overrides]))).tasks("draw")
    assert (draw.whole[ROWS], draw.units) == (12, 6)
    assert draw.kind.endswith("paths=3")


@pytest.mark.slow
def test_a_run_in_process_passes_as_many_rows_as_planned(tmp_path):
    """Fits of subjects alone, and a sweep by three paths, counted at the UNet; then nothing is left."""
    config = load_run(Path(RUN_FILE), [f"runs={tmp_path}", *SMALL, *CONDUCTED, "method.steps=3", "sampling.gamma=0.0"])
    expected = total(workload_of(ready(config)).tasks())
    counted = Counter()

    def count(module, args, output):
        if isinstance(module, UNet2DConditionModel):
            counted["backward" if output.sample.requires_grad else "forward only"] += len(output.sample)

    hook = torch.nn.modules.module.register_module_forward_hook(count)
    carried_out(opened(config))
    hook.remove()
    assert (counted.total(), counted["backward"]) == (expected[ROWS], expected["backward"])
    assert not total(workload_of(ready(config)).tasks(), whole=False)


def test_a_plan_counts_shared_subjects_once_and_knows_their_files(tmp_path):
    """The same two dogs in two folders: 2 subjects x 2 steps, all with the first; three files of residuals for each folder but
    the subjects' own only once; after the first fit nothing is left of the second."""
    for name in ("one", "other"):
        shutil.copytree(DOGS, tmp_path / name)
    method = "method={name: cones2, tuning: direct, steps: 2, descriptive_class: false}"
    folders = f"combinations=[{tmp_path / 'one'},{tmp_path / 'other'}]"
    run = ready(load_run(ROOT / "tests/data/miniature.yaml", [f"runs={tmp_path / 'runs'}", folders, method, "rounds=0"]))
    counts = total(workload_of(run).tasks())
    assert (counts["fits"], counts["steps"], counts["backward"]) == (2, 4, 4)
    assert run.combinations[0].prompts[0].text == "a photo of a dog and a dog on the grass"
    for job in assignments.first_fits(run.config, run.run_dir, run.combinations):
        fit(Loaded("cpu", 1), job, lambda step, loss: None)
        assert total(workload_of(run).tasks(), whole=False)["steps"] == 0
    assert counts["adapter bytes"] == sum(payload_bytes(path.parent) for path in tmp_path.rglob("residuals.safetensors"))
