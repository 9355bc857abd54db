"""A plan in the terminal: what is counted, what is there, what it takes on disk and in memory, what it costs on each known device."""

from collections.abc import Sequence
from itertools import product

from rich import box
from rich.console import Console
from rich.table import Table

from mudi.adapter_size import checkpoint_bytes
from mudi.model_facts import weights_bytes
from pipeline.arms import adapter_folder
from pipeline.cost.calibration import Rate
from pipeline.cost.count import LEFT_OUT, PRIORS, ROWS, Workload, total
from pipeline.cost.forecast import duration
from pipeline.cost.price import PRIOR_REDRAWS, Price, Range, workers_at_once
from pipeline.ready import Ready
from pipeline.workers.loaded import ROOM_FOR_BOTH

HEADINGS = ("fits", "steps", "examples", ROWS, "backward", "prior images", "images", "denoising steps")
NARROWEST = 120  # characters; a narrower terminal wraps lines rather than cutting numbers short
UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
# Parquet beside the PNGs, bytes. Chunks of 1, 4 and 10 pictures of the miniature's benchmark, two embedders, took 11.3 to 12.5 kB
# and 330 to 400 bytes a picture, 2.7 kB where a threshold of 0.05 finds many boxes; a metric added later 3.4 to 3.9 kB a chunk.
CHUNK_BYTES, PICTURE_BYTES, SCORES_BYTES = (11_000, 13_000), (250, 3_000), (2_500, 6_000)


def print_plan(run: Ready, workload: Workload, prices: Sequence[Price], png: Rate | None) -> None:
    """Counts, what is there, disk, memory, and a line for each device."""
    console = Console(width=max(NARROWEST, Console().width), soft_wrap=True, highlight=False)
    _print_counts(console, run, workload)
    for line in (*_lines(run, workload), *_sizes(run, workload, png)):
        console.print(line)
    if prices:
        _print_prices(console, run, workload, prices)
    else:
        console.print("times       not calibrated on any device; run: mudi plan RUN_FILE --calibrate")
    console.print(f"left out    {LEFT_OUT}")


def _table(title: str, first: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _print_counts(console: Console, run: Ready, workload: Workload) -> None:
    """A row a phase, or a row an arm where there are several; then the sum, and what is left of it."""
    counted = workload.tasks("priors", "fit", "draw")
    by_arm = len({task.owner for task in counted} - {PRIORS}) > 1
    named = [(task.owner if by_arm else phase.name, task) for phase in workload.phases for task in phase.tasks if task.stage != "judge"]
    table = _table(f"{run.config.name}: what is asked for", "arm" if by_arm else "phase", HEADINGS)
    rows = sorted(dict.fromkeys(row for row, _ in named), key=[PRIORS, *run.methods].index if by_arm else lambda _: 0)
    sums = {row: total(task for place, task in named if place == row) for row in rows}
    for row, counts in {**sums, "in all": total(counted), "left to do": total(counted, whole=False)}.items():
        table.add_row(row, *(f"{counts[name]:,}" if counts[name] else "-" for name in HEADINGS), end_section=row == rows[-1])
    console.print(table)


def _lines(run: Ready, workload: Workload) -> list[str]:
    lines, asked, left = [], total(workload.tasks()), total(workload.tasks(), whole=False)
    if run.absent:
        count = f"{len(run.absent)} of {len(run.config.combinations)} combination folders are not here (first {run.absent[0]})"
        lines.append(f"note        {count}: counted as the subjects that their prompts name, or two, without photos")
    if workload.architecture.assumed:
        lines.append(f"note        {run.config.models.backbone} is not here: sizes are those of SDXL base")
    there = [f"{asked[name] - left[name]:,} of {asked[name]:,} {name}" for name in ("images", "fits")]
    if begun := [task for task in workload.tasks("fit") if task.begun and not task.done]:
        there.append(f"{len(begun)} begun ({total(begun)['steps'] - total(begun, whole=False)['steps']:,} steps)")
    if asked["scores"]:
        there.append(f"{asked['scores'] - left['scores']:,} of {asked['scores']:,} further scores of images")
    lines.append(f"there       {', '.join(there)}")
    if shared := _shared_cells(run):
        lines.append(f"shared      {shared} cells use the adapter of another arm, which is counted once, with the first")
    if asked["prior images"]:
        most = f"drawn again where one does not ({PRIOR_REDRAWS:g} times at high ends), {asked['priors at most']:,} at most"
        lines.append(f"priors      {asked['prior images']:,} images if each shows its class; {most}")
    embedders = ", ".join(run.config.models.embedders.chosen)
    return [*lines, f"scorers     detect and compare ({embedders}): {asked['images']:,} images"]


def _shared_cells(run: Ready) -> int:
    """Cells of a benchmark that are drawn by the adapter of another arm."""
    if not run.arms:
        return 0
    cells = list(product(run.arms.values(), run.combinations, range(run.config.fits)))
    return len(cells) - len({adapter_folder(run.run_dir, run.config, run.arms, arm, c.key, fit) for arm, c, fit in cells})


def disk(run: Ready, workload: Workload, png: Rate | None) -> dict[str, Range]:
    """Bytes of a whole run by kind of file. Without a measured PNG the high end is that of raw pixels, and low is 0. Checkpoints are the
    most that lie there while fits run, as many at once as there are workers."""
    asked, chunks, workers = total(workload.tasks()), len(workload.tasks("draw")), workers_at_once(run.config.cluster)
    each = (png.low, png.high) if png else (0.0, 3.0 * workload.architecture.side**2)
    judged = asked["scores"] * chunks / max(1, asked["images"])
    beside = [sorted(checkpoint_bytes(task.trained, task.whole["steps"]) for task in phase.tasks) for phase in workload.phases]
    tables = [chunks * CHUNK_BYTES[end] + asked["images"] * PICTURE_BYTES[end] + judged * SCORES_BYTES[end] for end in (0, 1)]
    return {
        "images": (asked["images"] * each[0], asked["images"] * each[1]),
        "adapters": (asked["adapter bytes"], asked["adapter bytes"]),
        "class priors": (asked["prior images"] * each[0], PRIOR_REDRAWS * asked["prior images"] * each[1]),
        "pictures by subjects' own fits": (asked["own images"] * each[0], PRIOR_REDRAWS * asked["own images"] * each[1]),
        "Grams": (asked["gram bytes"], asked["gram bytes"]),
        "other tables": (tables[0], tables[1]),
        "checkpoints while fits run": (0.0, max(sum(sizes[-workers:]) for sizes in beside)),
    }


def _sizes(run: Ready, workload: Workload, png: Rate | None) -> list[str]:
    """On disk; and in memory of a GPU the models of a worker, of those whose weights lie here."""
    parts = [f"{kind} {_between(*sizes)}" for kind, sizes in disk(run, workload, png).items() if sizes[1]]
    adapters = sorted({(task.trained, task.whole["adapter bytes"]) for task in workload.tasks("fit")})
    said = "; ".join(f"{numbers:,} parameters at once, {size:,} bytes" for numbers, size in adapters)
    lines = [f"disk        {', '.join(parts)}{'' if png else ' (PNG size not measured)'}", f"adapter     {said}"]
    if fused := [task.whole for task in workload.tasks("fit") if task.whole["grams"]]:
        each = "; ".join(f"{size:,} bytes" for size in sorted({whole["gram bytes"] // whole["grams"] for whole in fused}))
        lines.append(f"grams       of {sum(whole['grams'] for whole in fused)} subjects, each {each}, also in memory while they are fused")
    if run.config.cluster.workers.gpus:
        models = run.config.models
        names = {"backbone": models.backbone, "detector": models.detector, **models.embedders.chosen}
        sizes = {part: weights_bytes(name, "" if part == "backbone" else part) for part, name in names.items()}
        known = ", ".join(f"{part} {_size(size) if size else 'not here'}" for part, size in sizes.items())
        aside = f"on a card under {ROOM_FOR_BOTH / 2**30:.0f} GiB the scorers move to the CPU while a fit runs"
        lines.append(f"memory      {_size(sum(sizes.values()))} of weights a worker, as they are stored ({known}); {aside}")
    return lines


def _print_prices(console: Console, run: Ready, workload: Workload, prices: Sequence[Price]) -> None:
    workers, gpus = workers_at_once(run.config.cluster), run.config.cluster.workers.gpus > 0
    table = _table("what is left to do", "device", ("GPU-hours" if gpus else "core-hours", "wall-clock", "peak of a fit"))
    for price in prices:
        hours = "not calibrated" if price.hours is None else f"{price.hours[0]:.2f} to {price.hours[1]:.2f}"
        peak = "-" if price.fit_peak is None else f"{price.fit_peak / 2**30:.2f} GiB"
        table.add_row(price.device, hours, "not calibrated" if price.wall is None else duration(price.wall), peak)
    console.print(table)
    console.print(f"wall-clock with {workers} worker{'s' * (workers != 1)} on {'GPUs' if gpus else 'CPU cores'}")
    for price in prices:
        rest = f" and {len(price.lacking) - 3} more" if len(price.lacking) > 3 else ""
        if price.lacking:
            console.print(f"{price.device}: no rate of {'; '.join(price.lacking[:3])}{rest}; run: mudi plan RUN_FILE --calibrate")


def _between(low: float, high: float) -> str:
    return _size(high) if low == high else f"{_size(low)} to {_size(high)}" if low else f"at most {_size(high)}"


def _size(size: float) -> str:
    unit, name = next((u, n) for u, n in UNITS if size >= u or u == 1)
    return f"{size / unit:.3g} {name}"
