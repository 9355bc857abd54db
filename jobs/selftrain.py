"""`mudi selftrain RUN_FILE`: fit, generate, score, select, refit, on Ray, resumable.

mudi selftrain jobs/configs/miniature.yaml
mudi selftrain jobs/configs/miniature.yaml --set combinations=[my_pair] --set rounds=3
ray job submit --working-dir . -- python -m jobs.selftrain jobs/configs/sdxl.yaml
"""

from pathlib import Path
from typing import Annotated

import typer

from jobs import entry
from jobs.driver import drive, print_end

RunFile = Annotated[Path, typer.Argument(help="The run file, such as jobs/configs/miniature.yaml.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set cluster.workers.gpus=0.5")]


def selftrain(run_file: RunFile, overrides: Overrides = None) -> None:
    """Fit an adapter, then for each round draw, score and select candidates and refit on them."""
    entry.require_file(run_file)
    from pipeline.settings.config import load_run

    config = load_run(run_file, overrides or ())
    driven = drive(config)
    if not driven.reported:
        from pipeline.report import run_page, summary

        run_page.write_report(driven.run_dir)
        summary.print_summary(driven.run_dir)
        summary.print_stages(driven.run_dir)
    print_end(driven, ("candidates", "scores", "images", "selections"))


if __name__ == "__main__":
    entry.run(selftrain)
