"""The arrows of the house: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for top in ("mudi", "pipeline", "jobs") for path in (ROOT / top).rglob("*.py"))
RAY_FILES = {"cluster.py", "sweep.py", "training.py"}


def imported(path: Path) -> set[str]:
    """Every module that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    """jobs -> pipeline -> mudi; mudi knows no Ray, Parquet or command line; only three files know Ray."""
    top = path.relative_to(ROOT).parts[0]
    if top == "mudi":
        assert not tops(path) & {"ray", "pyarrow", "pandas", "typer", "pydantic", "pipeline", "jobs"}
    if top == "pipeline":
        assert "jobs" not in tops(path)
        assert ("ray" in tops(path)) == (path.name in RAY_FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_methods_and_metrics_never_meet(path):
    """A method that knew its judge could be tuned to it."""
    parts = path.relative_to(ROOT).parts
    if parts[:2] == ("mudi", "methods"):
        assert not any(name.startswith("mudi.metrics") for name in imported(path))
    if parts[:2] == ("mudi", "metrics"):
        assert not any(name.startswith("mudi.methods") for name in imported(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_asks_for_the_miniature(path):
    """The miniature is a checkpoint: outside its own folder, only its name in defaults, the loader and its verb."""
    if "miniature" not in path.parts and path.relative_to(ROOT).parts[0] != "jobs":
        assert not any(name.startswith("mudi.miniature") for name in imported(path))


@pytest.mark.parametrize(
    "module", ["pipeline.summary", "pipeline.report", "pipeline.benchmark_report", "pipeline.benchmark_export", "pipeline.compare"]
)
def test_a_report_builds_without_torch_and_ray(module):
    """A laptop with the tables alone can read them."""
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'ray'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_no_dumping_grounds():
    """A name that says nothing collects everything."""
    banned = {"utils", "util", "helpers", "common", "base", "misc", "manager", "managers"}
    assert not [path for path in FILES if banned & {path.stem, *path.relative_to(ROOT).parts[:-1]}]
