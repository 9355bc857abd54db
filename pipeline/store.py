"""The tables of a run: Parquet files that appear whole, are checked when read, and are redrawn when broken.

A chunk is three files of one name, `images`, `scores` and `candidates`, published in this order: the
candidates file commits the chunk, and readers here ignore the two others until it is there. The same
chunk written twice replaces itself, so a candidate has one row whatever was retried.

`round` is a column of every table, but it is kept in the folder name `round=R` alone: pandas cannot read
a hive folder whose files repeat the column. Any reader of such folders adds it back.

    pandas.read_parquet("runs/NAME/candidates")
    duckdb: SELECT * FROM read_parquet('runs/NAME/scores/*/*.parquet')

Only local (or mounted) folders, not `s3://` addresses: publishing relies on atomic renames.
"""

import hashlib
import io
import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mudi.records import ScoredCandidate
from pipeline.journal import append_event, publish

SCHEMA_VERSION = 1

SCHEMAS = {
    "candidates": pa.schema(
        [
            ("candidate_id", pa.string()),
            ("run", pa.string()),
            ("method", pa.string()),
            ("combination", pa.string()),
            ("round", pa.int32()),
            ("prompt_id", pa.string()),
            ("prompt", pa.string()),
            ("index", pa.int32()),
            ("seed", pa.int64()),
            ("adapter_sha256", pa.string()),
            ("image_sha256", pa.string()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("batch", pa.int32()),
            ("device", pa.string()),
            ("dtype", pa.string()),
            ("seconds", pa.float64()),
            ("status", pa.string()),
            ("error", pa.string()),
            ("schema_version", pa.int32()),
        ]
    ),
    "images": pa.schema(
        [
            ("candidate_id", pa.string()),
            ("round", pa.int32()),
            ("png", pa.binary()),
            ("schema_version", pa.int32()),
        ]
    ),
    "scores": pa.schema(
        [
            ("candidate_id", pa.string()),
            ("round", pa.int32()),
            ("metric", pa.string()),
            ("value", pa.float64()),
            ("scorer", pa.string()),
            ("details", pa.string()),
            ("schema_version", pa.int32()),
        ]
    ),
    "selections": pa.schema(
        [
            ("candidate_id", pa.string()),
            ("round", pa.int32()),
            ("rank", pa.int32()),
            ("value", pa.float64()),
            ("schema_version", pa.int32()),
        ]
    ),
}
CHUNK_FILES = ("images", "scores", "candidates")


class BrokenFileError(ValueError):
    """A file whose bytes are not what was written."""


def write_chunk(
    run_dir: Path,
    chunk_id: str,
    round: int,
    scored: Sequence[ScoredCandidate],
    *,
    device: str,
    dtype: str,
    batch: int,
) -> None:
    """Stores a chunk; once this returns it survives a crash.

    `device` is the kind of device that drew it and `batch` the images drawn together, recorded because
    both change pixels. Boxes are kept in the scores' details; only candidates with status "ok" have scores.
    """
    rows = {
        "images": [_image_row(item) for item in scored if item.candidate.image is not None],
        "scores": [row for item in scored for row in _score_rows(item)],
        "candidates": [{**_candidate_row(item), "device": device, "dtype": dtype, "batch": batch} for item in scored],
    }
    for dataset in CHUNK_FILES:
        _publish_rows(run_dir, dataset, round, chunk_id, rows[dataset])


def write_selection(run_dir: Path, round: int, ranked: Sequence[tuple[str, int, float]]) -> None:
    """Stores what a round keeps: (candidate_id, rank from 1 within its combination, value)."""
    rows = [{"candidate_id": candidate_id, "rank": rank, "value": value} for candidate_id, rank, value in ranked]
    _publish_rows(run_dir, "selections", round, "selection", rows)


def create_tables(run_dir: Path) -> None:
    """Stores an empty file of each dataset, so that queries find the columns before the first candidate."""
    for dataset in SCHEMAS:
        _publish_rows(run_dir, dataset, 0, "columns", [])


def stored_ids(run_dir: Path, round: int, statuses: Collection[str] = ("ok", "invalid", "error")) -> set[str]:
    """The ids of a round's candidates that are stored, every file having been read through.

    A chunk with a file that is missing, cut short or altered is moved to `_quarantine` as a whole, an
    event says so, and its candidates count as not stored. Pass ("ok", "invalid") to draw errors again.
    """
    found: set[str] = set()
    for path in _paths(run_dir, "candidates", round):
        try:
            tables = {dataset: _read_file(run_dir / dataset / path) for dataset in CHUNK_FILES}
        except (BrokenFileError, FileNotFoundError) as error:
            _quarantine(run_dir, path, str(error))
            continue
        rows = tables["candidates"].select(["candidate_id", "status"]).to_pylist()
        found.update(row["candidate_id"] for row in rows if row["status"] in statuses)
    return found


def missing(run_dir: Path, round: int, planned: Sequence[str]) -> list[str]:
    """The planned candidate ids that are not stored, in the order planned."""
    stored = stored_ids(run_dir, round)
    return [candidate_id for candidate_id in planned if candidate_id not in stored]


def read(run_dir: Path, dataset: str, round: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """A dataset's rows, of one round or all, of committed chunks only; no rows if there are none yet.

    Raises ValueError naming the file if one is broken; `stored_ids` sets such files aside.
    """
    names = list(columns or SCHEMAS[dataset].names)
    schema = pa.schema([SCHEMAS[dataset].field(name) for name in names])
    committed = _paths(run_dir, "selections" if dataset == "selections" else "candidates", round)
    return pa.concat_tables([schema.empty_table(), *(_read_file(run_dir / dataset / path, names) for path in committed)])


def read_images(run_dir: Path, candidate_ids: Collection[str]) -> dict[str, bytes]:
    """candidate_id -> PNG bytes, opening only the image files that hold one of them."""
    found: dict[str, bytes] = {}
    for path in _paths(run_dir, "candidates", None):
        held = _read_file(run_dir / "candidates" / path, ["candidate_id"])["candidate_id"].to_pylist()
        if not set(held).isdisjoint(candidate_ids):
            rows = _read_file(run_dir / "images" / path, ["candidate_id", "png"]).to_pylist()
            found |= {row["candidate_id"]: row["png"] for row in rows if row["candidate_id"] in candidate_ids}
    if absent := sorted(set(candidate_ids) - set(found)):
        raise ValueError(
            f"{run_dir}: no image of candidate {absent[0]} ({len(absent)} in all); start the run again to draw what is missing"
        )
    return found


def image_sha256(image: np.ndarray) -> str:
    """The sha256 of the raw bytes of an (H, W, 3) uint8 image in C order, whatever its file format."""
    return hashlib.sha256(np.ascontiguousarray(image, dtype=np.uint8).tobytes()).hexdigest()


def encode_png(image: np.ndarray) -> bytes:
    """The image as PNG; compress level 1 takes a fraction of the default's time for files a little larger."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _publish_rows(run_dir: Path, dataset: str, round: int, name: str, rows: list[dict[str, Any]]) -> None:
    schema = _file_schema(dataset)
    table = pa.Table.from_pylist([{**row, "schema_version": SCHEMA_VERSION} for row in rows], schema=schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True, compression="zstd")
    publish(run_dir, f"{dataset}/round={round}/{name}.parquet", buffer.getvalue())


def _file_schema(dataset: str) -> pa.Schema:
    schema = SCHEMAS[dataset]
    return schema.remove(schema.get_field_index("round"))


def _read_file(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """One file's columns, `round` from its folder. Raises ValueError naming the file if its bytes are broken."""
    data = path.read_bytes()
    dataset, round = path.parent.parent.name, int(path.parent.name.removeprefix("round="))
    names = list(columns or SCHEMAS[dataset].names)
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        if not file.schema_arrow.equals(_file_schema(dataset)):
            raise ValueError(f"{path}: columns differ from version {SCHEMA_VERSION} of {dataset}; read it with the version that wrote it")
        table = file.read([name for name in names if name != "round"])
        table.validate(full=True)
    except (OSError, pa.ArrowException) as error:
        raise BrokenFileError(f"{path}: broken Parquet file ({' '.join(str(error).split())}); start the run again to redraw it") from None
    if "round" in names:
        table = table.append_column("round", pa.array([round] * table.num_rows, pa.int32()))
    return table.select(names)


def _paths(run_dir: Path, dataset: str, round: int | None) -> list[Path]:
    """A dataset's files relative to its folder, in a fixed order. Those of `candidates` are the committed chunks."""
    folder = Path(run_dir) / dataset
    return [path.relative_to(folder) for path in sorted(folder.glob(f"round={'*' if round is None else round}/*.parquet"))]


def _quarantine(run_dir: Path, path: Path, reason: str) -> None:
    """Moves a chunk's files away, candidates first: a chunk half moved is then an uncommitted one."""
    for dataset in reversed(CHUNK_FILES):
        source, target = run_dir / dataset / path, run_dir / "_quarantine" / dataset / path
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
    append_event(run_dir, event="quarantined", chunk=path.stem, round=path.parent.name, reason=reason)


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


def _score_rows(item: ScoredCandidate) -> list[dict[str, Any]]:
    rows = []
    for score in item.scores if item.candidate.status == "ok" else ():
        if score.value is not None and not math.isfinite(score.value):
            raise ValueError(f"score {score.metric} is {score.value}; a score is finite, or None where it was not computed")
        details = json.dumps(score.details, sort_keys=True)
        rows.append({"metric": score.metric, "value": score.value, "scorer": score.scorer, "details": details})
    return [{"candidate_id": item.candidate.key.candidate_id, **row} for row in rows]
