"""From the run file to work: combinations, hyperparameters, fits, chunks and the settings of the stages."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mudi.methods import METHODS
from mudi.options import Sampling
from mudi.personalization import Personalization
from mudi.records import Adapter, Combination
from mudi.text import prompts
from mudi.user_files.requirements import require
from pipeline import plan
from pipeline.phases import Chosen
from pipeline.settings.benchmark_config import BenchmarkConfig
from pipeline.settings.config import Models, RunConfig
from pipeline.settings.hyperparameters import check_hyperparameters
from pipeline.settings.prompt_file import templates_of
from pipeline.settings.sampling_keys import checked_sampling
from pipeline.workers.draw import DrawSettings
from pipeline.workers.fit_job import FitJob


def with_prompts(config: RunConfig, combination: Combination) -> Combination:
    """The combination with the run's prompts filled in; ValueError if it or a prompt lacks what the run needs."""
    method = method_of(config)
    require("method", method, combination, config.models.backbone, masks=config.rounds > 0)
    templates = templates_of(config, combination.key)
    named = named_prompts(config, combination, templates)
    prompts.require_named("method", method, combination, [*templates, *config.watched_prompts])
    return named


def named_prompts(config: RunConfig, combination: Combination, templates: Sequence[str]) -> Combination:
    """The combination as the user named it, with the prompts in which its method names it."""
    viewed = method_of(config).view(combination)
    return dataclasses.replace(combination, prompts=prompts.fill_prompts(viewed, templates, config.watched_prompts).prompts)


def located(name: str) -> str:
    """A model's name with a folder made absolute: workers do not start in the driver's folder."""
    return str(Path(name).expanduser().resolve()) if Path(name).expanduser().is_dir() else name


def sampling_of(config: RunConfig) -> Sampling:
    """How an image is drawn, as mudi's own value; ValueError for keys that exclude each other."""
    return checked_sampling("sampling", config.sampling.keys)


def hyperparameters_of(config: RunConfig) -> dict:
    """What the run's method is built from; ValueError for a name or key that it does not have."""
    values = method_values("method", config.method.name, config.method.hyperparameters, sampling_of(config), config.models)
    if config.rounds and not METHODS[config.method.name](**values).refits:
        raise ValueError(f"rounds = {config.rounds}: {config.method.name} leaves no LoRA for a refit to train; set rounds to 0")
    return values


def method_of(config: RunConfig) -> Personalization:
    """The run's method as its own frozen value."""
    # Read first: they refuse a name that is no method's.
    values = hyperparameters_of(config)
    return METHODS[config.method.name](**values)


def pool_method(config: RunConfig) -> Personalization | None:
    """The run's method as it draws candidates, where that is said to differ from `sampling`; ValueError for keys it cannot have."""
    if not config.pool_sampling:
        return None
    sampling = checked_sampling("pool_sampling", {**config.sampling.keys, **config.pool_sampling})
    return dataclasses.replace(method_of(config), sampling=sampling)


def method_values(place: str, name: str, hyperparameters: Mapping[str, Any], sampling: Sampling, weights: Models) -> dict:
    """What the dataclass of the method `name` is built from; ValueError, naming the `place` in the file, for what it does not have."""
    if name not in METHODS:
        raise ValueError(f"{place}.name = {name!r}: allowed are {', '.join(METHODS)}")
    check_hyperparameters(place, name, hyperparameters)
    judges = {"detector": located(weights.detector), "segmenter": located(weights.segmenter)}
    values = {**hyperparameters, "sampling": sampling, **judges}
    try:
        METHODS[name](**values)
    except ValueError as error:
        raise ValueError(f"{place}.{error}") from None
    return values


# Fits of one subject alone lie beside the runs, so that all combinations of all runs share them.
SINGLES = "_subjects"


def fit_seed(run_seed: int, combination: str, *numbers: int) -> int:
    """The seed of one of a combination's fits, told from the others by its numbers: a run's by the round of its adapter, a benchmark's
    by the fit and, from the second refit on, its round."""
    name = json.dumps([run_seed, combination, "fit", *numbers])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def adapter_folder(run_dir: Path, combination: str, round: int) -> Path:
    """Where the adapter that draws `round` lies."""
    return run_dir / "adapters" / combination / f"round={round}"


def first_fits(config: RunConfig, run_dir: Path, combinations: list[Combination]) -> list[FitJob]:
    """The method's own fit of every combination, which makes the adapters of round 0."""
    values = {**hyperparameters_of(config), "singles": str(run_dir.parent / SINGLES), "single_seed": config.seed}
    method = METHODS[config.method.name](**values)
    return [
        FitJob(
            label=combination.key, combination=combination, method=config.method.name, hyperparameters=values,
            backbone=located(config.models.backbone),
            precision=config.precision, out_dir=str(adapter_folder(run_dir, combination.key, 0)),
            seed=fit_seed(config.seed, combination.key, 0), steps=method.steps_in_all(len(combination.subjects)),
        )
        for combination in combinations
    ]  # fmt: skip


def refits(
    config: RunConfig, run_dir: Path, combinations: list[Combination], adapters: list[Adapter], kept: Mapping[str, Chosen], round: int
) -> list[FitJob]:
    """The refits on what `round` kept of each combination, named as the method names it; one that kept nothing has none."""
    view = method_of(config).view
    return [
        FitJob(
            label=combination.key, combination=view(combination), method=config.method.name, hyperparameters={},
            backbone=located(config.models.backbone),
            precision=config.precision, out_dir=str(adapter_folder(run_dir, combination.key, round + 1)),
            seed=fit_seed(config.seed, combination.key, round + 1), steps=config.retrain.steps, start=adapter,
            kept=kept[combination.key], round=round, retraining=config.retrain, run_dir=str(run_dir),
        )
        for combination, adapter in zip(combinations, adapters, strict=True)
        if kept[combination.key]
    ]  # fmt: skip


def plan_round(config: RunConfig, combinations: list[Combination], adapters: list[Adapter], round: int) -> list[plan.Chunk]:
    """All chunks of one round over all combinations; watched prompts are drawn in all rounds, or in the first and the last."""
    watched = config.watched_rounds == "all" or round in (0, config.rounds)
    chunks = []
    for combination, adapter in zip(combinations, adapters, strict=True):
        chunks += plan.plan_round(
            run=config.name, run_seed=config.seed, method=config.method.name, combination=combination, adapter=adapter, round=round,
            candidates=config.candidates, watched_images=config.watched_images if watched else 0, batch=config.sampling.batch,
        )  # fmt: skip
    return chunks


def draw_settings(
    config: RunConfig | BenchmarkConfig, run_dir: Path, combinations: Sequence[Combination], methods: Mapping[str, Personalization],
    pool: Mapping[str, Personalization] | None = None,
) -> DrawSettings:  # fmt: skip
    """What the workers of a sweep are built from; subjects are detected and compared as the user named them."""
    return DrawSettings(
        run_dir=str(run_dir),
        models={
            "backbone": located(config.models.backbone),
            "detector": located(config.models.detector),
            "embedders": {kind: located(name) for kind, name in config.models.embedders.chosen.items()},
        },
        methods=dict(methods),
        threshold=config.score.threshold,
        precision=config.precision,
        combinations={combination.key: combination for combination in combinations},
        pool=dict(pool or {}),
    )
