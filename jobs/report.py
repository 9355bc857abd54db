"""`mudi report RUN_FOLDER`: write report.html again from the tables, without models or Ray."""

from pathlib import Path
from typing import Annotated

import typer

from jobs import entry

RunFolder = Annotated[Path, typer.Argument(help="The folder of a run, such as runs/miniature.")]


def report(run_folder: RunFolder) -> None:
    """Print the per-round table of a run, finished or not, and write its report.html."""
    from pipeline.report import write_report
    from pipeline.summary import print_summary

    page = write_report(run_folder)
    print_summary(run_folder)
    print(f"report  {page}")


if __name__ == "__main__":
    entry.run(report)
