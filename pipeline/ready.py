"""May this run start? One answer for self-training, benchmark, plan and check, given before Ray starts or weights are read."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mudi.dataset import check_images, load_combination
from mudi.metrics import CHECKS, METRICS
from mudi.model_facts import RANDOM, find_folder, is_hub_id, weights_identity
from mudi.personalization import Personalization
from mudi.records import Combination, Subject
from mudi.user_files.requirements import check_levels
from pipeline import arms as benchmark_arms
from pipeline import assignments
from pipeline.arms import ResolvedArm
from pipeline.assignments import located
from pipeline.settings.benchmark_config import DRAWN_WITH, BenchmarkConfig
from pipeline.settings.config import RunConfig
from pipeline.settings.prompt_file import evaluation_prompts, templates_of
from pipeline.tables import benchmark_folder
from pipeline.tables import run_folder as folders

Config = RunConfig | BenchmarkConfig
ORACLE = "identity_oracle"
# The miniature's folder of a key of `models`, where it has another name.
PARTS = {"backbone": "", "segmenter": "sam"}
Refuse = Callable[[ValueError], None]


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A run that may start: its settings, the folder that it has or will have, its combinations with their prompts, the methods by the
    label they draw under, a benchmark's arms, and the digests of photos and models. `absent`: folders of combinations that are
    not here, counted as the subjects that their prompts name. `pool`: methods that draw a run's candidates otherwise than what is
    watched."""

    config: Config
    run_dir: Path
    combinations: tuple[Combination, ...]
    methods: Mapping[str, Personalization]
    arms: Mapping[str, ResolvedArm]
    inputs: Mapping[str, str]
    absent: tuple[Path, ...] = ()
    pool: Mapping[str, Personalization] = field(default_factory=dict)

    @property
    def subjects(self) -> dict[str, list[str]]:
        """Each combination's subject phrases, as run.json lists them."""
        return {combination.key: [subject.phrase for subject in combination.subjects] for combination in self.combinations}

    @property
    def prompts(self) -> dict[str, dict[str, str]]:
        """Combination -> prompt id -> text, as run.json lists them."""
        return {c.key: {p.prompt_id: p.text for p in c.prompts} for c in self.combinations}


def stop(error: ValueError) -> None:
    """The usual `refuse`: the first thing that is wrong ends it."""
    raise error


def ready(config: Config, refuse: Refuse = stop, loaded: Sequence[Combination] | None = None, absent_ok: bool = False) -> Ready | None:
    """Ask everything that a start would refuse; the run, or None if `refuse` went on after something was wrong.

    `refuse` is told each mistake. `loaded`: the combinations where they have been read already. `absent_ok`: folders of
    combinations that are not here are counted rather than refused, as a plan does, and weights need not be here either.
    """
    wrong: list[ValueError] = []

    def ask(check: Callable, *arguments: Any) -> Any:
        try:
            return check(*arguments)
        except ValueError as error:
            wrong.append(error)
            refuse(error)
            return None

    run_dir = ask(folders.run_folder, config.runs, config.name)
    if not absent_ok:
        ask(check_models, config)
    ask(check_queries, config)
    arms = ask(benchmark_arms.resolve, config) if isinstance(config, BenchmarkConfig) else {}
    methods = ask(_methods, config, arms) if arms is not None else None
    if methods is not None:
        ask(check_levels, config.models.backbone, _samplings(config, methods, arms))
    drawn_otherwise = ask(assignments.pool_method, config) if methods is not None and isinstance(config, RunConfig) else None
    pool = {} if drawn_otherwise is None else {drawn_otherwise.name: drawn_otherwise}
    if drawn_otherwise is not None:
        ask(check_levels, config.models.backbone, {"pool_sampling": drawn_otherwise.sampling})
    if isinstance(config, RunConfig) and run_dir is not None:
        ask(folders.refuse_another_run, config, run_dir)
    absent = tuple(folder for folder in config.combinations if absent_ok and not folder.is_dir())
    if loaded is None:
        loaded = [found for folder in config.combinations if (found := ask(_combination, config, folder, absent)) is not None]
    ask(check_metrics, config, [c for c in loaded if c.key not in {folder.name for folder in absent}], absent_ok)
    named = [ask(_named, config, arms, c, absent) for c in loaded] if methods is not None else []
    if wrong:
        return None
    inputs = {} if absent else inputs_of(config)
    run = Ready(
        config=config, run_dir=run_dir, combinations=tuple(named), methods=methods, arms=arms, inputs=inputs, absent=absent, pool=pool
    )  # fmt: skip
    if isinstance(config, BenchmarkConfig) and not absent:
        ask(benchmark_folder.refuse_another_benchmark, config, inputs, run.prompts)
    return None if wrong else run


def open_folder(run: Ready) -> Path:
    """The folder of a run that is ready, made at the first call and recognised at every later one."""
    if isinstance(run.config, BenchmarkConfig):
        return benchmark_folder.open_benchmark(run.config, run.inputs, run.subjects, run.prompts, score_names(run.config))
    return folders.open_run(run.config, run.inputs, run.subjects)


def _methods(config: Config, arms: Mapping[str, ResolvedArm]) -> dict[str, Personalization]:
    if isinstance(config, BenchmarkConfig):
        pools = {arm.pool.label: arm.pool.method for arm in arms.values() if arm.pool}
        return {label: arm.options for label, arm in arms.items()} | pools
    return {config.method.name: assignments.method_of(config)}


def _samplings(config: Config, methods: Mapping[str, Personalization], arms: Mapping[str, ResolvedArm]) -> dict[str, Any]:
    """How each method draws, and the pools of refits are drawn, by its place in the file."""
    if isinstance(config, BenchmarkConfig):
        pools = {f"methods.{label}.refit.sampling": arm.pool.method.sampling for label, arm in arms.items() if arm.pool}
        return {f"methods.{label}.sampling": arm.options.sampling for label, arm in arms.items()} | pools
    return {"sampling": methods[config.method.name].sampling}


def _combination(config: Config, folder: Path, absent: Sequence[Path]) -> Combination:
    if folder in absent:
        return _placeholder(config, folder.name)
    combination = load_combination(folder, config.queries.get(folder.name))
    check_images(combination)
    return combination


def _named(config: Config, arms: Mapping[str, ResolvedArm], combination: Combination, absent: Sequence[Path]) -> Combination:
    """The combination with its prompts; one that is here is asked for all that a method needs of it."""
    here = combination.key not in {folder.name for folder in absent}
    if isinstance(config, BenchmarkConfig):
        return benchmark_arms.with_prompts(config, arms if here else {}, combination)
    if here:
        return assignments.with_prompts(config, combination)
    return assignments.named_prompts(config, combination, templates_of(config, combination.key))


def _placeholder(config: Config, name: str) -> Combination:
    """Stands for photos that are not here yet: the subjects that its prompts name by key, of classes that no other has, or a
    pair, as most published combinations are."""
    templates = evaluation_prompts(config, name) if isinstance(config, BenchmarkConfig) else templates_of(config, name)
    named = dict.fromkeys(key for template in templates for key in re.findall(r"\{([^{}]*)\}", template) if key != "subjects")
    keys = list(named) if len(named) > 1 else ["a", "b"]
    subjects = [
        Subject(key=key, identifier=f"word{i}", class_noun=f"{name} {key}", detection_query="subject", references=())
        for i, key in enumerate(keys)
    ]
    return Combination(key=name, subjects=tuple(subjects))


def check_queries(config: Config) -> None:
    """Raise ValueError for queries of a combination that the run does not have."""
    if unknown := sorted(set(config.queries) - {folder.name for folder in config.combinations}):
        known = ", ".join(folder.name for folder in config.combinations)
        raise ValueError(f"queries.{unknown[0]}: no such combination; the run has {known}")


def check_models(config: Config) -> None:
    """Raise ValueError for a model name that means nothing or a folder that is not there; hub ids are left to the workers."""
    for part, name in _weights(config).items():
        if not (is_hub_id(name) or (part == "backbone" and RANDOM.fullmatch(name))):
            find_folder(name, PARTS.get(part, part))


def inputs_of(config: Config) -> dict[str, str]:
    """The photos of a run's combinations and the models behind its names, each with a digest of its contents."""
    parts = [(part, PARTS.get(part, part), name) for part, name in _weights(config).items()]
    identities = {f"model {folder or part}": weights_identity(name, folder) for part, folder, name in parts}
    return {f"combination {folder.name}": folders.folder_sha256(folder) for folder in config.combinations} | identities


def _weights(config: Config) -> dict[str, str]:
    """Key of `models` -> weights, of the models that every run needs, embedders by their kinds."""
    models = config.models
    return {"backbone": models.backbone, "detector": models.detector, "segmenter": models.segmenter, **models.embedders.chosen}


def check_metrics(config: Config, combinations: Sequence[Combination], absent_ok: bool = False) -> None:
    """Raise ValueError for a metric that is unknown, lacks its model, or cannot judge these combinations, and for a score that no metric
    of the run gives. `absent_ok`: a model's folder need not be here."""
    for name in config.metrics:
        for key, weights in metric_weights(config, name).items():
            if isinstance(weights, str) and not absent_ok and not is_hub_id(weights):
                find_folder(weights, PARTS.get(key, key))
    usable = {key for metric in METRICS.values() for key in metric.MODELS}
    if unused := sorted(set(config.models.model_extra) - usable):
        raise ValueError(f"models.{unused[0]}: no metric uses such a model; keys beside the run's own are {', '.join(sorted(usable))}")
    for name in config.metrics:
        for combination in combinations:
            if name in CHECKS:
                CHECKS[name](combination)
    known = score_names(config)
    asked = [(f"score.select_by = {score!r}:", score) for score in config.score.weights]
    if isinstance(config, BenchmarkConfig):
        asked += [(f"tables: {table.name}: {score!r}", score) for table in config.tables for score in table.metrics]
        asked += [(f"claims: {claim.text!r}: {claim.metric!r}", claim.metric) for claim in config.claims]
    for name in config.score.weights:
        if name in METRICS[ORACLE].NAMES:
            raise ValueError(f"score.select_by = {name!r}: the oracle knows the truth about rendered subjects; it judges and never selects")
        if not known.get(name, True):
            rising = ", ".join(score for score, higher in known.items() if higher and score not in METRICS[ORACLE].NAMES)
            raise ValueError(f"score.select_by = {name!r}: lower is better of it, and the highest are kept; choose from {rising}")
    for said, score in asked:
        if score not in known:
            raise ValueError(f"{said} is not computed by this run; choose from {', '.join(known)}")


def further_metrics(config: Config) -> dict[str, dict]:
    """Each metric that scores pictures after they are drawn, with its weights (`metric_weights`)."""
    return {name: metric_weights(config, name) for name in config.metrics if name != DRAWN_WITH}


def metric_weights(config: Config, name: str) -> dict:
    """The keyword arguments of a metric: the weights of the models that it names. ValueError if `models` lacks one."""
    if name not in METRICS:
        raise ValueError(f"metrics: {name!r} is unknown; allowed are {', '.join(METRICS)}")
    given = {**config.models.model_dump(), "embedders": {kind: located(w) for kind, w in config.models.embedders.chosen.items()}}
    weights = {}
    for key in METRICS[name].MODELS:
        if given.get(key) is None:
            raise ValueError(f"models.{key}: the metric {name} needs it; give weights, or take {name} out of metrics")
        weights[key] = given[key] if key == "embedders" else located(given[key])
    return weights


def score_names(config: Config) -> dict[str, bool]:
    """Every score that the run computes, and whether higher is better; `drift` where there are refits."""
    unused = set(type(config.models.embedders).model_fields) - set(config.models.embedders.chosen)
    chosen = dict.fromkeys((DRAWN_WITH, *config.metrics))
    names = {key: better for name in chosen for key, better in METRICS[name].NAMES.items() if key.rsplit("_", 1)[-1] not in unused}
    refits = isinstance(config, BenchmarkConfig) and any(arm.refit for arm in config.methods.values())
    return names | ({"drift": False} if refits else {})
