"""A self-training run as one HTML file that works offline: its rounds in numbers and in pictures.

The page is built from the run's tables alone, without models, so it can be written on a laptop and during a run.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mudi.text.prompts import WATCHED
from pipeline.report import charts
from pipeline.report.pictures import SIDES, Picture, data_address, judgement, picture
from pipeline.report.statistics import show
from pipeline.report.summary import load_frame, summarise
from pipeline.tables import store
from pipeline.tables.journal import publish
from pipeline.tables.run_folder import read_run
from pipeline.templates.page import page

STRIP = 8
WATCHED_ROWS = 24
BINS = 20


def write_report(run_dir: Path) -> Path:
    """Writes report.html into the run's folder and returns its path; the same tables give the same bytes.

    Images larger than 512 pixels are shown smaller; the originals stay in the `images` table.
    """
    return publish(run_dir, "report.html", page("report.html.j2", _content(run_dir), show=show).encode())


def _content(run_dir: Path) -> dict[str, Any]:
    facts = read_run(run_dir)
    summary = summarise(run_dir)
    frame = load_frame(run_dir, summary.metric).sort_values(["value", "candidate_id"], ascending=[False, True])
    watched = frame["prompt_id"].str.startswith(WATCHED)
    ranked = frame[~watched & (frame["status"] == "ok") & frame["value"].notna()]
    rounds = {int(round): group for round, group in ranked.groupby("round")}
    examples = {round: _examples(group) for round, group in rounds.items()}
    strips = {round: [_spread(group[group["rank"].notna() == kept]) for kept in (True, False)] for round, group in rounds.items()}
    grid, hidden = _watched_grid(frame[watched & (frame["status"] == "ok")])
    shown = [row for rows in examples.values() for _, row in rows]
    shown += [row for kept, rejected in strips.values() for row in (*kept, *rejected)]
    shown += [row for _, rows in grid for row in rows.values()]
    pictures = _pictures(run_dir, shown, facts["subjects"], summary.metric)
    return {
        "facts": facts,
        "summary": summary,
        "config": json.dumps(facts["config"], indent=2),
        "trend": charts.trend(summary.rounds, "mean score") if rounds else None,
        "histograms": _histograms(rounds),
        "examples": {round: [(label, _rank(row), pictures[row.candidate_id]) for label, row in rows] for round, rows in examples.items()},
        "strips": {round: [[pictures[row.candidate_id] for row in rows] for rows in pair] for round, pair in strips.items()},
        "watched_rounds": sorted({round for _, rows in grid for round in rows}),
        "watched": [(rows, {round: pictures[row.candidate_id] for round, row in by_round.items()}) for rows, by_round in grid],
        "watched_hidden": hidden,
    }


def _examples(group: pd.DataFrame) -> list[tuple[str, Any]]:
    rows = list(group.itertuples(index=False))
    return [("best", rows[0]), ("median", rows[len(rows) // 2]), ("worst", rows[-1])]


def _rank(row: Any) -> int | None:
    return None if pd.isna(row.rank) else int(row.rank)


def _spread(group: pd.DataFrame) -> list[Any]:
    """Up to eight candidates, spread evenly from the best to the worst."""
    rows = list(group.itertuples(index=False))
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(STRIP, len(rows))).round().astype(int)]


def _watched_grid(frame: pd.DataFrame) -> tuple[list[tuple[str, dict[int, Any]]], int]:
    """Rows of one prompt and seed with their images by round, and the number of rows that did not fit."""
    cells = frame.sort_values(["combination", "prompt_id", "index", "round"]).groupby(["combination", "prompt_id", "index"], sort=False)
    grid = []
    for (combination, _, index), group in cells:
        rows = list(group.itertuples(index=False))
        grid.append((f"{combination}: “{rows[0].prompt}”, image {index + 1}", {int(row.round): row for row in rows}))
    return grid[:WATCHED_ROWS], max(0, len(grid) - WATCHED_ROWS)


def _histograms(rounds: dict[int, pd.DataFrame]) -> list[tuple[int, Any]]:
    if not rounds:
        return []
    values = {round: group["value"].to_numpy(dtype=float) for round, group in rounds.items()}
    everything = np.concatenate(list(values.values()))
    edges = np.linspace(min(0.0, everything.min()), max(everything.max(), 0.01), BINS + 1)
    tallest = max(int(np.histogram(v, edges)[0].max()) for v in values.values())
    return [(round, charts.histogram(v, edges, tallest, "score", float(v.mean()))) for round, v in values.items()]


def _pictures(run_dir: Path, rows: Sequence[Any], subjects: Mapping[str, Sequence[str]], metric: str) -> dict[str, Picture]:
    """candidate_id -> its picture; a row may occur twice."""
    distinct = {row.candidate_id: row for row in rows}
    pngs = store.read_images(run_dir, distinct.keys())
    return {
        key: picture(row, data_address(pngs[key], SIDES[0]), {metric: judgement(row)}, subjects.get(row.combination, ()), metric)
        for key, row in distinct.items()
    }
