"""A run folder belongs to one question and one process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.settings.config import load_run
from pipeline.tables import journal
from pipeline.tables.run_folder import folder_sha256, open_run, read_run, sole_driver


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(f"name: toys\nruns: {tmp_path / 'runs'}\ncombinations: [toys]\ncandidates: 4\nkeep: 2\nprompts: ['{{subjects}}']\n")
    return lambda *overrides: load_run(path, overrides)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_made_once_and_then_recognised(run):
    run_dir = open_run(run(), {"photos": "abc"})
    before = contents(run_dir)
    facts = read_run(run_dir)
    assert facts["config"]["candidates"] == 4
    assert facts["packages"]["pyarrow"]
    assert open_run(run("cluster.workers.count=3"), {"photos": "abc"}) == run_dir
    assert contents(run_dir) == before


def test_a_changed_question_is_refused_with_the_difference_and_nothing_written(run):
    run_dir = open_run(run(), {"photos": "abc"})
    before = contents(run_dir)
    with pytest.raises(ValueError, match=r"sampling\.steps was 50, is 20; candidates was 4, is 6\); pick another `name`"):
        open_run(run("candidates=6", "sampling.steps=20"), {"photos": "abc"})
    with pytest.raises(ValueError, match=r'inputs\.photos was "abc", is "abd"'):
        open_run(run(), {"photos": "abd"})
    assert contents(run_dir) == before


def test_an_address_is_refused(run):
    with pytest.raises(ValueError, match="s3://bucket/runs"):
        open_run(run("runs=s3://bucket/runs"))


def test_a_folder_without_a_run_or_with_a_torn_record_is_named(run, tmp_path):
    with pytest.raises(ValueError, match=r"no run here \(run.json is missing\)"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"config": 1})[:-3])
    with pytest.raises(ValueError, match="not readable as JSON"):
        read_run(tmp_path)


def test_a_folder_hash_notices_edits_and_renames_only(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"photo")
    first = folder_sha256(tmp_path)
    os.utime(tmp_path / "a.jpg", (0, 0))
    assert folder_sha256(tmp_path) == first
    (tmp_path / "a.jpg").rename(tmp_path / "b.jpg")
    renamed = folder_sha256(tmp_path)
    (tmp_path / "b.jpg").write_bytes(b"phot0")
    assert len({first, renamed, folder_sha256(tmp_path)}) == 3


def test_a_second_driver_is_refused_until_the_first_is_gone_even_if_killed(tmp_path):
    code = f"""
from pathlib import Path
from pipeline.tables.run_folder import sole_driver
with sole_driver(Path({str(tmp_path)!r})):
    print("held", flush=True)
    input()
"""
    driver = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert driver.stdout.readline() == b"held\n"
    with pytest.raises(ValueError, match="another process works on this run"), sole_driver(tmp_path):
        pass
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    with sole_driver(tmp_path):
        pass


def test_what_killed_writers_left_goes_when_the_run_is_held_and_nothing_else(run):
    """Parts of files in the run's own folder and its pool's; tables, markers and another run's parts stay."""
    run_dir = open_run(run())
    other = open_run(run("name=other"))
    journal.publish(run_dir / "pool", "candidates/a.parquet", b"whole")
    before = contents(run_dir)
    for folder in (run_dir, run_dir / "pool", other):
        (folder / "_staging" / "0123").write_bytes(b"a part")
    with sole_driver(run_dir):
        assert {name: data for name, data in contents(run_dir).items() if name != "_lock"} == before
        assert (other / "_staging" / "0123").read_bytes() == b"a part"
        assert journal.publish(run_dir, "report.html", b"new").read_bytes() == b"new"


def test_a_process_that_does_not_hold_the_run_clears_nothing(run):
    run_dir = open_run(run())
    with sole_driver(run_dir):
        (run_dir / "_staging" / "0123").write_bytes(b"being written")
        with pytest.raises(ValueError, match="another process works on this run"), sole_driver(run_dir):
            pass
        assert (run_dir / "_staging" / "0123").read_bytes() == b"being written"
