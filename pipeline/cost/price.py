"""Work times rates: device-hours and wall-clock, each with a low and a high end.

Low is what the faster of the measured steps gives with the work of each phase spread evenly over all workers. High is what the slower
one gives when work comes in whole chunks and whole fits, the longest of them last ((sum - longest) / workers + longest, Graham's
bound). Both are then widened by `NOISE`. Workers live as long as the run, so it pays one start. Judging a class prior counts as
detecting and comparing, and at the high end each is drawn twice.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.cost.calibration import START, Rates, scorer_names
from pipeline.cost.count import Task, Workload
from pipeline.ready import Config
from pipeline.settings.config import Cluster

Range = tuple[float, float]
NOISE: Range = (0.9, 1.25)
# Seconds, until a run has measured its own: Ray's start, a worker's libraries, which take 30 s of CPU, and its first model.
RAY, LIBRARIES, FIRST_MODEL = (5.0, 10.0), (10.0, 30.0), (1.0, 10.0)
PRIOR_REDRAWS = 2.0


@dataclass(frozen=True, kw_only=True)
class Price:
    """What the work that is left costs on a type of device. wall: seconds. hours: of the device, GPU-hours or core-hours, that work keeps
    busy at the low end and that workers hold at the high one. lacking: the rates that are not known, in which case hours and wall are
    None. fit_peak: bytes, None if not measured."""

    device: str
    hours: Range | None = None
    wall: Range | None = None
    fit_peak: int | None = None
    lacking: tuple[str, ...] = ()


def price(config: Config, workload: Workload, device: str, rates: Rates) -> Price:
    """What is left of `workload` on a type of device with these rates."""
    left = [task for task in workload.tasks() if not task.done]
    peaks = [rates[task.kind].peak_bytes or 0 for task in workload.tasks("fit") if task.kind in rates]
    known = {"device": device, "fit_peak": max(peaks, default=0) or None}
    needed = {task.kind for task in left}.union(scorer_names(config) if {"draw", "priors"} & {task.stage for task in left} else ())
    if lacking := tuple(sorted(needed - set(rates))):
        return Price(lacking=lacking, **known)
    if not left:
        return Price(hours=(0.0, 0.0), wall=(0.0, 0.0), **known)
    workers = workers_at_once(config.cluster)
    phases = [[seconds(task, config, rates) for task in phase.tasks if not task.done] for phase in workload.phases]
    start = start_seconds(config.cluster, rates)
    low, high = (start[end] + NOISE[end] * sum(packed(items, workers)[end] for items in phases if items) for end in (0, 1))
    share = (config.cluster.workers.gpus or config.cluster.workers.cpus) / 3600
    busy = NOISE[0] * sum(least for items in phases for least, _ in items)
    return Price(hours=(share * busy, share * workers * high), wall=(low, high), **known)


def workers_at_once(cluster: Cluster) -> int:
    """The workers that the file asks for, where a local cluster of CPUs has cores for them; without a number, as many as those
    cores hold, and one where a GPU or another machine is asked for."""
    slot = cluster.workers
    if cluster.address == "none":
        return 1
    if slot.gpus or cluster.address not in (None, "local"):
        return slot.count or 1
    room = max(1, int((cluster.cpus or os.cpu_count() or 1) / slot.cpus))
    return min(slot.count or room, room)


def start_seconds(cluster: Cluster, rates: Rates) -> Range:
    """Seconds until the first piece of work begins: as runs measured it, or so long as libraries take that load side by side."""
    if (measured := rates.get(START)) is not None:
        return NOISE[0] * measured.low, NOISE[1] * measured.high
    ray = (0.0, 0.0) if cluster.address == "none" else RAY
    crowded = 1.0 if cluster.workers.gpus else max(1.0, 1 / cluster.workers.cpus)
    return ray[0] + LIBRARIES[0] + FIRST_MODEL[0], ray[1] + crowded * LIBRARIES[1] + FIRST_MODEL[1]


def seconds(task: Task, config: Config, rates: Rates) -> Range:
    """Seconds of a worker for what is left of a task. A chunk that is not full has its share at the low end and the whole at the high
    one; the pictures of a chunk are scored by the same worker."""
    rate = rates[task.kind]
    low, high = (task.units * end + rate.other for end in (rate.low, rate.high))
    if task.stage not in ("draw", "priors"):
        return low, high
    pictures = task.whole["images"] + task.whole["prior images"]
    scorers = [rates[name] for name in scorer_names(config)]
    scoring = [sum(pictures * getattr(scorer, end) + scorer.other for scorer in scorers) for end in ("low", "high")]
    return low * task.share + scoring[0], (high + scoring[1]) * (PRIOR_REDRAWS if task.stage == "priors" else 1.0)


def packed(items: Sequence[Range], workers: int) -> Range:
    """The least and the most time in which so many workers work these off."""
    lows, highs = [low for low, _ in items], [high for _, high in items]
    return max(max(lows), sum(lows) / workers), (sum(highs) - max(highs)) / workers + max(highs)
