"""`mudi selftrain RUN_FILE`: fit, generate, score, select, refit, on Ray, resumable.

mudi selftrain jobs/configs/miniature.yaml
mudi selftrain jobs/configs/miniature.yaml --set combinations=[my_pair] --set rounds=3
ray job submit --working-dir . -- python -m jobs.selftrain jobs/configs/sdxl.yaml
"""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from jobs import entry
from jobs.driver import on_the_cluster_of_this_job
from jobs.progress import live_progress

RunFile = Annotated[Path, typer.Argument(help="The run file, such as jobs/configs/miniature.yaml.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set cluster.detect.gpus=0.25")]


def selftrain(run_file: RunFile, overrides: Overrides = None) -> None:
    """Fit an adapter, then for each round draw, score and select candidates and refit on them."""
    from mudi.user_files.requirements import check_levels
    from pipeline import assignments, rounds
    from pipeline.cost.forecast import close_plan, plan_now, timed
    from pipeline.report import run_page, summary
    from pipeline.run_inputs import inputs_of
    from pipeline.settings.config import load_run
    from pipeline.tables.run_folder import open_run, refuse_another_run, run_folder, sole_driver
    from pipeline.workers import sweep, training
    from pipeline.workers.cluster import connected
    from pipeline.workers.in_process import Workers
    from pipeline.workers.memory import peak_memory

    began = time.perf_counter()
    config = load_run(run_file, overrides or ())
    config = on_the_cluster_of_this_job(config)
    refuse_another_run(config, run_folder(config.runs, config.name))
    assignments.check_models(config)
    assignments.hyperparameters_of(config)
    check_levels(config, {"sampling": assignments.sampling_of(config)})
    combinations = assignments.load_combinations(config)
    inputs = inputs_of(config)
    with connected(config.cluster), ExitStack() as stack:
        run_dir = open_run(config, inputs, subjects={c.key: [s.phrase for s in c.subjects] for c in combinations})
        stack.enter_context(sole_driver(run_dir))
        peak = stack.enter_context(peak_memory())
        planned = plan_now(config, run_dir)
        progress = timed(stack.enter_context(live_progress()), planned)
        rounds.selftrain(config, combinations, run_dir, Workers(sweep.sweep, training.fit_all, sweep.judge, sweep.draw_priors), progress)
    page = run_page.write_report(run_dir)
    summary.print_summary(run_dir, config.score.select_by)
    summary.print_stages(run_dir)
    seconds = time.perf_counter() - began
    print(f"{seconds:.0f} s in all, peak memory {peak.bytes / 2**30:.2f} GiB of this process and all it started")
    print(close_plan(config, run_dir, planned, seconds))
    for name in ("candidates", "scores", "images", "selections"):
        print(f"{name:<11} {run_dir / name}")
    print(f"report      {page}")


if __name__ == "__main__":
    entry.run(selftrain)
