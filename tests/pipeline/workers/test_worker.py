"""A candidate's bytes do not depend on what its worker did before; and a piece that fails leaves the others alone."""

from dataclasses import replace
from pathlib import Path

import pytest
from running import opened

from pipeline import assignments
from pipeline.carry_out import phases_of
from pipeline.phases import Draws, Fits, Priors, expected, follow
from pipeline.settings.config import Cluster, load_run
from pipeline.tables import store
from pipeline.workers.draw import Draw, write_quarantined
from pipeline.workers.in_process import in_this_process
from pipeline.workers.loaded import Loaded
from pipeline.workers.priors import PriorBatch
from pipeline.workers.worker import perform
from tests.pipeline.test_rounds import RUN_FILE, SMALL

METHODS = {
    "mudi": [],
    "textual_inversion": ["method={name: textual_inversion, steps: 2, batch: 1, accumulation: 1}"],
    "cones2": ["method={name: cones2, tuning: text_full, steps: 2, batch: 1}"],
    "concept_conductor": [
        "method={name: concept_conductor, steps: 2, rank: 2, batch: 1, accumulation: 1, objective: denoising}",
        "sampling.layout=given",
    ],
}


def still(step, loss):
    """A report to nobody."""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """For each method its fits and the first chunk of its first round; every adapter is made by a worker of its own."""
    made = {}
    for name, method in METHODS.items():
        overrides = [*SMALL, "rounds=0", *method] if name == "mudi" else [o for o in (*SMALL, "rounds=0") if "method." not in o] + method
        run = opened(load_run(Path(RUN_FILE), [f"runs={tmp_path_factory.mktemp(name)}", *overrides]))
        fits, draws = [], []

        def answer(phase, fits=fits, draws=draws):
            if isinstance(phase, Fits):
                fresh = Loaded("cpu", 1)
                for job in phase.jobs:
                    perform(fresh, job, still)
                fits.extend(phase.jobs)
            elif isinstance(phase, Draws):
                draws.extend(Draw(chunk=chunk, settings=phase.settings) for chunk in phase.chunks)
            return phase.jobs if isinstance(phase, Priors) else expected(phase)

        follow(phases_of(run), answer)
        made[name] = (run, fits, draws[0])
    return made


def drawn(loaded, piece, folder):
    """The bytes of a chunk's pictures and its scores, drawn by this worker into an empty folder."""
    settings = replace(piece.settings, run_dir=str(folder))
    store.create_tables(folder)
    perform(loaded, replace(piece, settings=settings), still)
    shas = store.read(folder, "candidates", 0, ["candidate_id", "image_sha256"]).to_pylist()
    return shas, store.read(folder, "scores", 0, ["candidate_id", "metric", "value", "details"]).to_pylist()


def again(job, folder):
    """The same fit in another place, so that it is made once more."""
    return replace(job, out_dir=str(folder / "again"), hyperparameters={**job.hyperparameters, "singles": str(folder / "singles")})


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_chunk_is_the_same_after_fits_other_adapters_and_priors(work, tmp_path, name):
    """Fresh; after a fit of each method; after chunks of each; after class priors of the bare backbone."""
    _, fits, piece = work[name]
    fresh = drawn(Loaded("cpu", 1), piece, tmp_path / "fresh")
    used = Loaded("cpu", 1)
    for other, (_, jobs, chunk) in work.items():
        perform(used, again(jobs[-1], tmp_path / f"fit {other}"), still)
        assert drawn(used, piece, tmp_path / f"after a fit of {other}") == fresh
        drawn(used, chunk, tmp_path / f"chunk of {other}")
        assert drawn(used, piece, tmp_path / f"after a chunk of {other}") == fresh
    recipe = priors_of(work["mudi"][0])
    perform(used, PriorBatch(recipe=recipe, folder=str(tmp_path / "priors"), batch=0, run="r"), still)
    assert drawn(used, piece, tmp_path / "after priors") == fresh
    assert fits


def priors_of(run):
    """A recipe of two steps for the run's first subject."""
    (method,) = run.methods.values()
    wanting = replace(method, objective="prior_preservation", prior_images=1, prior_steps=2)
    return next(iter(wanting.prior_recipes(run.combinations[0], "miniature", "float32").values()))


def test_fits_beyond_the_allowed_failures_end_the_work_and_the_rest_is_left(tmp_path, two_dogs):
    """Of three pieces the first fails; with none allowed the second is not begun, with one allowed it is."""
    begun = []

    class Piece:
        kind, label = "masks", "a piece"

        @property
        def settings(self):
            begun.append(self)
            raise ValueError("no such photo")

    with in_this_process(Cluster()) as (do, _):
        assert [f.reason for f in do([Piece(), Piece(), Piece()], lambda *_: None)] == ["ValueError: no such photo"]
        assert len(begun) == 1
        assert len(do([Piece(), Piece(), Piece()], lambda *_: None, None, 1)) == 2


@pytest.mark.slow
def test_a_quarantined_chunk_is_stored_as_errors_with_the_reason(work, tmp_path):
    """Every candidate of the chunk once, without a picture or a score, and counted as stored: it is not drawn again."""
    piece = work["mudi"][2]
    lost = replace(piece, settings=replace(piece.settings, run_dir=str(tmp_path)))
    store.create_tables(tmp_path)
    write_quarantined(lost, "its worker died 2 times while it was at work")
    rows = store.read(tmp_path, "candidates", 0, ["candidate_id", "status", "error", "image_sha256"]).to_pylist()
    assert {row["candidate_id"] for row in rows} == {key.candidate_id for key in piece.chunk.keys}
    assert {(row["status"], row["error"], row["image_sha256"]) for row in rows} == {
        ("error", "its worker died 2 times while it was at work", None)
    }
    assert store.stored_ids(tmp_path, 0) == {row["candidate_id"] for row in rows}
    assert store.stored_ids(tmp_path, 0, ("ok", "invalid")) == set()


def test_a_run_names_its_fits_and_seeds_as_before(tmp_path):
    """The seed of a fit follows from the run's seed, the combination and the round alone."""
    assert assignments.fit_seed(7, "two_dogs", 0) != assignments.fit_seed(7, "two_dogs", 1)
