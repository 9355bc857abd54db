"""Live progress: bars on a terminal, a line every few seconds elsewhere, as under `ray job submit`."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

SECONDS_BETWEEN_LINES = 2.0

Report = Callable[[str, int, int], None]


@contextmanager
def live_progress() -> Iterator[Report]:
    """A function `report(label, done, total)`; one bar a label, or throttled lines without a terminal."""
    console = Console(stderr=True)
    if console.is_terminal:
        with _bars(console) as report:
            yield report
    else:
        yield _lines()


@contextmanager
def _bars(console: Console) -> Iterator[Report]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        bars: dict[str, int] = {}

        def report(label: str, done: int, total: int) -> None:
            if label not in bars:
                bars[label] = progress.add_task(label, total=total)
            progress.update(bars[label], completed=done, total=total)

        yield report


def _lines() -> Report:
    last: dict[str, float] = {}
    shown: dict[str, int] = {}
    began = time.monotonic()

    def report(label: str, done: int, total: int) -> None:
        now = time.monotonic()
        due = now - last.get(label, float("-inf")) >= SECONDS_BETWEEN_LINES or done == total
        if due and shown.get(label) != done:
            last[label], shown[label] = now, done
            print(f"{now - began:7.1f} s  {label}: {done}/{total}", file=sys.stderr, flush=True)

    return report
