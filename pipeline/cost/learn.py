"""The rates that a run leaves behind: seconds of its fits, chunks and scores from its files and its log, and the size of its pictures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median

import numpy as np

from mudi.prior_folder import MANIFEST
from pipeline.class_priors import FOLDER
from pipeline.cost.calibration import PNG, Rate, scorer_names
from pipeline.cost.count import Counted, Task, Workload, workload_of
from pipeline.cost.price import workers_at_once
from pipeline.ready import Ready
from pipeline.tables.read import read_file
from pipeline.workers.fit_job import read_cost

# From so many measurements on the quartiles stand for all of them: sums vary less than what is summed.
MANY = 4


@dataclass(kw_only=True)
class Measured:
    """What starts of runs measured: name of a rate -> its units and seconds, once for each piece; the peak of memory by name, the
    devices, and `first`, the clock time at which drawing first began."""

    pieces: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    devices: set[str] = field(default_factory=set)
    first: float | None = None

    def add(self, name: str, units: float, seconds: float) -> None:
        """A piece of work."""
        self.pieces.setdefault(name, []).append((units, seconds))


def measure(run: Ready, before: Workload, since: float, into: Measured | None = None) -> Measured:
    """What the run did since a clock time, when `before` was counted; added to `into` if that is given.

    The first chunks, one a worker, also load models, so they tell nothing where there are others.
    """
    found, workers = into or Measured(), workers_at_once(run.config.cluster)
    _fits(before, found)
    chunks = []
    # Chunks are named after the adapters that draw them, so only afterwards is known which are which.
    for phase in workload_of(run).phases:
        chunks += _chunks(phase, since)
    starts = [began for began, *_ in chunks]
    found.first = min(starts, default=None)
    for _, phase, task, stages in sorted(chunks, key=lambda chunk: chunk[0])[min(workers, len(chunks) // 2) :]:
        _chunk(run, phase, task, stages, found)
    if chunks:
        _, phase, task, _ = chunks[0]
        found.devices |= set(read_file(_file(phase, "candidates", task), ["device"])["device"].to_pylist())
    _priors(run, before, since, found)
    kinds = {task.kind for task in before.tasks("judge") if not task.done}
    judged = [event for event in _events(run.run_dir, since) if event.get("event") == "judged"]
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
        other = known[name].other if name in known else 0.0
        if (line := _beside(pieces)) is not None:
            other = line
        each = [max(seconds - other, 0.0) / units for units, seconds in pieces]
        low, high = np.quantile(each, [0.25, 0.75]) if len(each) >= MANY else (min(each), max(each))
        peak = measured.peaks.get(name) or (known[name].peak_bytes if name in known else None)
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
    """Of a fit that went on from a checkpoint the note tells only a part."""
    for task in before.tasks("fit"):
        cost = read_cost(Path(task.place))
        if task.done or cost is None:
            continue
        found.devices.add(cost["device"])
        if not task.begun:
            found.add(task.kind, task.units, cost["seconds"])
            found.peaks[task.kind] = max(cost["peak_bytes"], found.peaks.get(task.kind, 0))


def _chunks(phase: Counted, since: float) -> list[tuple[float, Counted, Task, Mapping]]:
    """The phase's chunks that were drawn since, each with the clock time at which it began and the seconds of its stages."""
    tasks, chunks = {task.place: task for task in phase.tasks if task.stage == "draw"}, []
    for event in _events(phase.run_dir, since) if tasks else ():
        match event:
            case {"event": "chunk", "chunk": str(chunk), "seconds": {"began": float(began), "generate": _, "detect": _, "compare": _}}:
                if chunk in tasks:
                    chunks.append((began, phase, tasks[chunk], event["seconds"]))
    return chunks


def _chunk(run: Ready, phase: Counted, task: Task, stages: Mapping, found: Measured) -> None:
    pictures = task.whole.pictures
    if task.share == 1:
        found.add(task.kind, task.units, stages["generate"])
    for stage, name in zip(("detect", "compare"), scorer_names(run.config), strict=True):
        found.add(name, pictures, stages[stage])
    if (images := _file(phase, "images", task)).is_file():
        found.add(PNG, pictures, images.stat().st_size)


def _file(phase: Counted, dataset: str, task: Task) -> Path:
    return next((phase.run_dir / dataset).glob(f"round=*/{task.place}.parquet"), phase.run_dir / dataset / "round=0" / task.place)


def _priors(run: Ready, before: Workload, since: float, found: Measured) -> None:
    """Batches of class priors that this run drew; they note how long drawing took, judging left out."""
    kinds = {task.place.partition("/")[0]: task for task in before.tasks("priors")}
    for event in _events(run.run_dir, since):
        match event:
            case {"event": "priors", "folder": str(folder), "batch": int(batch)} if folder in kinds:
                noted = json.loads((run.run_dir.parent / FOLDER / folder / f"batch-{batch:04d}" / MANIFEST).read_text())
                found.add(kinds[folder].kind, kinds[folder].units, noted["seconds"])
                found.devices.add(noted["device"])


def _events(run_dir: Path, since: float) -> list[dict]:
    """The events of a log since a clock time; a line that cannot be read is no event."""
    log, found = run_dir / "events.jsonl", []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else ():
        try:
            event = json.loads(line)
            if datetime.fromisoformat(event["time"]).timestamp() >= since:
                found.append(event)
        except (ValueError, TypeError, KeyError):
            continue
    return found
