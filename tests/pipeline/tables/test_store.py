"""Tables that readers find whole at any moment, and that notice when a byte was lost."""

import io
import json
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mudi.records import Candidate, CandidateKey, Score, ScoredCandidate
from pipeline.tables import journal, store


def scored(index: int, *, round: int = 0, prompt_id: str = "p00", value: float | None = 0.5, status: str = "ok") -> ScoredCandidate:
    key = CandidateKey(
        run="run", method="mudi", combination="toys", prompt_id=prompt_id, index=index, round=round, adapter_sha256=f"{round}"
    )
    image = np.random.default_rng(index).integers(0, 256, (6, 8, 3), dtype=np.uint8) if status == "ok" else None
    error = None if status == "ok" else "no image"
    candidate = Candidate(key=key, prompt="a toy", seed=index, image=image, status=status, error=error, seconds=0.25)
    score = Score(metric="dnc", value=value, scorer="tiny", details={"boxes": [[0, 0, 4, 4]]})
    return ScoredCandidate(candidate=candidate, detections=(), scores=(score,))


def write(run_dir: Path, chunk_id: str, items: list[ScoredCandidate]) -> list[str]:
    store.write_chunk(run_dir, chunk_id, items[0].candidate.key.round, items, device="cpu", dtype="float32", batch=len(items))
    return [item.candidate.key.candidate_id for item in items]


@pytest.fixture
def run_dir(tmp_path):
    store.create_tables(tmp_path)
    return tmp_path


def test_an_image_comes_back_bit_by_bit(run_dir):
    items = [scored(0), scored(1), scored(2)]
    ids = write(run_dir, "a", items[:2]) + write(run_dir, "b", items[2:])
    read = store.read_images(run_dir, set(ids[1:]))
    assert read.keys() == set(ids[1:])
    for candidate_id, item in zip(ids[1:], items[1:], strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(read[candidate_id]))), item.candidate.image)
    with pytest.raises(ValueError, match=r"no image of candidate feed \(1 in all\)"):
        store.read_images(run_dir, {"feed"})


def test_the_image_hash_is_that_of_the_raw_bytes():
    """sha256 of the three bytes 1, 2, 3 (printf '\\1\\2\\3' | sha256sum), also where the array is a view."""
    image = np.array([[[3, 2, 1]]], dtype=np.uint8)[:, :, ::-1]
    assert store.image_sha256(image) == "039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81"


def test_pandas_reads_the_folders_at_any_moment(run_dir):
    for dataset, schema in store.SCHEMAS.items():
        assert set(pd.read_parquet(run_dir / dataset).columns) == set(schema.names)
    write(run_dir, "a", [scored(0)])
    write(run_dir, "b", [scored(1, round=1), scored(2, round=1)])
    assert pd.read_parquet(run_dir / "candidates").groupby("round", observed=True).size().to_dict() == {0: 1, 1: 2}


def test_duckdb_reads_the_folders_at_any_moment(run_dir):
    duckdb = pytest.importorskip("duckdb")
    query = f"SELECT round, count(*) FROM read_parquet('{run_dir}/scores/*/*.parquet') GROUP BY round ORDER BY round"
    assert duckdb.sql(query).fetchall() == []
    write(run_dir, "a", [scored(0)])
    write(run_dir, "b", [scored(1, round=1), scored(2, round=1)])
    assert duckdb.sql(query).fetchall() == [(0, 1), (1, 2)]


def test_reads_have_the_documented_columns_with_and_without_rows(run_dir, tmp_path):
    write(run_dir, "a", [scored(0)])
    for dataset, schema in store.SCHEMAS.items():
        assert store.read(run_dir, dataset).schema.equals(schema)
        assert store.read(tmp_path / "nowhere", dataset).schema.equals(schema)
    table = store.read(run_dir, "candidates", 0, ["round", "candidate_id"])
    assert table.column_names == ["round", "candidate_id"]
    assert table["round"].to_pylist() == [0]


def test_missing_is_null_and_never_zero(run_dir):
    write(run_dir, "a", [scored(0, value=None), scored(1, value=0.0), scored(2, status="invalid")])
    assert store.read(run_dir, "scores", 0)["value"].to_pylist() == [None, 0.0]
    assert store.read(run_dir, "candidates")["image_sha256"].null_count == 1
    with pytest.raises(ValueError, match="score dnc is nan"):
        write(run_dir, "b", [scored(3, value=math.nan)])


def test_a_chunk_counts_only_once_its_candidates_file_is_there(run_dir):
    ids = write(run_dir, "a", [scored(0)])
    committed = run_dir / "candidates" / "round=0" / "a.parquet"
    away = committed.rename(run_dir / "away")
    assert store.stored_ids(run_dir, 0) == set()
    assert store.read(run_dir, "scores").num_rows == 0
    away.rename(committed)
    assert store.stored_ids(run_dir, 0) == set(ids)
    assert store.stored_ids(run_dir, 1) == set()


def test_writing_a_chunk_twice_leaves_one_row_and_the_same_bytes(run_dir):
    write(run_dir, "a", [scored(0), scored(1)])
    before = {path: path.read_bytes() for path in run_dir.rglob("*.parquet")}
    write(run_dir, "a", [scored(0), scored(1)])
    assert {path: path.read_bytes() for path in run_dir.rglob("*.parquet")} == before
    assert list((run_dir / "_staging").iterdir()) == []


DAMAGES = [(dataset, damage) for dataset in store.CHUNK_FILES for damage in ("cut", "emptied", "flipped", "deleted")]
DAMAGES.remove(("candidates", "deleted"))


@pytest.mark.parametrize(("dataset", "damage"), DAMAGES)
def test_a_damaged_chunk_is_set_aside_reported_and_drawn_again(run_dir, dataset, damage):
    whole, lost = write(run_dir, "whole", [scored(0)]), write(run_dir, "lost", [scored(1), scored(2)])
    path = run_dir / dataset / "round=0" / "lost.parquet"
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        metadata = pq.read_metadata(path).row_group(0).column(0)
        data[metadata.dictionary_page_offset + metadata.total_compressed_size // 2] ^= 0x10
    changed = {"cut": data[: len(data) // 2], "emptied": b"", "flipped": data, "deleted": None}[damage]
    path.unlink() if changed is None else path.write_bytes(changed)

    assert store.missing(run_dir, 0, whole + lost) == lost
    assert not list(run_dir.glob("[!_]*/round=0/lost.parquet"))
    assert store.stored_ids(run_dir, 0) == set(whole)
    (event,) = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert (event["event"], event["chunk"]) == ("quarantined", "lost")
    assert f"{dataset}/round=0/lost.parquet" in event["reason"]
    write(run_dir, "lost", [scored(1), scored(2)])
    assert store.missing(run_dir, 0, whole + lost) == []


def test_files_of_another_version_are_refused_and_left_alone(run_dir):
    write(run_dir, "a", [scored(0)])
    path = run_dir / "scores" / "round=0" / "a.parquet"
    table = pq.ParquetFile(path).read()
    pq.write_table(table.append_column("novelty", table["value"]), path)
    with pytest.raises(ValueError, match=r"a\.parquet: columns differ from version 1 of scores"):
        store.stored_ids(run_dir, 0)
    assert path.exists()


def test_errors_can_be_drawn_again_and_invalid_images_stay(run_dir):
    ids = write(run_dir, "a", [scored(0), scored(1, status="invalid"), scored(2, status="error")])
    assert store.stored_ids(run_dir, 0) == set(ids)
    assert store.stored_ids(run_dir, 0, ("ok", "invalid")) == set(ids[:2])


def test_a_selection_replaces_the_one_before(run_dir):
    store.write_selection(run_dir, 1, [("x", 1, 0.9), ("y", 2, 0.8)])
    store.write_selection(run_dir, 1, [("y", 1, 0.8)])
    assert store.read(run_dir, "selections").to_pylist() == [
        {"candidate_id": "y", "round": 1, "rank": 1, "value": 0.8, "schema_version": 1}
    ]


def test_a_line_of_the_log_that_cannot_be_read_is_no_event(tmp_path):
    """Two events around half a line, a list, bytes that are no text and a time that is none; of none there is no log. Events since a clock
    time leave out those before it."""
    assert journal.read_events(tmp_path) == []
    journal.append_event(tmp_path, event="first")
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"time": "2026-\n[1]\n\xff\xfe\n{"event": "no time"}\n{"event": "x", "time": "never"}\n')
    journal.append_event(tmp_path, event="second")
    assert [event["event"] for event in journal.read_events(tmp_path)] == ["first", "second"]
    assert journal.read_events(tmp_path, since=time.time() + 60) == []


def test_a_marker_is_absent_until_it_is_written(tmp_path):
    assert journal.read_marker(tmp_path, 0, "select") is None
    journal.write_marker(tmp_path, 0, "select", {"kept": 3})
    assert journal.read_marker(tmp_path, 0, "select") == {"kept": 3}
    assert journal.read_marker(tmp_path, 1, "select") is None


FIT = {
    "run": "run", "method": "mudi", "combination": "toys", "fit": 0, "seed": 7, "adapter_sha256": "0",
    "steps": 10, "parameters": 99, "device": "cpu",
}  # fmt: skip


def extra(value: float | None, metric: str = "beauty") -> tuple[Score, ...]:
    return (Score(metric=metric, value=value, scorer="tiny"),)


def test_scores_of_a_metric_added_later_are_read_with_the_others(run_dir):
    first, second = write(run_dir, "a", [scored(0), scored(1)])
    (other,) = write(run_dir, "b", [scored(2, round=1)])
    store.write_scores(run_dir, "a", 0, "beauty", {first: extra(0.25), second: extra(None)})
    rows = store.read(run_dir, "scores", 0, ["candidate_id", "metric", "value", "round"]).to_pylist()
    assert [(r["candidate_id"], r["value"], r["round"]) for r in rows if r["metric"] == "beauty"] == [(first, 0.25, 0), (second, None, 0)]
    assert len(rows) == 4
    assert store.read(run_dir, "scores", 1)["candidate_id"].to_pylist() == [other]
    assert store.stored_metrics(run_dir, 0) == {"a": {"beauty"}}
    assert store.stored_metrics(run_dir, 1) == {"b": set()}
    assert len(pd.read_parquet(run_dir / "scores")) == 5
    store.write_scores(run_dir, "a", 0, "beauty", {first: extra(0.5), second: extra(0.5)})
    assert store.read(run_dir, "scores", 0).num_rows == 4


def test_added_scores_of_a_chunk_that_is_not_committed_are_ignored(run_dir):
    (candidate_id,) = write(run_dir, "a", [scored(0)])
    store.write_scores(run_dir, "a", 0, "beauty", {candidate_id: extra(1.0)})
    (run_dir / "candidates" / "round=0" / "a.parquet").unlink()
    assert store.read(run_dir, "scores").num_rows == 0
    assert store.stored_metrics(run_dir, 0) == {}


@pytest.mark.parametrize("damage", ["cut", "emptied"])
def test_a_broken_file_of_added_scores_is_set_aside_alone(run_dir, damage):
    (candidate_id,) = write(run_dir, "a", [scored(0)])
    for metric in ("beauty", "truth"):
        store.write_scores(run_dir, "a", 0, metric, {candidate_id: extra(1.0, metric)})
    path = run_dir / "scores" / "round=0" / "a.beauty.parquet"
    path.write_bytes(path.read_bytes()[: 0 if damage == "emptied" else -40])
    with pytest.raises(ValueError, match=r"a\.beauty\.parquet: broken"):
        store.read(run_dir, "scores")
    assert store.stored_ids(run_dir, 0) == {candidate_id}
    assert store.stored_metrics(run_dir, 0) == {"a": {"truth"}}
    assert (run_dir / "_quarantine" / "scores" / "round=0" / "a.beauty.parquet").exists()
    assert store.read(run_dir, "scores").num_rows == 2
    (event,) = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert (event["event"], event["chunk"]) == ("quarantined", "a.beauty")


def test_a_damaged_chunk_takes_its_added_scores_with_it(run_dir):
    """They are of images that are lost; the chunk drawn again starts without them."""
    (candidate_id,) = write(run_dir, "a", [scored(0)])
    store.write_scores(run_dir, "a", 0, "beauty", {candidate_id: extra(1.0)})
    (run_dir / "images" / "round=0" / "a.parquet").write_bytes(b"")
    assert store.stored_ids(run_dir, 0) == set()
    write(run_dir, "a", [scored(0)])
    assert store.stored_metrics(run_dir, 0) == {"a": set()}


def test_added_scores_count_once_they_cover_every_image(run_dir):
    """The second image failed at first and was drawn later: the scores lack it. An invalid one needs none."""
    first, second, _ = write(run_dir, "a", [scored(0), scored(1, status="error"), scored(2, status="invalid")])
    store.write_scores(run_dir, "a", 0, "beauty", {first: extra(1.0)})
    assert store.stored_metrics(run_dir, 0) == {"a": {"beauty"}}
    write(run_dir, "a", [scored(0), scored(1), scored(2, status="invalid")])
    assert store.stored_metrics(run_dir, 0) == {"a": set()}
    store.write_scores(run_dir, "a", 0, "beauty", {first: extra(1.0), second: extra(None)})
    assert store.stored_metrics(run_dir, 0) == {"a": {"beauty"}}


def test_scores_that_cannot_be_added_are_refused(run_dir):
    (candidate_id,) = write(run_dir, "a", [scored(0)])
    for scores, named in (
        ({"feed": extra(1.0)}, "candidate feed is not in it"),
        ({candidate_id: ()}, f"beauty gave no score of candidate {candidate_id}"),
        ({candidate_id: extra(1.0, "dnc")}, "has the score 'dnc' since it was drawn"),
        ({candidate_id: extra(math.inf)}, "score beauty is inf"),
    ):
        with pytest.raises(ValueError, match=named):
            store.write_scores(run_dir, "a", 0, "beauty", scores)
    with pytest.raises(ValueError, match="no stored chunk 'b' in round 0"):
        store.write_scores(run_dir, "b", 0, "beauty", {})
    with pytest.raises(ValueError, match="use neither a dot nor a slash"):
        store.write_scores(run_dir, "a", 0, "beauty.2", {})
    assert store.stored_metrics(run_dir, 0) == {"a": set()}


def test_a_chunk_is_read_back_in_its_order(run_dir):
    items = [scored(3), scored(1, status="invalid"), scored(2)]
    ids = write(run_dir, "a", items)
    write(run_dir, "b", [scored(4, round=1)])
    assert store.committed_chunks(run_dir, 0) == ["a"]
    rows = store.read_chunk(run_dir, 0, "a")
    assert [(row["candidate_id"], row["index"], row["round"], png is None) for row, png in rows] == [
        (ids[0], 3, 0, False), (ids[1], 1, 0, True), (ids[2], 2, 0, False)
    ]  # fmt: skip
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(rows[2][1]))), items[2].candidate.image)
    with pytest.raises(ValueError, match="no stored chunk 'b' in round 0"):
        store.read_chunk(run_dir, 0, "b")


def test_fits_are_stored_once_a_name_with_null_for_what_is_missing(run_dir):
    store.write_fits(run_dir, "mudi-toys", [FIT])
    store.write_fits(run_dir, "mudi-toys", [{**FIT, "seconds": 1.5}, {**FIT, "fit": 1, "adapter_sha256": "1", "drift": 0.5}])
    rows = store.read(run_dir, "fits").to_pylist()
    assert [(row["fit"], row["round"], row["seconds"], row["drift"]) for row in rows] == [(0, 0, 1.5, None), (1, 0, None, 0.5)]
    assert len(pd.read_parquet(run_dir / "fits")) == 2


@pytest.mark.parametrize(
    ("change", "named"), [({"speed": 1}, "unknown column 'speed'"), ({"steps": None}, "'steps' has no value"), ({"drift": math.nan}, "nan")]
)
def test_a_fit_with_wrong_columns_is_refused(run_dir, change, named):
    with pytest.raises(ValueError, match=named):
        store.write_fits(run_dir, "mudi-toys", [{**FIT, **change}])
