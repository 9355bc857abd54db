"""Work times rates: laws of the two ends, with rates that are given."""

from pathlib import Path

import pytest

from pipeline.cost import calibration, price
from pipeline.cost.calibration import STEP_LOAD, SWEEP_START, Calibration, Rate
from pipeline.cost.count import workload_of
from pipeline.cost.forecast import verdict
from pipeline.cost.show import duration
from pipeline.settings.config import load_run
from pipeline.workers.cluster import SPARE_CPUS

NOTHING = Rate(low=0.0, high=0.0)


def run_file(tmp_path, *overrides):
    settings = [f"runs={tmp_path}", "rounds=0", "watched_prompts=[]", "candidates=64", *overrides]
    return load_run(Path("jobs/configs/miniature.yaml"), settings)


def rated(config, **changed):
    """A step of a fit takes 1 to 2 s, a denoising step of a chunk 0.5 to 1 s, all else nothing."""
    workload = workload_of(config)
    rates = {fit.kind: Rate(low=1.0, high=2.0) for fit in workload.fits}
    rates |= {draw.kind: Rate(low=0.5, high=1.0) for draw in workload.draws}
    rates |= dict.fromkeys((*calibration.scorer_names(config), STEP_LOAD, SWEEP_START), NOTHING) | changed
    return Calibration(device="cpu", settings=calibration.settings_of(config), rates=rates)


def priced(config, cores=2, **changed):
    return price.price(config, workload_of(config), rated(config, **changed), cores)


def test_one_fit_and_one_generator_take_the_sum_of_their_steps(tmp_path):
    """150 steps of 1 to 2 s; 8 chunks x 25 steps of 0.5 to 1 s: 250 to 500 s of work, widened by 0.9 and 1.25, with a worker's start
    of 3 to 15 s and Ray's of 10 to 40 s. Held: the fit 1 core, the sweep 2: (1 x 315 + 2 x 200) x 1.25 / 3600 core-hours."""
    found = priced(run_file(tmp_path))
    assert found.wall == pytest.approx((10 + 0.9 * (3 + 150 + 100), 40 + 1.25 * (15 + 300 + 200)))
    assert found.hours == pytest.approx((0.9 * 250 / 3600, 1.25 * (315 + 2 * 200) / 3600))


def test_generators_beside_one_another_share_the_chunks_but_not_the_cores(tmp_path):
    """Two generators on two cores halve the sweep at the low end, four do no better; at the high end a whole chunk is left over."""
    one, two, four = (priced(run_file(tmp_path, f"cluster.generate.actors={n}")) for n in (1, 2, 4))
    assert one.wall[0] - two.wall[0] == pytest.approx(0.9 * 50)
    assert four.wall[0] == two.wall[0]
    assert one.wall[1] - two.wall[1] == pytest.approx(1.25 * (200 - (175 / 2 + 25)))
    assert two.hours[0] == one.hours[0]


def test_twice_the_candidates_take_twice_the_time_of_drawing(tmp_path):
    base, double = (priced(run_file(tmp_path, f"candidates={n}")) for n in (64, 128))
    assert [b - a for a, b in zip(base.wall, double.wall)] == pytest.approx([0.9 * 100, 1.25 * 200])


def test_a_chunk_that_is_not_full_costs_its_share_or_the_whole(tmp_path):
    """17 candidates over 4 prompts in chunks of 8: four chunks of 5, 4, 4 and 4."""
    config = run_file(tmp_path, "candidates=17", "keep=1")
    seconds = [price.chunk_seconds(draw, rated(config).rates) for draw in workload_of(config).draws]
    assert [low for low, _ in seconds] == pytest.approx([12.5 * n / 8 for n in (5, 4, 4, 4)])
    assert {high for _, high in seconds} == {25.0}


def test_a_rate_of_a_whole_chunk_goes_before_one_of_its_steps(tmp_path):
    config = run_file(tmp_path)
    (draw, *_) = workload_of(config).draws
    rates = {**rated(config).rates, price.whole_chunk(draw): Rate(low=7.0, high=8.0)}
    assert price.chunk_seconds(draw, rates) == (7.0, 8.0)


def test_priors_are_drawn_once_or_twice(tmp_path):
    """Two subjects x 7 batches of 50 steps are 14 chunks of 25 to 50 s on one generator: 350 s more at the low end, and at the high
    end twice 700 s; a batch that is there costs neither."""
    without, with_priors = (run_file(tmp_path, f"method.objective={name}") for name in ("denoising", "prior_preservation"))
    workload = workload_of(with_priors)
    rates = {**rated(with_priors).rates, **{draw.kind: Rate(low=0.5, high=1.0) for draw in workload.priors}}
    found = price.price(with_priors, workload, Calibration(device="cpu", settings={}, rates=rates), 2)
    more = [b - a for a, b in zip(priced(without).wall, found.wall)]
    assert more == pytest.approx([0.9 * 350, 1.25 * 1400])


def test_a_rate_that_is_missing_is_named_and_no_time_is_given(tmp_path):
    config = run_file(tmp_path)
    (fit,) = workload_of(config).fits
    bare = {name: rate for name, rate in rated(config).rates.items() if name != fit.kind}
    found = price.price(config, workload_of(config), Calibration(device="cpu", settings={}, rates=bare), 2)
    assert (found.hours, found.wall, found.lacking) == (None, None, (fit.kind,))


def test_as_many_fits_run_at_once_as_ray_is_told_it_has_room_for(tmp_path):
    """A local Ray of 2 cores is told of 2 more; on GPUs a cluster holds the file's 8 generators and one GPU of scorers."""
    assert price.fits_at_once(run_file(tmp_path).cluster, 9, 2) == 2 + SPARE_CPUS
    gpus = ["cluster.generate.gpus=1", "cluster.generate.actors=8", "cluster.detect.gpus=0.5", "cluster.compare.gpus=0.5"]
    assert price.fits_at_once(run_file(tmp_path, *gpus, "cluster.fit.gpus=1").cluster, 40, 2) == 9


def test_calibrations_are_found_by_what_their_rates_depend_on(tmp_path):
    """Stored for two devices, found with another number of candidates, not found with other threads."""
    config = run_file(tmp_path)
    stored = rated(config, png=Rate(low=1.0, high=2.0, other=0.5, peak_bytes=3, source="two steps"))
    paths = [calibration.store(config, Calibration(device=d, settings=stored.settings, rates=stored.rates)) for d in ("cpu", "NVIDIA H100")]
    assert [path.name.rsplit("-", 1)[0] for path in paths] == ["cpu", "nvidia-h100"]
    found = calibration.calibrations(run_file(tmp_path, "candidates=128"))
    assert [c.device for c in found] == ["cpu", "NVIDIA H100"]
    assert found[0].rates == stored.rates
    assert calibration.calibrations(run_file(tmp_path, "cluster.generate.cpus=2")) == []
    paths[0].write_text("{}")
    with pytest.raises(ValueError, match=r"cpu-.*\.json: no calibration"):
        calibration.calibrations(config)


def test_a_verdict_says_where_the_measured_time_lies():
    assert verdict((186.0, 264.0), 240.0) == "planned 3.1 to 4.4 min, measured 4.0 min (inside)"
    assert verdict((100.0, 200.0), 246.0) == "planned 1.7 to 3.3 min, measured 4.1 min (+23% above the high end)"
    assert verdict((40.0, 80.0), 30.0) == "planned 40.0 to 80.0 s, measured 30.0 s (-25% below the low end)"
    assert duration((3600.0, 7200.0)) == "1.0 to 2.0 h"
