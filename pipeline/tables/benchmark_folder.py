"""The run folder of a benchmark: what may be added to it later, and what may not change."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.settings.benchmark_config import BenchmarkConfig, benchmark_hash, drawing
from pipeline.tables import store
from pipeline.tables.run_folder import Subjects, facts_of, read_run, refuse_changes, run_folder, write_facts

BENCHMARK = "benchmark"
Prompts = Mapping[str, Mapping[str, str]]


def open_benchmark(
    config: BenchmarkConfig, inputs: Mapping[str, str], subjects: Subjects, prompts: Prompts, metrics: Mapping[str, bool]
) -> Path:
    """The folder of the benchmark, made at the first call and recognised at every later one.

    `prompts`: combination -> prompt id -> text; `metrics`: score -> whether higher is better. Arms, metrics, tables and claims can be
    added or, but for arms that are there, changed: run.json then says so. Raises ValueError, writing nothing, for any other change,
    since drawn pictures would no longer compare.
    """
    run_dir = run_folder(config.runs, config.name)
    facts = facts_of(BENCHMARK, config, benchmark_hash(config), inputs, subjects) | {"prompts": prompts, "metrics": dict(metrics)}
    refuse_another_benchmark(config, inputs, prompts)
    if (run_dir / "run.json").exists():
        stored = read_run(run_dir)
        facts["created"] = stored["created"]
        if json.loads(json.dumps(facts)) == stored:
            return run_dir
    else:
        store.create_tables(run_dir)
    write_facts(run_dir, facts)
    return run_dir


def refuse_another_benchmark(config: BenchmarkConfig, inputs: Mapping[str, str], prompts: Prompts) -> None:
    """Raise ValueError if the benchmark's folder holds a run of another kind, or one that was drawn from something else."""
    run_dir = run_folder(config.runs, config.name)
    if not (run_dir / "run.json").exists():
        return
    stored = read_run(run_dir)
    if stored.get("kind") != BENCHMARK:
        raise ValueError(f"{run_dir}: holds a self-training run, not a benchmark; pick another `name`")
    asked = {"config": config.model_dump(mode="json"), "inputs": inputs, "prompts": prompts}
    refuse_changes(run_dir, _fixed(stored, stored), _fixed(asked, stored))


def _fixed(facts: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that must not change: all that is drawn from, and the arms that the stored run has."""
    arms = {label: facts["config"]["methods"].get(label) for label in stored["config"]["methods"]}
    inputs = {name: facts["inputs"].get(name) for name in stored["inputs"]}
    pools = facts["config"]["training_prompts"] if any(arm and arm["refit"] for arm in arms.values()) else None
    return {
        **drawing(facts["config"]), "methods": arms, "training_prompts": pools, "prompts": facts["prompts"], "inputs": inputs,
    }  # fmt: skip
