"""Rates before any run: the run itself, three times very short, in this process and a scratch folder, read as any run is.

The first one warms up. The others differ in length, so that a line through both tells the seconds that do not grow with it.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.arms import pool_dir
from pipeline.carry_out import carry_out, phases_of
from pipeline.cost import calibration
from pipeline.cost.calibration import Rate
from pipeline.cost.count import workload_of
from pipeline.cost.forecast import Measured, measure, rates_of
from pipeline.phases import Choice, Judgements, listed, unjudged
from pipeline.ready import Config, Ready, open_folder, ready
from pipeline.settings.benchmark_config import DRAWN_WITH, BenchmarkConfig
from pipeline.settings.prompt_file import evaluation_prompts, templates_of, training_prompts
from pipeline.tables import store
from pipeline.workers.in_process import in_this_process

WARM_UP, LENGTHS = 1, (2, 8)  # optimiser steps of every fit and denoising steps of every picture
FEW_PRIORS = 4


def calibrate(run: Ready, load: Callable[[list[str]], Config], scratch: Path, say: Callable[[str], None]) -> tuple[str, dict[str, Rate]]:
    """The device's name and the rates of everything that the run asks for. `load` reads its file again with these overrides. Raises
    ValueError where none of the combinations is here."""
    found, warming = Measured(), Measured()
    with in_this_process(run.config.cluster) as (do, _):
        for steps in (WARM_UP, *LENGTHS):
            say(f"{steps} step{'s' * (steps > 1)} of everything")
            short = ready(load(overrides(run, scratch, steps)))
            open_folder(short)
            before, began = workload_of(short), time.time()
            carry_out(short, do, lambda label, done, total: None, choose=partial(_first_picture, short))
            measure(short, before, began, warming if steps == WARM_UP else found)
    # Class priors keep their length and are drawn once, so only the first run has them.
    found.pieces = warming.pieces | found.pieces
    (device,) = found.devices
    return device, rates_of(found, calibration.find(run.config, device).rates, "short runs")


def _first_picture(run: Ready, choice: Choice) -> object:
    """Answers a selection with the first stored picture, whatever it scores: pictures of so few steps may score nothing."""
    if choice.expected is None:
        return None
    tables = pool_dir(run.run_dir) if isinstance(run.config, BenchmarkConfig) else run.run_dir
    rows = store.read(tables, "candidates", 0, ["candidate_id", "prompt", "status"]).to_pylist()
    first = next(row for row in rows if row["status"] == "ok")
    return dict.fromkeys(choice.expected, ((first["candidate_id"], first["prompt"]),))


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


def _shortened(run: Ready, place: str, label: str, steps: int) -> dict[str, int]:
    lengths = {key: min(long, FEW_PRIORS if "prior" in key else steps) for key, long in run.methods[label].lengths().items()}
    return {f"{place}.{key}": length for key, length in lengths.items()}


def _of_selftraining(run: Ready, key: str, steps: int, pictures: int) -> dict[str, object]:
    values = {"prompts": templates_of(run.config, key)[:1], "watched_prompts": [], "candidates": pictures, "keep": 1}
    values |= {"rounds": min(1, run.config.rounds), "retrain.steps": steps}
    return values | _shortened(run, "method", run.config.method.name, steps)


def _of_benchmark(run: Ready, key: str, steps: int, pictures: int) -> dict[str, object]:
    config = run.config
    lacking = {
        name for phase in listed(phases_of(run)) if isinstance(phase, Judgements) for names in unjudged(phase).values() for name in names
    }
    # Metrics are measured together, as the run will compute them: those that some picture lacks, or all.
    metrics = [name for name in config.metrics if name == DRAWN_WITH or name in lacking or not lacking]
    values = {"prompts": evaluation_prompts(config, key)[:1], "images": pictures, "metrics": metrics, "fits": 1, "tables": [], "claims": []}
    if any(arm.refit for arm in config.methods.values()):
        values["training_prompts"] = training_prompts(config, key)[:1]
    for label, arm in config.methods.items():
        values[f"methods.{label}.sampling.steps"] = steps
        if arm.refit:
            values |= {f"methods.{label}.refit.{name}": n for name, n in (("steps", steps), ("pool", pictures), ("keep", 1))}
        elif arm.method or arm.hyperparameters:
            values |= _shortened(run, f"methods.{label}", label, steps)
    return values
