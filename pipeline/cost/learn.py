"""The rates that a run leaves behind: seconds of its fits, chunks and scores from its files and its log, and the size of its pictures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from mudi.prior_folder import MANIFEST
from pipeline.class_priors import FOLDER
from pipeline.cost.calibration import PNG, Rate, scorer_names
from pipeline.cost.count import Workload, workload_of
from pipeline.cost.price import workers_at_once
from pipeline.ready import Ready
from pipeline.tables.journal import read_events
from pipeline.tables.read import read_file
from pipeline.workers.fit_job import read_cost

# From so many measurements on the quartiles stand for all of them: sums vary less than what is summed.
MANY = 4


@dataclass(kw_only=True)
class Measured:
    """Name of a rate -> units and seconds of each piece of work; peaks of memory by name, devices, and the clock time at which the
    first chunk began."""

    pieces: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    devices: set[str] = field(default_factory=set)
    began: list[float] = field(default_factory=list)

    def add(self, name: str, units: float, seconds: float) -> None:
        """A piece of work."""
        self.pieces.setdefault(name, []).append((units, seconds))


def measure(run: Ready, before: Workload, since: float, found: Measured) -> Measured:
    """What the run did since a clock time, when `before` was counted, added to `found`.

    The first chunks, one a worker, also load models, so they tell nothing where there are others.
    """
    workers, log = workers_at_once(run.config.cluster), read_events(run.run_dir, since)
    _fits(before, found)
    _chunks(run, since, found, workers)
    recipes = {task.place: task for task in before.tasks("priors")}
    for event in log:
        match event:
            case {"event": "priors", "folder": str(folder), "batch": int(batch)} if folder in recipes:
                noted = json.loads((run.run_dir.parent / FOLDER / folder / f"batch-{batch:04d}" / MANIFEST).read_text())
                found.add(recipes[folder].kind, recipes[folder].units, noted["seconds"])
                found.devices.add(noted["device"])
    kinds = {task.kind for task in before.tasks("judge") if not task.done}
    judged = [event for event in log if event["event"] == "judged"]
    for event in judged[min(workers, len(judged) // 2) :] if len(kinds) == 1 else ():
        match event:
            case {"pictures": int(pictures), "seconds": float(seconds)} if pictures:
                found.add(*kinds, pictures, seconds)
    return found


def rates_of(measured: Measured, known: Mapping[str, Rate], source: str) -> dict[str, Rate]:
    """The rates that the pieces make. Pieces of different lengths tell the seconds that do not grow with them, `other`; without such
    pieces it is what was `known`."""
    rates = {}
    for name, pieces in measured.pieces.items():
        before = known.get(name, Rate(low=0.0, high=0.0))
        beside = _beside(pieces)
        other = before.other if beside is None else beside
        each = [max(seconds - other, 0.0) / units for units, seconds in pieces]
        low, high = np.quantile(each, [0.25, 0.75]) if len(each) >= MANY else (min(each), max(each))
        peak = measured.peaks.get(name, before.peak_bytes)
        rates[name] = Rate(low=float(low), high=float(high), other=other, peak_bytes=peak, source=source)
    return rates


def _beside(pieces: Sequence[tuple[float, float]]) -> float | None:
    """Where the line through the shortest and the longest pieces begins; None if their lengths are too much alike."""
    short, long = min(pieces)[0], max(pieces)[0]
    if long < 2 * short:
        return None
    at_short, at_long = (median(seconds for units, seconds in pieces if units == length) for length in (short, long))
    return max(0.0, at_short - max(0.0, at_long - at_short) / (long - short) * short)


def _fits(before: Workload, found: Measured) -> None:
    for task in before.tasks("fit"):
        if task.done or (cost := read_cost(Path(task.place))) is None:
            continue
        found.devices.add(cost["device"])
        # Of a fit that went on from a checkpoint the note tells only a part.
        if not task.begun:
            found.add(task.kind, task.units, cost["seconds"])
            found.peaks[task.kind] = max(cost["peak_bytes"], found.peaks.get(task.kind, 0))


def _chunks(run: Ready, since: float, found: Measured, workers: int) -> None:
    """Chunks that were drawn since, of which the first ones are left out."""
    chunks = []
    # Chunks are named after the adapters that draw them, so only afterwards is known which are which.
    for phase in workload_of(run).phases:
        tasks = {task.place: task for task in phase.tasks if task.stage == "draw"}
        for event in read_events(phase.run_dir, since) if tasks else ():
            match event:
                case {"event": "chunk", "chunk": str(chunk), "seconds": {"began": float(began), "generate": _, "detect": _, "compare": _}}:
                    chunks += [(began, chunk, phase.run_dir, tasks[chunk], event["seconds"])] if chunk in tasks else []
    chunks.sort(key=lambda drawn: drawn[:2])
    found.began += [began for began, *_ in chunks[:1]]
    for _, chunk, run_dir, task, stages in chunks[min(workers, len(chunks) // 2) :]:
        if task.share == 1:
            found.add(task.kind, task.units, stages["generate"])
        for stage, name in zip(("detect", "compare"), scorer_names(run.config), strict=True):
            found.add(name, task.whole["images"], stages[stage])
        for path in (run_dir / "images").glob(f"round=*/{chunk}.parquet"):
            found.add(PNG, task.whole["images"], path.stat().st_size)
            device = read_file(run_dir / "candidates" / path.relative_to(run_dir / "images"), ["device"])["device"]
            found.devices |= set(device.to_pylist())
