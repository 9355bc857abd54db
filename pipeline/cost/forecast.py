"""The plan that is made when a run starts, held in the end against what the run took; what the run measured is kept as rates."""

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles

from mudi.prior_folder import MANIFEST
from pipeline.class_priors import FOLDER
from pipeline.cost import calibration
from pipeline.cost.calibration import PNG, START, Rate, scorer_names
from pipeline.cost.count import Workload, workload_of
from pipeline.cost.price import Price, price, workers_at_once
from pipeline.phases import Progress
from pipeline.ready import Ready
from pipeline.tables import journal
from pipeline.tables.read import read_file
from pipeline.workers.fit_job import read_cost

UNITS = ((86_400, "days"), (3600, "h"), (60, "min"), (1, "s"))
MANY = 4  # From so many measurements on the quartiles stand for all of them: sums vary less than what is summed.


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What was left to do when a run started, what that was expected to cost on each calibrated device, and when it was.

    line: says it in the terminal, "" if nothing is known. fitting: the clock time at which a fit first moved, once it has.
    """

    workload: Workload
    prices: tuple[Price, ...]
    began: float
    line: str
    fitting: list[float] = field(default_factory=list)


def plan_now(run: Ready) -> Planned:
    """The plan of what is left to do, noted in events.jsonl as "planned"."""
    workload, gpus = workload_of(run), run.config.cluster.workers.gpus > 0
    prices = tuple(price(run.config, workload, *stored) for stored in calibration.calibrations(run.config).items())
    journal.append_event(run.run_dir, event="planned", devices=[asdict(of_device) for of_device in prices])
    expected = [of_device for of_device in prices if (of_device.device != "cpu") == gpus and of_device.wall and of_device.wall[1]]
    said = "; ".join(f"{duration(of_device.wall)} on {of_device.device}" for of_device in expected)
    return Planned(workload=workload, prices=prices, began=time.time(), line=f"planned {said}" if said else "")


def timed(progress: Progress, planned: Planned) -> Progress:
    """The same reports, of which the first of a fit is noted in `planned.fitting`: a fit reports no sooner than its first step."""
    others = {phase.name for phase in planned.workload.phases if phase.tasks[0].stage != "fit"}

    def report(label: str, done: int, total: int) -> None:
        if not planned.fitting and label not in others:
            planned.fitting.append(time.time())
        progress(label, done, total)

    return report


def close_plan(run: Ready, planned: Planned, seconds: float) -> str:
    """A line that holds the plan against the `seconds` that the run took until now; its own measurements are stored as rates."""
    began, left = time.time() - seconds, [task for task in planned.workload.tasks() if not task.done]
    if not left:
        return "nothing was left to do: no plan to compare"
    measured, source = measure(run, planned.workload, planned.began, Measured()), f"run {run.config.name}"
    devices = measured.devices or {of_device.device for of_device in planned.prices if of_device.wall}
    if len(devices) != 1:
        return f"ran on {len(devices)} known types of device ({', '.join(sorted(devices))}): not compared with a plan, no rates stored"
    (device,) = devices
    rates = rates_of(measured, calibration.calibrations(run.config).get(device, {}), source)
    first = min([*planned.fitting, *measured.began], default=None)
    # Class priors and metrics are noted when they are done, so a run that begins with them does not tell how long its start was.
    if first is not None and left[0].stage in ("fit", "draw"):
        rates[START] = Rate(low=max(0.0, first - began), high=max(0.0, first - began), source=source)
    calibration.store(run.config, device, rates)
    walls = [of_device.wall for of_device in planned.prices if of_device.device == device and of_device.wall]
    if not walls:
        return f"no plan was made before: nothing to compare; this run's rates are stored for the next plan on {device}"
    journal.append_event(run.run_dir, event="plan error", device=device, planned=walls[0], measured=seconds)
    return verdict(walls[0], seconds)


def verdict(wall: Sequence[float], seconds: float) -> str:
    """planned 3.1 to 4.4 min, measured 4.0 min (inside)."""
    low, high = wall
    where = "inside"
    if seconds > high:
        where = f"{seconds / high - 1:+.0%} above the high end"
    if seconds < low:
        where = f"{seconds / low - 1:+.0%} below the low end"
    unit, name = _unit(high, UNITS[1:])
    return f"planned {low / unit:.1f} to {high / unit:.1f} {name}, measured {seconds / unit:.1f} {name} ({where})"


def duration(wall: Sequence[float]) -> str:
    """3.1 to 4.4 min"""
    unit, name = _unit(wall[1], UNITS)
    return f"{wall[0] / unit:.1f} to {wall[1] / unit:.1f} {name}"


def _unit(high: float, units: Sequence[tuple[int, str]]) -> tuple[int, str]:
    return next((unit, name) for unit, name in units if high >= 1.5 * unit or unit == 1)


@dataclass(kw_only=True)
class Measured:
    """Name of a rate -> units and seconds of each piece of work; peaks of memory by name, devices, and when drawing first began."""

    pieces: defaultdict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    peaks: dict[str, int] = field(default_factory=dict)
    devices: set[str] = field(default_factory=set)
    began: list[float] = field(default_factory=list)


def measure(run: Ready, before: Workload, since: float, found: Measured) -> Measured:
    """What the run did since a clock time, when `before` was counted, added to `found`. The first chunks, one a worker, also load models,
    so they tell nothing where there are others."""
    for task in before.tasks("fit"):
        if not task.done and (cost := read_cost(Path(task.place))) is not None:
            found.devices.add(cost["device"])
            # Of a fit that went on from a checkpoint the note tells only a part.
            if not task.begun:
                found.pieces[task.kind].append((task.units, cost["seconds"]))
                found.peaks[task.kind] = max(cost["peak_bytes"], found.peaks.get(task.kind, 0))
    workers, judged = workers_at_once(run.config.cluster), []
    _chunks(run, since, found, workers)
    recipes = {task.place: task for task in before.tasks("priors")}
    for event in journal.read_events(run.run_dir, since):
        match event:
            case {"event": "priors", "folder": str(folder), "batch": int(batch)} if folder in recipes:
                noted = json.loads((run.run_dir.parent / FOLDER / folder / f"batch-{batch:04d}" / MANIFEST).read_text())
                found.pieces[recipes[folder].kind].append((recipes[folder].units, noted["seconds"]))
                found.devices.add(noted["device"])
            case {"event": "judged", "pictures": int(pictures), "seconds": float(seconds)} if pictures:
                judged.append((pictures, seconds))
    kinds = {task.kind for task in before.tasks("judge") if not task.done}
    if judged and len(kinds) == 1:
        found.pieces[kinds.pop()] += judged[min(workers, len(judged) // 2) :]
    return found


def _chunks(run: Ready, since: float, found: Measured, workers: int) -> None:
    """Chunks that were drawn since, of which the first ones are left out. Where no chunk of a kind is full, one that is not tells two
    bounds of a full one: that it takes as long, and that it takes longer by what is missing."""
    chunks, partial = [], defaultdict(list)
    # Chunks are named after the adapters that draw them, so only afterwards is known which are which.
    for phase in workload_of(run).phases:
        tasks = {task.place: task for task in phase.tasks if task.stage == "draw"}
        for event in journal.read_events(phase.run_dir, since) if tasks else ():
            match event:
                case {"event": "chunk", "chunk": str(name), "seconds": {"began": float(began), "generate": _, "detect": _, "compare": _}}:
                    chunks += [(began, name, phase.run_dir, tasks[name], event["seconds"])] if name in tasks else []
    chunks.sort(key=lambda chunk: chunk[:2])
    found.began += [began for began, *_ in chunks[:1]]
    for _, name, run_dir, task, stages in chunks[min(workers, len(chunks) // 2) :]:
        if task.share == 1:
            found.pieces[task.kind].append((task.units, stages["generate"]))
        else:
            partial[task.kind] += [(task.units, stages["generate"]), (task.units, stages["generate"] / task.share)]
        for stage, scorer in zip(("detect", "compare"), scorer_names(run.config), strict=True):
            found.pieces[scorer].append((task.whole["images"], stages[stage]))
        for path in (run_dir / "images").glob(f"round=*/{name}.parquet"):
            found.pieces[PNG].append((task.whole["images"], path.stat().st_size))
            found.devices |= set(read_file(run_dir / "candidates" / path.parent.name / path.name, ["device"])["device"].to_pylist())
    for kind, pieces in partial.items():
        found.pieces.setdefault(kind, pieces)


def rates_of(measured: Measured, known: Mapping[str, Rate], source: str) -> dict[str, Rate]:
    """The rates that the pieces make. Pieces of different lengths tell the seconds that do not grow with them, `other`; without such
    pieces it is what was `known`."""
    rates = {}
    for name, pieces in measured.pieces.items():
        before, beside = known.get(name, Rate(low=0.0, high=0.0)), _beside(pieces)
        other = before.other if beside is None else beside
        each = [max(seconds - other, 0.0) / units for units, seconds in pieces]
        low, _, high = quantiles(each, method="inclusive") if len(each) >= MANY else (min(each), 0, max(each))
        rates[name] = Rate(low=low, high=high, other=other, peak_bytes=measured.peaks.get(name, before.peak_bytes), source=source)
    return rates


def _beside(pieces: Sequence[tuple[float, float]]) -> float | None:
    """Where the line through the shortest and the longest pieces begins; None if their lengths are too much alike."""
    short, long = min(pieces)[0], max(pieces)[0]
    if long < 2 * short:
        return None
    at_short, at_long = (median(seconds for units, seconds in pieces if units == length) for length in (short, long))
    return max(0.0, at_short - max(0.0, at_long - at_short) / (long - short) * short)
