"""One adapter to make, described by values, and the function that makes it in whatever process it lands."""

import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from mudi import adapter_folder
from mudi.adapter_folder import clear_work, work_folder
from mudi.backbone import Backbone
from mudi.methods import METHODS
from mudi.modular.subject_fits import single_folder
from mudi.options import RetrainSettings
from mudi.personalization import Personalization
from mudi.records import Adapter, Combination, Report
from pipeline.tables import store
from pipeline.tables.journal import write_whole
from pipeline.workers.draw import device_name
from pipeline.workers.loaded import Loaded
from pipeline.workers.memory import peak_on


@dataclass(frozen=True, kw_only=True)
class FitJob:
    """One adapter to make. Without `start` it is the method's own first fit; with it, a refit of `start` on the
    candidates `kept` (id, prompt and score) of round `round`, which makes the adapter of the round after. `label` names it in
    progress and errors, and is unlike those of all jobs beside it. With `alone`, a subject's key, only that subject's own fit
    is made, for jobs that unite it with others (`subject_fits`)."""

    kind: ClassVar[str] = "fit"

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
    kept: tuple[tuple[str, str, float], ...] = ()
    round: int = 0
    retraining: RetrainSettings | None = None
    run_dir: str = ""
    alone: str = ""


def finished(job: FitJob) -> Adapter | None:
    """The job's adapter if it lies finished in its folder; what a start that died after storing it left beside it goes."""
    adapter = adapter_folder.find(place_of(job))
    if adapter is not None and not job.alone:
        clear_work(adapter.path)
    return adapter


def fit(loaded: Loaded, job: FitJob, report: Report) -> Adapter:
    """Make the job's adapter, unless it is there; the folder it leaves is complete or absent.

    Beside its folder FOLDER.cost.json says on what it was made, how many seconds that took, loading excluded, and the
    peak of memory in bytes (`memory.peak_on`); of a fit that was killed and went on, those of the last start. `alone_seconds`
    are those of the subjects' own fits that were there before, whoever made them; the peak is the highest of all.
    """
    # A worker that dies between storing and returning it is started again, and the checkpoints are gone by then.
    if (stored := finished(job)) is not None:
        return stored
    backbone = loaded.backbone(job.backbone, job.precision)
    loaded.bare(backbone)
    loaded.make_room_for_a_fit()
    with peak_on(backbone.device) as peak:
        began = time.perf_counter()
        before = [read_cost(place) for place in _united(job)]
        adapter = _refit(backbone, job, report) if job.start else _first_fit(backbone, job, report)
        cost = {"seconds": time.perf_counter() - began, "device": device_name(backbone.device)}
        cost["peak_bytes"] = max([peak(), *(of_subject["peak_bytes"] for of_subject in before if of_subject)])
        cost["alone_seconds"] = sum(of_subject["seconds"] for of_subject in before if of_subject)
    write_whole(cost_file(place_of(job)), json.dumps(cost).encode())
    loaded.bare(backbone)
    return adapter


def subject_fits(jobs: Sequence[FitJob]) -> tuple[FitJob, ...]:
    """The fits of subjects alone that `jobs` unite, each once, for the first job that still wants it: made before these and side by side,
    none is made twice by jobs that run at once and share it."""
    found: dict[Path, FitJob] = {}
    for job in sorted(jobs, key=lambda job: finished(job) is not None):
        for subject, place in zip(job.combination.subjects, _united(job), strict=False):
            steps = options_of(job).subject_method(job.combination).steps
            found.setdefault(place, replace(job, label=f"{job.label}, {subject.key} alone", alone=subject.key, steps=steps))
    return tuple(found.values())


def folders_alone(job: FitJob, options: Personalization) -> list[Path] | None:
    """The folders of the fits of the job's subjects alone, in their order; None for a method that fits them together."""
    if (recipe := options.single_recipe(job.combination)) is None:
        return None
    subjects, root = options.view(job.combination).subjects, Path(options.singles or Path(job.out_dir).with_name("subjects"))
    return [single_folder(root, subject, recipe, options.single_seed, job.backbone, job.precision) for subject in subjects]


def _united(job: FitJob) -> list[Path]:
    return [] if job.start or job.alone else folders_alone(job, options_of(job)) or []


def place_of(job: FitJob) -> Path:
    """The folder of the job's adapter."""
    if not job.alone:
        return Path(job.out_dir)
    keys = [subject.key for subject in job.combination.subjects]
    return folders_alone(job, options_of(job))[keys.index(job.alone)]


def steps_behind(job: FitJob) -> int:
    """Steps in a checkpoint of the fit; a subject's own keeps them with the combination that it is made for."""
    place = place_of(job)
    folders = (work_folder(place), work_folder(work_folder(Path(job.out_dir)) / place.name))
    return max((int(path.stem.removeprefix("step-")) for folder in folders for path in folder.glob("step-*.safetensors")), default=0)


def options_of(job: FitJob) -> Personalization:
    """The method of a first fit as its own frozen value."""
    return METHODS[job.method](**job.hyperparameters)


def read_cost(out_dir: Path) -> dict | None:
    """What `fit` left of the adapter in that folder; None where a start was killed between the two, or nothing is there."""
    path = cost_file(out_dir)
    return json.loads(path.read_text()) if path.is_file() else None


def cost_file(out_dir: Path) -> Path:
    """Where `fit` leaves what an adapter cost."""
    return out_dir.with_name(out_dir.name + ".cost.json")


def _first_fit(backbone: Backbone, job: FitJob, report: Report) -> Adapter:
    if job.alone:
        return options_of(job).fit_singles(backbone, job.combination, Path(job.out_dir), report, only=job.alone)[0]
    return options_of(job).train(backbone, job.combination, Path(job.out_dir), job.seed, report)


def _refit(backbone: Backbone, job: FitJob, report: Report) -> Adapter:
    from mudi.retrain import retrain
    from mudi.self_training.candidates import Rewarded

    stored = store.read_images(Path(job.run_dir), {candidate_id for candidate_id, _, _ in job.kept})
    candidates = [Rewarded(np.asarray(Image.open(io.BytesIO(stored[key]))), prompt, reward) for key, prompt, reward in job.kept]
    return retrain(backbone, job.combination, job.start, candidates, job.retraining, Path(job.out_dir), job.round + 1, job.seed, report)
