"""A benchmark on Ray: equal to one in this process, also after its driver was killed while it drew."""

import os
import re
import signal
import subprocess
import sys

import pytest
from places import ROOT

from tests.pipeline.test_benchmark import FILE, load, rows, run

# Two arms without a refit, for a short run.
ARMS = "".join(line for line in FILE.splitlines(keepends=True) if not line.startswith(("  without:", "  refitted:")))
SLOW = ("sampling.steps=60", "images=4", "fits=1")


def command(folder):
    settings = [*SLOW, "metrics=[detect_and_compare, whole_image]"]
    return [sys.executable, "-m", "jobs.benchmark", str(folder / "benchmark.yaml"), *(word for s in settings for word in ("--set", s))]


def start(folder):
    return subprocess.Popen(command(folder), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


@pytest.mark.slow
def test_a_killed_benchmark_on_ray_goes_on_and_ends_like_one_in_process(tmp_path):
    """kill -9 of the driver and all it started once pictures are stored; the same command again; every row as without Ray."""
    plain, on_ray = tmp_path / "plain", tmp_path / "ray"
    plain.mkdir()
    on_ray.mkdir()
    (on_ray / "benchmark.yaml").write_text(ARMS.replace("RUNS", str(on_ray / "runs")))
    first = start(on_ray)
    for line in first.stdout:
        if (found := re.search(r"pictures: (\d+)/", line)) and int(found[1]) >= 2:
            break
    else:
        raise AssertionError("the benchmark ended before it drew two pictures")
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    again = start(on_ray)
    output, _ = again.communicate(timeout=600)
    assert again.returncode == 0, output
    stored = int(re.search(r"pictures: (\d+)/16", output)[1])
    assert 2 <= stored < 16
    expected = run(load(plain, *SLOW, "metrics=[detect_and_compare, whole_image]", text=ARMS))
    for dataset in ("candidates", "scores", "fits"):
        assert rows(on_ray / "runs" / "tiny", dataset).equals(rows(expected, dataset)), dataset
    assert (on_ray / "runs" / "tiny" / "report.html").stat().st_size > 10_000
