"""The plan that is made when a run starts, held in the end against what the run took; what the run measured is kept as rates.

A run without a calibration has nothing to compare with. It measures all the same, so that the next plan has some.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from pipeline.cost import calibration, price
from pipeline.cost.calibration import START, Rate
from pipeline.cost.count import Workload, workload_of
from pipeline.cost.learn import measure, rates_of
from pipeline.cost.price import Price
from pipeline.phases import Progress
from pipeline.ready import Ready
from pipeline.tables import journal

UNITS = ((86_400, "days"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What was left to do when a run started, what that was expected to cost on each calibrated device, and when it was.

    line: says it in the terminal, "" if there is nothing to say. reports: label -> the clock time of its first report.
    """

    workload: Workload
    prices: tuple[Price, ...]
    began: float
    line: str
    reports: dict[str, float] = field(default_factory=dict)


def plan_now(run: Ready) -> Planned:
    """The plan of what is left to do, noted in events.jsonl as "planned"."""
    workload, began = workload_of(run), time.time()
    prices = tuple(price.price(run.config, workload, stored) for stored in calibration.calibrations(run.config))
    journal.append_event(run.run_dir, event="planned", devices=[asdict(of_device) for of_device in prices])
    gpus = run.config.cluster.workers.gpus > 0
    expected = [of_device for of_device in prices if (of_device.device != "cpu") == gpus and of_device.wall and of_device.wall[1]]
    line = "; ".join(f"{duration(of_device.wall)} on {of_device.device}" for of_device in expected)
    return Planned(workload=workload, prices=prices, began=began, line=f"planned: {line}" if line else "")


def timed(progress: Progress, planned: Planned) -> Progress:
    """The same reports, the first of each label noted in `planned.reports` on the way."""

    def report(label: str, done: int, total: int) -> None:
        planned.reports.setdefault(label, time.time())
        progress(label, done, total)

    return report


def close_plan(run: Ready, planned: Planned, seconds: float) -> str:
    """A line that holds the plan against the `seconds` that the run took until now; its own measurements are stored as rates."""
    if not any(not task.done for task in planned.workload.tasks()):
        return "nothing was left to do: no plan to compare"
    ended, measured = time.time(), measure(run, planned.workload, planned.began)
    devices = measured.devices or {of_device.device for of_device in planned.prices}
    if not measured.pieces or not devices:
        return "nothing was measured: no plan to compare"
    if len(devices) > 1:
        return f"ran on several types of device ({', '.join(sorted(devices))}): not compared with a plan, no rates stored"
    (device,) = devices
    known, source = calibration.find(run.config, device), f"run {run.config.name}"
    rates = rates_of(measured, known.rates, source)
    if (start := _first_work(planned, measured.first)) is not None:
        waited = max(0.0, start - (ended - seconds))
        rates[START] = Rate(low=waited, high=waited, source=source)
    calibration.store(run.config, known.with_rates(rates))
    walls = [of_device.wall for of_device in planned.prices if of_device.device == device and of_device.wall]
    if not walls:
        return f"no plan was made before: nothing to compare; this run's rates are stored for the next plan on {device}"
    journal.append_event(run.run_dir, event="plan error", device=device, planned=walls[0], measured=seconds)
    return verdict(walls[0], seconds)


def _first_work(planned: Planned, first_chunk: float | None) -> float | None:
    """The clock time at which work began: a fit's first report, which comes with a step, or the first chunk. Class priors and
    metrics report when they are done, so a run that begins with them does not tell."""
    fits = [at for label, at in planned.reports.items() if label.startswith(("fit ", "refit ", "round ")) and not label.endswith(" sweep")]
    left = [task.stage for task in planned.workload.tasks() if not task.done]
    if left[0] in ("priors", "judge"):
        return None
    return min([*fits, *([first_chunk] if first_chunk is not None else [])], default=None)


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
    low, high = wall
    unit, name = _unit(high, UNITS)
    return f"{low / unit:.1f} to {high / unit:.1f} {name}"


def _unit(high: float, units: Sequence[tuple[int, str]]) -> tuple[int, str]:
    return next((unit, name) for unit, name in units if high >= 1.5 * unit or unit == 1)
