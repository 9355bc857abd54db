"""A plan in the terminal: what is counted, what is there, what it takes on disk and in memory, what it costs on each known device."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from mudi.model_facts import BACKBONE, local_folder
from pipeline.cost.calibration import Rate
from pipeline.cost.count import LEFT_OUT, PRIORS, Counts, Workload, total
from pipeline.cost.forecast import duration
from pipeline.cost.price import PRIOR_REDRAWS, Price, Range, cores_of, workers_at_once
from pipeline.ready import Ready
from pipeline.workers.loaded import ROOM_FOR_BOTH

HEADINGS = {
    "fits": "fits", "steps": "steps", "examples": "examples", "forward": "UNet rows forward", "backward": "backward",
    "prior_pictures": "prior images", "pictures": "images", "denoising_steps": "denoising steps",
}  # fmt: skip
NARROWEST = 120  # characters; a narrower terminal wraps lines rather than cutting numbers short
UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
# Parquet beside the PNGs, bytes. Chunks of 1, 4 and 10 pictures of the miniature's benchmark, two embedders, took 11.3 to 12.5 kB
# and 330 to 400 bytes a picture, 2.7 kB where a threshold of 0.05 finds many boxes; a metric added later 3.4 to 3.9 kB a chunk.
CHUNK_BYTES, PICTURE_BYTES, SCORES_BYTES = (11_000, 13_000), (250, 3_000), (2_500, 6_000)


def print_plan(run: Ready, workload: Workload, prices: Sequence[Price], png: Rate | None) -> None:
    """Counts, what is there, disk, memory, and a line for each device."""
    console = Console(width=max(NARROWEST, Console().width))
    _print_counts(console, run.config.name, workload)
    for line in (*_lines(run, workload, png), *_memory(run)):
        console.print(line, soft_wrap=True, highlight=False)
    if prices:
        _print_prices(console, run, workload, prices)
    else:
        console.print("times       not calibrated on any device; run: mudi plan RUN_FILE --calibrate", highlight=False)
    console.print(f"left out    {LEFT_OUT}", soft_wrap=True, highlight=False)


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
    rows: dict[str, Counts] = {}
    for phase in workload.phases:
        for task in phase.tasks if phase.tasks[0].stage != "judge" else ():
            place = task.owner if by_arm else phase.name
            rows[place] = rows.get(place, Counts()) + task.whole
    table = _table(f"{name}: what is asked for", "arm" if by_arm else "phase", list(HEADINGS.values()))
    for place, counts in rows.items():
        table.add_row(place, *_cells(counts))
    table.add_section()
    table.add_row("in all", *_cells(total(counted)))
    table.add_row("left to do", *_cells(total(counted, whole=False)))
    console.print(table)


def _cells(counts: Counts) -> list[str]:
    return [f"{getattr(counts, name):,}" if getattr(counts, name) else "-" for name in HEADINGS]


def _lines(run: Ready, workload: Workload, png: Rate | None) -> list[str]:
    lines, asked, left = [], total(workload.tasks()), total(workload.tasks(), whole=False)
    if run.absent:
        count = f"{len(run.absent)} of {len(run.config.combinations)} combination folders"
        counted = "counted as the subjects that their prompts name, or two, without photos"
        lines.append(f"note        {count} are not here (first {run.absent[0]}): {counted}")
    if workload.architecture.assumed:
        lines.append(f"note        {run.config.models.backbone} is not here: sizes are those of SDXL base")
    lines.append(f"there       {_there(workload, asked, left)}")
    if workload.shared:
        lines.append(f"shared      {workload.shared} cells use the adapter of another arm, which is counted once, with the first")
    if asked.prior_pictures:
        most = sum(phase.most for phase in workload.phases)
        lines.append(
            f"priors      {asked.prior_pictures:,} images if each shows its class; drawn again where one does not, {most:,} at most"
        )
    judged = f"; further scores: {asked.scores:,}" if asked.scores else ""
    lines.append(f"scorers     detect and compare ({', '.join(run.config.models.embedders.chosen)}): {asked.pictures:,} images{judged}")
    return [*lines, *_disk_lines(run, workload, png)]


def _there(workload: Workload, asked: Counts, left: Counts) -> str:
    parts = [f"{getattr(asked, name) - getattr(left, name):,} of {getattr(asked, name):,} {said}" for name, said in (
        ("pictures", "images"), ("fits", "fits"), ("scores", "further scores of images"),
    ) if name != "scores" or asked.scores]  # fmt: skip
    if begun := [task for task in workload.tasks("fit") if task.begun and not task.done]:
        parts.append(f"{len(begun)} fits begun ({', '.join(f'{task.left.steps} of {task.whole.steps} steps left' for task in begun[:3])})")
    return ", ".join(parts)


def disk(run: Ready, workload: Workload, png: Rate | None) -> dict[str, Range]:
    """Bytes of a whole run by kind of file. Without a measured PNG the high end is that of raw pixels, and low is 0. Checkpoints are the
    most that lie there while fits run, as many at once as there are workers."""
    asked, fits, workers = total(workload.tasks()), workload.tasks("fit"), workers_at_once(run.config.cluster)
    each = (png.low, png.high) if png else (0.0, 3.0 * workload.architecture.side**2)
    chunks, judged = len(workload.tasks("draw")), len(workload.tasks("judge")) * max(1, len(getattr(run.config, "metrics", ())) - 1)
    tables = zip(CHUNK_BYTES, PICTURE_BYTES, SCORES_BYTES)
    of_phases = [sorted((task.sizes.checkpoints for task in phase.tasks), reverse=True) for phase in workload.phases]
    adapters, grams = sum(fit.sizes.adapter for fit in fits), sum(fit.sizes.grams * fit.sizes.gram for fit in fits)
    checkpoints, own = max((sum(sizes[:workers]) for sizes in of_phases), default=0), sum(fit.sizes.drawn for fit in fits)
    return {
        "images": (asked.pictures * each[0], asked.pictures * each[1]),
        "adapters": (adapters, adapters),
        "class priors": (asked.prior_pictures * each[0], PRIOR_REDRAWS * asked.prior_pictures * each[1]),
        "pictures by subjects' own fits": (own * each[0], PRIOR_REDRAWS * own * each[1]),
        "Grams": (grams, grams),
        "other tables": tuple(chunks * of[0] + asked.pictures * of[1] + judged * of[2] for of in tables),
        "checkpoints": (0.0, checkpoints),
    }  # fmt: skip


def _disk_lines(run: Ready, workload: Workload, png: Rate | None) -> list[str]:
    parts = []
    for kind, (low, high) in disk(run, workload, png).items():
        if high:
            said = _size(high) if low == high else f"{_size(low)} to {_size(high)}" if low else f"at most {_size(high)}"
            parts.append(f"{kind} {said}")
    lines = [f"disk        {', '.join(parts)}{'' if png else ' (PNG size not measured)'}"]
    fits = workload.tasks("fit")
    sizes = sorted({(fit.sizes.trained, fit.sizes.adapter) for fit in fits})
    lines.append(f"adapter     {'; '.join(f'{numbers:,} parameters trained, {size:,} bytes' for numbers, size in sizes)}")
    if subjects := sum(fit.sizes.grams for fit in fits):
        each = "; ".join(f"{size:,} bytes" for size in sorted({fit.sizes.gram for fit in fits if fit.sizes.grams}))
        lines.append(f"grams       of {subjects} subject{'s' * (subjects != 1)}, each {each}, also in memory while they are fused")
    return lines


def _memory(run: Ready) -> list[str]:
    """How much memory a worker's models take on a GPU, of those whose weights lie here."""
    if not run.config.cluster.workers.gpus:
        return []
    models = run.config.models
    names = {"backbone": models.backbone, "detector": models.detector, **models.embedders.chosen}
    sizes = {part: weights_bytes(name, "" if part == "backbone" else part) for part, name in names.items()}
    known = ", ".join(f"{part} {_size(size)}" if size else f"{part} not here" for part, size in sizes.items())
    aside = f"on a card under {ROOM_FOR_BOTH / 2**30:.0f} GiB the scorers move to the CPU while a fit runs"
    return [f"memory      a worker's models need {_size(sum(sizes.values()))} as they are stored ({known}); {aside}"]


def weights_bytes(name: str, part: str) -> int:
    """The bytes of the weights of a model that lies here; 0 of one that does not."""
    folder = local_folder(name, part)
    roots = [folder / place for place in BACKBONE] if part == "" else [folder]
    return sum(path.stat().st_size for root in roots for path in root.rglob("*.safetensors"))


def _print_prices(console: Console, run: Ready, workload: Workload, prices: Sequence[Price]) -> None:
    slot = run.config.cluster.workers
    table = _table("what is left to do", "device", ("GPU-hours" if slot.gpus else "core-hours", "wall-clock", "peak of a fit"))
    for price in prices:
        hours = "not calibrated" if price.hours is None else f"{price.hours[0]:.2f} to {price.hours[1]:.2f}"
        peak = "-" if price.fit_peak is None else f"{price.fit_peak / 2**30:.2f} GiB"
        table.add_row(price.device, hours, "not calibrated" if price.wall is None else duration(price.wall), peak)
    console.print(table)
    workers = workers_at_once(run.config.cluster)
    where = "on GPUs" if slot.gpus else f"on {cores_of(run.config.cluster)} cores"
    console.print(f"wall-clock with {workers} worker{'s' * (workers != 1)} {where}", highlight=False)
    for price in prices:
        if price.lacking:
            rest = f" and {len(price.lacking) - 3} more" if len(price.lacking) > 3 else ""
            names = "; ".join(price.lacking[:3])
            console.print(f"{price.device}: no rate of {names}{rest}; run: mudi plan RUN_FILE --calibrate", soft_wrap=True, highlight=False)
    if total(workload.tasks("priors"), whole=False).prior_pictures:
        console.print(f"high ends count {PRIOR_REDRAWS:g} drawn pictures a class prior", highlight=False)


def _size(size: float) -> str:
    unit, name = next((u, n) for u, n in UNITS if size >= u or u == 1)
    return f"{size / unit:.3g} {name}"
