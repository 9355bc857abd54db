"""How a run is driven from start to end: its cluster, its lock, its workers, its phases, and the plan it is held against."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Driven:
    """A run that came to its end: its folder, and the lines that say how long it took and what it was planned to take. `reported`:
    nothing was left to do and the report that stands there is of all that the run wrote."""

    run_dir: Path
    lines: tuple[str, ...]
    reported: bool = False


def say(text: str) -> None:
    """A line on stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def drive(config: Any) -> Driven:
    """Carry out everything that the file asks for and that is not stored yet.

    The run's lock and all that a start refuses come before Ray and before any weights. A run with nothing left starts no worker.
    """
    from pipeline.ready import open_folder, ready

    began = time.perf_counter()
    config = on_the_cluster_of_this_job(config)
    say(f"reading the photos of {', '.join(folder.name for folder in config.combinations)}")
    run = ready(config)
    from jobs.progress import live_progress
    from pipeline.carry_out import carry_out, phases_of
    from pipeline.cost.forecast import close_plan, plan_now, timed
    from pipeline.phases import is_anything_left
    from pipeline.tables.run_folder import sole_driver
    from pipeline.workers.memory import peak_memory

    with ExitStack() as stack:
        there = (run.run_dir / "run.json").is_file()
        if there:
            stack.enter_context(sole_driver(run.run_dir))
        peak = stack.enter_context(peak_memory())
        do, start = stack.enter_context(started(config.cluster))
        left = is_anything_left(phases_of(run))
        if left:
            start()
        open_folder(run)
        if not there:
            stack.enter_context(sole_driver(run.run_dir))
        if not left:
            carry_out(run, do, stack.enter_context(live_progress()))
            return Driven(run_dir=run.run_dir, lines=("nothing was left to do",), reported=_is_reported(run.run_dir))
        planned = plan_now(run)
        if planned.line:
            say(planned.line)
        carry_out(run, do, timed(stack.enter_context(live_progress()), planned))
    seconds = time.perf_counter() - began
    used = f"{seconds:.0f} s in all, peak memory {peak() / 2**30:.2f} GiB of this process and all it started"
    return Driven(run_dir=run.run_dir, lines=(used, close_plan(run, planned, seconds)))


def _is_reported(run_dir: Path) -> bool:
    """Whether the report was written after everything else that the run wrote."""
    report = run_dir / "report.html"
    others = [path.stat().st_mtime_ns for name in ("run.json", "events.jsonl") if (path := run_dir / name).is_file()]
    return report.is_file() and report.stat().st_mtime_ns >= max(others, default=0)


@contextmanager
def started(cluster: Any) -> Iterator[tuple[Any, Callable[[], None]]]:
    """The workers that the file names as a `pipeline.workers.worker.Do`, and a function that starts them now.

    They work on Ray, or in this process with `cluster.address: none`. Ray, whose import takes 2 s, comes with the first piece of work.
    """
    if cluster.address == "none":
        from pipeline.workers.in_process import in_this_process

        with in_this_process(cluster) as (do, start):
            yield do, start
        return
    with ExitStack() as stack:
        pools: list[Any] = []

        def start() -> None:
            if not pools:
                from pipeline.workers.pool import on_ray

                pools.append(stack.enter_context(on_ray(cluster, say)))

        def do(pieces, received, moved=None, allowed=0):
            if not pieces:
                return []
            start()
            return pools[0].do(pieces, received, moved, allowed)

        yield do, start


def print_end(driven: Driven, tables: Sequence[str]) -> None:
    """Say how long the run took, and where its tables and its report lie."""
    for line in driven.lines:
        print(line)
    for name in tables:
        print(f"{name:<11} {driven.run_dir / name}")
    print(f"report      {driven.run_dir / 'report.html'}")
    if driven.reported:
        print(f"its tables again: mudi report {driven.run_dir}")


def on_the_cluster_of_this_job(config: Any) -> Any:
    """The config with `cluster.address: auto` where Ray says through RAY_ADDRESS that there is a cluster to join."""
    address = os.environ.get("RAY_ADDRESS", "")
    if config.cluster.address is not None or not address:
        return config
    if address.startswith("http"):
        raise ValueError(f"RAY_ADDRESS = {address}: an address for `ray job submit`, not for a driver; unset it, or submit this as a job")
    if any(part.startswith("_ray_pkg_") for part in Path(os.path.abspath(config.runs)).parts):
        raise ValueError(
            f"runs = {config.runs!r} lies in the job's own copy of the code, which Ray deletes; give a folder that all nodes share, "
            "such as --set runs=/shared/runs"
        )
    return config.model_copy(update={"cluster": config.cluster.model_copy(update={"address": "auto"})})
