"""The arrows of the house: who may import whom."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from places import ROOT

FILES = sorted(path for top in ("mudi", "pipeline", "jobs") for path in (ROOT / top).rglob("*.py"))
# The rooms of the pipeline in their order: a file imports from its own room and from those to the left of it.
ROOMS = (
    ("templates",),
    ("settings",),
    ("tables",),
    ("plan",),
    ("workers",),
    ("prepare",),
    ("arms", "assignments", "benchmark", "carry_out", "class_priors", "phases", "ready", "refits", "rounds"),
    ("cost", "check"),
    ("report",),
)  # fmt: skip
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names}
RAY_FILES = {"pipeline/workers/cluster.py", "pipeline/workers/pool.py"}


@cache
def imported(path: Path) -> frozenset[str]:
    """Every module that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def id_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=id_of)
def test_imports_point_one_way(path):
    """jobs -> pipeline -> mudi; mudi knows no Ray, Parquet or command line; only the workers know Ray."""
    top = path.relative_to(ROOT).parts[0]
    if top == "mudi":
        assert not tops(path) & {"ray", "pyarrow", "pandas", "typer", "pydantic", "pipeline", "jobs"}
    if top == "pipeline":
        assert "jobs" not in tops(path)
        assert ("ray" in tops(path)) == (id_of(path) in RAY_FILES)


@pytest.mark.parametrize("path", [path for path in FILES if id_of(path).startswith("pipeline/")], ids=id_of)
def test_rooms_import_leftwards(path):
    """A room that reached to its right would close a circle."""
    room = path.relative_to(ROOT / "pipeline").with_suffix("").parts[0]
    if room == "__init__":
        return
    reached = {name.split(".")[1] for name in imported(path) if name.startswith("pipeline.")}
    assert not {name for name in reached if LEVEL[name] > LEVEL[room]}
    assert not {name for name in reached if LEVEL[name] == LEVEL[room] and name != room and room in ("cost", "check")}


@pytest.mark.parametrize("path", FILES, ids=id_of)
def test_methods_and_metrics_never_meet(path):
    """A method that knew its judge could be tuned to it."""
    if id_of(path).startswith("mudi/methods/"):
        assert not any(name.startswith("mudi.metrics") for name in imported(path))
    if id_of(path).startswith("mudi/metrics/"):
        assert not any(name.startswith("mudi.methods") for name in imported(path))


@pytest.mark.parametrize("path", FILES, ids=id_of)
def test_nobody_asks_for_the_miniature(path):
    """The miniature is a checkpoint: outside its own folder, only its name in defaults, the loader and its verb."""
    if not id_of(path).startswith(("mudi/miniature/", "jobs/")):
        assert not any(name.startswith("mudi.miniature") for name in imported(path))


def test_a_report_builds_without_torch_and_ray():
    """A laptop with the tables alone can read them. One process imports every file of the room: none of them brings either in."""
    modules = sorted(f"pipeline.report.{path.stem}" for path in (ROOT / "pipeline" / "report").glob("[!_]*.py"))
    assert {"pipeline.report.summary", "pipeline.report.tables", "pipeline.report.export"} <= set(modules)
    code = f"import sys, {', '.join(modules)}; print(sorted({{'torch', 'ray'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_run_files_are_read_without_torch_and_ray():
    """A mistake in one is told at once, and what a method draws with is filled in."""
    code = """
import sys
from functools import cache
from pathlib import Path
from pipeline.settings import benchmark_config, config, hyperparameters, prompt_file, subjects_file
for load, name in ((config.load_run, "miniature"), (benchmark_config.load_benchmark, "benchmark_smoke")):
    load(Path(f"jobs/configs/{name}.yaml"))
    try:
        load(Path(f"jobs/configs/{name}.yaml"), ["sampling.stps=3"])
    except ValueError as error:
        assert "did you mean 'steps'" in str(error), error
    else:
        raise AssertionError(name)
sys.exit(bool({"torch", "ray"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_methods_and_metrics_declare_without_what_computes():
    """A driver, a plan and a page read declarations; the seconds of the libraries behind them are in `mudi.methods`."""
    heavy = {"torch", "transformers", "diffusers", "peft", "scipy"}
    code = f"import sys, mudi.methods.keys, mudi.metrics, mudi.modular.subject_fits; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_no_dumping_grounds():
    """A name that says nothing collects everything."""
    banned = {"utils", "util", "helpers", "common", "base", "misc", "manager", "managers"}
    assert not [path for path in FILES if banned & {path.stem, *path.relative_to(ROOT).parts[:-1]}]


def test_tests_start_ray_as_runs_do():
    """`connected` starts Ray again where a busy machine lets the first start fail; a test's own `ray.init` would not."""
    calls = [
        id_of(path)
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) == ("ray", "init")
    ]
    assert not calls
