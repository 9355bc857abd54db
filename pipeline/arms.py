"""From a benchmark file to work: arms resolved to methods, fits shared by content, chunks of what is reported."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

from mudi.methods import METHODS
from mudi.methods.keys import default_keys, in_place_of, overlaid, with_defaults
from mudi.options import errors_at
from mudi.personalization import Personalization
from mudi.records import Adapter, Combination
from mudi.text import prompts
from mudi.user_files.requirements import require
from pipeline import plan
from pipeline.assignments import SINGLES, fit_seed, located, method_values
from pipeline.settings.benchmark_config import BenchmarkConfig, Refit
from pipeline.settings.hyperparameters import require_known
from pipeline.settings.later import LATER_IN_REFITS, without_later
from pipeline.settings.prompt_file import evaluation_prompts, training_prompts
from pipeline.settings.sampling_keys import checked_sampling
from pipeline.workers.fit_job import FitJob


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How the candidates of a refit are drawn: by the method of the arm below, under that arm's label where it draws alike."""

    label: str
    method: Personalization


@dataclass(frozen=True, kw_only=True)
class ResolvedArm:
    """An arm with everything that it inherits: the method's name, its values, and the refit on top, with its pools, if there is one."""

    label: str
    method: str
    values: Mapping
    refit: Refit | None
    pool: Pool | None

    @cached_property
    def options(self) -> Personalization:
        """The method as its own frozen value."""
        return METHODS[self.method](**self.values)

    @property
    def content(self) -> str:
        """Twelve hexadecimal digits of what decides the fit: arms that only draw differently share their adapters."""
        values = {key: value for key, value in self.values.items() if key != "sampling"}
        compositions = [self.options.sampling.scales, self.options.sampling.overlap] if self.options.needs_objects else []
        return digest([self.method, values, compositions])


def digest(value: object) -> str:
    """Twelve hexadecimal digits of the value's JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def resolve(config: BenchmarkConfig) -> dict[str, ResolvedArm]:
    """Every arm by label. Raises ValueError for a method, hyperparameter or sampling key that does not exist."""
    _check_defaults(config)
    resolved: dict[str, ResolvedArm] = {}

    def settle(label: str) -> ResolvedArm:
        if label in resolved:
            return resolved[label]
        arm = config.methods[label]
        origin = arm.like or (arm.refit and arm.refit.of)
        source = None
        if origin is None:
            method, inherited, drawn = arm.method, {}, config.sampling.keys
        else:
            source = settle(origin)
            if arm.refit and source.refit:
                of = source.refit.of
                raise ValueError(f"methods.{label}: refit.of {origin!r} is itself a refit; give {of!r}, and `rounds` for more of them")
            if arm.refit and not source.options.refits:
                raise ValueError(f"methods.{label}: refit.of {origin!r}, a {source.method}, leaves no LoRA for a refit to train")
            method, drawn = source.method, vars(source.options.sampling)
            inherited = {key: value for key, value in source.values.items() if key not in ("sampling", "detector", "segmenter")}
        chosen = _with_defaults(config, method, inherited, arm.hyperparameters)
        sampling = checked_sampling(f"methods.{label}.sampling", {**drawn, **arm.sampling})
        values = method_values(f"methods.{label}", method, chosen, sampling, config.models)
        if arm.refit:
            refit, pool = arm.refit, _pool(label, arm.refit, source)
        else:
            refit, pool = (source.refit, source.pool) if source else (None, None)
        resolved[label] = ResolvedArm(label=label, method=method, values=values, refit=refit, pool=pool)
        return resolved[label]

    for label in config.methods:
        settle(label)
    sizes = {arm.pool.label: arm.refit.pool for arm in resolved.values() if arm.pool}
    for label, arm in resolved.items():
        if arm.pool and arm.refit.pool != sizes[arm.pool.label]:
            raise ValueError(
                f"methods.{label}: refit.pool {arm.refit.pool} differs from that of another refit of {arm.refit.of}; give one size"
            )
    return resolved


def _pool(label: str, refit: Refit, start: ResolvedArm) -> Pool:
    drawn = start.options.sampling
    sampling = checked_sampling(f"methods.{label}.refit.sampling", {**vars(drawn), **refit.sampling})
    with errors_at(f"methods.{label}.refit."):
        method = replace(start.options, sampling=sampling)
    # No arm has a label with a hyphen.
    name = refit.of if sampling == drawn else f"{refit.of}-pool-{digest(without_later(asdict(sampling)))}"
    return Pool(label=name, method=method)


def _check_defaults(config: BenchmarkConfig) -> None:
    """Raise ValueError for a default that no method has: arms take those that they know, so a misspelt one would change nothing."""
    for key, value in config.defaults.items():
        if key not in default_keys() and (answer := in_place_of("modular", key, value)):
            raise ValueError(f"defaults.{key}: only recipes of parts have it; write {answer} in their arms")
        require_known("defaults", key, default_keys(), "no method has such a hyperparameter")


def _with_defaults(config: BenchmarkConfig, method: str, inherited: Mapping, given: Mapping) -> dict:
    """The arm's values over those it inherits, over those of the file's defaults that its method has a use for."""
    if method not in METHODS:
        return {**inherited, **given}
    return with_defaults(method, config.defaults, overlaid(method, inherited, given))


def with_prompts(config: BenchmarkConfig, arms: Mapping[str, ResolvedArm], combination: Combination) -> Combination:
    """The combination with its evaluation prompts; ValueError if it does not have what an arm needs, or its prompts have not.

    Prompts are looked at as each arm names the subjects; training prompts for arms that a refit draws a pool of.
    """
    templates, pools = evaluation_prompts(config, combination.key), {arm.refit.of for arm in arms.values() if arm.refit}
    named = prompts.fill_prompts(combination, templates)
    for arm in arms.values():
        require(f"methods.{arm.label}", arm.options, combination, config.models.backbone)
        drawn = [*templates, *(training_prompts(config, combination.key) if arm.label in pools else ())]
        _require_filled(f"methods.{arm.label}", arm.options, combination, drawn)
        if arm.refit and arm.refit.sampling:
            require(f"methods.{arm.label}.refit", arm.pool.method, combination, config.models.backbone)
    return named


def _require_filled(place: str, options: Personalization, combination: Combination, templates: Sequence[str]) -> None:
    try:
        prompts.fill_prompts(options.view(combination), templates)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    prompts.require_named(place, options, combination, templates)


def fit_folder(run_dir: Path, arm: ResolvedArm, combination: str, fit: int) -> Path:
    """Where an arm's own fit, without a refit, lies."""
    return run_dir / "adapters" / combination / f"{arm.method}-{arm.content}-fit={fit}"


def adapter_folder(
    run_dir: Path, config: BenchmarkConfig, arms: Mapping[str, ResolvedArm], arm: ResolvedArm, combination: str, fit: int,
    rounds: int | None = None,
) -> Path:  # fmt: skip
    """Where the adapter that draws an arm's pictures lies, that of its last refit if it has some; with `rounds` the one that so many
    leave. Arms that only draw differently share it, and refits that go on for longer share the rounds that they have in common."""
    if not arm.refit:
        return fit_folder(run_dir, arm, combination, fit)
    start = arms[arm.refit.of]
    prompts = list(training_prompts(config, combination))
    # All of how pools are drawn, so the keys that differ need not be told as well.
    drawn = without_later(asdict(arm.pool.method.sampling))
    refit = without_later(asdict(replace(arm.refit, rounds=rounds or arm.refit.rounds, sampling={})), LATER_IN_REFITS)
    decided = [refit, drawn, config.score.model_dump(mode="json"), prompts]
    before = fit_folder(run_dir, start, combination, fit)
    return before.with_name(f"{before.name}-refit-{digest(decided)}")


def first_fits(
    config: BenchmarkConfig, run_dir: Path, arms: Mapping[str, ResolvedArm], combinations: Sequence[Combination]
) -> list[FitJob]:
    """One job for each adapter that is fitted from photos, whichever arms use it."""
    jobs: dict[Path, FitJob] = {}
    for arm, combination, fit in product(arms.values(), combinations, range(config.fits)):
        folder = fit_folder(run_dir, arm, combination.key, fit)
        job = FitJob(
            label=f"{arm.label} {combination.key} {fit}", combination=combination, method=arm.method,
            hyperparameters={**arm.values, "singles": str(run_dir.parent / SINGLES), "single_seed": config.seed + fit},
            backbone=located(config.models.backbone), precision=config.precision, out_dir=str(folder),
            seed=fit_seed(config.seed, combination.key, fit), steps=arm.options.steps_in_all(len(combination.subjects)),
        )  # fmt: skip
        jobs.setdefault(folder, job)
    return list(jobs.values())


def evaluation_chunks(
    config: BenchmarkConfig, arms: Mapping[str, ResolvedArm], combinations: Sequence[Combination],
    adapters: Mapping[tuple[str, str, int], Adapter],
) -> list[plan.Chunk]:  # fmt: skip
    """The chunks of every picture that is reported; all arms and fits start from the same noise."""
    chunks = []
    for arm, combination in product(arms.values(), combinations):
        templates = evaluation_prompts(config, combination.key)
        named = prompts.fill_prompts(arm.options.view(combination), templates)
        found = [adapters[cell] for fit in range(config.fits) if (cell := (arm.label, combination.key, fit)) in adapters]
        chunks += chunks_of(config, arm.label, named, found, config.seed, config.images * len(templates))
    return chunks


def chunks_of(
    config: BenchmarkConfig, label: str, named: Combination, adapters: Sequence[Adapter], seed: int, count: int, round: int = 0
) -> list[plan.Chunk]:
    """The chunks of `count` candidates that each adapter, once if it is given twice, draws under a label, for a combination with its
    prompts filled in."""
    distinct = {adapter.sha256: adapter for adapter in adapters}
    return [
        chunk
        for adapter in distinct.values()
        for chunk in plan.plan_round(
            run=config.name, run_seed=seed, method=label, combination=named, adapter=adapter, round=round, candidates=count,
            watched_images=0, batch=config.sampling.batch,
        )
    ]  # fmt: skip
