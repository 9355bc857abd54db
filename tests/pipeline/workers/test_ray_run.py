"""The same run on Ray: equal to the plain loop, and equal again after its processes were killed."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline import assignments, rounds
from pipeline.settings.config import load_run
from pipeline.tables import store
from pipeline.tables.run_folder import open_run
from pipeline.workers.in_process import PLAIN
from tests.pipeline.test_rounds import RUN_FILE, SMALL, table

ROOT = Path(__file__).parents[3]
# Chunks of one and slow sampling, so that a sweep lasts long enough to be killed in the middle.
OVERRIDES = (*SMALL, "candidates=8", "sampling.batch=1", "sampling.steps=40", "rounds=1")


def command(runs, *overrides):
    settings = [f"runs={runs}", *OVERRIDES, *overrides]
    return [sys.executable, "-m", "jobs.selftrain", RUN_FILE, *(word for s in settings for word in ("--set", s))]


def start(runs):
    return subprocess.Popen(command(runs), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def stored_when_reported(process, at_least):
    """Read the run's progress lines until the first sweep has stored so many candidates; how many it then has."""
    for line in process.stdout:
        if (found := re.search(r"round 0 sweep: (\d+)/", line)) and int(found[1]) >= at_least:
            return int(found[1])
    raise AssertionError("the run ended before its first sweep got that far")


def generators(process):
    """Worker processes that run the Generate stage, by the title that Ray gives them."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "Generate" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    config = load_run(Path(RUN_FILE), [f"runs={tmp_path_factory.mktemp('plain')}", *OVERRIDES])
    run_dir = open_run(config)
    rounds.selftrain(config, assignments.load_combinations(config), run_dir, PLAIN, lambda *_: None)
    return run_dir


@pytest.mark.slow
def test_a_run_whose_actor_and_driver_were_killed_equals_the_plain_loop(plain, tmp_path):
    """SIGKILL to a generator during the first sweep, then to the driver, then the same command: every
    candidate once, and every image, score and selection as the plain loop made them without Ray."""
    run_dir = tmp_path / "miniature"
    process = start(tmp_path)
    stored = stored_when_reported(process, 1)
    actors = generators(process)
    for actor in actors:
        actor.kill()
    assert actors
    assert stored_when_reported(process, stored + 1) < 10, "the sweep was over before the driver was killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = subprocess.run(command(tmp_path), cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    ids = store.read(run_dir, "candidates")["candidate_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 2 * (8 + 2)
    for ours, theirs in zip(table(run_dir), table(plain), strict=True):
        assert ours.equals(theirs)
    assert "report.html" in finished.stdout
    assert (run_dir / "report.html").stat().st_size > 10_000
    events = [json.loads(line)["event"] for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert events.count("published") == 2


@pytest.mark.slow
def test_gpus_that_are_not_there_are_bad_input_and_leave_nothing(tmp_path):
    """One line, exit status 2, no run folder."""
    finished = subprocess.run(command(tmp_path, "cluster.generate.gpus=64"), cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("error:")]
    assert "cluster.generate.gpus = 64" in line
    assert not list(tmp_path.iterdir())
