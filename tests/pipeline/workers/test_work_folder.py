"""What a fit keeps in progress goes once its adapter is stored, and a start that dies at any point of this ends well."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mudi.adapter_folder import work_folder
from mudi.fit import FitSettings
from mudi.options import RetrainSettings
from mudi.records import Adapter, Report
from mudi.retrain import retrain
from mudi.self_training import OBJECTIVES
from mudi.self_training.candidates import Rewarded
from pipeline import assignments
from pipeline.workers.fit_job import fit
from pipeline.workers.loaded import Loaded
from tests.pipeline.test_rounds import small_run

pytestmark = pytest.mark.slow


@pytest.fixture
def every_two_steps(monkeypatch):
    """Checkpoints after every second step, so that fits of seconds have some."""
    monkeypatch.setitem(FitSettings.__init__.__kwdefaults__, "checkpoint_every", 2)


def run_job(job, report=lambda step, loss: None):
    return fit(Loaded("cpu", 1), job, report)


def the_fit(folder):
    """The first fit, six steps, of a run in `folder`."""
    run = small_run(folder)
    (job,) = assignments.first_fits(run.config, run.run_dir, run.combinations)
    return job


def killed_after(step):
    def report(now, _):
        if now == step:
            raise KeyboardInterrupt

    return report


def never(step, _):
    raise AssertionError(f"step {step} of a finished fit was taken")


def beside(out_dir):
    """The names in the adapter's parent folder, hidden ones included."""
    return {path.name for path in Path(out_dir).parent.iterdir()}


def contents(out_dir):
    return {path.name: path.read_bytes() for path in Path(out_dir).iterdir()}


def test_a_killed_fit_keeps_its_checkpoints_and_a_finished_one_none(every_two_steps, tmp_path):
    """Killed after step 5 of 6: steps 2 and 4 are there. Ended, the adapter equals an undisturbed one's and stands alone but for
    the note of its cost."""
    whole, job = run_job(the_fit(tmp_path / "whole")), the_fit(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        run_job(job, killed_after(5))
    assert {path.name for path in work_folder(Path(job.out_dir)).iterdir()} == {"step-0000002.safetensors", "step-0000004.safetensors"}
    adapter = run_job(job)
    assert contents(adapter.path) == contents(whole.path)
    assert beside(adapter.path) == {adapter.path.name, f"{adapter.path.name}.cost.json"}


def test_a_start_killed_between_storing_and_clearing_is_cleared_by_the_next_without_a_step(every_two_steps, tmp_path):
    """The folder as such a kill leaves it: the adapter, the checkpoints before it, and a saving that was cut short earlier."""
    job = the_fit(tmp_path)
    out_dir = Path(job.out_dir)
    with pytest.raises(KeyboardInterrupt):
        run_job(job, killed_after(5))
    kept = shutil.copytree(work_folder(out_dir), tmp_path / "kept")
    adapter = run_job(job)
    stored = contents(out_dir)
    for neighbour in (work_folder(out_dir), out_dir.with_name(f".{out_dir.name}.12345.part")):
        shutil.copytree(kept, neighbour)
    assert run_job(job, never) == adapter
    assert contents(out_dir) == stored
    assert beside(out_dir) == {out_dir.name, f"{out_dir.name}.cost.json"}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_refit_killed_at_a_step_ends_as_an_undisturbed_one(every_two_steps, miniature, two_dogs, tmp_path, objective):
    """Killed after step 3 of 5, the checkpoint of step 2 is there; ended, none is, and the adapter is that of a refit left alone."""
    start = run_job(the_fit(tmp_path))
    images = [np.random.default_rng(number).integers(0, 255, (48, 48, 3), dtype=np.uint8) for number in range(3)]
    candidates = [Rewarded(image, "a red dog", float(reward)) for reward, image in enumerate(images)]
    settings = RetrainSettings(steps=5, batch=2, accumulation=1, learning_rate=1e-3, objective=objective)

    def refit(name: str, report: Report | None = None) -> Adapter:
        return retrain(miniature, two_dogs, start, candidates, settings, tmp_path / name, 1, 0, report)

    with pytest.raises(KeyboardInterrupt):
        refit("refit", killed_after(3))
    assert [path.name for path in work_folder(tmp_path / "refit").iterdir()] == ["step-0000002.safetensors"]
    assert refit("refit").sha256 == refit("whole").sha256 != start.sha256
    assert {name for name in beside(tmp_path / "refit") if "refit" in name} == {"refit"}
