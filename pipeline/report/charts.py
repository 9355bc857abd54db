"""Charts of a report as inline SVG that takes the page's text colour, in light and in dark."""

import io
import re
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.statistics import Estimate
from pipeline.report.summary import RoundRow

INK = "#010203"
ACCENT = "#2f7ebc"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


def trend(rows: Sequence[RoundRow], label: str) -> Markup:
    """The mean score of each round with its interval; thin lines are single combinations."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(4.2, 3.1)
        for combination in sorted({row.combination for row in rows if row.combination}):
            points = [(row.round, row.score.mean) for row in rows if row.combination == combination and row.score]
            axes.plot(*zip(*points, strict=True), color=INK, alpha=0.3, linewidth=1, marker="o", markersize=2.5)
        overall = [(row.round, row.score) for row in rows if row.combination is None and row.score]
        rounds, means = [round for round, _ in overall], [score.mean for _, score in overall]
        below, above = zip(*(_reach(score) for _, score in overall), strict=True)
        axes.errorbar(rounds, means, yerr=[below, above], color=ACCENT, linewidth=2, marker="o", markersize=6, capsize=4)
        axes.set_xticks(rounds)
        axes.margins(x=0.15)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.set_xlabel("round")
        axes.set_ylabel(label)
        return _svg(figure)


def histogram(values: np.ndarray, edges: np.ndarray, tallest: int, label: str, mean: float) -> Markup:
    """The candidates of a round by score; all rounds share `edges` and `tallest`."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(3.4, 2.1)
        axes.hist(values, bins=edges, color=ACCENT, alpha=0.75)
        axes.axvline(mean, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, tallest * 1.08)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel(label)
        axes.set_ylabel("candidates")
        return _svg(figure)


def dots(rows: Sequence[tuple[str, Estimate | None, Sequence[float]]], label: str, guide: float | None = None) -> Markup:
    """Each row from the top: its name, its mean with the interval, and above it its single combinations as small dots.

    A row without a mean says so instead; a dashed line stands at `guide`, such as the value of pure chance.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _figure(6.6, 0.75 + 0.32 * len(rows), grid="x")
        for y, (_, mean, points) in enumerate(rows):
            if mean is None:
                axes.text(0.01, y, "no complete value", va="center", fontstyle="italic", alpha=0.7, transform=axes.get_yaxis_transform())
                continue
            axes.plot(points, [y - 0.26] * len(points), color=INK, alpha=0.5, linestyle="none", marker="o", markersize=4, markeredgewidth=0)
            _interval(axes, mean, y)
        if guide is not None:
            axes.axvline(guide, color=INK, linewidth=1, linestyle=(0, (4, 2)), alpha=0.7)
        # Names come from run files: a dollar sign in one is no mathematics.
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], parse_math=False)
        axes.set_ylim(len(rows) - 0.5, -0.7)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(label, parse_math=False)
        return _svg(figure)


def difference_strip(difference: Estimate, points: Sequence[float], limits: tuple[float, float], guide: float) -> Markup:
    """A paired difference with its interval below the single combinations' differences.

    The full line is zero; `guide` is the dashed line that a claim must stay above, drawn if it is not zero itself.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _figure(3.6, 0.85, grid="x")
        axes.axvline(0, color=INK, linewidth=1)
        if guide:
            axes.axvline(guide, color=INK, linewidth=1, linestyle=(0, (3, 2)))
        axes.plot(points, [1] * len(points), color=INK, alpha=0.5, linestyle="none", marker="o", markersize=4.5, markeredgewidth=0)
        _interval(axes, difference, 0)
        axes.set_ylim(-0.8, 1.8)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlim(limits)
        axes.xaxis.get_major_locator().set_params(nbins=5)
        return _svg(figure)


def _interval(axes: Axes, mean: Estimate, y: float) -> None:
    below, above = _reach(mean)
    axes.errorbar([mean.mean], [y], xerr=[[below], [above]], color=ACCENT, linewidth=2, marker="o", markersize=6, capsize=3)


def _figure(width: float, height: float, grid: str = "y") -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(axis=grid, color=INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _reach(score: Estimate) -> tuple[float, float]:
    return (0.0, 0.0) if score.low is None else (score.mean - score.low, score.high - score.mean)


def _svg(figure: Figure) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return Markup(text.replace(INK, "currentColor"))
