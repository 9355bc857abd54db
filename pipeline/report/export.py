"""Benchmarks without their pictures: tables as Markdown, and every score in one small Parquet file beside them."""

import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.report.records import Benchmark
from pipeline.report.scores import load_scores
from pipeline.report.text import markdown
from pipeline.tables.run_folder import read_run

KEPT = ["run", "method", "combination", "fit", "prompt_id", "index", "metric", "value"]
# Dictionary-coded text columns and float32 keep 150,000 rows near a megabyte.
NUMBERS = {"fit": pa.int8(), "index": pa.int16(), "value": pa.float32()}
SCHEMA = pa.schema([(name, NUMBERS.get(name, pa.dictionary(pa.int16(), pa.string()))) for name in KEPT])


def export(run_dir: Path, result: Benchmark, target: Path) -> None:
    """Writes TARGET.md and TARGET.parquet, and keeps the text around the tables and the tables and scores of other runs.

    Raises ValueError if the run is not complete, since exported numbers are quoted.
    """
    if result.missing:
        raise ValueError(f"{run_dir}: {len(result.missing)} gaps, first {result.missing[0]!r}; start the benchmark again to fill them")
    target.parent.mkdir(parents=True, exist_ok=True)
    facts = read_run(run_dir)
    versions = f"Python {facts['python']}, torch {facts['packages']['torch']}"
    origin = f"Measured with {facts['platform']}, {versions}; started {facts['created'][:10]}."
    page = target.with_suffix(".md")
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    page.write_text(with_tables(text, result.name, f"{origin}\n\n{markdown(result)}"), encoding="utf-8")
    frame = load_scores(run_dir).dropna(subset=["fit"]).assign(run=result.name)
    frame = frame[KEPT].astype({"fit": int, "index": int}).sort_values(KEPT[:-1]).reset_index(drop=True)
    scores = target.with_suffix(".parquet")
    if scores.is_file():
        stored = pq.read_table(scores).to_pandas().astype({"run": str})
        frame = pd.concat([stored[stored["run"] != result.name].astype({"value": float}), frame], ignore_index=True)
    staged = target.with_suffix(".part")
    pq.write_table(pa.Table.from_pandas(frame[KEPT], schema=SCHEMA, preserve_index=False), staged, compression="zstd")
    shutil.move(staged, scores)


def marks(name: str) -> tuple[str, str]:
    """The lines before and after the tables of a run in a page."""
    return f"<!-- tables of {name}: written by `mudi report RUN --export` -->", f"<!-- end of the tables of {name} -->"


def with_tables(page: str, name: str, tables: str) -> str:
    """The page with the tables of a run: in place of its earlier ones, or at the end under a heading of their own."""
    begin, end = marks(name)
    block = f"{begin}\n\n{tables.rstrip()}\n\n{end}\n"
    if begin not in page:
        return f"{page.rstrip()}\n\n# Results of {name}\n\n{block}".lstrip()
    before, _, rest = page.partition(begin)
    return before + block + rest.partition(end)[2].removeprefix("\n")
