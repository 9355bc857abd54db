"""The tables of a run: Parquet files that appear whole, are checked when read, and are redrawn when broken.

A chunk is three files of one name, `images`, `scores` and `candidates`, published in this order: the
candidates file commits the chunk, and readers here ignore the two others until it is there. The same
chunk written twice replaces itself, so a candidate has one row whatever was retried.

`round` is a column of every table, but it is kept in the folder name `round=R` alone: pandas cannot read
a hive folder whose files repeat the column. Any reader of such folders adds it back.

    pandas.read_parquet("runs/NAME/candidates")
    duckdb: SELECT * FROM read_parquet('runs/NAME/scores/*/*.parquet')

A metric that is added later has a file of its own beside the chunk's scores, `CHUNK.METRIC.parquet`. A
benchmark also has `fits`: a row a fit, written when the fit is done.

Only local (or mounted) folders, not `s3://` addresses: publishing relies on atomic renames.
"""

import hashlib
import io
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mudi.records import Score, ScoredCandidate
from pipeline.tables.journal import append_event, publish
from pipeline.tables.read import (
    CHUNK_FILES,
    NO_ROWS,
    SCHEMA_VERSION,
    SCHEMAS,
    BrokenFileError,
    added_scores,
    committed_chunks,
    committed_path,
    file_schema,
    named_metrics,
    paths,
    read,
    read_chunk,
    read_file,
    read_images,
    stored_chunks,
)

__all__ = [
    "CHUNK_FILES",
    "SCHEMAS",
    "SCHEMA_VERSION",
    "BrokenFileError",
    "committed_chunks",
    "create_tables",
    "encode_png",
    "image_sha256",
    "missing",
    "named_metrics",
    "read",
    "read_chunk",
    "read_images",
    "stored_chunks",
    "stored_ids",
    "stored_metrics",
    "write_chunk",
    "write_fits",
    "write_scores",
    "write_selection",
]
FIT_OPTIONAL = {"started_from", "payload_bytes", "peak_bytes", "kept", "drift", "seconds", "shared_with", "device"}


def write_chunk(
    run_dir: Path,
    chunk_id: str,
    round: int,
    scored: Sequence[ScoredCandidate],
    *,
    device: str | None,
    dtype: str,
    batch: int,
) -> None:
    """Stores a chunk; once this returns it survives a crash.

    `device` is the kind of device that drew it, None for a chunk that could not be drawn, and `batch` the images drawn together,
    recorded because
    both change pixels. Boxes are kept in the scores' details; only candidates with status "ok" have scores.
    """
    rows = {
        "images": [_image_row(item) for item in scored if item.candidate.image is not None],
        "scores": [
            row for item in scored if item.candidate.status == "ok" for row in _score_rows(item.candidate.key.candidate_id, item.scores)
        ],
        "candidates": [{**_candidate_row(item), "device": device, "dtype": dtype, "batch": batch} for item in scored],
    }
    for dataset in CHUNK_FILES:
        _publish_rows(run_dir, dataset, round, chunk_id, rows[dataset])


def write_selection(run_dir: Path, round: int, ranked: Sequence[tuple[str, int, float]]) -> None:
    """Stores what a round keeps: (candidate_id, rank from 1 within its combination, value)."""
    rows = [{"candidate_id": candidate_id, "rank": rank, "value": value} for candidate_id, rank, value in ranked]
    _publish_rows(run_dir, "selections", round, "selection", rows)


def write_scores(run_dir: Path, chunk_id: str, round: int, metric: str, scores_by_candidate: Mapping[str, Sequence[Score]]) -> None:
    """Adds a metric's scores to a stored chunk, in a file of their own; written again it replaces itself.

    Raises ValueError if the chunk is not stored, a candidate is none of its own or has no score at all (give
    value None where one could not be computed), or the chunk was drawn with a score of the same name.
    """
    path = committed_path(run_dir, round, chunk_id)
    if "." in chunk_id + metric or "/" in metric:
        raise ValueError(f"chunk {chunk_id!r}, metric {metric!r}: the dot divides them in a file name; use neither a dot nor a slash")
    known = set(read_file(run_dir / "candidates" / path, ["candidate_id"])["candidate_id"].to_pylist())
    if foreign := sorted(set(scores_by_candidate) - known):
        raise ValueError(f"chunk {chunk_id}: candidate {foreign[0]} is not in it; score the rows that `read_chunk` gives")
    if empty := [candidate_id for candidate_id, scores in scores_by_candidate.items() if not scores]:
        raise ValueError(f"chunk {chunk_id}: {metric} gave no score of candidate {empty[0]}; a score that is missing has the value None")
    drawn_with = set(read_file(run_dir / "scores" / path, ["metric"])["metric"].to_pylist())
    if twice := sorted(drawn_with & {score.metric for scores in scores_by_candidate.values() for score in scores}):
        raise ValueError(f"chunk {chunk_id}: has the score {twice[0]!r} since it was drawn; rename the new one, or draw the chunk again")
    rows = [row for candidate_id, scores in scores_by_candidate.items() for row in _score_rows(candidate_id, scores)]
    _publish_rows(run_dir, "scores", round, f"{chunk_id}.{metric}", rows)


def write_fits(run_dir: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Stores what is known of fits, one row each, under a file name; written again it replaces itself.

    The keys are the columns of `fits` but for round and schema_version. Raises ValueError for other keys, and
    for a missing value in a column that needs one.
    """
    columns = set(SCHEMAS["fits"].names) - {"round", "schema_version"}
    for row in rows:
        if unknown := sorted(set(row) - columns):
            raise ValueError(f"fits {name}: unknown column {unknown[0]!r}; allowed: {', '.join(sorted(columns))}")
        if lacking := sorted(column for column in columns - FIT_OPTIONAL if row.get(column) is None):
            raise ValueError(f"fits {name}: column {lacking[0]!r} has no value; only {', '.join(sorted(FIT_OPTIONAL))} may be missing")
        if row.get("drift") is not None and not math.isfinite(row["drift"]):
            raise ValueError(f"fits {name}: drift is {row['drift']}; it is finite, or None where it was not measured")
    _publish_rows(run_dir, "fits", 0, name, [dict(row) for row in rows])


def create_tables(run_dir: Path) -> None:
    """Stores an empty file of each dataset, so that queries find the columns before the first candidate."""
    for dataset in SCHEMAS:
        _publish_rows(run_dir, dataset, 0, NO_ROWS, [])


def stored_ids(run_dir: Path, round: int, statuses: Collection[str] = ("ok", "invalid", "error")) -> set[str]:
    """The ids of a round's candidates that are stored, every file having been read through.

    A chunk with a file that is missing, cut short or altered is moved to `_quarantine` as a whole, an
    event says so, and its candidates count as not stored. Pass ("ok", "invalid") to draw errors again.
    """
    found: set[str] = set()
    for path in paths(run_dir, "candidates", round):
        try:
            tables = {dataset: read_file(run_dir / dataset / path) for dataset in CHUNK_FILES}
        except (BrokenFileError, FileNotFoundError) as error:
            _quarantine(run_dir, path, str(error))
            continue
        rows = tables["candidates"].select(["candidate_id", "status"]).to_pylist()
        found.update(row["candidate_id"] for row in rows if row["status"] in statuses)
    return found


def stored_metrics(run_dir: Path, round: int) -> dict[str, set[str]]:
    """Committed chunk -> the metrics added to it that cover all its images, every added file having been read through.

    A broken file is moved to `_quarantine` alone, an event says so, and it counts as absent: the images are
    not to blame. A file that lacks an image, one that was drawn again since, counts as absent too.
    """
    found: dict[str, set[str]] = {chunk_id: set() for chunk_id in committed_chunks(run_dir, round)}
    for chunk, added in added_scores(run_dir, round).items():
        rows = read_file(run_dir / "candidates" / chunk, ["candidate_id", "status"]).to_pylist() if added else []
        images = {row["candidate_id"] for row in rows if row["status"] == "ok"}
        for path in added:
            try:
                scored = read_file(run_dir / "scores" / path)["candidate_id"].to_pylist()
            except BrokenFileError as error:
                _set_aside(run_dir, "scores", path)
                append_event(run_dir, event="quarantined", chunk=path.stem, round=path.parent.name, reason=str(error))
                continue
            if images <= set(scored):
                found[chunk.stem].add(path.stem.partition(".")[2])
    return found


def missing(run_dir: Path, round: int, planned: Sequence[str]) -> list[str]:
    """The planned candidate ids that are not stored, in the order planned."""
    stored = stored_ids(run_dir, round)
    return [candidate_id for candidate_id in planned if candidate_id not in stored]


def image_sha256(image: np.ndarray) -> str:
    """The sha256 of the raw bytes of an (H, W, 3) uint8 image in C order, whatever its file format."""
    return hashlib.sha256(np.ascontiguousarray(image, dtype=np.uint8).tobytes()).hexdigest()


def encode_png(image: np.ndarray) -> bytes:
    """The image as PNG; compress level 1 takes a fraction of the default's time for files a little larger."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _publish_rows(run_dir: Path, dataset: str, round: int, name: str, rows: list[dict[str, Any]]) -> None:
    schema = file_schema(dataset)
    table = pa.Table.from_pylist([{**row, "schema_version": SCHEMA_VERSION} for row in rows], schema=schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True, compression="zstd")
    publish(run_dir, f"{dataset}/round={round}/{name}.parquet", buffer.getvalue())


def _quarantine(run_dir: Path, path: Path, reason: str) -> None:
    """Moves a chunk's files away: scores added later first, which must not outlive their images, then the
    candidates, so that a chunk half moved is an uncommitted one."""
    for added in added_scores(run_dir, None).get(path, []):
        _set_aside(run_dir, "scores", added)
    for dataset in reversed(CHUNK_FILES):
        _set_aside(run_dir, dataset, path)
    append_event(run_dir, event="quarantined", chunk=path.stem, round=path.parent.name, reason=reason)


def _set_aside(run_dir: Path, dataset: str, path: Path) -> None:
    source, target = run_dir / dataset / path, run_dir / "_quarantine" / dataset / path
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)


def _candidate_row(item: ScoredCandidate) -> dict[str, Any]:
    candidate, key = item.candidate, item.candidate.key
    image = candidate.image
    return {
        "candidate_id": key.candidate_id,
        "run": key.run,
        "method": key.method,
        "combination": key.combination,
        "prompt_id": key.prompt_id,
        "prompt": candidate.prompt,
        "index": key.index,
        "seed": candidate.seed,
        "adapter_sha256": key.adapter_sha256,
        "image_sha256": None if image is None else image_sha256(image),
        "height": None if image is None else image.shape[0],
        "width": None if image is None else image.shape[1],
        "seconds": candidate.seconds,
        "status": candidate.status,
        "error": candidate.error,
    }


def _image_row(item: ScoredCandidate) -> dict[str, Any]:
    return {"candidate_id": item.candidate.key.candidate_id, "png": encode_png(item.candidate.image)}


def _score_rows(candidate_id: str, scores: Sequence[Score]) -> list[dict[str, Any]]:
    rows = []
    for score in scores:
        if score.value is not None and not math.isfinite(score.value):
            raise ValueError(f"score {score.metric} is {score.value}; a score is finite, or None where it was not computed")
        details = json.dumps(score.details, sort_keys=True)
        rows.append(
            {"candidate_id": candidate_id, "metric": score.metric, "value": score.value, "scorer": score.scorer, "details": details}
        )
    return rows
