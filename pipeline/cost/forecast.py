"""The plan that is made when a run starts, held in the end against what the run took; what the run measured is kept as rates.

A run without a calibration has nothing to compare with. It measures all the same, so that the next plan has some.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from pipeline.cost import calibration
from pipeline.cost.calibration import START, Rate
from pipeline.cost.count import Workload, workload_of
from pipeline.cost.learn import Measured, measure, rates_of
from pipeline.cost.price import Price, price
from pipeline.phases import Progress
from pipeline.ready import Ready
from pipeline.tables import journal

UNITS = ((86_400, "days"), (3600, "h"), (60, "min"), (1, "s"))


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
    prices = tuple(price(run.config, workload, stored) for stored in calibration.calibrations(run.config))
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
    measured = measure(run, planned.workload, planned.began, Measured())
    devices = measured.devices or {of_device.device for of_device in planned.prices if measured.pieces}
    if not left or not devices:
        return "nothing was left to fit or to draw: no plan to compare"
    if len(devices) > 1:
        return f"ran on several types of device ({', '.join(sorted(devices))}): not compared with a plan, no rates stored"
    (device,) = devices
    rates = rates_of(measured, calibration.find(run.config, device).rates, f"run {run.config.name}")
    first = min([*planned.fitting, *measured.began], default=None)
    # Class priors and metrics are noted when they are done, so a run that begins with them does not tell how long its start was.
    if first is not None and left[0].stage in ("fit", "draw"):
        rates[START] = Rate(low=first - began, high=first - began, source=f"run {run.config.name}")
    calibration.add(run.config, device, rates)
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
