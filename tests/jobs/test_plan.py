"""`mudi plan` as it is started: what it prints, what it refuses, and how little it loads."""

import subprocess
import sys

import pytest
from places import ROOT
from running import opened

from jobs.plan import plan
from pipeline.settings.config import load_run

FILE = ROOT / "tests/data/miniature.yaml"


def test_a_plan_loads_neither_torch_nor_ray(tmp_path):
    """Counting needs settings and photos alone; the first line is out before anything is read."""
    code = (
        f"import sys; from pathlib import Path; from jobs.plan import plan; plan(Path({str(FILE)!r}), ['runs={tmp_path}']); "
        "sys.exit(bool({'torch', 'ray', 'diffusers', 'transformers', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("reading ")
    assert "in all" in done.stdout
    assert "not calibrated on any device; run: mudi plan RUN_FILE --calibrate" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_plan_refuses_a_folder_of_a_run_with_other_settings(tmp_path):
    opened(load_run(FILE, [f"runs={tmp_path}"]))
    with pytest.raises(ValueError, match="holds a run with other settings"):
        plan(FILE, [f"runs={tmp_path}", "sampling.steps=3"])
