"""Reading the tables of a run: their columns, and rows whose bytes are checked on the way.

Only committed chunks are read: those whose candidates file is there. Scores of a metric that was added later
lie beside the chunk's own, as `scores/round=R/CHUNK.METRIC.parquet`, and are read with them.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = 1

COLUMNS = {
    "candidates": "candidate_id run method combination round prompt_id prompt index seed adapter_sha256 image_sha256 height width "
    "batch device dtype seconds status error schema_version",
    "images": "candidate_id round png schema_version",
    "scores": "candidate_id round metric value scorer details schema_version",
    "selections": "candidate_id round rank value schema_version",
    "fits": "run method combination round fit seed adapter_sha256 started_from steps parameters payload_bytes peak_bytes kept drift "
    "seconds shared_with device schema_version",
}
# A column has the same type in every dataset; all others hold text.
TYPES = {
    **dict.fromkeys(("round", "index", "height", "width", "batch", "rank", "fit", "steps", "kept", "schema_version"), pa.int32()),
    **dict.fromkeys(("seed", "parameters", "payload_bytes", "peak_bytes"), pa.int64()),
    **dict.fromkeys(("seconds", "value", "drift"), pa.float64()),
    "png": pa.binary(),
}
SCHEMAS = {dataset: pa.schema([(name, TYPES.get(name, pa.string())) for name in names.split()]) for dataset, names in COLUMNS.items()}
CHUNK_FILES = ("images", "scores", "candidates")
NO_ROWS = "columns"


class BrokenFileError(ValueError):
    """A file whose bytes are not what was written."""


def read(run_dir: Path, dataset: str, round: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """A dataset's rows, of one round or all, of committed chunks only; no rows if there are none yet.

    Scores include those of metrics added later. Raises ValueError naming the file if one is broken;
    `store.stored_ids` and `store.stored_metrics` set such files aside.
    """
    names = list(columns or SCHEMAS[dataset].names)
    schema = pa.schema([SCHEMAS[dataset].field(name) for name in names])
    chosen = paths(run_dir, "candidates" if dataset in CHUNK_FILES else dataset, round)
    if dataset == "scores":
        chosen += [path for added in added_scores(run_dir, round).values() for path in added]
    return pa.concat_tables([schema.empty_table(), *(read_file(run_dir / dataset / path, names) for path in chosen)])


def read_images(run_dir: Path, candidate_ids: Collection[str]) -> dict[str, bytes]:
    """candidate_id -> PNG bytes, opening only the image files that hold one of them."""
    found: dict[str, bytes] = {}
    for path in paths(run_dir, "candidates", None):
        held = read_file(run_dir / "candidates" / path, ["candidate_id"])["candidate_id"].to_pylist()
        if not set(held).isdisjoint(candidate_ids):
            rows = read_file(run_dir / "images" / path, ["candidate_id", "png"]).to_pylist()
            found |= {row["candidate_id"]: row["png"] for row in rows if row["candidate_id"] in candidate_ids}
    if absent := sorted(set(candidate_ids) - set(found)):
        raise ValueError(
            f"{run_dir}: no image of candidate {absent[0]} ({len(absent)} in all); start the run again to draw what is missing"
        )
    return found


def committed_chunks(run_dir: Path, round: int) -> list[str]:
    """The ids of a round's committed chunks, sorted."""
    return [path.stem for path in paths(run_dir, "candidates", round) if path.stem != NO_ROWS]


def stored_chunks(run_dir: Path, round: int) -> set[str]:
    """The ids of a round's chunks all of whose files are there, by their names: what the files hold is not looked at."""
    there = [{path.stem for path in paths(run_dir, dataset, round)} for dataset in CHUNK_FILES]
    return set.intersection(*there) - {NO_ROWS}


def named_metrics(run_dir: Path, round: int) -> dict[str, set[str]]:
    """Committed chunk -> the metrics added to it later, by the names of files."""
    return {chunk.stem: {path.stem.partition(".")[2] for path in added} for chunk, added in added_scores(run_dir, round).items()}


def read_chunk(run_dir: Path, round: int, chunk_id: str) -> list[tuple[dict[str, Any], bytes | None]]:
    """A committed chunk's candidates in the order they were stored: columns of the row, and PNG bytes or None.

    Raises ValueError if the chunk is not committed or a file of it is broken.
    """
    path = committed_path(run_dir, round, chunk_id)
    pngs = {row["candidate_id"]: row["png"] for row in read_file(run_dir / "images" / path, ["candidate_id", "png"]).to_pylist()}
    return [(row, pngs.get(row["candidate_id"])) for row in read_file(run_dir / "candidates" / path).to_pylist()]


def committed_path(run_dir: Path, round: int, chunk_id: str) -> Path:
    """Where a committed chunk lies, relative to each dataset's folder. Raises ValueError if it is not committed."""
    path = Path(f"round={round}") / f"{chunk_id}.parquet"
    if not (run_dir / "candidates" / path).is_file():
        raise ValueError(f"{run_dir}: no stored chunk {chunk_id!r} in round {round}; name one of those that `committed_chunks` lists")
    return path


def added_scores(run_dir: Path, round: int | None) -> dict[Path, list[Path]]:
    """Path of a committed chunk -> paths of its scores files of metrics added later, all relative to their datasets."""
    found: dict[Path, list[Path]] = {path: [] for path in paths(run_dir, "candidates", round)}
    for path in paths(run_dir, "scores", round):
        chunk_id, dot, _ = path.stem.partition(".")
        chunk = path.with_name(f"{chunk_id}.parquet")
        if dot and chunk in found:
            found[chunk].append(path)
    return found


def paths(run_dir: Path, dataset: str, round: int | None) -> list[Path]:
    """A dataset's files relative to its folder, in a fixed order. Those of `candidates` are the committed chunks."""
    folder = Path(run_dir) / dataset
    return [path.relative_to(folder) for path in sorted(folder.glob(f"round={'*' if round is None else round}/*.parquet"))]


def file_schema(dataset: str) -> pa.Schema:
    """The columns of a dataset's files: all but `round`, which is in the folder name."""
    schema = SCHEMAS[dataset]
    return schema.remove(schema.get_field_index("round"))


def read_file(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """One file's columns, `round` from its folder. Raises ValueError naming the file if its bytes are broken."""
    data = path.read_bytes()
    dataset, round = path.parent.parent.name, int(path.parent.name.removeprefix("round="))
    names = list(columns or SCHEMAS[dataset].names)
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        if not file.schema_arrow.equals(file_schema(dataset)):
            raise ValueError(f"{path}: columns differ from version {SCHEMA_VERSION} of {dataset}; read it with the version that wrote it")
        checked = {"schema_version", "value"} & set(file.schema_arrow.names)
        table = file.read(sorted(checked | {name for name in names if name != "round"}))
        table.validate(full=True)
    except (OSError, pa.ArrowException) as error:
        raise BrokenFileError(f"{path}: broken Parquet file ({' '.join(str(error).split())}); start the run again to redraw it") from None
    _check_values(path, table)
    if "round" in names:
        table = table.append_column("round", pa.array([round] * table.num_rows, pa.int32()))
    return table.select(names)


def _check_values(path: Path, table: pa.Table) -> None:
    """Raise ValueError for what the columns' types allow and this program never writes: later versions, NaN and infinite scores."""
    # 0.1 s that a refusal of a run file need not wait for.
    import pyarrow.compute as pc

    newest = pc.max(table["schema_version"]).as_py()
    if newest is not None and newest > SCHEMA_VERSION:
        raise ValueError(f"{path}: written as version {newest}, known is {SCHEMA_VERSION}; read it with the version that wrote it")
    if "value" in table.column_names and not pc.all(pc.is_finite(table["value"]), min_count=0).as_py():
        raise BrokenFileError(f"{path}: a score is not finite, which is never written; start the run again to redraw it")
