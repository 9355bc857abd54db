"""Rates before any run: the run itself, three times very short, in this process and a scratch folder, read as any run is.

The first one warms up. The others differ in length, so that a line through both tells the seconds that do not grow with it.
"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from mudi.prior_folder import find_batch
from pipeline.carry_out import carry_out, phases_of
from pipeline.class_priors import needs_of
from pipeline.cost import calibration
from pipeline.cost.count import workload_of
from pipeline.cost.forecast import Measured, measure, rates_of
from pipeline.phases import Choice, Priors, listed, unjudged
from pipeline.ready import Config, Ready, open_folder, ready
from pipeline.refits import pool_dir
from pipeline.settings.benchmark_config import DRAWN_WITH, BenchmarkConfig
from pipeline.settings.prompt_file import evaluation_prompts, templates_of, training_prompts
from pipeline.tables import store
from pipeline.workers.in_process import in_this_process
from pipeline.workers.priors import PriorBatch
from pipeline.workers.worker import Do

WARM_UP, LENGTHS = 1, (2, 8)  # optimiser steps of every fit and denoising steps of every picture


def calibrate(run: Ready, load: Callable[[list[str]], Config], scratch: Path, say: Callable[[str], None]) -> tuple[str, calibration.Rates]:
    """The device's name and the rates of everything that the run asks for. `load` reads its file again with these overrides. Raises
    ValueError where none of the combinations is here."""
    found = Measured()
    with in_this_process(run.config.cluster) as (do, _):
        for steps in (WARM_UP, *LENGTHS):
            say(f"{steps} step{'s' * (steps > 1)} of everything")
            short, of_these = ready(load(overrides(run, scratch, steps))), found if steps != WARM_UP else Measured()
            open_folder(short)
            before, began = workload_of(short), time.time()
            carry_out(short, do, lambda label, done, total: None, choose=partial(_two_pictures, short))
            _draw_priors(run, scratch, steps, do, of_these)
            measure(short, before, began, of_these)
    (device,) = found.devices
    return device, rates_of(found, calibration.calibrations(run.config).get(device, {}), "short runs")


def _draw_priors(run: Ready, scratch: Path, steps: int, do: Do, found: Measured) -> None:
    """A batch of class priors of each kind, whether or not its pictures of so few steps show their class."""
    cluster, kinds = run.config.cluster.model_dump(mode="json"), {task.place: task.kind for task in workload_of(run).tasks("priors")}
    wanted = [recipe for phase in listed(phases_of(run)) if isinstance(phase, Priors) for recipe in needs_of(phase.jobs, cluster)]
    for kind, recipe in {kinds[recipe.digest]: replace(recipe, steps=steps) for recipe in wanted}.items():
        for failure in do([PriorBatch(recipe=recipe, folder=str(scratch / recipe.digest), batch=0, run="short")], lambda *_: None):
            raise failure.error
        found.pieces[kind].append((steps, find_batch(scratch / recipe.digest, 0)["seconds"]))


def _two_pictures(run: Ready, choice: Choice) -> object:
    """Answers a selection with two stored pictures as if one were better, whatever they score: pictures of so few steps may score
    nothing."""
    if choice.expected is None:
        return None
    tables = pool_dir(run.run_dir) if isinstance(run.config, BenchmarkConfig) else run.run_dir
    rows = store.read(tables, "candidates", 0, ["candidate_id", "prompt", "status"]).to_pylist()
    shown = [row for row in rows if row["status"] == "ok"][:2]
    return dict.fromkeys(choice.expected, tuple((row["candidate_id"], row["prompt"], float(rank)) for rank, row in enumerate(shown)))


def overrides(run: Ready, scratch: Path, steps: int) -> list[str]:
    """What makes the file a run of so many steps, and of two chunks of one prompt and combination; all kinds of work remain."""
    config, folders = run.config, [folder for folder in run.config.combinations if folder not in run.absent]
    if not folders:
        raise ValueError(f"--calibrate: none of the run's combinations is here (first {run.absent[0]}); add its photos first")
    key = folders[0].name
    values = {
        "runs": str(scratch), "name": f"steps-{steps}", "cluster.address": "none", "combinations": [str(folders[0])],
        "queries": {key: config.queries[key]} if key in config.queries else {}, "sampling.steps": steps,
    }  # fmt: skip
    values |= (_of_benchmark if isinstance(config, BenchmarkConfig) else _of_selftraining)(run, key, steps, 2 * config.sampling.batch)
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def _of_selftraining(run: Ready, key: str, steps: int, pictures: int) -> dict[str, object]:
    # Watched pictures are work of another kind only where the pool is drawn otherwise.
    watched = {"watched_prompts": run.config.watched_prompts[:1] if run.pool else [], "watched_images": pictures}
    values = {"prompts": templates_of(run.config, key)[:1], **watched, "candidates": pictures, "keep": 1}
    values |= {"rounds": min(1, run.config.rounds), "retrain.steps": steps}
    values |= {"pool_sampling.steps": steps} if "steps" in run.config.pool_sampling else {}
    return values | {f"method.{name}": value for name, value in run.methods[run.config.method.name].shortened(steps).items()}


def _of_benchmark(run: Ready, key: str, steps: int, pictures: int) -> dict[str, object]:
    config = run.config
    # Metrics are measured together, as the run's last phase will compute them: those that some picture lacks, or all.
    lacking = set().union(*unjudged(listed(phases_of(run))[-1]).values())
    metrics = [name for name in config.metrics if name == DRAWN_WITH or name in lacking or not lacking]
    values = {"prompts": evaluation_prompts(config, key)[:1], "images": pictures, "metrics": metrics, "fits": 1, "tables": [], "claims": []}
    if any(arm.refit for arm in config.methods.values()):
        values["training_prompts"] = training_prompts(config, key)[:1]
    for label, arm in config.methods.items():
        values[f"methods.{label}.sampling.steps"] = steps
        if arm.refit:
            values |= {f"methods.{label}.refit.{name}": n for name, n in (("rounds", 1), ("steps", steps), ("pool", pictures), ("keep", 1))}
            values |= {f"methods.{label}.refit.sampling.steps": steps} if "steps" in arm.refit.sampling else {}
        elif arm.method or arm.hyperparameters:
            values |= {f"methods.{label}.{name}": value for name, value in run.methods[label].shortened(steps).items()}
    return values
