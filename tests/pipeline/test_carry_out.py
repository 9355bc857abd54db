"""Phases carried out: chunks go to the workers adapter by adapter, and chunks that fail are counted against the file's share."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from running import opened, quiet

from pipeline.carry_out import draw_missing, phases_of
from pipeline.phases import Draws, listed
from pipeline.settings.config import load_run
from pipeline.tables import store
from pipeline.workers.failure import RunFailedError
from pipeline.workers.worker import Failure
from tests.pipeline.test_rounds import RUN_FILE, SMALL


@pytest.fixture
def phase(tmp_path):
    """The first sweep of a small run: six chunks of eight candidates."""
    run = opened(load_run(Path(RUN_FILE), [f"runs={tmp_path}", *SMALL, "rounds=0"]))
    (draws,) = [phase for phase in listed(phases_of(run)) if isinstance(phase, Draws)]
    return draws


def test_chunks_are_handed_out_adapter_by_adapter(phase):
    """The chunks of two adapters, in turns in the list, come one adapter after the other, so that a worker changes it once."""
    other = [replace(c, adapter_sha256="0", keys=tuple(replace(k, adapter_sha256="0") for k in c.keys)) for c in phase.chunks]
    mixed = tuple(c for pair in zip(phase.chunks, other) for c in pair)
    handed = []

    def do(pieces, received, moved=None, allowed=0):
        handed.extend(piece.chunk.adapter_sha256 for piece in pieces)
        return []

    with pytest.raises(RunFailedError, match=r"16 of 16 candidates are missing"):
        draw_missing(replace(phase, chunks=mixed), do, 0.05, quiet)
    assert len(handed) == 12
    assert handed == sorted(handed)


def test_a_chunk_that_killed_its_workers_is_quarantined_and_the_others_go_on(phase):
    """One chunk of two candidates of eight is given up, a quarter: with that share allowed only the six others are missing here, since
    nobody drew them. The reason stands with each candidate and in the log."""
    lost = phase.chunks[0]

    def do(pieces, received, moved=None, allowed=0):
        return [Failure(piece=piece, reason="its worker died 2 times while it was at work") for piece in pieces if piece.chunk == lost]

    with pytest.raises(RunFailedError, match=r"8 of 8 candidates are missing"):
        draw_missing(phase, do, 0.25, quiet)
    rows = store.read(phase.run_dir, "candidates", 0, ["candidate_id", "status", "error"]).to_pylist()
    assert {row["candidate_id"] for row in rows} == {key.candidate_id for key in lost.keys}
    assert {(row["status"], row["error"]) for row in rows} == {("error", "its worker died 2 times while it was at work")}
    events = [json.loads(line) for line in (phase.run_dir / "events.jsonl").read_text().splitlines()]
    assert [event["chunk"] for event in events if event["event"] == "failed"] == [lost.chunk_id]


def test_more_failures_than_the_file_allows_stop_the_sweep_with_the_reason(phase):
    def do(pieces, received, moved=None, allowed=0):
        assert allowed == 0
        return [Failure(piece=pieces[0], reason="ValueError: no such prompt", error=ValueError("no such prompt"))]

    with pytest.raises(RunFailedError, match=r"\Around 0 sweep stopped: ValueError: no such prompt; what is stored stays"):
        draw_missing(phase, do, 0.05, quiet)
