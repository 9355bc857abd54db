"""A run's phases as one list: walked with stand-ins it is the list of the run itself."""

from pathlib import Path

import pytest
from running import carried_out, opened

from pipeline.carry_out import phases_of
from pipeline.phases import Draws, Fits, is_anything_left, listed
from pipeline.ready import ready
from pipeline.settings.config import load_run
from tests.pipeline.test_benchmark import load
from tests.pipeline.test_rounds import RUN_FILE, SMALL


def names(run):
    return [phase.name for phase in listed(phases_of(run))]


def test_self_training_is_a_first_fit_and_a_sweep_a_choice_and_a_refit_a_round(tmp_path):
    """Two refits make three sweeps; the last is ranked and trains nothing. Asking makes no folder."""
    run = ready(load_run(Path(RUN_FILE), [f"runs={tmp_path / 'runs'}", "rounds=2"]))
    rounds = [f"round {r} {what}" for r in range(3) for what in ("sweep", "selection", "refit")]
    assert names(run) == ["class priors", "fit", "fit", *rounds[:-1]]
    assert is_anything_left(phases_of(run))
    assert not (tmp_path / "runs").exists()


def test_a_benchmark_fits_draws_a_pool_refits_draws_and_judges(tmp_path):
    run = ready(load(tmp_path))
    assert names(run) == ["class priors", "fit", "fit", "pool", "selection", "refit", "fits", "pictures", "metrics"]


@pytest.mark.slow
def test_the_list_of_a_finished_run_names_the_adapters_and_chunks_that_it_made(tmp_path):
    """With stand-ins before and with what is stored afterwards: one fit and one refit; six candidates of four prompts and an image of two
    watched prompts, in chunks of at most three, are six chunks a round; and then nothing is left."""
    run = opened(load_run(Path(RUN_FILE), [f"runs={tmp_path}", *SMALL]))

    def sizes():
        phases = listed(phases_of(run))
        return [len(p.jobs) for p in phases if isinstance(p, Fits)], [len(p.chunks) for p in phases if isinstance(p, Draws)]

    before = sizes()
    carried_out(run)
    assert sizes() == before == ([0, 1, 1], [6, 6])
    assert not is_anything_left(phases_of(run))
