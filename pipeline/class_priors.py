"""The phase before a fit that needs class priors: those that no run has drawn yet are drawn, and the fits are told where all lie.

Priors lie beside the runs, in `RUNS/_priors/DIGEST`, one folder for each recipe whoever asks for it: another fit, seed
or run with the same class, prompt and weights draws nothing. A recipe's folder holds its batches (`mudi.prior_folder`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mudi.prior_folder import Recipe, clear_staged, find_batch, kept_by_batch, most_batches, needed, next_batches, require_enough
from pipeline.phases import Priors, Progress, is_fitted
from pipeline.settings.config import workers_of
from pipeline.tables import journal
from pipeline.workers.failure import RunFailedError
from pipeline.workers.fit_job import FitJob, options_of
from pipeline.workers.priors import PriorBatch
from pipeline.workers.worker import Do

FOLDER = "_priors"


def with_priors(phase: Priors, cluster: Mapping[str, Any], run_dir: Path, do: Do, progress: Progress) -> tuple[FitJob, ...]:
    """The phase's jobs, each that wants class priors with its `priors` filled in, once all of these are stored. `cluster` is dumped.

    Finished fits want none. What a killed start of this run left half made goes first: only the process that holds the run
    may call this. Raises ValueError for a class that the base model cannot draw, after ten draws for each
    picture that is needed, and RunFailedError if a batch could not be made.
    """
    root = run_dir.parent / FOLDER
    for folder in root.glob("*"):
        clear_staged(folder, run_dir.name)
    filled, wanting = [], []
    for job in phase.jobs:
        recipes = _recipes(job, cluster)
        if recipes and not is_fitted(job):
            wanting.append(job)
            places = {key: str(root / recipe.digest) for key, recipe in recipes.items()}
            job = replace(job, hyperparameters={**job.hyperparameters, "priors": places})
        filled.append(job)
    if wanting:
        _draw_missing(needs_of(wanting, cluster), root, run_dir, do, progress)
    return tuple(filled)


def needs_of(jobs: Sequence[FitJob], cluster: Mapping[str, Any]) -> dict[Recipe, int]:
    """How many pictures the jobs together want of each recipe; those that want the same share them."""
    needs: dict[Recipe, int] = {}
    for job in jobs:
        for recipe, need in needed(_recipes(job, cluster), options_of(job).prior_images).items():
            needs[recipe] = max(need, needs.get(recipe, 0))
    return needs


def _recipes(job: FitJob, cluster: Mapping[str, Any]) -> dict[str, Recipe]:
    """Subject key -> what its class priors are made by; none where the objective needs none."""
    kinds = workers_of(dict(cluster))
    made_on = json.dumps({stage: kinds[stage] for stage in ("generate", "detect")}, sort_keys=True)
    return options_of(job).prior_recipes(job.combination, job.backbone, job.precision, made_on)


def _draw_missing(needs: dict[Recipe, int], root: Path, run_dir: Path, do: Do, progress: Progress) -> None:
    """Draw in waves until every recipe has what is needed of it, or was given up."""
    kept = {recipe: kept_by_batch(root / recipe.digest, most_batches(recipe, need)) for recipe, need in needs.items()}

    def report() -> None:
        progress("class priors", sum(min(need, sum(kept[r].values())) for r, need in needs.items()), sum(needs.values()))

    def received(piece: PriorBatch, pictures: int) -> None:
        kept[piece.recipe][piece.batch] = pictures
        journal.append_event(run_dir, event="priors", folder=Path(piece.folder).name, batch=piece.batch, kept=pictures)
        report()

    report()
    while todo := [(r, i) for r, need in needs.items() for i in next_batches(kept[r], need, r.batch, most_batches(r, need))]:
        pieces = [PriorBatch(recipe=r, folder=str(root / r.digest), batch=i, run=run_dir.name) for r, i in todo]
        failures = do(pieces, received)
        if lost := [(r, i) for r, i in todo if find_batch(root / r.digest, i) is None]:
            said = f" ({failures[0].reason})" if failures else ""
            raise RunFailedError(
                f"{len(lost)} of {len(todo)} batches of class priors could not be made, first of {lost[0][0].class_noun!r}{said}; "
                "what is stored stays, start the same command again to go on"
            )
    for recipe, need in needs.items():
        require_enough(recipe, sum(kept[recipe].values()), need)
