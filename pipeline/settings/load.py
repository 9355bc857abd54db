"""Which of the two kinds a run file is: one with `methods` is a benchmark, any other a self-training run."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.settings import yaml_lines
from pipeline.settings.benchmark_config import BenchmarkConfig, load_benchmark
from pipeline.settings.config import RunConfig, load_run


def load_plan(path: Path, overrides: Sequence[str] = ()) -> RunConfig | BenchmarkConfig:
    """The file at `path` as what it is, with overrides applied; ValueError of one line, as `load_settings`."""
    try:
        values, _ = yaml_lines.parse(path.read_bytes().decode("utf-8-sig")) if path.is_file() else ({}, {})
    except ValueError:
        values = {}  # not readable as YAML: `load_run` says where
    return (load_benchmark if isinstance(values, dict) and "methods" in values else load_run)(path, overrides)
