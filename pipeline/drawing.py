"""Drawing what is planned and not yet stored, and counting afterwards what is."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline import plan
from pipeline.settings.config import Cluster
from pipeline.tables import journal, store
from pipeline.workers.failure import RunFailedError
from pipeline.workers.in_process import Workers
from pipeline.workers.stages import BUSY, StageSettings

Progress = Callable[[str, int, int], None]


def draw_missing(
    run_dir: Path, chunks: Sequence[plan.Chunk], settings: StageSettings, cluster: Cluster, workers: Workers, label: str,
    progress: Progress,
) -> dict[str, float]:  # fmt: skip
    """Draw and score what is not stored, then count what is: that the execution finished proves nothing.

    The chunks are all of one round. Returns the busy seconds of each stage, summed over its workers. Raises
    RunFailedError if more than `cluster.max_failed_share` is missing in the end, or if the round holds
    candidates of the same cell that another adapter drew.
    """
    round = chunks[0].round
    planned = [key.candidate_id for chunk in chunks for key in chunk.keys]
    stored = store.stored_ids(run_dir, round)
    _refuse_strangers(run_dir, chunks, stored - set(planned))
    todo = plan.remaining(chunks, stored)
    done = len(planned) - sum(len(chunk.keys) for chunk in todo)
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

        workers.sweep(todo, settings, cluster, received)
    missing = len(store.missing(run_dir, round, planned))
    if missing > cluster.max_failed_share * len(planned):
        raise RunFailedError(
            f"{label}: {missing} of {len(planned)} candidates are missing, more than cluster.max_failed_share "
            f"{cluster.max_failed_share:g} allows; what is stored stays, start the same command again to draw the rest"
        )
    if missing:
        journal.append_event(run_dir, event="missing", round=round, candidates=missing)
    return busy


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
