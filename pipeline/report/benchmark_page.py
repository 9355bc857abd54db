"""A benchmark as one HTML file that works offline: tables like the paper's, claims with verdicts, judges, pictures, costs.

The page is built from the run's tables alone, without models, so it can be written on a laptop and during a run.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from pipeline.report import charts
from pipeline.report.pictures import BUDGET, SEEDS, picture_grids
from pipeline.report.records import Benchmark, Cell, Claim, Table
from pipeline.tables import store
from pipeline.tables.journal import publish
from pipeline.tables.run_folder import read_run
from pipeline.templates.page import page

PAPER_BACKBONES = ("stable-diffusion-xl-base-1.0", "sdxl-base-1.0")
# Short title and meaning; a metric that is not here is shown by its own name.
TITLES = {
    "count_correct": ("right count", "share of images in which as many subjects are detected as were asked for"),
    "dnc_linear_dreamsim": ("D&C, DreamSim", "Detect-and-Compare (the paper's): does each detected subject resemble itself and no other"),
    "dnc_linear_dinov2": ("D&C, DINOv2", "the same, compared by DINOv2"),
    "dnc_max_dreamsim": ("D&C max, DreamSim", "the paper's “Max”: each subject's best resemblance, blind to one subject drawn twice"),
    "dnc_max_dinov2": ("D&C max, DINOv2", "the same, compared by DINOv2"),
    "dnc_gt_dreamsim": ("D&C against photos, DreamSim", "the released demo's form: are the subjects as alike as their photos are"),
    "dnc_gt_dinov2": ("D&C against photos, DINOv2", "the same, compared by DINOv2"),
    "dnc_assigned_dreamsim": ("D&C assigned, DreamSim", "D&C against photos, boxes given to subjects by the best assignment"),
    "dnc_surest_dreamsim": ("D&C surest, DreamSim", "D&C of the surest boxes; a wrong number of them costs its share, not everything"),
    "masked_dnc_linear_dreamsim": ("D&C masked, DreamSim", "D&C of subjects cut out of boxes and photos"),
    "mimr_dreamsim": ("MIMR, DreamSim", "UMO's matching reward: resemblance to the own subject above that to others, any number of boxes"),
    "id_conf_dreamsim": ("ID-Conf, DreamSim", "UMO's confidence: how far each subject's best box is above its second"),
    "collapse_dreamsim": ("collapse, DreamSim", "share of images in which some subject is the nearest of no box"),
    "interference_dreamsim": ("interference, DreamSim", "how much more each box resembles the other subjects than their photos do"),
    "degradation_dreamsim": ("degradation, DreamSim", "how much less each box resembles its subject than the photos do"),
    "fitted": ("all scores, fitted", "a logistic regression of all scores, judged on combinations that it was not fitted on"),
    "image_dreamsim": ("whole image, DreamSim", "mean resemblance of the whole image to all photos, no detection"),
    "image_dinov2": ("whole image, DINOv2", "the same, compared by DINOv2"),
    "clip_text": ("CLIP text", "agreement of image and prompt, averaged over the orders of the subjects"),
    "image_reward": ("ImageReward", "learned human preference for image and prompt, averaged over the orders of the subjects"),
    "oracle_success": ("oracle: success", "share of images in which both subjects are there with every attribute right"),
    "oracle_identity": ("oracle: identity", "mean probability of the right attributes; 0 for a wrong number of subjects"),
    "oracle_place": ("oracle: place", "share of images in the place that the prompt asks for"),
    "drift": ("drift", "mean squared change of the predicted noise against the adapter a refit began with"),
}


def write_benchmark_report(run_dir: Path, result: Benchmark) -> Path:
    """Writes report.html into the benchmark's folder and returns its path; the same tables give the same bytes.

    If the page's budget demands it, pictures are reduced and seeds left out, and the page says so.
    """
    return publish(run_dir, "report.html", benchmark_page(run_dir, result).encode())


def benchmark_page(run_dir: Path, result: Benchmark, budget: int = BUDGET) -> str:
    """The page that shows `result` with pictures from the run's tables, as many as `budget` bytes hold."""
    content = _content(run_dir, result, budget)
    return page("benchmark.html.j2", content, number=number, title=_title, breakable=_breakable, seconds=_seconds)


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """ "0.412", with a true minus sign, or "–" for None."""
    return "–" if value is None else format(value, f"{'+' if sign else ''}.{digits}f").replace("-", "−")


def decimals(values: Sequence[float]) -> int:
    """3; more if the largest value is small, so that three digits of it show: 5 for 0.00412; at most 8."""
    largest = max((abs(value) for value in values), default=1.0)
    return 3 if largest >= 0.05 or largest == 0 else min(8, 2 - math.floor(math.log10(largest)))


def _content(run_dir: Path, result: Benchmark, budget: int) -> dict[str, Any]:
    facts = read_run(run_dir)
    config = facts["config"]
    backbone = str(config.get("models", {}).get("backbone", "not recorded"))
    metrics = dict.fromkeys([metric for table in result.tables for metric in table.metrics] + list(result.metrics))
    of_images = [metric for metric in metrics if metric != "drift"]
    metric = of_images[0] if of_images else "dnc_linear_dreamsim"
    # From the best, those without an AUROC last.
    judges = sorted(result.validity, key=lambda row: (row.auroc is None, -row.auroc.mean if row.auroc else 0.0))
    ranked = [(_title(row.metric), row.auroc, ()) for row in judges if row.auroc]
    return {
        "facts": facts,
        "benchmark": result,
        "backbone": backbone,
        "papers_backbone": backbone.split("@")[0].rstrip("/").endswith(PAPER_BACKBONES),
        "config": json.dumps(config, indent=2),
        "tables": [_table(table, result) for table in result.tables],
        "claims": _claims(result),
        "verdicts": {verdict: sum(claim.verdict == verdict for claim in result.claims) for verdict in _VERDICTS},
        "signs": _VERDICTS,
        "validity": judges,
        "auroc": charts.dots(ranked, "AUROC", guide=0.5) if ranked else None,
        "grids": picture_grids(run_dir, result.methods, result.combinations, facts["subjects"], metric, budget),
        "metric": metric,
        "seeds": SEEDS,
        "megabytes": f"{budget / 1e6:g}",
        "shared": _shared(run_dir),
        "glossary": [(name, *TITLES[name], _higher(result.metrics, name)) for name in metrics if name in TITLES],
    }


_VERDICTS = {"holds": "✓", "fails": "✗", "undecided": "?", "missing": "–"}


def _table(table: Table, result: Benchmark) -> dict[str, Any]:
    cells = {(cell.method, cell.metric): cell for cell in table.cells}
    columns = [_column(metric, [cells[method, metric] for method in table.methods], result.metrics) for metric in table.metrics]
    first = [cells[method, table.metrics[0]] for method in table.methods]
    rows = [(cell.method, cell.estimate, list(cell.per_combination.values())) for cell in first]
    return {
        "table": table,
        "columns": columns,
        "cells": cells,
        "plot": charts.dots(rows, _title(table.metrics[0])) if any(cell.estimate for cell in first) else None,
        "per_combination": [
            (cell.method, [(cell.per_combination.get(key), cell.rates.get(key)) for key in result.combinations]) for cell in first
        ],
    }


def _column(metric: str, cells: Sequence[Cell], directions: Mapping[str, bool]) -> dict[str, Any]:
    means = [cell.estimate.mean for cell in cells if cell.estimate]
    higher = _higher(directions, metric)
    # The best of an incomplete field may not be the best.
    best = (max if higher else min)(means) if len(means) == len(cells) > 1 else None
    published = any(cell.published is not None for cell in cells)
    return {"metric": metric, "higher": higher, "digits": decimals(means), "best": best, "published": published}


def _higher(directions: Mapping[str, bool], metric: str) -> bool:
    """Whether higher is better; drift comes from the fits, and a score that no metric declares has no values."""
    return {"drift": False, **directions}.get(metric, True)


def _claims(result: Benchmark) -> list[tuple[Claim, int, Markup | None]]:
    """Each claim with its decimals and its strip; claims about one metric share an axis."""
    limits = {metric: _limits([claim for claim in result.claims if claim.metric == metric]) for metric in {c.metric for c in result.claims}}
    shown = []
    for claim in result.claims:
        estimate, points = claim.estimate, list(claim.per_combination.values())
        strip = charts.difference_strip(estimate, points, limits[claim.metric], -claim.margin) if estimate else None
        shown.append((claim, decimals(_ends(claim)), strip))
    return shown


def _ends(claim: Claim) -> list[float]:
    """Every value that a claim's strip must show."""
    estimate = claim.estimate
    interval = [value for value in (estimate.mean, estimate.low, estimate.high) if value is not None] if estimate else []
    return [*claim.per_combination.values(), *interval]


def _limits(claims: Sequence[Claim]) -> tuple[float, float]:
    values = [0.0, *(-claim.margin for claim in claims), *(value for claim in claims for value in _ends(claim))]
    room = 0.06 * (max(values) - min(values)) or 1.0
    return min(values) - room, max(values) + room


def _shared(run_dir: Path) -> dict[str, str]:
    """method -> the methods whose adapters it uses, for methods without fits of their own."""
    fits = store.read(run_dir, "fits", columns=["method", "shared_with"]).to_pandas().dropna(subset=["shared_with"])
    return {method: ", ".join(sorted(set(group["shared_with"]))) for method, group in fits.groupby("method")}


def _title(metric: str) -> str:
    return TITLES[metric][0] if metric in TITLES else metric


def _breakable(label: str) -> Markup:
    """A label that may wrap after its underscores."""
    return Markup(str(escape(label)).replace("_", "_<wbr>"))


def _seconds(value: float | None) -> str:
    """ "0.42", "7.3", "123", or "–" for None."""
    return "–" if value is None else format(value, ".2f" if value < 1 else ".1f" if value < 100 else ",.0f")
