"""One adapter to make, described by values, and the function that makes it in whatever process it lands."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mudi import models
from mudi.methods import METHODS
from mudi.records import Adapter, Combination
from mudi.retrain import RetrainSettings, retrain
from pipeline import store


@dataclass(frozen=True, kw_only=True)
class FitJob:
    """One adapter to make. Without `start` it is the method's own first fit; with it, a refit of `start` on the
    candidates `kept` (id and prompt) of round `round`, which makes the adapter of the round after."""

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


def run_job(job: FitJob, device: str, report: Callable[[int, float], None] | None = None) -> Adapter:
    """Make the job's adapter in this process; the folder it leaves is complete or absent."""
    backbone = models.load(job.backbone, device, getattr(torch, job.precision))
    if job.start is None:
        method = METHODS[job.method](**job.hyperparameters)
        return method.train(backbone, job.combination, Path(job.out_dir), job.seed, report)
    stored = store.read_images(Path(job.run_dir), {candidate_id for candidate_id, _ in job.kept})
    images = [np.asarray(Image.open(io.BytesIO(stored[candidate_id]))) for candidate_id, _ in job.kept]
    prompts = [prompt for _, prompt in job.kept]
    return retrain(
        backbone, job.combination, job.start, images, prompts, job.retraining, Path(job.out_dir), job.round + 1, job.seed, report
    )
