"""`mudi benchmark RUN_FILE`: every method on every combination, scored by every metric, in tables with intervals.

mudi benchmark jobs/configs/benchmark_miniature.yaml
mudi benchmark jobs/configs/benchmark_mudi.yaml --set combinations=[my_pair]
ray job submit --working-dir . -- python -m jobs.benchmark jobs/configs/benchmark_mudi.yaml --set runs=/shared/runs
"""

from pathlib import Path
from typing import Annotated

import typer

from jobs import entry
from jobs.driver import drive, print_end

RunFile = Annotated[Path, typer.Argument(help="The benchmark file, such as jobs/configs/benchmark_miniature.yaml.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set images=4")]


def benchmark(run_file: RunFile, overrides: Overrides = None) -> None:
    """Fit every arm, draw the same prompts and seeds with each, score, and write tables and report."""
    entry.require_file(run_file)
    from pipeline.settings.benchmark_config import load_benchmark

    driven = drive(load_benchmark(run_file, overrides or ()))
    if not driven.reported:
        from pipeline.report.benchmark_page import write_benchmark_report
        from pipeline.report.tables import benchmark as numbers_of
        from pipeline.report.text import print_tables

        result = numbers_of(driven.run_dir)
        write_benchmark_report(driven.run_dir, result)
        print_tables(result)
    print_end(driven, ("candidates", "scores", "images", "fits"))


if __name__ == "__main__":
    entry.run(benchmark)
