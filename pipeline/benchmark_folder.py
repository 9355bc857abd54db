"""The run folder of a benchmark: what may be added to it later, and what may not change."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mudi import model_facts
from mudi.metrics import CHECKS, METRICS
from mudi.records import Combination
from pipeline.benchmark import canonical_prompts, metric_weights, score_names
from pipeline.settings.benchmark_config import BenchmarkConfig, benchmark_hash, drawing
from pipeline.tables import store
from pipeline.tables.run_folder import facts_of, read_run, refuse_changes, run_folder, write_facts

BENCHMARK = "benchmark"


def open_benchmark(config: BenchmarkConfig, combinations: Sequence[Combination], inputs: Mapping[str, str]) -> Path:
    """The folder of the benchmark, made at the first call and recognised at every later one.

    Arms, metrics, tables and claims can be added or, but for arms that are there, changed: run.json then says
    so. Raises ValueError, writing nothing, for any other change, since drawn pictures would no longer compare.
    """
    run_dir = run_folder(config.runs, config.name)
    subjects = {c.key: [subject.phrase for subject in c.subjects] for c in combinations}
    facts = facts_of(BENCHMARK, config, benchmark_hash(config), inputs, subjects)
    facts |= {"prompts": canonical_prompts(combinations), "metrics": score_names(config)}
    if (run_dir / "run.json").exists():
        stored = read_run(run_dir)
        if stored.get("kind") != BENCHMARK:
            raise ValueError(f"{run_dir}: holds a self-training run, not a benchmark; pick another `name`")
        refuse_changes(run_dir, _fixed(stored, stored), _fixed(facts, stored))
        facts["created"] = stored["created"]
    else:
        store.create_tables(run_dir)
    write_facts(run_dir, facts)
    return run_dir


def _fixed(facts: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """What must not change: all that is drawn from, and the arms that the stored run has."""
    arms = {label: facts["config"]["methods"].get(label) for label in stored["config"]["methods"]}
    inputs = {name: facts["inputs"].get(name) for name in stored["inputs"]}
    pools = facts["config"]["training_prompts"] if any(arm and arm["refit"] for arm in arms.values()) else None
    return {
        **drawing(facts["config"]), "methods": arms, "training_prompts": pools, "prompts": facts["prompts"], "inputs": inputs,
    }  # fmt: skip


def check_metrics(config: BenchmarkConfig, combinations: Sequence[Combination]) -> None:
    """Raise ValueError for a metric that is unknown, lacks its model, or cannot judge these combinations."""
    known = score_names_after_weights(config)
    for name in config.metrics:
        for combination in combinations:
            if name in CHECKS:
                CHECKS[name](combination)
    for table in config.tables:
        for score in table.metrics:
            if score not in known:
                raise ValueError(f"tables: {table.name}: {score!r} is not computed by this run; choose from {', '.join(known)}")
    for claim in config.claims:
        if claim.metric not in known:
            raise ValueError(f"claims: {claim.text!r}: {claim.metric!r} is not computed by this run; choose from {', '.join(known)}")
    if config.score.select_by not in known:
        raise ValueError(f"score.select_by = {config.score.select_by!r}: is not computed by this run; choose from {', '.join(known)}")


def score_names_after_weights(config: BenchmarkConfig) -> dict[str, bool]:
    """The names of all scores, once every metric's weights are known to be there."""
    for name in config.metrics:
        for key, weights in metric_weights(config, name).items():
            if isinstance(weights, str) and not model_facts.is_hub_id(weights):
                model_facts.find_folder(weights, key)
    usable = {key for metric in METRICS.values() for key in metric.MODELS}
    if unused := sorted(set(config.models.model_extra) - usable):
        raise ValueError(f"models.{unused[0]}: no metric uses such a model; keys beside the run's own are {', '.join(sorted(usable))}")
    return score_names(config)
