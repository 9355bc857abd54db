"""The benchmark as a list of phases over arms x combinations x fits: fit, pool, refit, draw, judge; resumable at each.

Each phase looks at the run folder and does only the work that is missing there. A metric added to the file of a
finished run changes nothing up to the last phase, so only that has work.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from mudi import adapter_folder
from mudi.adapter_size import payload_bytes
from mudi.records import Adapter
from pipeline import arms as planning
from pipeline import refits
from pipeline.assignments import draw_settings
from pipeline.phases import Choice, Draws, Fits, Judgements, Phases, Priors
from pipeline.ready import Ready, further_metrics
from pipeline.refits import Cell, Made
from pipeline.tables import store
from pipeline.workers.fit_job import read_cost, subject_fits

# Of the tables of pictures that are reported; those of pools have the rounds of refits.
ROUND = 0


def phases(ready: Ready) -> Phases:
    """The phases of a benchmark.

    Round r of a refit draws its pool with the adapter that round r - 1 left, the first one with that of the arm below. Where a round
    keeps nothing the adapter stays, and the next round draws anew with it; an arm whose rounds all kept nothing has none.
    """
    config, run_dir, arms, combinations = ready.config, ready.run_dir, ready.arms, ready.combinations
    jobs = yield Priors(jobs=tuple(planning.first_fits(config, run_dir, arms, combinations)))
    yield Fits(name="fit", jobs=subject_fits(jobs))
    fitted = yield Fits(name="fit", jobs=jobs)
    by_folder = {Path(job.out_dir): adapter for job, adapter in zip(jobs, fitted.adapters, strict=True)}
    made: dict[Cell, tuple[Adapter, ...]] = {
        (label, c.key, fit): (by_folder[planning.fit_folder(run_dir, arm, c.key, fit)],)
        for (label, arm), c, fit in product(arms.items(), combinations, range(config.fits))
        if not arm.refit
    }
    for round in range(refits.most_rounds(arms)):
        before = refits.starts(ready, made, round)
        pool = refits.pool(ready, before, round)
        yield pool
        if (judgements := refits.judgements(ready, pool, round)).metrics:
            yield judgements
        kept = yield refits.choice(ready, pool, before, round)
        jobs = refits.jobs(ready, before, kept, round)
        refitted = yield Fits(name=refits.name_in(round, "refit"), jobs=jobs)
        by_folder = {Path(job.out_dir): adapter for job, adapter in zip(jobs, refitted.adapters, strict=True)}
        for cell in before:
            if (adapter := by_folder.get(refits.folder_after(ready, cell, round))) is not None:
                made[cell] = (*made.get(cell, ()), adapter)
    yield Choice(name="fits", choose=lambda: store.write_fits(run_dir, "fits", _fit_rows(ready, made)), expected=None)
    adapters = {cell: of_cell[-1] for cell, of_cell in made.items()}
    chunks = tuple(planning.evaluation_chunks(config, arms, combinations, adapters))
    yield Draws(name="pictures", run_dir=run_dir, chunks=chunks, settings=draw_settings(config, run_dir, combinations, ready.methods))
    metrics = further_metrics(config)
    yield Judgements(name="metrics", run_dir=run_dir, chunks=chunks, metrics=metrics, combinations={c.key: c for c in combinations})


def _fit_rows(ready: Ready, made: Made) -> list[dict]:
    """One row a cell that has an adapter: what it is, what it cost, and which arm made it where several share it.

    Of several rounds of self-training `steps`, `kept` and `seconds` are the sums, `peak_bytes` the highest and `drift` that of the last
    refit, from the adapter of the round before; `started_from` is the adapter of the arm below, which drew the first pool.
    `payload_bytes` are the adapter's numbers for one subject; `seconds` those of all that the adapter was made of, fits of subjects
    alone and rounds included that another arm made first.

    Seconds are null where a fit was killed between its last step and the note of its cost, and so is then the device of the last.
    """
    rows, owners = [], {}
    subjects = {combination.key: len(combination.subjects) for combination in ready.combinations}
    for label, combination, fit in product(ready.arms, subjects, range(ready.config.fits)):
        if not (adapters := made.get((label, combination, fit))):
            continue
        adapter, manifests = adapters[-1], [adapter_folder.read_manifest(adapter.path) for adapter in adapters]
        last, owner, cost = manifests[-1], owners.setdefault(adapter.path, label), _cost(adapters)
        rows.append(
            {
                "run": ready.config.name, "method": label, "combination": combination, "fit": fit, "seed": last["seed"],
                "adapter_sha256": adapter.sha256, "started_from": manifests[0].get("start"), "steps": sum(map(_steps, manifests)),
                "parameters": last["parameters"], "drift": last.get("drift"),
                "kept": sum(manifest["kept"] for manifest in manifests) if "kept" in last else None,
                "payload_bytes": payload_bytes(adapter.path) // subjects[combination],
                "shared_with": None if owner == label else owner, **cost, "seconds": cost["seconds"] if owner == label else None,
            }
        )  # fmt: skip
    return rows


def _steps(manifest: dict) -> int:
    settings = manifest.get("retrain") or manifest["hyperparameters"]
    # A recipe of parts has the steps of its subjects' own fits.
    return settings["steps"] if "steps" in settings else settings["single"]["steps"]


def _cost(adapters: Sequence[Adapter]) -> dict[str, Any]:
    """Seconds, device and peak of memory of the fits that made a cell's adapters, as far as they were noted."""
    notes = [read_cost(adapter.path) for adapter in adapters]
    return {
        "seconds": None if None in notes else sum(note["seconds"] + note.get("alone_seconds", 0.0) for note in notes),
        "device": (notes[-1] or {}).get("device"),
        "peak_bytes": max((note["peak_bytes"] for note in notes if note and note.get("peak_bytes") is not None), default=None),
    }
