"""`mudi check FOLDER ...`: what a run would refuse, all of it at once, and what each file of a folder is for.

mudi check my_pair
mudi check photos/*/
mudi check jobs/configs/sdxl.yaml
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from jobs import entry

Places = Annotated[
    list[Path], typer.Argument(help="Folders of photos, masks and metadata.jsonl; or run files, checked with all their combinations.")
]


def check(places: Places) -> None:
    """Look through folders or run files before a run does; status 0 if a run would accept every one, else 2."""
    from pipeline.check.folder import in_order
    from pipeline.check.text import closing

    # Pillow decodes outside of Python's lock; more threads than cores would only hold more photos at once.
    threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as executor:
        complaints = [list(_checked(place, in_order(executor, 2 * threads))) for place in places]
    if failed := [complaint for complaint in complaints if complaint]:
        if len(places) == 1:
            raise ValueError(closing(failed[0]))
        raise ValueError(closing([closing(of_place) for of_place in failed], len(places)))


def _checked(place: Path, each) -> Iterator[str]:
    """Prints the report on one folder or file, and gives a line for each thing that a run would not accept."""
    from pipeline.check.folder import check_folder, check_run
    from pipeline.check.text import folder_lines, printable, verdict

    mistakes, reports = check_run(place, each) if place.suffix in (".yaml", ".yml") else ([], [check_folder(place, each=each)])
    for report in reports:
        print("\n".join(folder_lines(report)), flush=True)
    for mistake in mistakes:
        print(f"{printable(str(place))}\n  refused: {printable(mistake)}")
    yield from map(printable, mistakes)
    yield from (verdict(report) for report in reports if report.mistakes)


if __name__ == "__main__":
    entry.run(check)
