"""Rates are measured, by two steps or by a run, for everything that a plan needs."""

import json
from pathlib import Path

import pytest

from pipeline import arms, assignments, rounds
from pipeline.benchmark import benchmark
from pipeline.benchmark_folder import open_benchmark
from pipeline.cost import calibration, price
from pipeline.cost.count import workload_of
from pipeline.cost.forecast import close_plan, plan_now, timed
from pipeline.cost.measure import measure
from pipeline.settings.benchmark_config import load_benchmark
from pipeline.settings.config import load_run
from pipeline.tables.run_folder import open_run
from pipeline.workers.fit_job import read_cost
from pipeline.workers.in_process import PLAIN
from tests.pipeline.test_benchmark import FILE
from tests.pipeline.test_rounds import RUN_FILE, SMALL


@pytest.mark.slow
def test_two_steps_give_every_rate_that_the_plan_lacks(tmp_path):
    """A fit with class priors, a refit, chunks and scorers of the miniature; the memory of a fit holds at least its own adapter."""
    config = load_run(Path(RUN_FILE), [f"runs={tmp_path}", *SMALL, "method.objective=prior_preservation"])
    workload = workload_of(config)
    lacking = price.price(config, workload, calibration.find(config, "cpu")).lacking
    device, rates = measure(config, workload, tmp_path)
    assert device == "cpu"
    assert set(lacking) <= set(rates)
    assert all(0 < rate.low <= rate.high and rate.other >= 0 for rate in rates.values())
    priced = price.price(config, workload, calibration.find(config, device).with_rates(rates))
    assert 0 < priced.wall[0] < priced.wall[1]
    assert priced.fit_peak > 100e6


@pytest.mark.slow
def test_a_run_leaves_rates_for_the_next_plan_and_is_then_held_against_it(tmp_path):
    """The first run has nothing to compare with; the plan of a second one, under another name, has its times, and an error."""

    def run(*overrides):
        config = load_run(Path(RUN_FILE), [f"runs={tmp_path}", *SMALL, "rounds=0", "candidates=12", *overrides])
        run_dir = open_run(config)
        planned = plan_now(config, run_dir)
        rounds.selftrain(config, assignments.load_combinations(config), run_dir, PLAIN, timed(lambda *_: None, planned))
        return config, run_dir, close_plan(config, run_dir, planned, seconds=1e6)

    first, run_dir, line = run()
    assert "nothing to compare" in line
    (stored,) = calibration.calibrations(first)
    (fit,) = workload_of(first).fits
    seconds = json.loads((run_dir / "adapters" / "two_dogs" / "round=0.cost.json").read_text())["seconds"]
    assert stored.rates[fit.kind].low == pytest.approx(seconds / fit.steps)
    assert stored.rates["start sweep"].low > 0

    second, run_dir, line = run("name=second")
    assert "above the high end" in line
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    (planned,) = [event for event in events if event["event"] == "planned"]
    assert planned["devices"][0]["wall"][0] > 0
    assert left_wall(second) == price.RUN


def finished(config):
    """What a benchmark of the plain loop says of its plan in the end."""
    resolved = arms.resolve(config)
    combinations = arms.load_combinations(config, resolved)
    run_dir = open_benchmark(config, combinations, {})
    planned = plan_now(config, run_dir)
    benchmark(config, resolved, combinations, run_dir, PLAIN, timed(lambda *_: None, planned))
    return close_plan(config, run_dir, planned, seconds=1.0)


@pytest.mark.slow
def test_a_benchmark_leaves_rates_of_its_metrics_too(tmp_path):
    """One arm, four pictures in two chunks, one further metric: the next benchmark of another name lacks nothing."""
    path = tmp_path / "benchmark.yaml"
    path.write_text(FILE.replace("RUNS", str(tmp_path / "runs")))
    overrides = ["fits=1", "methods={mudi: {method: mudi}}", "metrics=[detect_and_compare, whole_image]"]
    config = load_benchmark(path, overrides)
    assert "nothing to compare" in finished(config)
    low, high = left_wall(load_benchmark(path, [*overrides, "name=second"]))
    assert price.RUN[0] < low < high


def left_wall(config):
    (stored,) = calibration.calibrations(config)
    return price.price(config, workload_of(config), stored).wall


@pytest.mark.slow
def test_a_merge_of_fits_that_another_arm_makes_has_no_rate_of_its_own(tmp_path):
    """Two arms, one pair of subjects: the first one's rate is its own seconds and those of both subjects' fits over 2 x 2 steps; the
    second has no step to divide by."""
    path = tmp_path / "benchmark.yaml"
    path.write_text(FILE.replace("RUNS", str(tmp_path / "runs")))
    arms_of = "{sum: {method: merged_loras, single: {steps: 2, rank: 2, objective: denoising}}, fused: {like: sum, merge: {name: fusion}}}"
    config = load_benchmark(path, ["fits=1", f"methods={arms_of}", "defaults={}", "metrics=[detect_and_compare]"])
    assert "nothing to compare" in finished(config)
    fit, fused = workload_of(config).fits
    cost = read_cost(fit.folder)
    (stored,) = calibration.calibrations(config)
    assert stored.rates[fit.kind].high == pytest.approx((cost["seconds"] + cost["alone_seconds"]) / 4)
    assert cost["alone_seconds"] == read_cost(fused.folder)["alone_seconds"] > 0
