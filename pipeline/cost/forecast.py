"""The plan that is made when a run starts, held in the end against what the run took; and what the run measured, kept as rates.

A run without a calibration has nothing to compare with. It measures all the same: seconds of each fit, chunk and
scorer, and the size of its pictures become rates of its device, so that the next plan has some.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from pipeline.arms import pool_dir
from pipeline.cost import calibration, price
from pipeline.cost.calibration import PNG, SWEEP_START, Calibration, Rate, judge_name, scorer_names, spread
from pipeline.cost.count import workload_of
from pipeline.cost.price import Price
from pipeline.cost.workload import Phase, Workload
from pipeline.settings.benchmark_config import BenchmarkConfig
from pipeline.settings.config import RunConfig
from pipeline.tables import journal
from pipeline.tables.read import read_file
from pipeline.workers.fit_job import cost_file, read_cost

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What was left to do when a run started, what that was expected to cost on each calibrated device, and when it was.

    reports: label -> the clock time and count of each of its reports so far.
    """

    workload: Workload
    prices: tuple[Price, ...]
    began: float
    reports: dict[str, list[tuple[float, int]]]


def plan_now(config: RunConfig | BenchmarkConfig, run_dir: Path) -> Planned:
    """The plan of what is left to do, noted in events.jsonl as "planned"."""
    workload = workload_of(config)
    prices = tuple(price.price(config, workload, stored) for stored in calibration.calibrations(config))
    journal.append_event(run_dir, event="planned", devices=[asdict(of_device) for of_device in prices])
    return Planned(workload=workload, prices=prices, began=time.time(), reports={})


def timed(progress: Progress, planned: Planned) -> Progress:
    """The same reports, noted in `planned.reports` on the way."""

    def report(label: str, done: int, total: int) -> None:
        planned.reports.setdefault(label, []).append((time.time(), done))
        progress(label, done, total)

    return report


def close_plan(config: RunConfig | BenchmarkConfig, run_dir: Path, planned: Planned, seconds: float) -> str:
    """A line that holds the plan against the `seconds` measured; the run's own measurements are stored as rates."""
    # Chunks are named after the adapters that draw them, so only now is known which are which.
    phases = workload_of(config).phases
    events = _chunk_events(run_dir, planned.began)
    devices = _devices(run_dir, planned, events)
    if not devices and len(planned.prices) == 1 and any(not judge.done for judge in planned.workload.judged):
        devices = {planned.prices[0].device}
    if not devices:
        return "nothing was left to fit or to draw: no plan to compare"
    if len(devices) > 1:
        return f"ran on several types of device ({', '.join(sorted(devices))}): not compared with a plan, no rates stored"
    (device,) = devices
    found = calibration.find(config, device)
    measured = learnt(config, run_dir, planned, phases, events, found)
    calibration.store(config, found.with_rates(measured))
    walls = [of_device.wall for of_device in planned.prices if of_device.device == device and of_device.wall]
    if not walls:
        return f"no plan was made before: nothing to compare; this run's rates are stored for the next plan on {device}"
    line = verdict(walls[0], seconds)
    journal.append_event(run_dir, event="plan error", device=device, planned=walls[0], measured=seconds)
    return line


def verdict(wall: tuple[float, float], seconds: float) -> str:
    """planned 3.1 to 4.4 min, measured 4.0 min (inside)."""
    low, high = wall
    where = "inside"
    if seconds > high:
        where = f"{seconds / high - 1:+.0%} above the high end"
    if seconds < low:
        where = f"{seconds / low - 1:+.0%} below the low end"
    unit, name = next((u, n) for u, n in ((3600, "h"), (60, "min"), (1, "s")) if high >= 1.5 * u or u == 1)
    return f"planned {low / unit:.1f} to {high / unit:.1f} {name}, measured {seconds / unit:.1f} {name} ({where})"


def learnt(
    config: RunConfig | BenchmarkConfig, run_dir: Path, planned: Planned, phases: Sequence[Phase], events: Sequence[Mapping],
    known: Calibration,
) -> dict[str, Rate]:  # fmt: skip
    """Rates from what this start of the run did.

    `phases` are the run's, with their true chunks; `events` the chunks that this start drew. Of many chunks the
    quartiles are kept: sums of them vary less than the chunks themselves.
    """
    source = f"run {config.name}"
    rates = _fit_rates(planned, known, source)
    draws = {draw.chunk_id: draw for phase in phases for draw in phase.draws}
    mine = [event for event in events if event["chunk"] in draws]
    by_kind: dict[str, list[float]] = {}
    for event in mine:
        draw = draws[event["chunk"]]
        if draw.pictures == draw.batch:
            by_kind.setdefault(price.whole_chunk(draw), []).append(event["seconds"]["generate"])
    rates |= {kind: _quartiles(values, source=source) for kind, values in by_kind.items()}
    for stage, name in zip(("detect", "compare"), scorer_names(config), strict=True):
        if mine:
            rates[name] = _quartiles([event["seconds"][stage] / event["candidates"] for event in mine], source=source)
    if starts := _sweep_starts(planned, phases, mine):
        rates[SWEEP_START] = spread(starts, source=source)
    if isinstance(config, BenchmarkConfig):
        rates |= _judge_rate(config, planned, phases, source)
    if sizes := _picture_bytes(run_dir, mine):
        rates[PNG] = spread(sizes, source=source)
    return rates


def _fit_rates(planned: Planned, known: Calibration, source: str) -> dict[str, Rate]:
    steps: dict[str, list[float]] = {}
    for fit in planned.workload.fits:
        cost = read_cost(fit.folder)
        # A merge of fits that another arm makes has no steps; of such fits that were there in part nothing says which part is this start's.
        if fit.done or not fit.left or cost is None or (fit.alone and fit.done_steps):
            continue
        other = known.rates[fit.kind].other if fit.kind in known.rates else 0.0
        seconds = cost["seconds"] + cost.get("alone_seconds", 0.0) * (fit.alone or 0) / len(fit.combination.subjects)
        steps.setdefault(fit.kind, []).append(max(seconds - other, 0.0) / fit.left)
    return {
        kind: spread(
            values,
            other=known.rates[kind].other if kind in known.rates else 0.0,
            peak_bytes=known.rates[kind].peak_bytes if kind in known.rates else None,
            source=source,
        )
        for kind, values in steps.items()
    }


def _judge_rate(config: BenchmarkConfig, planned: Planned, phases: Sequence[Phase], source: str) -> dict[str, Rate]:
    """Seconds a picture of all metrics that were lacking, together: from the first scored chunk to the last, over the workers."""
    metrics = {judge.metric for judge in planned.workload.judged if not judge.done}
    moved = [report for report in planned.reports.get("metrics", ()) if report[1] > 0]
    if not metrics or len(moved) < 2:
        return {}
    (began, first), (ended, last) = moved[0], moved[-1]
    pictures = [draw.pictures for phase in phases if phase.name == "pictures" for draw in phase.draws]
    each = (ended - began) / (last - first) * config.cluster.judge.actors / float(np.mean(pictures))
    return {judge_name(config, *metrics): Rate(low=each, high=each, source=source)}


def _quartiles(values: Sequence[float], **more) -> Rate:
    low, high = np.quantile(values, [0.25, 0.75])
    return Rate(low=float(low), high=float(high), **more)


def _chunk_events(run_dir: Path, since: float) -> list[dict]:
    """The chunks that were stored since a clock time, those of a benchmark's pool among them."""
    found = []
    for folder in (run_dir, pool_dir(run_dir)):
        log = folder / "events.jsonl"
        for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
            event = json.loads(line)
            if event["event"] == "chunk" and datetime.fromisoformat(event["time"]).timestamp() >= since:
                found.append(event)
    return found


def _sweep_starts(planned: Planned, phases: Sequence[Phase], events: Sequence[Mapping]) -> list[float]:
    """Seconds from the start of each sweep to the first picture drawn in it."""
    began = {event["chunk"]: event["seconds"]["began"] for event in events}
    starts = []
    for phase in phases:
        firsts = [began[draw.chunk_id] for draw in phase.draws if draw.chunk_id in began]
        if firsts and phase.name in planned.reports:
            starts.append(min(firsts) - planned.reports[phase.name][0][0])
    return starts


def _chunk_files(run_dir: Path, dataset: str, events: Sequence[Mapping]) -> dict[str, Path]:
    """Chunk id -> its file of a dataset, of these chunks, a benchmark's pool among them."""
    wanted = {event["chunk"] for event in events}
    files = [path for folder in (run_dir, pool_dir(run_dir)) for path in (folder / dataset).glob("round=*/*.parquet")]
    return {path.stem: path for path in files if path.stem in wanted}


def _picture_bytes(run_dir: Path, events: Sequence[Mapping]) -> list[float]:
    """Bytes a picture of the image files of these chunks."""
    files = _chunk_files(run_dir, "images", events)
    return [files[event["chunk"]].stat().st_size / event["candidates"] for event in events if event["chunk"] in files]


def _devices(run_dir: Path, planned: Planned, events: Sequence[Mapping]) -> set[str]:
    """The types of device that made what was left to make."""
    costs = [cost_file(fit.folder) for fit in planned.workload.fits if not fit.done]
    found = {json.loads(path.read_text())["device"] for path in costs if path.is_file()}
    for path in _chunk_files(run_dir, "candidates", events).values():
        found.update(read_file(path, ["device"])["device"].to_pylist())
    return found
