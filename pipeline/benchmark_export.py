"""A benchmark without its pictures: the tables as Markdown, and every score in one small Parquet file beside them."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.benchmark_scores import load_scores
from pipeline.benchmark_tables import benchmark
from pipeline.benchmark_text import markdown
from pipeline.run_folder import read_run

MARK = "<!-- tables: written by `mudi report RUN --export` -->"
KEPT = ["method", "combination", "fit", "prompt_id", "index", "metric", "value"]
# Dictionary-coded text columns and float32 keep 150,000 rows near a megabyte.
SCHEMA = pa.schema(
    [
        ("method", pa.dictionary(pa.int16(), pa.string())),
        ("combination", pa.dictionary(pa.int16(), pa.string())),
        ("fit", pa.int8()),
        ("prompt_id", pa.dictionary(pa.int16(), pa.string())),
        ("index", pa.int16()),
        ("metric", pa.dictionary(pa.int16(), pa.string())),
        ("value", pa.float32()),
    ]
)


def export(run_dir: Path, target: Path) -> None:
    """Writes TARGET.md and TARGET.parquet; text that stands above the first table of an existing TARGET.md is kept.

    Raises ValueError if the run is not complete: an export is what is quoted.
    """
    result = benchmark(run_dir)
    if result.missing:
        raise ValueError(f"{run_dir}: {len(result.missing)} gaps, first {result.missing[0]!r}; start the benchmark again to fill them")
    target.parent.mkdir(parents=True, exist_ok=True)
    page = target.with_suffix(".md")
    head = page.read_text(encoding="utf-8").split(MARK)[0] if page.is_file() else f"# Results of {result.name}\n\n"
    facts = read_run(run_dir)
    origin = (
        f"Measured with {facts['platform']}, Python {facts['python']}, torch {facts['packages']['torch']}; started {facts['created'][:10]}."
    )
    page.write_text(f"{head}{MARK}\n\n{origin}\n\n{markdown(result)}", encoding="utf-8")
    frame = load_scores(run_dir).dropna(subset=["fit"]).sort_values(KEPT[:-1]).reset_index(drop=True)
    staged = target.with_suffix(".part")
    pq.write_table(
        pa.Table.from_pandas(frame[KEPT].astype({"fit": int, "index": int}), schema=SCHEMA, preserve_index=False),
        staged,
        compression="zstd",
    )
    shutil.move(staged, target.with_suffix(".parquet"))
