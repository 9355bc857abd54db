"""The benchmark as a list of phases over arms x combinations x fits: fit, pool, refit, draw, judge; resumable at each.

Each phase looks at the run folder and does only the work that is missing there. A metric added to the file of a
finished run changes nothing up to the last phase, so only that has work.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mudi import adapter_folder
from mudi.adapter_size import payload_bytes
from mudi.records import Adapter
from mudi.selection import rewards, select
from pipeline import arms as planning
from pipeline.arms import ResolvedArm
from pipeline.assignments import draw_settings
from pipeline.phases import Choice, Chosen, Draws, Fits, Judgements, Phases, Priors, undrawn
from pipeline.ready import Ready, metric_weights
from pipeline.settings.benchmark_config import DRAWN_WITH, Refit
from pipeline.tables import journal, store
from pipeline.workers.fit_job import read_cost, subject_fits

Arms = Mapping[str, ResolvedArm]
Cell = tuple[str, str, int]
# (arm, combination, fit) -> the adapter that draws the cell; a cell without one is missing, and named so.
Adapters = dict[Cell, Adapter]
ROUND = 0


def phases(ready: Ready) -> Phases:
    """The phases of a benchmark."""
    config, run_dir, arms, combinations = ready.config, ready.run_dir, ready.arms, ready.combinations
    jobs = yield Priors(jobs=tuple(planning.first_fits(config, run_dir, arms, combinations)))
    yield Fits(name="fit", jobs=subject_fits(jobs))
    fitted = yield Fits(name="fit", jobs=jobs)
    made = {Path(job.out_dir): adapter for job, adapter in zip(jobs, fitted.adapters, strict=True)}
    starts = _adapters(ready, {label: arm for label, arm in arms.items() if not arm.refit}, made)
    if any(arm.refit for arm in arms.values()):
        pool, chunks = planning.pool_dir(run_dir), tuple(planning.pool_chunks(config, arms, combinations, starts))
        drawing = Draws(name="pool", run_dir=pool, chunks=chunks, settings=draw_settings(config, pool, combinations, ready.methods))
        yield drawing
        kept = yield _choice(ready, drawing, starts)
        jobs = tuple(planning.refits(config, run_dir, arms, combinations, starts, kept))
        refitted = yield Fits(name="refit", jobs=jobs)
        made |= {Path(job.out_dir): adapter for job, adapter in zip(jobs, refitted.adapters, strict=True)}
    adapters = _adapters(ready, arms, made)
    yield Choice(name="fits", choose=lambda: _write_fits(ready, adapters), expected=None)
    chunks = tuple(planning.evaluation_chunks(config, arms, combinations, adapters))
    yield Draws(name="pictures", run_dir=run_dir, chunks=chunks, settings=draw_settings(config, run_dir, combinations, ready.methods))
    metrics = {name: metric_weights(config, name) for name in config.metrics if name != DRAWN_WITH}
    yield Judgements(name="metrics", run_dir=run_dir, chunks=chunks, metrics=metrics, combinations={c.key: c for c in combinations})


def _adapters(ready: Ready, wanted: Arms, made: Mapping[Path, Adapter]) -> Adapters:
    """The adapters of the `wanted` arms, by cell; arms that only draw differently share theirs."""
    found: Adapters = {}
    for label, arm in wanted.items():
        for combination in ready.combinations:
            for fit in range(ready.config.fits):
                place = planning.adapter_folder(ready.run_dir, ready.config, ready.arms, arm, combination.key, fit)
                if place in made:
                    found[label, combination.key, fit] = made[place]
    return found


def _choice(ready: Ready, pool: Draws, starts: Adapters) -> Choice:
    """Select what trains the refits from a pool that is drawn; before that every refit is expected to find as many as it keeps."""

    def choose() -> dict[Cell, Chosen]:
        kept = _select(ready, pool.run_dir, starts)
        for cell in [cell for cell, chosen in kept.items() if not chosen]:
            journal.append_event(ready.run_dir, event="nothing kept", cell=cell)
        return kept

    if pool.run_dir.is_dir() and not undrawn(pool):
        return Choice(name="selection", choose=choose, expected=_select(ready, pool.run_dir, starts))
    placeholder = {
        (arm.label, c.key, fit): (("id", "prompt", 0.0),) * arm.refit.keep
        for arm in ready.arms.values() if arm.refit
        for c in ready.combinations for fit in range(ready.config.fits)
    }  # fmt: skip
    return Choice(name="selection", choose=choose, expected=placeholder)


def _select(ready: Ready, pool: Path, starts: Adapters) -> dict[Cell, Chosen]:
    """(arm, combination, fit) -> the pool's candidates that train its refit."""
    config = ready.config
    scores = store.read(pool, "scores", ROUND, ["candidate_id", "metric", "value"]).to_pylist()
    values = rewards(scores, config.score.weights)
    columns = ["candidate_id", "method", "combination", "adapter_sha256", "prompt"]
    rows = store.read(pool, "candidates", ROUND, columns).to_pylist()
    kept = {}
    for arm in ready.arms.values():
        for combination in ready.combinations if arm.refit else ():
            for fit in range(config.fits):
                start = starts[arm.refit.of, combination.key, fit]
                mine = sorted(
                    (row["candidate_id"], row["prompt"], values.get(row["candidate_id"]))
                    for row in rows
                    if (row["method"], row["combination"], row["adapter_sha256"]) == (arm.refit.of, combination.key, start.sha256)
                )
                kept[arm.label, combination.key, fit] = choose(
                    arm.refit, mine, np.random.default_rng((config.seed, fit)), config.score.per_prompt
                )
    return kept


def choose(refit: Refit, candidates: Sequence[tuple[str, str, float | None]], rng: np.random.Generator, per_prompt: bool = False) -> Chosen:
    """Which candidates of a pool (id, prompt, value) train a refit: those that its objective wants, or `keep` of those that have a
    score, zeros included, at random."""
    if refit.select == "top":
        everything, margin = refit.learns_from_all, refit.pair_margin
        return select(candidates, refit.keep, everything=everything, per_prompt=per_prompt, margin=margin)
    scored = [candidate for candidate in candidates if candidate[2] is not None]
    return tuple(scored[i] for i in sorted(rng.permutation(len(scored))[: refit.keep]))


def _write_fits(ready: Ready, adapters: Adapters) -> None:
    store.write_fits(ready.run_dir, "fits", _fit_rows(ready, adapters))


def _fit_rows(ready: Ready, adapters: Adapters) -> list[dict]:
    """One row a cell that has an adapter: what it is, what it cost, and which arm made it where several share it.
    `payload_bytes` are the adapter's numbers for one subject; `seconds` those of all that the adapter was made of, fits of subjects
    alone included that another arm made first.

    Seconds and device are null for a fit that was killed between its last step and the note of its cost.
    """
    rows, owners = [], {}
    subjects = {combination.key: len(combination.subjects) for combination in ready.combinations}
    for (label, combination, fit), adapter in adapters.items():
        manifest = adapter_folder.read_manifest(adapter.path)
        cost = read_cost(adapter.path) or {}
        seconds = cost["seconds"] + cost.get("alone_seconds", 0.0) if cost else None
        owner = owners.setdefault(adapter.path, label)
        settings = manifest.get("retrain") or manifest["hyperparameters"]
        # A recipe of parts has the steps of its subjects' own fits.
        steps = settings["steps"] if "steps" in settings else settings["single"]["steps"]
        rows.append(
            {
                "run": ready.config.name, "method": label, "combination": combination, "fit": fit, "seed": manifest["seed"],
                "adapter_sha256": adapter.sha256, "started_from": manifest.get("start"), "steps": steps,
                "parameters": manifest["parameters"], "kept": manifest.get("kept"), "drift": manifest.get("drift"),
                "seconds": seconds if owner == label else None, "shared_with": None if owner == label else owner,
                "device": cost.get("device"), "peak_bytes": cost.get("peak_bytes"),
                "payload_bytes": payload_bytes(adapter.path) // subjects[combination],
            }
        )  # fmt: skip
    return rows
