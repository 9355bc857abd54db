"""The pictures of a page: each with its scores, and those of a benchmark chosen so that they fit the page's budget.

A page carries its pictures inside it, so there is a budget in bytes. Seeds are added one by one, each prompt in
every combination and with every method at once, until the next would exceed it: no method is shown more than another.
"""

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from pipeline.tables import store
from pipeline.templates.page import picture_address

BUDGET = 24_000_000  # bytes of pictures with their scores; tables, charts and lists then keep a page below 30 MB
SEEDS = 3
SIDES = (512, 384, 256)
TINY = 128  # pixels; smaller pictures keep their bytes and their hard edges
QUALITY = 82
BYTES_A_PIXEL = 0.27  # of a busy photo as WebP at this quality, in base64; the bytes really used are counted
OVERHEAD = 3000  # bytes of boxes, matrix and scores beside a picture: 2,204 measured with 8 scores, 90 for each further one
PORTION = 256_000_000  # bytes of decoded pixels that are read from the tables at once
COLUMNS = ["candidate_id", "method", "combination", "prompt_id", "prompt", "index", "seed", "adapter_sha256", "height", "width", "status"]

# Metric -> its value, None if not computed, and its details.
Scores = Mapping[str, tuple[float | None, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A candidate with its scores, as a page shows it. boxes are in the pixels of the original (width, height).

    value: the score named under the picture, None if not computed; scores: (metric, value or None), all of them.
    similarity has a row a box and a column a subject; cells are (value, share of the largest value in 0..1).
    """

    source: str
    width: int
    height: int
    tiny: bool
    prompt: str
    combination: str
    seed: int
    value: float | None
    scores: tuple[tuple[str, float | None], ...]
    boxes: tuple[tuple[float, float, float, float], ...]
    similarity: tuple[tuple[tuple[float, float], ...], ...]
    similarity_by: str | None
    subjects: tuple[str, ...]
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Grids:
    """combination -> rows by prompt, then index: "prompt", "index" and "pictures" by method, of which one without a picture is absent.
    `shown` and `stored` count pictures of all fits and seeds; `side` is the largest width or height in pixels that pictures
    were reduced to, None if none was."""

    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    shown: int
    stored: int
    side: int | None


def picture(row: Any, source: str, scores: Scores, subjects: Sequence[str], metric: str) -> Picture:
    """The picture of a row of `candidates`. Boxes, similarity and reason are those of `metric`, else of the first score with any."""
    by_preference = sorted(scores, key=lambda name: (name != metric, name))
    similarity_by = next((name for name in by_preference if "similarity" in scores[name][1]), None)
    similarity = scores[similarity_by][1]["similarity"] if similarity_by else []
    largest = max([value for line in similarity for value in line], default=1.0)
    columns = len(similarity[0]) if similarity else 0
    details = [scores[name][1] for name in by_preference]
    return Picture(
        source=source,
        width=int(row.width),
        height=int(row.height),
        tiny=max(row.width, row.height) < TINY,
        prompt=row.prompt,
        combination=row.combination,
        seed=int(row.seed),
        value=scores[metric][0] if metric in scores else None,
        scores=tuple((name, value) for name, (value, _) in scores.items()),
        boxes=tuple(map(tuple, next((found["boxes"] for found in details if "boxes" in found), ()))),
        similarity=tuple(tuple((value, max(0.0, value) / max(largest, 1e-6)) for value in line) for line in similarity),
        similarity_by=similarity_by,
        subjects=tuple(subjects) if len(subjects) == columns else tuple(f"subject {i + 1}" for i in range(columns)),
        reason=next((found["reason"] for found in details if "reason" in found), None),
    )


def judgement(row: Any) -> tuple[float | None, dict[str, Any]]:
    """The value and the details of a row of `scores`, None and empty where the row holds none."""
    details = json.loads(row.details) if isinstance(row.details, str) and row.details else {}
    return None if pd.isna(row.value) else float(row.value), details


def data_address(png: bytes, side: int) -> str:
    """A `data:` address: pictures below 128 pixels as they are, others at most `side` pixels wide and high as WebP."""
    image = Image.open(io.BytesIO(png), formats=("PNG",))
    if max(image.size) < TINY:
        return f"data:image/png;base64,{base64.b64encode(png).decode()}"
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture_address(image, "WEBP", QUALITY)


def picture_grids(
    run_dir: Path, methods: Sequence[str], combinations: Sequence[str], subjects: Mapping[str, Sequence[str]], metric: str,
    budget: int = BUDGET,
) -> Grids:  # fmt: skip
    """Pictures of fit 0 and the first seeds, as many as `budget` bytes hold, with their scores.

    metric: the score named under each picture, whose boxes and similarities are shown if it has any.
    """
    candidates = store.read(run_dir, "candidates", columns=COLUMNS).to_pandas()
    drawn = candidates[(candidates["status"] == "ok") & candidates["method"].isin(methods) & candidates["combination"].isin(combinations)]
    fits = store.read(run_dir, "fits", columns=["method", "combination", "fit", "adapter_sha256"]).to_pandas()
    first = fits[fits["fit"] == 0].drop(columns="fit").drop_duplicates()
    frame = drawn.merge(first, on=["method", "combination", "adapter_sha256"])
    frame = frame[frame["index"] < SEEDS].sort_values(["index", "prompt_id", "combination", "method", "candidate_id"])
    # The largest at which one seed of every method, prompt and combination fits, else the least.
    one_seed = int((frame["index"] == 0).sum())
    side = next((side for side in SIDES if one_seed * (side * side * BYTES_A_PIXEL + OVERHEAD) <= budget), SIDES[-1])
    chosen, used = [], 0
    for _, group in groupby(_encoded(run_dir, frame, side), key=lambda item: (item[0].index_, item[0].prompt_id)):
        step = list(group)
        used += sum(len(source) + OVERHEAD for _, source in step)
        if used > budget:
            break
        chosen += step
    scores = _scores(run_dir, [row.candidate_id for row, _ in chosen])
    shown = [
        (row, picture(row, source, scores.get(row.candidate_id, {}), subjects.get(row.combination, ()), metric)) for row, source in chosen
    ]
    reduced = any(max(one.width, one.height) > side for _, one in shown)
    return Grids(rows=_rows(shown, combinations), shown=len(shown), stored=len(drawn), side=side if reduced else None)


def _encoded(run_dir: Path, frame: pd.DataFrame, side: int) -> Iterator[tuple[Any, str]]:
    """Each candidate in order with its picture as a data address; whole portions are read, so that files are opened few times."""
    portions = (frame["height"] * frame["width"] * 3).cumsum() // PORTION
    for _, portion in frame.rename(columns={"index": "index_"}).groupby(portions, sort=True):
        pngs = store.read_images(run_dir, set(portion["candidate_id"]))
        for row in portion.itertuples(index=False):
            yield row, data_address(pngs[row.candidate_id], side)


def _scores(run_dir: Path, candidate_ids: Sequence[str]) -> dict[str, Scores]:
    frame = store.read(run_dir, "scores", columns=["candidate_id", "metric", "value", "details"]).to_pandas()
    groups = frame[frame["candidate_id"].isin(candidate_ids)].sort_values("metric").groupby("candidate_id")
    return {candidate_id: {row.metric: judgement(row) for row in group.itertuples(index=False)} for candidate_id, group in groups}


def _rows(shown: Sequence[tuple[Any, Picture]], combinations: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {key: [] for key in combinations}
    place = attrgetter("combination", "prompt_id", "index_")
    in_order = sorted(shown, key=lambda item: place(item[0]))
    for (combination, _, index), group in groupby(in_order, key=lambda item: place(item[0])):
        pictures = {row.method: one for row, one in group}
        rows[combination].append({"prompt": next(iter(pictures.values())).prompt, "index": int(index), "pictures": pictures})
    return rows
