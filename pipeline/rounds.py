"""Self-training: FIT once, then per round PLAN -> SWEEP -> SELECT -> FIT -> PUBLISH, resumable at every arrow.

The one backward arrow of the project is in `selftrain`: the adapters that a round's selected candidates
train are what the next round draws with. Every phase looks at what lies in the run folder and does only
what is missing, so a killed run is continued by starting it again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mudi.records import Adapter, Combination
from mudi.selection import select_top
from pipeline import assignments, journal, plan, store
from pipeline.assignments import Kept
from pipeline.config import RunConfig
from pipeline.failure import RunFailedError
from pipeline.fit_job import FitJob
from pipeline.stages import BUSY

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Workers:
    """The heavy work, passed in so that this file knows no Ray: `sweep.sweep` and `training.fit_all`, or `plain.PLAIN`."""

    sweep: Callable
    fit_all: Callable


def _sweep(
    config: RunConfig, run_dir: Path, combinations: list[Combination], chunks: list[plan.Chunk], workers: Workers, progress: Progress
) -> dict[str, float]:
    """Draw and score what is not stored, then count what is: that the execution finished proves nothing.

    Returns the busy seconds of each stage, summed over its workers.
    """
    round = chunks[0].round
    planned = [key.candidate_id for chunk in chunks for key in chunk.keys]
    stored = store.stored_ids(run_dir, round)
    if foreign := stored - set(planned):
        raise RunFailedError(
            f"{run_dir}: round {round} holds {len(foreign)} candidates of another adapter, which was lost and fitted anew; "
            "move the run folder away and start again, or pick another name"
        )
    todo = plan.remaining(chunks, stored)
    done = len(planned) - sum(len(chunk.keys) for chunk in todo)
    label = f"round {round} sweep"
    progress(label, done, len(planned))
    busy = dict.fromkeys(BUSY, 0.0)
    if todo:

        def received(chunk_id: str, candidates: int, seconds: dict[str, float]) -> None:
            nonlocal done
            done += candidates
            for stage in BUSY:
                busy[stage] += seconds[stage]
            journal.append_event(run_dir, event="chunk", round=round, chunk=chunk_id, candidates=candidates, seconds=seconds)
            progress(label, done, len(planned))

        workers.sweep(todo, assignments.stage_settings(config, run_dir, combinations), config.cluster, received)
    missing = len(store.missing(run_dir, round, planned))
    if missing > config.cluster.max_failed_share * len(planned):
        raise RunFailedError(
            f"round {round}: {missing} of {len(planned)} candidates are missing, more than cluster.max_failed_share "
            f"{config.cluster.max_failed_share:g} allows; what is stored stays, start the same command again to draw the rest"
        )
    if missing:
        journal.append_event(run_dir, event="missing", round=round, candidates=missing)
    return busy


def _select(config: RunConfig, run_dir: Path, combinations: list[Combination], round: int) -> Kept:
    """Rank the round's candidates by `score.select_by`, store the kept ones, and return them with their prompts."""
    scores = store.read(run_dir, "scores", round, ["candidate_id", "metric", "value"]).to_pylist()
    values = {s["candidate_id"]: s["value"] for s in scores if s["metric"] == config.score.select_by}
    candidates = store.read(run_dir, "candidates", round, ["candidate_id", "combination", "prompt_id", "prompt"]).to_pylist()
    kept: Kept = {}
    ranked = []
    for combination in combinations:
        mine = [c for c in candidates if c["combination"] == combination.key and not c["prompt_id"].startswith(plan.WATCHED)]
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
    busy = _sweep(config, run_dir, combinations, chunks, workers, progress)
    seconds = {"fit": fit_seconds, "sweep": time.perf_counter() - began, **busy}
    kept = _select(config, run_dir, combinations, round)
    payload = {"adapters": {a.combination: a.sha256 for a in adapters}, "kept": sum(map(len, kept.values())), "seconds": seconds}
    journal.write_marker(run_dir, round, "publish", payload)
    journal.append_event(run_dir, event="published", round=round, **payload)
    return kept


def _fit(label: str, jobs: list[FitJob], config: RunConfig, workers: Workers, progress: Progress) -> list[Adapter]:
    def report(combination: str, step: int, steps: int) -> None:
        progress(f"{label} {combination}", step, steps)

    return workers.fit_all(jobs, config.cluster.fit, report)


def selftrain(config: RunConfig, combinations: list[Combination], run_dir: Path, workers: Workers, progress: Progress) -> None:
    """Run all rounds of `config` into the opened `run_dir`.

    Round r draws and scores with the adapter of round r; its kept candidates train the adapter of round
    r + 1. The last round is drawn, scored and ranked but trains nothing, so that every refit is judged on
    candidates with fresh seeds. A combination of which no candidate scored above zero keeps its adapter for
    the next round; the table shows that it kept none. Raises RunFailedError where too much is missing.
    """
    began = time.perf_counter()
    adapters = _fit("fit", assignments.first_fits(config, run_dir, combinations), config, workers, progress)
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
