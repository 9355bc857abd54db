"""One adapter to make, described by values, and the function that makes it in whatever process it lands."""

import io
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mudi import adapters, models
from mudi.fit import Report
from mudi.methods import METHODS
from mudi.personalization import Personalization
from mudi.records import Adapter, Combination
from mudi.retrain import RetrainSettings, retrain
from mudi.work_folder import clear_work
from pipeline import store
from pipeline.memory import peak_on


@dataclass(frozen=True, kw_only=True)
class FitJob:
    """One adapter to make. Without `start` it is the method's own first fit; with it, a refit of `start` on the
    candidates `kept` (id and prompt) of round `round`, which makes the adapter of the round after. `label` names it in
    progress and errors, and is unlike those of all jobs beside it."""

    label: str
    combination: Combination
    method: str
    hyperparameters: dict
    backbone: str
    precision: str
    out_dir: str
    seed: int
    steps: int
    start: Adapter | None = None
    kept: tuple[tuple[str, str], ...] = ()
    round: int = 0
    retraining: RetrainSettings | None = None
    run_dir: str = ""


def finished(job: FitJob) -> Adapter | None:
    """The job's adapter if it lies finished in its folder; what a start that died after storing it left beside it goes."""
    adapter = adapters.find(Path(job.out_dir))
    if adapter is not None:
        clear_work(adapter.path)
    return adapter


def run_job(job: FitJob, device: str, report: Report | None = None) -> Adapter:
    """Make the job's adapter in this process, unless it is there; the folder it leaves is complete or absent.

    Beside the folder `OUT_DIR.cost.json` says on what it was made, how many seconds that took, loading excluded, and the
    peak of memory in bytes (`memory.peak_on`); of a fit that was killed and went on, those of the last start.
    """
    # A worker that dies between storing and returning it is started again, and the checkpoints are gone by then.
    if (stored := finished(job)) is not None:
        return stored
    backbone = models.load(job.backbone, device, getattr(torch, job.precision))
    with peak_on(backbone.device) as peak:
        began = time.perf_counter()
        adapter = _refit(backbone, job, report) if job.start else _first_fit(backbone, job, report)
        cost = {"seconds": time.perf_counter() - began, "device": device_name(backbone.device), "peak_bytes": peak()}
    cost_file(Path(job.out_dir)).write_text(json.dumps(cost))
    return adapter


def options_of(job: FitJob) -> Personalization:
    """The method of a first fit as its own frozen value."""
    return METHODS[job.method](**job.hyperparameters)


def cost_file(out_dir: Path) -> Path:
    """Where `run_job` leaves what an adapter cost."""
    return out_dir.with_name(out_dir.name + ".cost.json")


def device_name(device: torch.device) -> str:
    """ "cpu", or what the GPU calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _first_fit(backbone: models.Backbone, job: FitJob, report: Report | None) -> Adapter:
    return options_of(job).train(backbone, job.combination, Path(job.out_dir), job.seed, report)


def _refit(backbone: models.Backbone, job: FitJob, report: Report | None) -> Adapter:
    stored = store.read_images(Path(job.run_dir), {candidate_id for candidate_id, _ in job.kept})
    images = [np.asarray(Image.open(io.BytesIO(stored[candidate_id]))) for candidate_id, _ in job.kept]
    prompts = [prompt for _, prompt in job.kept]
    return retrain(
        backbone, job.combination, job.start, images, prompts, job.retraining, Path(job.out_dir), job.round + 1, job.seed, report
    )
