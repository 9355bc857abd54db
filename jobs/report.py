"""`mudi report RUN_FOLDER`: write report.html again from the tables of any run, without models or Ray."""

from pathlib import Path
from typing import Annotated

import typer

from jobs import entry

RunFolder = Annotated[Path, typer.Argument(help="The folder of a run, such as runs/miniature.")]


Export = Annotated[Path | None, typer.Option(help="Also write a benchmark's tables as EXPORT.md, and its scores as EXPORT.parquet.")]


def write(run_folder: RunFolder, export: Export = None) -> None:
    """Print the tables of a run or benchmark, finished or not, and write its report.html."""
    from pipeline.report import benchmark_page, run_page, summary, tables, text
    from pipeline.report.export import export as write_export
    from pipeline.tables.run_folder import read_run

    result = tables.benchmark(run_folder) if read_run(run_folder).get("kind") == "benchmark" else None
    if export is not None:
        if result is None:
            raise ValueError(f"{run_folder}: not a benchmark; --export is for the folder that `mudi benchmark` made")
        write_export(run_folder, result, export)
        print(f"export  {export}.md, {export}.parquet")
    if result is not None:
        page = benchmark_page.write_benchmark_report(run_folder, result)
        text.print_tables(result)
    else:
        page = run_page.write_report(run_folder)
        summary.print_summary(run_folder)
    print(f"report  {page}")


if __name__ == "__main__":
    entry.run(write)
