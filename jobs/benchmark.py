"""`mudi benchmark RUN_FILE`: every method on every combination, scored by every metric, in tables with intervals.

mudi benchmark jobs/configs/benchmark_miniature.yaml
mudi benchmark jobs/configs/benchmark_mudi.yaml --set combinations=[my_pair]
ray job submit --working-dir . -- python -m jobs.benchmark jobs/configs/benchmark_mudi.yaml --set runs=/shared/runs
"""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from jobs import entry
from jobs.driver import on_the_cluster_of_this_job
from jobs.progress import live_progress

RunFile = Annotated[Path, typer.Argument(help="The benchmark file, such as jobs/configs/benchmark_miniature.yaml.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set images=4")]


def benchmark(run_file: RunFile, overrides: Overrides = None) -> None:
    """Fit every arm, draw the same prompts and seeds with each, score, and write tables and report."""
    from mudi.user_files.requirements import check_levels
    from pipeline import arms
    from pipeline.assignments import check_models
    from pipeline.benchmark import benchmark as run
    from pipeline.benchmark_folder import check_metrics, open_benchmark
    from pipeline.cost.forecast import close_plan, plan_now, timed
    from pipeline.report import benchmark_page, tables
    from pipeline.run_inputs import inputs_of
    from pipeline.settings.benchmark_config import load_benchmark
    from pipeline.tables.run_folder import run_folder, sole_driver
    from pipeline.workers import sweep, training
    from pipeline.workers.cluster import connected
    from pipeline.workers.in_process import Workers
    from pipeline.workers.memory import peak_memory

    began = time.perf_counter()
    config = on_the_cluster_of_this_job(load_benchmark(run_file, overrides or ()))
    run_folder(config.runs, config.name)
    check_models(config)
    resolved = arms.resolve(config)
    check_levels(config, arms.samplings_of(resolved))
    combinations = arms.load_combinations(config, resolved)
    check_metrics(config, combinations)
    inputs = inputs_of(config)
    with connected(config.cluster), ExitStack() as stack:
        run_dir = open_benchmark(config, combinations, inputs)
        stack.enter_context(sole_driver(run_dir))
        peak = stack.enter_context(peak_memory())
        planned = plan_now(config, run_dir)
        progress = timed(stack.enter_context(live_progress()), planned)
        run(config, resolved, combinations, run_dir, Workers(sweep.sweep, training.fit_all, sweep.judge, sweep.draw_priors), progress)
    page = benchmark_page.write_benchmark_report(run_dir)
    tables.print_benchmark(run_dir)
    seconds = time.perf_counter() - began
    print(f"{seconds:.0f} s in all, peak memory {peak.bytes / 2**30:.2f} GiB of this process and all it started")
    print(close_plan(config, run_dir, planned, seconds))
    for name in ("candidates", "scores", "images", "fits"):
        print(f"{name:<11} {run_dir / name}")
    print(f"report      {page}")


if __name__ == "__main__":
    entry.run(benchmark)
