"""A plan in the terminal: what is counted, what is there, what it costs on each device that rates are known of."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from mudi.adapter_size import Architecture
from pipeline.cost.disk import Disk, adapter_numbers, fit_grams
from pipeline.cost.price import PRIOR_REDRAWS, Price, Range, fits_at_once
from pipeline.cost.workload import PRIORS, Counts, Workload, total
from pipeline.settings.benchmark_config import BenchmarkConfig
from pipeline.settings.config import RunConfig

HEADINGS = ("fits", "steps", "examples", "UNet rows forward", "backward", "prior images", "images", "denoising steps")
NARROWEST = 120  # characters; a narrower terminal wraps lines rather than cutting numbers short
UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


def print_plan(
    config: RunConfig | BenchmarkConfig, workload: Workload, architecture: Architecture, disk: Disk, prices: Sequence[Price], cores: int
) -> None:
    """Counts, disk, what is there, and a line for each device."""
    console = Console(width=max(NARROWEST, Console().width))
    _print_counts(console, workload)
    for line in _lines(config, workload, architecture, disk):
        console.print(line, soft_wrap=True, highlight=False)
    if not prices:
        console.print("times       not calibrated on any device; run: mudi plan RUN_FILE --calibrate", highlight=False)
        return
    _print_prices(console, config, workload, prices, cores)


def _table(title: str, first: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _print_counts(console: Console, workload: Workload) -> None:
    """A row a phase, or a row an arm where there are several; then the sum, and what is left of it."""
    owners = list(dict.fromkeys(work.owner for phase in workload.phases for work in (*phase.priors, *phase.fits, *phase.draws)))
    if len(set(owners) - {PRIORS}) > 1:
        rows = [(owner, total(workload.phases, whole=True, owner=owner)) for owner in owners]
    else:
        rows = [(phase.name, total([phase], whole=True)) for phase in workload.phases if phase.priors or phase.fits or phase.draws]
    table = _table(f"{workload.name}: what is asked for", "arm" if len(set(owners) - {PRIORS}) > 1 else "phase", HEADINGS)
    for name, counts in rows:
        table.add_row(name, *_cells(counts))
    table.add_section()
    table.add_row("in all", *_cells(total(workload.phases, whole=True)))
    table.add_row("left to do", *_cells(total(workload.phases, whole=False)))
    console.print(table)


def _cells(counts: Counts) -> list[str]:
    values = (
        counts.fits, counts.steps, counts.examples, counts.forward, counts.backward, counts.prior_pictures, counts.pictures,
        counts.denoising_steps,
    )  # fmt: skip
    return [f"{value:,}" if value else "-" for value in values]


def _lines(config: RunConfig | BenchmarkConfig, workload: Workload, architecture: Architecture, disk: Disk) -> list[str]:
    lines = [f"note        {note}" for note in workload.assumed]
    if architecture.assumed:
        lines.append(f"note        {config.models.backbone} is not here: sizes are those of SDXL base")
    lines.append(f"there       {_there(workload)}")
    if workload.shared:
        lines.append(f"shared      {workload.shared} cells use the adapter of another arm, which is counted once, with the first")
    if low := sum(draw.pictures for draw in workload.priors):
        most = sum(phase.most_priors for phase in workload.phases)
        lines.append(f"priors      {low:,} images if each shows its class; drawn again where one does not, {most:,} at most")
    if drawn := sum(draw.pictures for draw in workload.draws):
        lines.append(f"scorers     detect and compare ({', '.join(config.models.embedders.chosen)}): {drawn:,} images{_judges(workload)}")
    lines += _disk_lines(workload, architecture, disk)
    return lines


def _judges(workload: Workload) -> str:
    metrics = dict.fromkeys(judge.metric for judge in workload.judged)
    sums = {metric: sum(judge.pictures for judge in workload.judged if judge.metric == metric) for metric in metrics}
    return "".join(f"; {metric}: {count:,}" for metric, count in sums.items())


def _there(workload: Workload) -> str:
    fits, draws = workload.fits, workload.draws
    stored = sum(draw.pictures for draw in draws if draw.done)
    parts = [f"{stored:,} of {sum(draw.pictures for draw in draws):,} images", f"{sum(f.done for f in fits):,} of {len(fits):,} fits"]
    if begun := [fit for fit in fits if 0 < fit.done_steps < fit.steps]:
        parts.append(f"{len(begun)} begun ({', '.join(f'{fit.done_steps} of {fit.steps} steps' for fit in begun[:3])})")
    if workload.judged:
        done = sum(judge.pictures for judge in workload.judged if judge.done)
        parts.append(f"{done:,} of {sum(judge.pictures for judge in workload.judged):,} further scores of images")
    return ", ".join(parts)


def _disk_lines(workload: Workload, architecture: Architecture, disk: Disk) -> list[str]:
    images = f"images {_bytes(disk.images)} as PNG" if disk.measured else f"images at most {_size(disk.images[1])} (PNG size not measured)"
    parts = [images, f"adapters {_size(disk.adapters)}"]
    if disk.priors[1]:
        parts.append(f"class priors {_bytes(disk.priors)}" if disk.measured else f"class priors at most {_size(disk.priors[1])}")
    if disk.self_generated[1]:
        drawn = _bytes(disk.self_generated) if disk.measured else f"at most {_size(disk.self_generated[1])}"
        parts.append(f"pictures by subjects' own fits {drawn}")
    if disk.grams:
        parts.append(f"Grams {_size(disk.grams)}")
    parts.append(f"other tables {_bytes(disk.tables)}")
    if disk.checkpoints:
        parts.append(f"and while fits run checkpoints of at most {_size(disk.checkpoints)}")
    sizes = sorted({adapter_numbers(fit, architecture) for fit in workload.fits})
    adapters = "; ".join(f"{numbers:,} parameters, {size:,} bytes" for numbers, size in sizes)
    lines = [f"disk        {', '.join(parts)}", f"adapter     {adapters}"]
    if subjects := sum(fit.grams for fit in workload.fits):
        each = "; ".join(f"{size:,} bytes" for size in sorted({fit_grams(fit, architecture) for fit in workload.fits if fit.grams}))
        lines.append(f"grams       of {subjects} subject{'s' * (subjects != 1)}, each {each}, also in memory while they are fused")
    return lines


def _print_prices(console: Console, config: RunConfig | BenchmarkConfig, workload: Workload, prices: Sequence[Price], cores: int) -> None:
    unit = "GPU-hours" if max(config.cluster.fit.gpus, config.cluster.generate.gpus) else "core-hours"
    table = _table("what is left to do", "device", (unit, "wall-clock", "peak of a fit", "peak of a generator"))
    for price in prices:
        hours = "not calibrated" if price.hours is None else f"{price.hours[0]:.2f} to {price.hours[1]:.2f}"
        peaks = ["-" if peak is None else f"{peak / 2**30:.2f} GiB" for peak in (price.fit_peak, price.draw_peak)]
        table.add_row(price.device, hours, "not calibrated" if price.wall is None else duration(price.wall), *peaks)
    console.print(table)
    most = max((sum(not fit.done for fit in phase.fits) for phase in workload.phases), default=0)
    at_once = fits_at_once(config.cluster, most, cores) if most else 0
    generators = config.cluster.generate.actors
    where = f"{cores} cores" if not config.cluster.generate.gpus else "a cluster that holds all workers of the file"
    workers = f"{at_once} fit{'s' * (at_once != 1)} at once and {generators} generator{'s' * (generators != 1)}"
    console.print(f"wall-clock with {workers} on {where}", highlight=False)
    for price in prices:
        if price.lacking:
            rest = f" and {len(price.lacking) - 3} more" if len(price.lacking) > 3 else ""
            names = "; ".join(price.lacking[:3])
            console.print(f"{price.device}: no rate of {names}{rest}; run: mudi plan RUN_FILE --calibrate", soft_wrap=True, highlight=False)
    if any(not draw.done for draw in workload.priors):
        console.print(f"high ends count {PRIOR_REDRAWS:g} drawn pictures a class prior", highlight=False)


def duration(wall: Range) -> str:
    """3.1 to 4.4 min"""
    low, high = wall
    unit, name = next((u, n) for u, n in ((86_400, "days"), (3600, "h"), (60, "min"), (1, "s")) if high >= 1.5 * u or u == 1)
    return f"{low / unit:.1f} to {high / unit:.1f} {name}"


def _bytes(sizes: Range) -> str:
    low, high = map(_size, sizes)
    return low if low == high else f"{low} to {high}"


def _size(size: float) -> str:
    unit, name = next((u, n) for u, n in UNITS if size >= u or u == 1)
    return f"{size / unit:.3g} {name}"
