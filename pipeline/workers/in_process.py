"""The heavy work as a plain loop in this process, without Ray: the yardstick that Ray is held against."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline import plan
from pipeline.workers.fit_job import run_job
from pipeline.workers.prior_stages import DrawPriors, KeepPriors
from pipeline.workers.stages import BUSY, Compare, Detect, Generate, Judge, write


@dataclass(frozen=True)
class Workers:
    """The heavy work, passed in so that its callers know no Ray: `sweep.sweep`, `training.fit_all`, `sweep.judge` and
    `sweep.draw_priors`, or `in_process.PLAIN`."""

    sweep: Callable
    fit_all: Callable
    judge: Callable
    priors: Callable


def sweep(chunks, settings, cluster, received):
    stages = [stage(settings, 0, 1) for stage in (Generate, Detect, Compare)]
    table = plan.to_table(chunks)
    for i in range(table.num_rows):
        row = table.slice(i, 1)
        for stage in stages:
            row = stage(row)
        (receipt,) = write(row, settings.run_dir).to_pylist()
        received(receipt["chunk_id"], receipt["candidates"], {key: receipt[key] for key in ("began", *BUSY)})


def fit_all(jobs, slot, progress):
    made = []
    for job in jobs:

        def report(step, _, job=job):
            progress(job.label, step, job.steps)

        made.append(run_job(job, "cpu", report))
    return made


def judge(rows, settings, cluster, received):
    stage = Judge(settings, 0, 1)
    for i in range(rows.num_rows):
        (receipt,) = stage(rows.slice(i, 1)).to_pylist()
        received(receipt["chunk_id"], receipt["candidates"])


def draw_priors(rows, settings, cluster, received):
    stages = (DrawPriors(settings, 0, 1), KeepPriors(settings, 0, 1))
    for i in range(rows.num_rows):
        row = rows.slice(i, 1)
        for stage in stages:
            row = stage(row)
        (receipt,) = row.to_pylist()
        received(receipt["folder"], receipt["batch"], receipt["kept"])


PLAIN = Workers(sweep, fit_all, judge, draw_priors)
