"""Fits as Ray tasks: one cell on one worker each, in parallel over the cells."""

from collections.abc import Callable

import ray
import torch

from mudi.records import Adapter
from pipeline.settings.config import Slot
from pipeline.workers.failure import RunFailedError
from pipeline.workers.fit_job import FitJob, finished, run_job

# A fit whose worker dies goes on from its last checkpoint in the run folder.
RETRIES = 3
POLL_SECONDS = 0.5

Progress = Callable[[str, int, int], None]


class _Board:
    """Where workers write how far they are; an actor, because workers are other processes."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}

    def put(self, combination: str, step: int) -> None:
        self.steps[combination] = step

    def get(self) -> dict[str, int]:
        return dict(self.steps)


@ray.remote(max_retries=RETRIES)
def _fit(job: FitJob, gpus: float, threads: int, board) -> Adapter:
    torch.set_num_threads(threads)

    def report(step: int, _: float) -> None:
        if step % max(1, job.steps // 50) == 0 or step == job.steps:
            board.put.remote(job.label, step)

    return run_job(job, "cuda" if gpus else "cpu", report)


def fit_all(jobs: list[FitJob], slot: Slot, progress: Progress) -> list[Adapter]:
    """The adapters of `jobs`, in their order; those that lie finished in their folders are not made again.

    `progress(combination, step, steps)` is called about twice a second for every cell that moved.
    """
    done = {job.label: found for job in jobs if (found := finished(job)) is not None}
    board = ray.remote(_Board).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    worker = _fit.options(num_gpus=slot.gpus, num_cpus=slot.cpus)
    open_jobs = {worker.remote(job, slot.gpus, max(1, int(slot.cpus)), board): job for job in jobs if job.label not in done}
    while open_jobs:
        ready, _ = ray.wait(list(open_jobs), timeout=POLL_SECONDS)
        steps = ray.get(board.get.remote())
        for job in open_jobs.values():
            if job.label in steps:
                progress(job.label, steps[job.label], job.steps)
        for reference in ready:
            key = open_jobs.pop(reference).label
            done[key] = _result(reference, key)
    return [done[job.label] for job in jobs]


def _result(reference: ray.ObjectRef, combination: str) -> Adapter:
    """A finished fit's adapter. A ValueError of the worker comes out as one, everything else as RunFailedError."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ValueError(f"{combination}: {error.cause}") from error
        raise RunFailedError(f"the fit of {combination} failed: {error.cause!r}; the checkpoints before it stay") from error
    except ray.exceptions.RayError as error:
        raise RunFailedError(
            f"the fit of {combination} lost its worker {RETRIES + 1} times: {error}; start the same command again"
        ) from error
