"""A plan in the terminal: what is counted, what is there, what it takes on disk and in memory, what it costs on each known device."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from mudi.adapter_size import FLOAT32
from mudi.model_facts import weights_bytes
from pipeline.cost.calibration import Rate
from pipeline.cost.count import LEFT_OUT, PRIORS, Counts, Task, Workload, total
from pipeline.cost.forecast import duration
from pipeline.cost.price import PRIOR_REDRAWS, Price, Range, cores_of, workers_at_once
from pipeline.ready import Ready
from pipeline.workers.loaded import ROOM_FOR_BOTH

# A heading that is no name of a count -> the count.
RENAMED = {"UNet rows forward": "forward"}
HEADINGS = ("fits", "steps", "examples", "UNet rows forward", "backward", "prior images", "images", "denoising steps")
NARROWEST = 120  # characters; a narrower terminal wraps lines rather than cutting numbers short
UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
# Parquet beside the PNGs, bytes. Chunks of 1, 4 and 10 pictures of the miniature's benchmark, two embedders, took 11.3 to 12.5 kB
# and 330 to 400 bytes a picture, 2.7 kB where a threshold of 0.05 finds many boxes; a metric added later 3.4 to 3.9 kB a chunk.
CHUNK_BYTES, PICTURE_BYTES, SCORES_BYTES = (11_000, 13_000), (250, 3_000), (2_500, 6_000)
# A checkpoint every so many steps, of the numbers and both of Adam's moments; two are kept while a third is written.
CHECKPOINT_EVERY, CHECKPOINTS, CHECKPOINT_COPIES = 200, 3, 3


def print_plan(run: Ready, workload: Workload, prices: Sequence[Price], png: Rate | None) -> None:
    """Counts, what is there, disk, memory, and a line for each device."""
    console = Console(width=max(NARROWEST, Console().width), soft_wrap=True, highlight=False)
    _print_counts(console, run.config.name, workload)
    for line in (*_lines(run, workload), *_sizes(run, workload, png), *_memory(run)):
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


def _print_counts(console: Console, name: str, workload: Workload) -> None:
    """A row a phase, or a row an arm where there are several; then the sum, and what is left of it."""
    counted = workload.tasks("priors", "fit", "draw")
    by_arm = len({task.owner for task in counted} - {PRIORS}) > 1
    named = [(task.owner if by_arm else phase.name, task) for phase in workload.phases for task in phase.tasks if task.stage != "judge"]
    table = _table(f"{name}: what is asked for", "arm" if by_arm else "phase", HEADINGS)
    for row in dict.fromkeys(row for row, _ in named):
        table.add_row(row, *_cells(total(task for place, task in named if place == row)))
    table.add_section()
    table.add_row("in all", *_cells(total(counted)))
    table.add_row("left to do", *_cells(total(counted, whole=False)))
    console.print(table)


def _cells(counts: Counts) -> list[str]:
    values = (counts[RENAMED.get(heading, heading)] for heading in HEADINGS)
    return [f"{value:,}" if value else "-" for value in values]


def _lines(run: Ready, workload: Workload) -> list[str]:
    lines, asked, left = [], total(workload.tasks()), total(workload.tasks(), whole=False)
    if run.absent:
        count = f"{len(run.absent)} of {len(run.config.combinations)} combination folders are not here (first {run.absent[0]})"
        lines.append(f"note        {count}: counted as the subjects that their prompts name, or two, without photos")
    if workload.architecture.assumed:
        lines.append(f"note        {run.config.models.backbone} is not here: sizes are those of SDXL base")
    there = [f"{asked[name] - left[name]:,} of {asked[name]:,} {name}" for name in ("images", "fits")]
    if begun := [task for task in workload.tasks("fit") if task.begun and not task.done]:
        steps = ", ".join(f"{task.whole['steps'] - task.left['steps']} of {task.whole['steps']} steps" for task in begun[:3])
        there.append(f"{len(begun)} begun ({steps})")
    if asked["scores"]:
        there.append(f"{asked['scores'] - left['scores']:,} of {asked['scores']:,} further scores of images")
    lines.append(f"there       {', '.join(there)}")
    if workload.shared:
        lines.append(f"shared      {workload.shared} cells use the adapter of another arm, which is counted once, with the first")
    if asked["prior images"]:
        most = f"drawn again where one does not, {sum(phase.most for phase in workload.phases):,} at most"
        lines.append(f"priors      {asked['prior images']:,} images if each shows its class; {most}")
    embedders = ", ".join(run.config.models.embedders.chosen)
    return [*lines, f"scorers     detect and compare ({embedders}): {asked['images']:,} images"]


def disk(run: Ready, workload: Workload, png: Rate | None) -> dict[str, Range]:
    """Bytes of a whole run by kind of file. Without a measured PNG the high end is that of raw pixels, and low is 0. Checkpoints are the
    most that lie there while fits run, as many at once as there are workers."""
    asked, chunks, workers = total(workload.tasks()), len(workload.tasks("draw")), workers_at_once(run.config.cluster)
    each = (png.low, png.high) if png else (0.0, 3.0 * workload.architecture.side**2)
    judged = asked["scores"] / max(1.0, asked["images"] / max(1, chunks))
    checkpoints = [sorted(map(_checkpoints, phase.tasks), reverse=True)[:workers] for phase in workload.phases]
    return {
        "images": (asked["images"] * each[0], asked["images"] * each[1]),
        "adapters": (asked["adapter bytes"], asked["adapter bytes"]),
        "class priors": (asked["prior images"] * each[0], PRIOR_REDRAWS * asked["prior images"] * each[1]),
        "pictures by subjects' own fits": (asked["own images"] * each[0], PRIOR_REDRAWS * asked["own images"] * each[1]),
        "Grams": (asked["gram bytes"], asked["gram bytes"]),
        "other tables": tuple(
            chunks * of_chunk + asked["images"] * of_picture + judged * of_scores
            for of_chunk, of_picture, of_scores in zip(CHUNK_BYTES, PICTURE_BYTES, SCORES_BYTES)
        ),
        "checkpoints while fits run": (0.0, max(map(sum, checkpoints), default=0)),
    }


def _checkpoints(task: Task) -> int:
    kept = max(0, min(CHECKPOINTS, (task.whole["steps"] - 1) // CHECKPOINT_EVERY))
    return kept * CHECKPOINT_COPIES * FLOAT32 * task.trained


def _sizes(run: Ready, workload: Workload, png: Rate | None) -> list[str]:
    parts = [f"{kind} {_between(low, high)}" for kind, (low, high) in disk(run, workload, png).items() if high]
    sizes = sorted({(task.trained, task.whole["adapter bytes"]) for task in workload.tasks("fit")})
    adapters = "; ".join(f"{numbers:,} parameters at once, {size:,} bytes" for numbers, size in sizes)
    lines = [f"disk        {', '.join(parts)}{'' if png else ' (PNG size not measured)'}", f"adapter     {adapters}"]
    if subjects := total(workload.tasks("fit"))["grams"]:
        each = {task.whole["gram bytes"] // task.whole["grams"] for task in workload.tasks("fit") if task.whole["grams"]}
        said = "; ".join(f"{size:,} bytes" for size in sorted(each))
        lines.append(f"grams       of {subjects} subject{'s' * (subjects != 1)}, each {said}, also in memory while they are fused")
    return lines


def _memory(run: Ready) -> list[str]:
    """How much memory a worker's models take on a GPU, of those whose weights lie here."""
    if not run.config.cluster.workers.gpus:
        return []
    models = run.config.models
    names = {"backbone": models.backbone, "detector": models.detector, **models.embedders.chosen}
    sizes = {part: weights_bytes(name, "" if part == "backbone" else part) for part, name in names.items()}
    known = ", ".join(f"{part} {_size(size) if size else 'not here'}" for part, size in sizes.items())
    aside = f"on a card under {ROOM_FOR_BOTH / 2**30:.0f} GiB the scorers move to the CPU while a fit runs"
    return [f"memory      a worker's models need {_size(sum(sizes.values()))} as they are stored ({known}); {aside}"]


def _print_prices(console: Console, run: Ready, workload: Workload, prices: Sequence[Price]) -> None:
    cluster, workers = run.config.cluster, workers_at_once(run.config.cluster)
    gpus = cluster.workers.gpus > 0
    table = _table("what is left to do", "device", ("GPU-hours" if gpus else "core-hours", "wall-clock", "peak of a fit"))
    for price in prices:
        hours = "not calibrated" if price.hours is None else f"{price.hours[0]:.2f} to {price.hours[1]:.2f}"
        peak = "-" if price.fit_peak is None else f"{price.fit_peak / 2**30:.2f} GiB"
        table.add_row(price.device, hours, "not calibrated" if price.wall is None else duration(price.wall), peak)
    console.print(table)
    console.print(f"wall-clock with {workers} worker{'s' * (workers != 1)} on {'GPUs' if gpus else f'{cores_of(cluster)} cores'}")
    for price in prices:
        if price.lacking:
            rest = f" and {len(price.lacking) - 3} more" if len(price.lacking) > 3 else ""
            console.print(f"{price.device}: no rate of {'; '.join(price.lacking[:3])}{rest}; run: mudi plan RUN_FILE --calibrate")
    if total(workload.tasks("priors"), whole=False):
        console.print(f"high ends count {PRIOR_REDRAWS:g} drawn pictures a class prior")


def _between(low: float, high: float) -> str:
    return _size(high) if low == high else f"{_size(low)} to {_size(high)}" if low else f"at most {_size(high)}"


def _size(size: float) -> str:
    unit, name = next((u, n) for u, n in UNITS if size >= u or u == 1)
    return f"{size / unit:.3g} {name}"
