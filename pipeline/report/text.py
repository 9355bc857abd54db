"""Numbers as text: tables for a terminal, and those of a benchmark also as Markdown."""

from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from pipeline.report.records import Benchmark, Cell, Table
from pipeline.report.statistics import show

NARROWEST = 120  # characters; a narrower terminal wraps lines rather than cutting numbers short
PAPER = "paper, other models"
FEW = 6
ARROWS = {True: "↑", False: "↓"}

Grid = tuple[str, list[str], list[list[str]]]


def wide_console() -> Console:
    return Console(width=max(NARROWEST, Console().width))


def bare_table(title: str) -> RichTable:
    """A table without frames, whose title is shown letter by letter."""
    return RichTable(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def markdown(benchmark: Benchmark) -> str:
    """Gaps first, then every table, the claims with their verdicts, validity and costs as Markdown.

    Means are followed by 95 % intervals. The paper's numbers have columns of their own.
    """
    parts = []
    if benchmark.missing:
        parts.append("**Not complete:**\n\n" + "\n".join(f"- {line}" for line in benchmark.missing))
    for title, headings, rows in _grids(benchmark):
        lines = [headings, ["---"] * len(headings), *rows]
        parts.append(f"### {title}\n\n" + "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines))
    return "\n\n".join(parts) + "\n"


def print_tables(benchmark: Benchmark, console: Console | None = None) -> None:
    """Prints the tables and gaps to a terminal; a table that is too wide for it goes on below with its next columns."""
    console = console or wide_console()
    for title, headings, rows in _grids(benchmark):
        for number, columns in enumerate(_pages(headings, rows, console.width)):
            table = bare_table(title if number == 0 else f"{title}, continued")
            for column in columns:
                table.add_column(escape(headings[column]), justify="left" if column == 0 else "right", overflow="fold")
            for row in rows:
                table.add_row(*(escape(row[column]) for column in columns))
            console.print(table)
    for line in benchmark.missing:
        console.print(f"missing: {line}", markup=False, highlight=False)


def _pages(headings: list[str], rows: list[list[str]], width: int) -> list[list[int]]:
    """The columns of each page: as many as fit, the first column on every page. Headings may wrap, numbers not.

    A table of few columns is one page: its words can wrap.
    """
    if len(headings) <= FEW:
        return [list(range(len(headings)))]
    widths = [max([len(row[i]) for row in rows] + [max(map(len, heading.split(" ")))]) + 2 for i, heading in enumerate(headings)]
    pages, room = [[0]], width - widths[0]
    for column in range(1, len(headings)):
        if widths[column] > room and len(pages[-1]) > 1:
            pages.append([0])
            room = width - widths[0]
        pages[-1].append(column)
        room -= widths[column]
    return pages


def _grids(benchmark: Benchmark) -> list[Grid]:
    grids = [_scores(table, benchmark.metrics) for table in benchmark.tables]
    if benchmark.claims:
        grids.append(_claims(benchmark))
    if benchmark.validity:
        grids.append(_validity(benchmark))
    return [*grids, _costs(benchmark)]


def _scores(table: Table, metrics: Mapping[str, bool]) -> Grid:
    cells = {(cell.method, cell.metric): cell for cell in table.cells}
    published = [metric for metric in table.metrics if any(cells[method, metric].published is not None for method in table.methods)]
    headings = ["method", *(f"{metric} {ARROWS[metrics.get(metric, True)]}" for metric in table.metrics)]
    headings += [f"{metric} ({PAPER})" for metric in published]
    rows = []
    for method in table.methods:
        ours = [_cell(cells[method, metric]) for metric in table.metrics]
        rows.append([method, *ours, *(show(cells[method, metric].published) for metric in published)])
    return f"{table.title}, mean and 95 % interval", headings, rows


def _cell(cell: Cell) -> str:
    if cell.estimate is None:
        return "missing" if cell.missing or cell.per_combination else "-"
    return show(cell.estimate) + (f" ({cell.missing} missing)" if cell.missing else "")


def _claims(benchmark: Benchmark) -> Grid:
    rows = []
    for claim in benchmark.claims:
        above, points = sum(value > -claim.margin for value in claim.per_combination.values()), len(claim.per_combination)
        asked = f"{claim.better} - {claim.worse}, {claim.metric}" + (f", above -{claim.margin:g}" if claim.margin else "")
        rows.append([claim.text, claim.verdict, asked, show(claim.estimate, sign=True), f"{above} of {points}"])
    return (
        "Claims",
        ["claim", "verdict", "difference (positive speaks for the claim)", "mean and 95 % interval", "combinations for it"],
        rows,
    )


def _validity(benchmark: Benchmark) -> Grid:
    headings = ["score", "images", "Spearman", "AUROC", f"Spearman ({PAPER}, people)", f"AUROC ({PAPER}, people)"]
    rows = [
        [v.metric, str(v.images), show(v.spearman), show(v.auroc), show(v.published_spearman), show(v.published_auroc)]
        for v in benchmark.validity
    ]
    return "Each score against the oracle's success", headings, rows


def _costs(benchmark: Benchmark) -> Grid:
    headings = [
        "method",
        "fits",
        "seconds a fit",
        "images",
        "seconds an image",
        "trained parameters",
        "kilobytes a subject, float32",
        "fit's memory, GB",
    ]
    rows = [
        [
            cost.method,
            str(cost.fits),
            _number(cost.fit_seconds, ".1f"),
            str(cost.images),
            _number(cost.seconds_per_image, ".3f"),
            _number(cost.parameters, ","),
            _number(cost.payload_bytes and cost.payload_bytes / 1000, ",.1f"),
            _number(cost.peak_bytes and cost.peak_bytes / 1e9, ".2f"),
        ]
        for cost in benchmark.costs
    ]
    return "Costs", headings, rows


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
