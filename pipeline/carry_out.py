"""Carrying out the phases of a run: fits, chunks and judgements that are not there yet go to the workers, and are counted afterwards."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mudi.records import Adapter
from pipeline import benchmark, plan, rounds
from pipeline.class_priors import with_priors
from pipeline.phases import (
    Choice,
    Draws,
    Fits,
    Fitted,
    Judgements,
    Phase,
    Phases,
    Priors,
    Progress,
    follow,
    is_fitted,
)  # fmt: skip
from pipeline.ready import Ready
from pipeline.settings.benchmark_config import BenchmarkConfig
from pipeline.tables import journal, store
from pipeline.workers.draw import BUSY, Draw, Drawn, write_quarantined
from pipeline.workers.failure import RunFailedError
from pipeline.workers.fit_job import FitJob, finished
from pipeline.workers.judge import Judge, Judged, JudgeSettings
from pipeline.workers.worker import Do, Failure


def phases_of(run: Ready) -> Phases:
    """The phases of a run, by its kind."""
    return (benchmark if isinstance(run.config, BenchmarkConfig) else rounds).phases(run)


def carry_out(run: Ready, do: Do, progress: Progress, choose: Callable[[Choice], Any] = lambda choice: choice.choose()) -> None:
    """Carry out everything that the run asks for and that is not in its opened folder yet. `choose` answers selections.

    Raises ValueError for input that a worker finds wrong, and RunFailedError where too much fails or is missing.
    """
    cluster = run.config.cluster

    def answer(phase: Phase) -> Any:
        match phase:
            case Priors():
                return with_priors(phase, cluster.model_dump(mode="json"), run.run_dir, do, progress)
            case Fits():
                return fit_all(phase, do, progress)
            case Draws():
                return draw_missing(phase, do, cluster.max_failed_share, progress)
            case Choice():
                return choose(phase)
            case Judgements():
                return judge_missing(phase, do, progress)

    follow(phases_of(run), answer)


def fit_all(phase: Fits, do: Do, progress: Progress) -> Fitted:
    """The adapters of the phase's jobs; those that lie finished in their folders are not made again.

    `progress("PHASE JOB", step, steps)` is called as fits move. A ValueError of a fit comes out as one, all else as RunFailedError.
    """
    began = time.perf_counter()
    done = {job.label: found for job in phase.jobs if (found := finished(job)) is not None}
    todo = [job for job in phase.jobs if job.label not in done and not (job.alone and is_fitted(job))]

    def received(job: FitJob, adapter: Adapter) -> None:
        done[job.label] = adapter
        progress(f"{phase.name} {job.label}", job.steps, job.steps)

    def moved(job: FitJob, step: int) -> None:
        progress(f"{phase.name} {job.label}", min(step, job.steps), job.steps)

    for failure in do(todo, received, moved):
        label = failure.piece.label
        if isinstance(failure.error, ValueError):
            raise ValueError(f"{label}: {failure.error}") from failure.error
        raise RunFailedError(
            f"the fit of {label} failed: {failure.reason}; the checkpoints before it stay, start the same command again to go on"
        ) from failure.error
    return Fitted(adapters=tuple(done[job.label] for job in phase.jobs if job.label in done), seconds=time.perf_counter() - began)


def draw_missing(phase: Draws, do: Do, max_failed_share: float, progress: Progress) -> dict[str, float]:
    """Draw and score what is not stored, then count what is: that the workers came to an end proves nothing.

    Returns the seconds of the phase, "sweep", and those that its workers were busy with each stage. A chunk that killed its workers
    is stored as candidates with status "error" and the reason. Raises RunFailedError if more than `max_failed_share` of the
    candidates failed or are missing, or if the round holds candidates of the same cell that another adapter drew.
    """
    if phase.final or not phase.chunks:
        return {}
    if not (phase.run_dir / "candidates").is_dir():
        store.create_tables(phase.run_dir)
    began, run_dir, round = time.perf_counter(), phase.run_dir, phase.chunks[0].round
    planned = [key.candidate_id for chunk in phase.chunks for key in chunk.keys]
    stored = store.stored_ids(run_dir, round)
    _refuse_strangers(run_dir, phase.chunks, stored - set(planned))
    # Adapter by adapter, so that a worker changes adapters as seldom as possible.
    todo = sorted(plan.remaining(phase.chunks, stored), key=lambda chunk: chunk.adapter_sha256)
    done = len(planned) - sum(len(chunk.keys) for chunk in todo)
    progress(phase.name, done, len(planned))
    busy = dict.fromkeys(BUSY, 0.0)

    def received(piece: Draw, drawn: Drawn) -> None:
        nonlocal done
        done += drawn.candidates
        for stage in BUSY:
            busy[stage] += drawn.seconds[stage]
        seconds = {"began": drawn.began, **drawn.seconds}
        journal.append_event(run_dir, event="chunk", round=round, chunk=drawn.chunk_id, candidates=drawn.candidates, seconds=seconds)
        progress(phase.name, done, len(planned))

    allowed = int(max_failed_share * len(todo))
    failures = do([Draw(chunk=chunk, settings=phase.settings) for chunk in todo], received, None, allowed)
    for failure in failures:
        _note(run_dir, round, failure)
    if len(failures) > allowed:
        raise RunFailedError(
            f"{phase.name} stopped: {failures[0].reason}; what is stored stays, start the same command again to go on"
        ) from failures[0].error
    _require_enough(phase, planned, max_failed_share)
    return {"sweep": time.perf_counter() - began, **busy}


def _note(run_dir: Path, round: int, failure: Failure) -> None:
    """A chunk that failed with an error is missing and drawn again by the next start; one that killed its workers is not."""
    journal.append_event(run_dir, event="failed", round=round, chunk=failure.piece.chunk.chunk_id, reason=failure.reason)
    if failure.error is None:
        write_quarantined(failure.piece, failure.reason)


def _require_enough(phase: Draws, planned: Sequence[str], max_failed_share: float) -> None:
    run_dir, round = phase.run_dir, phase.chunks[0].round
    missing = len(set(planned) - store.stored_ids(run_dir, round, ("ok", "invalid")))
    if missing > max_failed_share * len(planned):
        raise RunFailedError(
            f"{phase.name}: {missing} of {len(planned)} candidates are missing, more than cluster.max_failed_share "
            f"{max_failed_share:g} allows; what is stored stays, start the same command again to draw the rest"
        )
    if missing:
        journal.append_event(run_dir, event="missing", round=round, candidates=missing)


def _refuse_strangers(run_dir: Path, chunks: Sequence[plan.Chunk], strangers: set[str]) -> None:
    """Stored candidates that are not planned are of arms no longer asked for, or of an adapter that was lost and fitted anew."""
    if not strangers:
        return
    cells = {(key.method, key.combination, key.prompt_id) for chunk in chunks for key in chunk.keys}
    columns = ["candidate_id", "method", "combination", "prompt_id"]
    rows = store.read(run_dir, "candidates", chunks[0].round, columns).to_pylist()
    foreign = [r for r in rows if r["candidate_id"] in strangers and (r["method"], r["combination"], r["prompt_id"]) in cells]
    if foreign:
        raise RunFailedError(
            f"{run_dir}: round {chunks[0].round} holds {len(foreign)} candidates of another adapter, which was lost and fitted anew; "
            "move the run folder away and start again, or pick another name"
        )


def judge_missing(phase: Judgements, do: Do, progress: Progress) -> None:
    """Score what is stored by the metrics that it lacks; RunFailedError if a chunk still lacks one afterwards."""
    has = store.stored_metrics(phase.run_dir, phase.round) if phase.metrics else {}
    todo = {chunk: tuple(name for name in phase.metrics if name not in metrics) for chunk, metrics in has.items()}
    todo = {chunk: names for chunk, names in todo.items() if names}
    if not todo:
        return
    settings = JudgeSettings(run_dir=str(phase.run_dir), metrics=dict(phase.metrics), combinations=dict(phase.combinations))
    done = 0

    def received(piece: Judge, judged: Judged) -> None:
        nonlocal done
        done += 1
        journal.append_event(phase.run_dir, event="judged", chunk=judged.chunk_id, pictures=judged.pictures, seconds=judged.seconds)
        progress(phase.name, done, len(todo))

    progress(phase.name, 0, len(todo))
    pieces = [Judge(chunk_id=chunk, round=phase.round, metrics=names, settings=settings) for chunk, names in todo.items()]
    failures = do(pieces, received, None, len(pieces))
    if failures:
        raise RunFailedError(
            f"{len(failures)} of {len(todo)} chunks could not be scored, first {failures[0].piece.label}: {failures[0].reason}; "
            "start the same command again to go on"
        ) from failures[0].error
    stored = store.stored_metrics(phase.run_dir, phase.round)
    if lacking := [chunk for chunk, names in todo.items() if not set(names) <= stored[chunk]]:
        raise RunFailedError(f"{len(lacking)} of {len(todo)} chunks could not be scored; start the same command again to go on")
