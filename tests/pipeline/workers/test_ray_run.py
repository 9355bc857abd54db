"""The same run on Ray: equal to one in this process, also after its workers, its driver or a node were killed."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from running import carried_out, opened

from pipeline.settings.config import load_run
from pipeline.tables import store
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


def workers(process):
    """The processes of the run's actors, by the title that Ray gives them."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "ray::Worker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(scope="module")
def in_process(tmp_path_factory):
    return carried_out(opened(load_run(Path(RUN_FILE), [f"runs={tmp_path_factory.mktemp('plain')}", *OVERRIDES])))


@pytest.mark.slow
def test_a_run_whose_actor_and_driver_were_killed_equals_one_in_process(in_process, tmp_path):
    """SIGKILL to every worker during the first sweep, then to the driver, then the same command: every
    candidate once, and every image, score and selection as a run without Ray made them."""
    run_dir = tmp_path / "miniature"
    process = start(tmp_path)
    stored = stored_when_reported(process, 1)
    actors = workers(process)
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
    for ours, theirs in zip(table(run_dir), table(in_process), strict=True):
        assert ours.equals(theirs)
    assert "report.html" in finished.stdout
    assert (run_dir / "report.html").stat().st_size > 10_000
    events = [json.loads(line)["event"] for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert events.count("published") == 2


@pytest.mark.slow
def test_gpus_that_are_not_there_are_bad_input_and_leave_nothing(tmp_path):
    """One line, exit status 2, no run folder."""
    finished = subprocess.run(command(tmp_path, "cluster.workers.gpus=64"), cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("error:")]
    assert "cluster.workers.gpus = 64" in line
    assert not list(tmp_path.iterdir())


NODES = """
import os, sys
from pathlib import Path
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 150_000_000, "include_dashboard": False})
stays, goes = (cluster.add_node(num_cpus=1, object_store_memory=150_000_000) for _ in range(2))
os.environ["RAY_ADDRESS"] = cluster.address
from jobs.driver import say, started
from pipeline.carry_out import carry_out
from pipeline.ready import open_folder, ready
from pipeline.settings.config import load_run

config = load_run(Path(sys.argv[1]), [*sys.argv[3:], "cluster.address=auto"])
when, left = sys.argv[2], [goes]

def progress(label, done, total):
    print(label, done, total, flush=True)
    if label.startswith(when) and done >= 1 and left:
        cluster.remove_node(left.pop(), allow_graceful=False)

run = ready(config)
with started(config.cluster) as (do, start):
    start()
    open_folder(run)
    carry_out(run, do, progress)
assert not left, "the run was over before its node went"
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["fit", "round 0 sweep"])
def test_a_run_whose_node_goes_ends_like_an_undisturbed_one(tmp_path, when):
    """Two nodes with a worker each and two pairs, so that both work; one node is removed without a word. The other ends the run."""
    pairs = "combinations=[jobs/configs/miniature/two_dogs,jobs/configs/miniature/tuning/cat_and_bear_tuning]"
    few = [*SMALL, "method.steps=30", "rounds=0", pairs]
    expected = carried_out(opened(load_run(Path(RUN_FILE), [f"runs={tmp_path / 'alone'}", *few])))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-c", NODES, RUN_FILE, when, f"runs={tmp_path / 'nodes'}", *few]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    for ours, theirs in zip(table(tmp_path / "nodes" / "miniature"), table(expected), strict=True):
        assert ours.equals(theirs)
