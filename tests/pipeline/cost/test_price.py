"""Work times rates: laws of the two ends, with rates that are given."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cost import calibration, price
from pipeline.cost.calibration import START, Rate
from pipeline.cost.count import workload_of
from pipeline.cost.forecast import Measured, duration, rates_of, verdict
from pipeline.ready import ready
from pipeline.settings.config import load_run

NOTHING = Rate(low=0.0, high=0.0)


def run_file(tmp_path, *overrides):
    """One worker on a machine of two cores, unless that is overridden."""
    settings = [f"runs={tmp_path}", "rounds=0", "watched_prompts=[]", "candidates=64", "cluster.cpus=2", "cluster.workers.count=1"]
    return load_run(Path("tests/data/miniature.yaml"), [*settings, *overrides])


def workload(config):
    return workload_of(ready(config))


def rated(config, **changed):
    """A step of a fit takes 1 to 2 s, a denoising step of a chunk 0.5 to 1 s, all else nothing."""
    rates = {task.kind: Rate(low=1.0, high=2.0) for task in workload(config).tasks("fit")}
    rates |= {task.kind: Rate(low=0.5, high=1.0) for task in workload(config).tasks("draw", "priors")}
    return rates | dict.fromkeys((*calibration.scorer_names(config), START), NOTHING) | changed


def priced(config, **changed):
    return price.price(config, workload(config), "cpu", rated(config, **changed))


def test_one_worker_takes_the_sum_of_all_steps_after_one_start(tmp_path):
    """150 steps of 1 to 2 s; 8 chunks x 25 steps of 0.5 to 1 s: 250 to 500 s of work, widened by 0.9 and 1.25, after a start of 8 to
    20 s. The worker holds its core for all of it."""
    found = priced(run_file(tmp_path), **{START: Rate(low=8.0, high=20.0)})
    assert found.wall == pytest.approx((0.9 * (8 + 250), 1.25 * (20 + 500)))
    assert found.hours == pytest.approx((0.9 * 250 / 3600, 1.25 * 520 / 3600))


def test_until_a_run_has_measured_its_start_libraries_load_side_by_side(tmp_path):
    """Ray 5 to 10 s, libraries 10 to 30 s, a first model 1 to 10 s; workers of half a core take twice as long, and without Ray its
    start falls away."""
    files = {"one": (), "half": ("cluster.workers.cpus=0.5",), "none": ("cluster.address=none",)}
    starts = {name: price.start_seconds(run_file(tmp_path, *overrides).cluster, {}) for name, overrides in files.items()}
    assert starts == {"one": (16, 50), "half": (16, 80), "none": (11, 40)}


def test_workers_beside_one_another_share_the_chunks_but_not_the_cores(tmp_path):
    """Two workers on two cores halve the drawing at the low end, four do no better; at the high end a whole chunk is left over. The one
    fit is not divided."""
    one, two, four = (priced(run_file(tmp_path, f"cluster.workers.count={n}")) for n in (1, 2, 4))
    assert one.wall[0] - two.wall[0] == pytest.approx(0.9 * 50)
    assert four == two
    assert one.wall[1] - two.wall[1] == pytest.approx(1.25 * (200 - (175 / 2 + 25)))
    assert two.hours[0] == one.hours[0]


def test_twice_the_candidates_take_twice_the_time_of_drawing(tmp_path):
    base, double = (priced(run_file(tmp_path, f"candidates={n}")) for n in (64, 128))
    assert [b - a for a, b in zip(base.wall, double.wall)] == pytest.approx([0.9 * 100, 1.25 * 200])


def test_the_worker_that_draws_a_chunk_also_scores_it(tmp_path):
    """64 pictures, each detected in 0.25 to 0.5 s and compared in 1 s, and 2 s besides for each of the 8 chunks."""
    config = run_file(tmp_path)
    detect, compare = calibration.scorer_names(config)
    plain, scored = priced(config), priced(config, **{detect: Rate(low=0.25, high=0.5), compare: Rate(low=1.0, high=1.0, other=2.0)})
    assert [b - a for a, b in zip(plain.wall, scored.wall)] == pytest.approx([0.9 * (64 * 1.25 + 16), 1.25 * (64 * 1.5 + 16)])


def test_a_chunk_that_is_not_full_costs_its_share_or_the_whole(tmp_path):
    """17 candidates over 4 prompts in chunks of 8: four chunks of 5, 4, 4 and 4."""
    config = run_file(tmp_path, "candidates=17", "keep=1")
    seconds = [price.seconds(task, config, rated(config)) for task in workload(config).tasks("draw")]
    assert [low for low, _ in seconds] == pytest.approx([12.5 * n / 8 for n in (5, 4, 4, 4)])
    assert {high for _, high in seconds} == {25.0}


def test_priors_are_drawn_once_or_twice(tmp_path):
    """Two subjects x 7 batches of 50 steps are 14 chunks of 25 to 50 s on one worker: 350 s more at the low end, and at the high
    end twice 700 s; a batch that is there costs neither."""
    without, with_priors = (run_file(tmp_path, f"method.objective={name}") for name in ("denoising", "prior_preservation"))
    more = [b - a for a, b in zip(priced(without).wall, priced(with_priors).wall)]
    assert more == pytest.approx([0.9 * 350, 1.25 * 1400])


def test_a_finished_run_costs_nothing(tmp_path):
    """Nothing is left, so nothing is started either, whatever rates are known."""
    config = run_file(tmp_path)
    counted = workload(config)
    done = [replace(phase, tasks=tuple(replace(task, done=True) for task in phase.tasks)) for phase in counted.phases]
    found = price.price(config, replace(counted, phases=tuple(done)), "cpu", {})
    assert (found.hours, found.wall, found.lacking) == ((0, 0), (0, 0), ())


def test_a_rate_that_is_missing_is_named_and_no_time_is_given(tmp_path):
    config = run_file(tmp_path)
    (fit,) = workload(config).tasks("fit")
    bare = {name: rate for name, rate in rated(config).items() if name != fit.kind}
    found = price.price(config, workload(config), "cpu", bare)
    assert (found.hours, found.wall, found.lacking) == (None, None, (fit.kind,))


def test_as_many_workers_run_at_once_as_there_is_room_for(tmp_path):
    """A local Ray of 2 cores holds 2, or one of two cores; GPUs and clusters hold those that the file asks for, or one; without Ray one."""

    def at_once(*overrides):
        return price.workers_at_once(run_file(tmp_path, "cluster.workers.count=null", *overrides).cluster)

    assert [at_once(), at_once("cluster.workers.cpus=2"), at_once("cluster.workers.count=1")] == [2, 1, 1]
    assert at_once("cluster.cpus=null") == (os.cpu_count() or 1)
    assert [at_once("cluster.workers.gpus=1", f"cluster.workers.count={n}") for n in (8, "null")] == [8, 1]
    assert [at_once("cluster.address=auto", f"cluster.workers.count={n}") for n in (8, "null")] == [8, 1]
    assert at_once("cluster.address=none", "cluster.workers.count=8") == 1


def test_calibrations_are_found_by_what_their_rates_depend_on(tmp_path):
    """Stored for two devices, found with another number of candidates, not found with other threads; rates of other names stay."""
    config = run_file(tmp_path)
    stored = rated(config, png=Rate(low=1.0, high=2.0, other=0.5, peak_bytes=3, source="two steps"))
    paths = [calibration.store(config, device, stored) for device in ("cpu", "NVIDIA H100")]
    assert [path.name.rsplit("-", 1)[0] for path in paths] == ["cpu", "nvidia-h100"]
    calibration.store(config, "cpu", {START: Rate(low=3.0, high=4.0)})
    found = calibration.calibrations(run_file(tmp_path, "candidates=128"))
    assert list(found) == ["cpu", "NVIDIA H100"]
    assert list(found.values()) == [{**stored, START: Rate(low=3.0, high=4.0)}, stored]
    assert calibration.calibrations(run_file(tmp_path, "cluster.workers.cpus=2")) == {}
    paths[0].write_text("{}")
    with pytest.raises(ValueError, match=r"cpu-.*\.json: no calibration"):
        calibration.calibrations(config)


def test_pieces_of_different_lengths_tell_what_does_not_grow_with_them():
    """2 steps in 5 s and 8 steps in 11 s: 1 s a step and 3 s besides. Of one length alone nothing is told, so the known 3 s stay."""
    measured = Measured()
    measured.pieces["fit"] += [(2, 5.0), (8, 11.0)]
    rate = rates_of(measured, {}, "short runs")["fit"]
    assert (rate.low, rate.high, rate.other) == pytest.approx((1.0, 1.0, 3.0))
    alone = Measured(peaks={"fit": 7})
    alone.pieces["fit"] += [(10, 23.0)]
    assert rates_of(alone, {"fit": rate}, "run")["fit"] == Rate(low=2.0, high=2.0, other=3.0, peak_bytes=7, source="run")
    assert rates_of(alone, {}, "run")["fit"].low == pytest.approx(2.3)


def test_of_many_pieces_the_quartiles_are_kept():
    """1, 2, 3, 4 and 100 s for a step each."""
    measured = Measured()
    measured.pieces["draw"] += [(1, seconds) for seconds in (1.0, 2.0, 3.0, 4.0, 100.0)]
    rate = rates_of(measured, {}, "run")["draw"]
    assert (rate.low, rate.high) == pytest.approx((2.0, 4.0))


def test_a_verdict_says_where_the_measured_time_lies():
    assert verdict((186.0, 264.0), 240.0) == "planned 3.1 to 4.4 min, measured 4.0 min (inside)"
    assert verdict((100.0, 200.0), 246.0) == "planned 1.7 to 3.3 min, measured 4.1 min (+23% above the high end)"
    assert verdict((40.0, 80.0), 30.0) == "planned 40.0 to 80.0 s, measured 30.0 s (-25% below the low end)"
    assert duration((3600.0, 7200.0)) == "1.0 to 2.0 h"
