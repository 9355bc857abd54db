"""Self-training: PRIORS and FIT once, then per round PLAN -> SWEEP -> SELECT -> FIT -> PUBLISH, resumable at every arrow.

The one backward arrow of the project is in `selftrain`: the adapters that a round's selected candidates
train are what the next round draws with. Every phase looks at what lies in the run folder and does only
what is missing, so a killed run is continued by starting it again.
"""

import time
from pathlib import Path

from mudi.records import Adapter, Combination
from mudi.selection import select_top
from mudi.text.prompts import WATCHED
from pipeline import assignments
from pipeline.assignments import Kept
from pipeline.class_priors import with_priors
from pipeline.drawing import Progress, draw_missing
from pipeline.settings.config import RunConfig
from pipeline.tables import journal, store
from pipeline.workers.fit_job import FitJob, singles_of
from pipeline.workers.in_process import Workers


def _select(config: RunConfig, run_dir: Path, combinations: list[Combination], round: int) -> Kept:
    """Rank the round's candidates by `score.select_by`, store the kept ones, and return them with their prompts."""
    scores = store.read(run_dir, "scores", round, ["candidate_id", "metric", "value"]).to_pylist()
    values = {s["candidate_id"]: s["value"] for s in scores if s["metric"] == config.score.select_by}
    candidates = store.read(run_dir, "candidates", round, ["candidate_id", "combination", "prompt_id", "prompt"]).to_pylist()
    kept: Kept = {}
    ranked = []
    for combination in combinations:
        mine = [c for c in candidates if c["combination"] == combination.key and not c["prompt_id"].startswith(WATCHED)]
        prompts = {c["candidate_id"]: c["prompt"] for c in mine}
        chosen = select_top(list(prompts), [values.get(c) for c in prompts], config.keep)
        kept[combination.key] = tuple((candidate_id, prompts[candidate_id]) for candidate_id in chosen)
        ranked += [(candidate_id, rank, values[candidate_id]) for rank, candidate_id in enumerate(chosen, start=1)]
    store.write_selection(run_dir, round, ranked)
    return kept


def _kept(run_dir: Path, combinations: list[Combination], round: int) -> Kept:
    """What a published round kept, as it is stored."""
    ranks = {row["candidate_id"]: row["rank"] for row in store.read(run_dir, "selections", round).to_pylist()}
    rows = store.read(run_dir, "candidates", round, ["candidate_id", "combination", "prompt"]).to_pylist()
    chosen = sorted((row for row in rows if row["candidate_id"] in ranks), key=lambda row: ranks[row["candidate_id"]])
    return {c.key: tuple((r["candidate_id"], r["prompt"]) for r in chosen if r["combination"] == c.key) for c in combinations}


def _draw_and_select(
    config: RunConfig, combinations: list[Combination], run_dir: Path, adapters: list[Adapter], fit_seconds: float, workers: Workers,
    progress: Progress, round: int,
) -> Kept:  # fmt: skip
    """PLAN, SWEEP, SELECT and PUBLISH. A published round is final: what it kept has trained the next adapter."""
    if journal.read_marker(run_dir, round, "publish") is not None:
        return _kept(run_dir, combinations, round)
    began = time.perf_counter()
    chunks = assignments.plan_round(config, combinations, adapters, round)
    settings = assignments.stage_settings(config, run_dir, combinations, {config.method.name: assignments.method_of(config)})
    busy = draw_missing(run_dir, chunks, settings, config.cluster, workers, f"round {round} sweep", progress)
    seconds = {"fit": fit_seconds, "sweep": time.perf_counter() - began, **busy}
    kept = _select(config, run_dir, combinations, round)
    payload = {"adapters": {a.combination: a.sha256 for a in adapters}, "kept": sum(map(len, kept.values())), "seconds": seconds}
    journal.write_marker(run_dir, round, "publish", payload)
    journal.append_event(run_dir, event="published", round=round, **payload)
    return kept


def _fit(label: str, jobs: list[FitJob], config: RunConfig, workers: Workers, progress: Progress) -> list[Adapter]:
    def report(combination: str, step: int, steps: int) -> None:
        progress(f"{label} {combination}", step, steps)

    if singles := singles_of(jobs):
        workers.fit_all(singles, config.cluster.fit, report)
    return workers.fit_all(jobs, config.cluster.fit, report)


def selftrain(config: RunConfig, combinations: list[Combination], run_dir: Path, workers: Workers, progress: Progress) -> None:
    """Run all rounds of `config` into the opened `run_dir`.

    Round r draws and scores with the adapter of round r; its kept candidates train the adapter of round
    r + 1. The last round is drawn, scored and ranked but trains nothing, so that every refit is judged on
    candidates with fresh seeds. A combination of which no candidate scored above zero keeps its adapter for
    the next round; the table shows that it kept none. Raises RunFailedError where too much is missing.
    """
    began = time.perf_counter()
    jobs = with_priors(assignments.first_fits(config, run_dir, combinations), config.cluster, run_dir, workers, progress)
    adapters = _fit("fit", jobs, config, workers, progress)
    fit_seconds = time.perf_counter() - began
    for round in range(config.rounds + 1):
        kept = _draw_and_select(config, combinations, run_dir, adapters, fit_seconds, workers, progress, round)
        if round == config.rounds:
            return
        for key in [key for key, chosen in kept.items() if not chosen]:
            journal.append_event(run_dir, event="nothing kept", round=round, combination=key)
        began = time.perf_counter()
        jobs = assignments.refits(config, run_dir, combinations, adapters, kept, round)
        refitted = {a.combination: a for a in _fit(f"round {round} refit", jobs, config, workers, progress)}
        adapters = [refitted.get(adapter.combination, adapter) for adapter in adapters]
        fit_seconds = time.perf_counter() - began
