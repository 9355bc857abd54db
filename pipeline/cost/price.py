"""Work times rates: device-hours, wall-clock, memory and disk, each with a low and a high end.

Low is what the faster of the measured steps gives with work spread evenly over all workers and cores, everything else
going on beside it. High is what the slower one gives when work comes in whole chunks and whole fits, the longest of
them last ((sum - longest) / workers + longest, Graham's bound), and when scoring waits for drawing. Both ends are then
widened by `NOISE`. On top of the work:

- workers: a sweep on two cores was measured to take 27 to 35 s before its first picture, loading the miniature included.
  A run notes what its own sweeps took ("start sweep"), which replaces that.
- more than one generator: Ray Data begins with one and adds the others once it is busy; the high end has them start late.
- class priors: at the low end every picture serves; at the high end every other one, unmeasured. The run gives up at ten
  times the number wanted, and the tables name that number.

A cluster is taken to hold all the workers that the file asks for; a local one has the cores of this machine.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.cost.calibration import STEP_LOAD, SWEEP_START, Calibration, Rate, judge_name, scorer_names
from pipeline.cost.workload import DrawWork, FitWork, Phase, Workload
from pipeline.settings.benchmark_config import BenchmarkConfig
from pipeline.settings.config import SPARE_CPUS, Cluster, RunConfig, Slot

Range = tuple[float, float]
NOISE: Range = (0.9, 1.25)
SWEEP_WORKERS: Range = (15.0, 30.0)  # seconds, loading left out
FIT_WORKER: Range = (3.0, 15.0)
RUN: Range = (10.0, 40.0)  # Ray's own start, the report, the end
PRIOR_REDRAWS = 2.0


@dataclass(frozen=True, kw_only=True)
class Price:
    """What the work that is left costs on a type of device. hours: of the device, GPU-hours or core-hours; wall: seconds.

    lacking: the rates that are not known, in which case hours and wall are None. Peaks in bytes, None if not measured.
    """

    device: str
    hours: Range | None
    wall: Range | None
    fit_peak: int | None
    draw_peak: int | None
    lacking: tuple[str, ...]


@dataclass(frozen=True)
class _Time:
    """Seconds of a phase: `busy` of devices at the low end, `held` by workers at the high one, both times their share."""

    wall: Range
    busy: float
    held: float


def price(config: RunConfig | BenchmarkConfig, workload: Workload, calibration: Calibration, cores: int | None = None) -> Price:
    """What is left of `workload` on the device of `calibration`. cores: of a local cluster, by default this machine's."""
    rates, cluster = calibration.rates, config.cluster
    cores = cores or cluster.cpus or os.cpu_count() or 1
    fits, draws = [fit for fit in workload.fits if not fit.done], [draw for draw in workload.draws if not draw.done]
    peaks = [
        max((rates[w.kind].peak_bytes or 0 for w in works if w.kind in rates), default=0) or None
        for works in (workload.fits, workload.draws)
    ]
    lacking = _lacking(config, workload, fits, draws, rates)
    if lacking:
        return Price(device=calibration.device, hours=None, wall=None, fit_peak=peaks[0], draw_peak=peaks[1], lacking=lacking)
    times = []
    for phase in workload.phases:
        times += [_sweep_time([draw for draw in phase.priors if not draw.done], config, rates, cores, PRIOR_REDRAWS)]
        times += [_fit_time([fit for fit in phase.fits if not fit.done], cluster, rates, cores)]
        times += [_sweep_time([draw for draw in phase.draws if not draw.done], config, rates, cores)]
        times += [_judge_time(phase, config, rates, cores)]
    times = [time for time in times if time is not None]
    low, high = (RUN[end] + sum(NOISE[end] * time.wall[end] for time in times) for end in (0, 1))
    hours = (NOISE[0] * sum(time.busy for time in times) / 3600, NOISE[1] * sum(time.held for time in times) / 3600)
    return Price(device=calibration.device, hours=hours, wall=(low, high), fit_peak=peaks[0], draw_peak=peaks[1], lacking=())


def _lacking(
    config: RunConfig | BenchmarkConfig, workload: Workload, fits: Sequence[FitWork], draws: Sequence[DrawWork], rates: Mapping[str, Rate]
) -> tuple[str, ...]:
    needed = {fit.kind for fit in fits} | ({STEP_LOAD} if (fits or draws) and SWEEP_START not in rates else set())
    needed |= {draw.kind for draw in draws if whole_chunk(draw) not in rates}
    needed |= set(scorer_names(config)) if draws or any(not draw.done for draw in workload.priors) else set()
    needed |= {draw.kind for draw in workload.priors if not draw.done}
    if isinstance(config, BenchmarkConfig):
        todo = {judge.metric for judge in workload.judged if not judge.done}
        needed |= set() if judge_name(config, *todo) in rates else {judge_name(config, metric) for metric in todo}
    return tuple(sorted(needed - set(rates)))


def whole_chunk(draw: DrawWork) -> str:
    return f"{draw.kind} steps={draw.sampling.steps}"


def fit_seconds(fit: FitWork, rates: Mapping[str, Rate]) -> Range:
    """Seconds that a fit still takes in its worker, loading left out."""
    rate = rates[fit.kind]
    return fit.left * rate.low + rate.other, fit.left * rate.high + rate.other


def chunk_seconds(draw: DrawWork, rates: Mapping[str, Rate]) -> Range:
    """Seconds that drawing a chunk takes; one that is not full has its share at the low end and the whole at the high one."""
    if (whole := rates.get(whole_chunk(draw))) is not None:
        low, high = whole.low, whole.high
    else:
        rate = rates[draw.kind]
        low, high = (draw.calls * end + rate.other for end in (rate.low, rate.high))
    return low * draw.pictures / draw.batch, high


def _workers(slot: Slot, most: int, cluster: Cluster, cores: int) -> tuple[int, float]:
    """How many workers run at once, and how many of them the cores of a local cluster keep busy."""
    if slot.gpus:
        return most, float(most)
    if cluster.address not in (None, "local"):
        return most, float(most)
    running = max(1, min(most, int((cores + SPARE_CPUS) / slot.cpus) if slot.cpus else most))
    return running, min(float(running), cores / max(1, int(slot.cpus)))


def _gpus(cluster: Cluster) -> float:
    """The GPUs that a sweep of the file holds when all its workers are there."""
    return sum(pool.gpus * pool.actors for pool in (cluster.generate, cluster.detect, cluster.compare))


def fits_at_once(cluster: Cluster, fits: int, cores: int) -> int:
    """How many fits run beside one another; on GPUs, those of a cluster that holds a whole sweep."""
    if cluster.fit.gpus:
        return max(1, min(fits, int(_gpus(cluster) / cluster.fit.gpus)))
    return _workers(cluster.fit, fits, cluster, cores)[0]


def _packed(items: Sequence[Range], busy: float) -> Range:
    """The least and the most time in which so many workers, or cores under more of them, work these off."""
    lows, highs = [low for low, _ in items], [high for _, high in items]
    return max(max(lows), sum(lows) / busy), (sum(highs) - max(highs)) / busy + max(highs)


def _fit_time(fits: Sequence[FitWork], cluster: Cluster, rates: Mapping[str, Rate], cores: int) -> _Time | None:
    if not fits:
        return None
    load, share = _load(rates), cluster.fit.gpus or cluster.fit.cpus
    items = [fit_seconds(fit, rates) for fit in fits]
    workers = fits_at_once(cluster, len(fits), cores)
    _, busy = _workers(cluster.fit, workers, cluster, cores)
    low, high = _packed([(low, high + load[1]) for low, high in items], busy)
    wall = (FIT_WORKER[0] + load[0] + low, FIT_WORKER[1] + high)
    return _Time(wall, share * sum(low for low, _ in items), share * wall[1] * workers)


def _sweep_time(
    draws: Sequence[DrawWork], config: RunConfig | BenchmarkConfig, rates: Mapping[str, Rate], cores: int, redraws: float = 1.0
) -> _Time | None:  # fmt: skip
    """The time of the chunks of one sweep; at the high end each is drawn and scored `redraws` times."""
    if not draws:
        return None
    cluster = config.cluster
    pictures, local = sum(draw.pictures for draw in draws), cluster.address in (None, "local")
    scoring = [sum(getattr(rates[name], end) for name in scorer_names(config)) * pictures for end in ("low", "high")]
    items = [chunk_seconds(draw, rates) for draw in draws]
    workers, busy = _workers(cluster.generate, min(cluster.generate.actors, len(draws)), cluster, cores)
    low, high = _packed(items, busy)
    if local and not cluster.generate.gpus:
        low = max(low, (sum(item[0] for item in items) * max(1, int(cluster.generate.cpus)) + scoring[0]) / cores)
    start = _start(rates)
    late = start[1] * (1 - 1 / workers)
    wall = (start[0] + low, start[1] + late + redraws * (high + scoring[1]))
    if cluster.generate.gpus:
        held = cluster.generate.gpus * workers + cluster.detect.gpus * cluster.detect.actors + cluster.compare.gpus * cluster.compare.actors
        return _Time(wall, cluster.generate.gpus * sum(item[0] for item in items), held * wall[1])
    held = cluster.generate.cpus * workers + cluster.detect.cpus * cluster.detect.actors + cluster.compare.cpus * cluster.compare.actors
    return _Time(wall, cluster.generate.cpus * sum(item[0] for item in items) + scoring[0], held * wall[1])


def _load(rates: Mapping[str, Rate]) -> Range:
    """Seconds in which a fit's worker loads the backbone: at most what a sweep's workers took, who load more."""
    if (measured := rates.get(SWEEP_START)) is not None:
        return 0.0, measured.high
    return rates[STEP_LOAD].low, rates[STEP_LOAD].high


def _start(rates: Mapping[str, Rate]) -> Range:
    """Seconds from the start of a sweep to its first picture."""
    if (measured := rates.get(SWEEP_START)) is not None:
        return measured.low, measured.high
    load = rates[STEP_LOAD]
    return SWEEP_WORKERS[0] + load.low, SWEEP_WORKERS[1] + load.high


def _judge_time(phase: Phase, config: RunConfig | BenchmarkConfig, rates: Mapping[str, Rate], cores: int) -> _Time | None:
    todo = [judge for judge in phase.judged if not judge.done]
    if not todo:
        return None
    slot = config.cluster.judge
    if (together := rates.get(judge_name(config, *(judge.metric for judge in todo)))) is not None:
        each = [(together, max(judge.pictures for judge in todo))]
    else:
        each = [(rates[judge_name(config, judge.metric)], judge.pictures) for judge in todo]
    low, high = sum(rate.low * n for rate, n in each), sum(rate.high * n for rate, n in each)
    workers, busy = _workers(slot, slot.actors, config.cluster, cores)
    wall = (SWEEP_WORKERS[0] + low / busy, 2 * SWEEP_WORKERS[1] + high / (1 if workers == 1 else busy))
    share = slot.gpus or slot.cpus
    return _Time(wall, share * low, share * workers * wall[1])
