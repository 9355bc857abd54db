"""Numbers as text: tables for a terminal, and those of a benchmark also as Markdown."""

from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from pipeline.report.records import Benchmark, Cell, Claim, Cost, Table, Validity
from pipeline.report.statistics import show

NARROWEST = 120  # characters; a narrower terminal wraps lines rather than cutting numbers short
PAPER = "paper, other models"
FEW = 6
ARROWS = {True: "↑", False: "↓"}

Row = dict[str, str]
# A title, and rows of one form: heading -> text.
Grid = tuple[str, list[Row]]


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
    for title, rows in _grids(benchmark):
        lines = [rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)]
        parts.append(f"### {title}\n\n" + "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines))
    return "\n\n".join(parts) + "\n"


def print_tables(benchmark: Benchmark, console: Console | None = None) -> None:
    """Prints the tables and gaps to a terminal; a table that is too wide for it goes on below with its next columns."""
    console = console or wide_console()
    for title, rows in _grids(benchmark):
        for number, headings in enumerate(_pages(rows, console.width)):
            table = bare_table(title if number == 0 else f"{title}, continued")
            for place, heading in enumerate(headings):
                table.add_column(escape(heading), justify="left" if place == 0 else "right", overflow="fold")
            for row in rows:
                table.add_row(*(escape(row[heading]) for heading in headings))
            console.print(table)
    for line in benchmark.missing:
        console.print(f"missing: {line}", markup=False, highlight=False)


def _pages(rows: list[Row], width: int) -> list[list[str]]:
    """The headings of each page: as many as fit, the first on every page. Headings may wrap, numbers not.

    A table of few columns is one page: its words can wrap.
    """
    first, *others = rows[0]
    if len(others) < FEW:
        return [[first, *others]]
    widths = {heading: max(len(text) for text in (*heading.split(" "), *(row[heading] for row in rows))) + 2 for heading in rows[0]}
    pages, room = [[first]], width - widths[first]
    for heading in others:
        if widths[heading] > room and len(pages[-1]) > 1:
            pages.append([first])
            room = width - widths[first]
        pages[-1].append(heading)
        room -= widths[heading]
    return pages


def _grids(benchmark: Benchmark) -> list[Grid]:
    grids = [
        *((f"{table.title}, mean and 95 % interval", _scores(table, benchmark.metrics)) for table in benchmark.tables),
        ("Claims", list(map(_claim, benchmark.claims))),
        ("Each score against the oracle's success", list(map(_validity, benchmark.validity))),
        ("Costs", list(map(_cost, benchmark.costs))),
    ]
    return [(title, rows) for title, rows in grids if rows]


def _scores(table: Table, metrics: Mapping[str, bool]) -> list[Row]:
    cells = {(cell.method, cell.metric): cell for cell in table.cells}
    published = [metric for metric in table.metrics if any(cells[method, metric].published is not None for method in table.methods)]
    return [
        {"method": method}
        | {f"{metric} {ARROWS[metrics.get(metric, True)]}": _cell(cells[method, metric]) for metric in table.metrics}
        | {f"{metric} ({PAPER})": show(cells[method, metric].published) for metric in published}
        for method in table.methods
    ]


def _cell(cell: Cell) -> str:
    if cell.estimate is None:
        return "missing" if cell.missing or cell.per_combination else "-"
    return show(cell.estimate) + (f" ({cell.missing} missing)" if cell.missing else "")


def _claim(claim: Claim) -> Row:
    above = sum(value > -claim.margin for value in claim.per_combination.values())
    return {
        "claim": claim.text,
        "verdict": claim.verdict,
        "difference (positive speaks for the claim)": f"{claim.better} - {claim.worse}, {claim.metric}"
        + (f", above -{claim.margin:g}" if claim.margin else ""),
        "mean and 95 % interval": show(claim.estimate, sign=True),
        "combinations for it": f"{above} of {len(claim.per_combination)}",
    }


def _validity(row: Validity) -> Row:
    return {
        "score": row.metric,
        "images": str(row.images),
        "Spearman": show(row.spearman),
        "AUROC": show(row.auroc),
        f"Spearman ({PAPER}, people)": show(row.published_spearman),
        f"AUROC ({PAPER}, people)": show(row.published_auroc),
    }


def _cost(cost: Cost) -> Row:
    return {
        "method": cost.method,
        "fits": str(cost.fits),
        "seconds a fit": _number(cost.fit_seconds, ".1f"),
        "images": str(cost.images),
        "seconds an image": _number(cost.seconds_per_image, ".3f"),
        "trained parameters": _number(cost.parameters, ","),
        "kilobytes a subject, float32": _number(cost.payload_bytes and cost.payload_bytes / 1000, ",.1f"),
        "fit's memory, GB": _number(cost.peak_bytes and cost.peak_bytes / 1e9, ".2f"),
    }


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
