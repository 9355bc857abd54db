"""The benchmark: PRIORS -> FIT -> POOL -> REFIT -> DRAW -> JUDGE over arms x combinations x fits, resumable at every arrow.

Each phase looks at what lies in the run folder and does only what is missing. A metric added to the file of a
finished run changes nothing up to DRAW, so only JUDGE has work.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mudi import adapter_folder
from mudi.adapter_size import payload_bytes
from mudi.metrics import METRICS
from mudi.records import Adapter, Combination
from mudi.selection import select_top
from pipeline import arms as planning
from pipeline.arms import ResolvedArm
from pipeline.assignments import Chosen, located, stage_settings
from pipeline.class_priors import with_priors
from pipeline.drawing import Progress, draw_missing
from pipeline.settings.benchmark_config import DRAWN_WITH, BenchmarkConfig, Refit
from pipeline.tables import journal, store
from pipeline.workers.failure import RunFailedError
from pipeline.workers.fit_job import FitJob, read_cost, singles_of
from pipeline.workers.in_process import Workers
from pipeline.workers.stages import JudgeSettings

Arms = Mapping[str, ResolvedArm]
# (arm, combination, fit) -> the adapter that draws the cell; a cell without one is missing, and named so.
Adapters = dict[tuple[str, str, int], Adapter]
# (arm, combination, fit) -> the candidates that train its refit.
Selected = dict[tuple[str, str, int], Chosen]
ROUND = 0


def benchmark(
    config: BenchmarkConfig, arms: Arms, combinations: list[Combination], run_dir: Path, workers: Workers, progress: Progress
) -> None:
    """Run everything that `config` asks for and that is not in the opened `run_dir` yet; RunFailedError if too much is missing."""
    methods = {label: arm.options for label, arm in arms.items()}
    jobs = with_priors(planning.first_fits(config, run_dir, arms, combinations), config.cluster, run_dir, workers, progress)
    _fit("fit", jobs, config, workers, progress)
    starts = _stored(config, run_dir, {label: arm for label, arm in arms.items() if not arm.refit}, arms, combinations)
    if any(arm.refit for arm in arms.values()):
        pool, chunks = planning.pool_dir(run_dir), planning.pool_chunks(config, arms, combinations, starts)
        if not (pool / "candidates").is_dir():
            store.create_tables(pool)
        draw_missing(pool, chunks, stage_settings(config, pool, combinations, methods), config.cluster, workers, "pool", progress)
        kept = _select(config, pool, arms, combinations, starts)
        for cell in [cell for cell, chosen in kept.items() if not chosen]:
            journal.append_event(run_dir, event="nothing kept", cell=cell)
        _fit("refit", planning.refits(config, run_dir, arms, combinations, starts, kept), config, workers, progress)
    adapters = _stored(config, run_dir, arms, arms, combinations)
    store.write_fits(run_dir, "fits", _fit_rows(config, run_dir, arms, combinations, adapters))
    chunks = planning.evaluation_chunks(config, arms, combinations, adapters)
    draw_missing(run_dir, chunks, stage_settings(config, run_dir, combinations, methods), config.cluster, workers, "pictures", progress)
    judge_missing(config, combinations, run_dir, workers, progress)


def _fit(label: str, jobs: list[FitJob], config: BenchmarkConfig, workers: Workers, progress: Progress) -> None:
    def report(job: str, step: int, steps: int) -> None:
        progress(f"{label} {job}", step, steps)

    if singles := singles_of(jobs):
        workers.fit_all(singles, config.cluster.fit, report)
    workers.fit_all(jobs, config.cluster.fit, report)


def _stored(config: BenchmarkConfig, run_dir: Path, wanted: Arms, arms: Arms, combinations: Sequence[Combination]) -> Adapters:
    """The adapters of the `wanted` arms that lie finished in the run folder."""
    found: Adapters = {}
    for label, arm in wanted.items():
        for combination in combinations:
            for fit in range(config.fits):
                adapter = adapter_folder.find(planning.adapter_folder(run_dir, config, arms, arm, combination.key, fit))
                if adapter is not None:
                    found[label, combination.key, fit] = adapter
    return found


def _select(
    config: BenchmarkConfig, pool: Path, arms: Arms, combinations: Sequence[Combination], starts: Adapters
) -> dict[tuple[str, str, int], Chosen]:
    """(arm, combination, fit) -> the pool's candidates that train its refit: id and prompt."""
    scores = store.read(pool, "scores", ROUND, ["candidate_id", "metric", "value"]).to_pylist()
    values = {s["candidate_id"]: s["value"] for s in scores if s["metric"] == config.score.select_by}
    columns = ["candidate_id", "method", "combination", "adapter_sha256", "prompt"]
    rows = store.read(pool, "candidates", ROUND, columns).to_pylist()
    kept = {}
    for arm in arms.values():
        for combination in combinations if arm.refit else ():
            for fit in range(config.fits):
                start = starts[arm.refit.of, combination.key, fit]
                mine = {
                    row["candidate_id"]: row["prompt"]
                    for row in rows
                    if (row["method"], row["combination"], row["adapter_sha256"]) == (arm.refit.of, combination.key, start.sha256)
                }
                rng = np.random.default_rng((config.seed, fit))
                chosen = choose(arm.refit, sorted(mine), [values.get(c) for c in sorted(mine)], rng)
                kept[arm.label, combination.key, fit] = tuple((c, mine[c]) for c in chosen)
    return kept


def choose(refit: Refit, candidate_ids: Sequence[str], values: Sequence[float | None], rng: np.random.Generator) -> list[str]:
    """Which candidates of a pool train a refit: the best, or as many of those that have a score, zeros included, at random."""
    if refit.select == "top":
        return select_top(candidate_ids, values, refit.keep)
    scored = [c for c, value in zip(candidate_ids, values, strict=True) if value is not None]
    return [scored[i] for i in sorted(rng.permutation(len(scored))[: refit.keep])]


def _fit_rows(config: BenchmarkConfig, run_dir: Path, arms: Arms, combinations: Sequence[Combination], adapters: Adapters) -> list[dict]:
    """One row a cell that has an adapter: what it is, what it cost, and which arm made it where several share it.
    `payload_bytes` are the adapter's numbers for one subject; `seconds` those of all that the adapter was made of, fits of subjects
    alone included that another arm made first.

    Seconds and device are null for a fit that was killed between its last step and the note of its cost.
    """
    rows, owners = [], {}
    subjects = {combination.key: len(combination.subjects) for combination in combinations}
    for (label, combination, fit), adapter in adapters.items():
        manifest = adapter_folder.read_manifest(adapter.path)
        cost = read_cost(adapter.path) or {}
        seconds = cost["seconds"] + cost.get("alone_seconds", 0.0) if cost else None
        owner = owners.setdefault(adapter.path, label)
        settings = manifest.get("retrain") or manifest["hyperparameters"]
        rows.append(
            {
                "run": config.name, "method": label, "combination": combination, "fit": fit, "seed": manifest["seed"],
                "adapter_sha256": adapter.sha256, "started_from": manifest.get("start"), "steps": settings["steps"],
                "parameters": manifest["parameters"], "kept": manifest.get("kept"), "drift": manifest.get("drift"),
                "seconds": seconds if owner == label else None, "shared_with": None if owner == label else owner,
                "device": cost.get("device"), "peak_bytes": cost.get("peak_bytes"),
                "payload_bytes": payload_bytes(adapter.path) // subjects[combination],
            }
        )  # fmt: skip
    return rows


def judge_missing(
    config: BenchmarkConfig, combinations: Sequence[Combination], run_dir: Path, workers: Workers, progress: Progress
) -> None:
    """Score what is stored by the metrics that it lacks; RunFailedError if a chunk still lacks one afterwards."""
    added = [name for name in config.metrics if name != DRAWN_WITH]
    todo = {chunk: [n for n in added if n not in has] for chunk, has in store.stored_metrics(run_dir, ROUND).items()}
    todo = {chunk: names for chunk, names in todo.items() if names}
    if not todo:
        return
    wanted = {name: metric_weights(config, name) for name in added if any(name in names for names in todo.values())}
    settings = JudgeSettings(run_dir=str(run_dir), metrics=wanted, combinations={c.key: c for c in combinations})
    rows = pa.table({"chunk_id": list(todo), "round": [ROUND] * len(todo), "metrics": list(todo.values())})
    done = 0

    def received(chunk_id: str, pictures: int) -> None:
        nonlocal done
        done += 1
        progress("metrics", done, len(todo))

    progress("metrics", 0, len(todo))
    workers.judge(rows, settings, config.cluster, received)
    stored = store.stored_metrics(run_dir, ROUND)
    if lacking := [chunk for chunk, names in todo.items() if not set(names) <= stored[chunk]]:
        raise RunFailedError(f"{len(lacking)} of {len(todo)} chunks could not be scored; start the same command again to go on")


def metric_weights(config: BenchmarkConfig, name: str) -> dict:
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


def score_names(config: BenchmarkConfig) -> dict[str, bool]:
    """Every score that the run computes, and whether higher is better; `drift` where there are refits."""
    unused = set(type(config.models.embedders).model_fields) - set(config.models.embedders.chosen)
    chosen = dict.fromkeys((DRAWN_WITH, *config.metrics))
    names = {key: better for name in chosen for key, better in METRICS[name].NAMES.items() if key.rsplit("_", 1)[-1] not in unused}
    return names | ({"drift": False} if any(arm.refit for arm in config.methods.values()) else {})


def canonical_prompts(combinations: Sequence[Combination]) -> dict[str, dict[str, str]]:
    """Combination -> prompt id -> text, as recorded in run.json."""
    return {c.key: {p.prompt_id: p.text for p in c.prompts} for c in combinations}
