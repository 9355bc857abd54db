"""The phase before a fit that needs class priors: those that no run has drawn yet are drawn, and the fits are told where all lie.

Priors lie beside the runs, in `RUNS/_priors/DIGEST`, one folder for each recipe whoever asks for it: another fit, seed
or run with the same class, prompt and weights draws nothing. A recipe's folder holds its batches (`mudi.prior_folder`).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa

from mudi import adapter_folder
from mudi.prior_folder import Recipe, clear_staged, find_batch, kept_by_batch, most_batches, needed, next_batches, require_enough
from pipeline.drawing import Progress
from pipeline.settings.config import Cluster, workers_of
from pipeline.tables import journal
from pipeline.workers.failure import RunFailedError
from pipeline.workers.fit_job import FitJob, options_of
from pipeline.workers.in_process import Workers
from pipeline.workers.prior_stages import PriorSettings

FOLDER = "_priors"


def with_priors(jobs: Sequence[FitJob], cluster: Cluster, run_dir: Path, workers: Workers, progress: Progress) -> list[FitJob]:
    """The first fits `jobs`, each that wants class priors with its `priors` filled in, once all of these are stored.

    Finished fits want none. What a killed start of this run left half made goes first: only the process that holds the run
    may call this. Raises ValueError for a class that the base model cannot draw, after ten draws for each
    picture that is needed, and RunFailedError if a batch could not be made.
    """
    root = run_dir.parent / FOLDER
    for folder in root.glob("*"):
        clear_staged(folder, run_dir.name)
    filled, wanting = [], []
    for job in jobs:
        recipes = _recipes(job, cluster)
        if recipes and adapter_folder.find(Path(job.out_dir)) is None:
            wanting.append(job)
            places = {key: str(root / recipe.digest) for key, recipe in recipes.items()}
            job = replace(job, hyperparameters={**job.hyperparameters, "priors": places})
        filled.append(job)
    if wanting:
        _draw_missing(needs_of(wanting, cluster), root, cluster, run_dir, workers, progress)
    return filled


def needs_of(jobs: Sequence[FitJob], cluster: Cluster) -> dict[Recipe, int]:
    """How many pictures the jobs together want of each recipe; those that want the same share them."""
    needs: dict[Recipe, int] = {}
    for job in jobs:
        for recipe, need in needed(_recipes(job, cluster), options_of(job).prior_images).items():
            needs[recipe] = max(need, needs.get(recipe, 0))
    return needs


def _recipes(job: FitJob, cluster: Cluster) -> dict[str, Recipe]:
    """Subject key -> what its class priors are made by; none where the objective needs none."""
    kinds = workers_of(cluster.model_dump(mode="json"))
    made_on = json.dumps({stage: kinds[stage] for stage in ("generate", "detect")}, sort_keys=True)
    return options_of(job).prior_recipes(job.combination, job.backbone, job.precision, made_on)


def _draw_missing(needs: dict[Recipe, int], root: Path, cluster: Cluster, run_dir: Path, workers: Workers, progress: Progress) -> None:
    """Draw in waves until every recipe has what is needed of it, or was given up."""
    # One run names one backbone, detector and segmenter, so one set of workers draws for all its fits.
    (settings,) = {
        PriorSettings(backbone=r.backbone, precision=r.precision, detector=r.detector, segmenter=r.segmenter, run=run_dir.name)
        for r in needs
    }
    kept = {recipe: kept_by_batch(root / recipe.digest, most_batches(recipe, need)) for recipe, need in needs.items()}
    of_folder = {str(root / recipe.digest): recipe for recipe in needs}

    def report() -> None:
        progress("class priors", sum(min(need, sum(kept[r].values())) for r, need in needs.items()), sum(needs.values()))

    def received(folder: str, batch: int, pictures: int) -> None:
        kept[of_folder[folder]][batch] = pictures
        journal.append_event(run_dir, event="priors", folder=Path(folder).name, batch=batch, kept=pictures)
        report()

    report()
    while todo := [(r, i) for r, need in needs.items() for i in next_batches(kept[r], need, r.batch, most_batches(r, need))]:
        rows = [{"recipe": json.dumps(asdict(r)), "folder": str(root / r.digest), "batch": i} for r, i in todo]
        workers.priors(pa.Table.from_pylist(rows), settings, cluster, received)
        if lost := [(r, i) for r, i in todo if find_batch(root / r.digest, i) is None]:
            raise RunFailedError(
                f"{len(lost)} of {len(todo)} batches of class priors could not be made, first of {lost[0][0].class_noun!r}; "
                "what is stored stays, start the same command again to go on"
            )
    for recipe, need in needs.items():
        require_enough(recipe, sum(kept[recipe].values()), need)
