"""Rates are measured by runs, short ones or their own, for everything that a plan needs; a run is then held against its plan."""

import json
from pathlib import Path

import pytest
from running import carried_out, opened, quiet

from pipeline.cost import calibration, price
from pipeline.cost.calibration import START
from pipeline.cost.count import workload_of
from pipeline.cost.forecast import close_plan, plan_now, timed
from pipeline.cost.short_run import calibrate
from pipeline.ready import ready
from pipeline.settings.benchmark_config import load_benchmark
from pipeline.settings.config import load_run
from pipeline.tables.journal import append_event, read_events
from pipeline.workers.fit_job import read_cost
from tests.pipeline.test_benchmark import FILE
from tests.pipeline.test_rounds import RUN_FILE, SMALL


def workload(config):
    return workload_of(ready(config))


def lacking(config):
    """The rates that a plan of the file does not have, and its wall-clock."""
    found = price.price(config, workload(config), "cpu", calibration.calibrations(config).get("cpu", {}))
    return found.lacking, found.wall


def calibrated(load, overrides, scratch):
    """Rates of short runs, stored for the file."""
    config = load(overrides)
    device, rates = calibrate(ready(config), lambda shorter: load([*overrides, *shorter]), scratch, lambda text: None)
    assert device == "cpu"
    calibration.store(config, device, rates)
    return config, rates


@pytest.mark.slow
@pytest.mark.parametrize("pool", [[], ["pool_sampling={gamma: 1.0}"]])
def test_short_runs_give_every_rate_that_the_plan_of_a_run_lacks(tmp_path, pool):
    """A fit with class priors, a refit, chunks and scorers of the miniature; the memory of a fit holds at least its own adapter. Nothing
    but rates is written where runs lie. Watched pictures are another kind of work where the pool is drawn otherwise."""
    small = [f"runs={tmp_path / 'runs'}", *SMALL, "method.objective=prior_preservation", "method.prior_steps=8", *pool]
    config, rates = calibrated(lambda overrides: load_run(Path(RUN_FILE), overrides), small, tmp_path / "scratch")
    assert all(rate.low <= rate.high and rate.other >= 0 for rate in rates.values())
    assert lacking(config)[0] == ()
    assert 0 < lacking(config)[1][0] < lacking(config)[1][1]
    assert price.price(config, workload(config), "cpu", calibration.calibrations(config).get("cpu", {})).fit_peak > 100e6
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.name != "_staging"] == ["_calibration"]


@pytest.mark.slow
def test_short_runs_give_every_rate_that_the_plan_of_a_benchmark_lacks(tmp_path):
    """Every arm once: a joint fit, fits of subjects with a merge and a refinement, two rounds on pools that are drawn without
    guidance, and two further metrics."""
    more = {"rounds": 2, "sampling": {"guidance_scale": 1.0, "steps": 4}}
    arms = {
        "mudi": {"method": "mudi"},
        "fused": {"method": "modular", "single": {"steps": 9}, "merge": {"name": "fusion"}, "refine": {"steps": 9, "sample_steps": 8}},
        "refitted": {"refit": {"of": "mudi", "pool": 4, "keep": 2, "steps": 9, "batch": 2, "accumulation": 1, **more}},
    }
    path = tmp_path / "benchmark.yaml"
    path.write_text(FILE.replace("RUNS", str(tmp_path / "runs")))
    overrides = [f"methods={json.dumps(arms)}", "metrics=[detect_and_compare, whole_image, clip_score]", "models.clip=miniature"]
    config, _ = calibrated(lambda given: load_benchmark(path, given), overrides, tmp_path / "scratch")
    assert lacking(config)[0] == ()


def test_a_calibration_needs_photos(tmp_path):
    run = ready(load_run(Path(RUN_FILE), [f"runs={tmp_path}", "combinations=[nowhere/two_dogs]"]), absent_ok=True)
    with pytest.raises(ValueError, match="--calibrate: none of the run's combinations is here"):
        calibrate(run, lambda overrides: None, tmp_path, lambda text: None)


def finished(config, seconds):
    """The run's folder and what is said of its plan in the end."""
    run = opened(config)
    planned = plan_now(run)
    carried_out(run, timed(quiet, planned))
    return run.run_dir, planned, close_plan(run, planned, seconds)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [3, 40])
def test_a_run_leaves_rates_for_the_next_plan_and_is_then_held_against_it(tmp_path, batch):
    """The first run has nothing to compare with; the plan of a second one, under another name, has its times, and an error. A line of
    the log that cannot be read changes nothing. With a batch of 40 no chunk is full."""

    def run(seconds, *overrides):
        config = load_run(Path(RUN_FILE), [f"runs={tmp_path}", *SMALL, "rounds=0", "candidates=12", f"sampling.batch={batch}", *overrides])
        return config, *finished(config, seconds)

    first, run_dir, planned, line = run(1000.0)
    assert "nothing to compare" in line
    assert planned.line == ""
    (stored,) = calibration.calibrations(first).values()
    (fit,) = workload(first).tasks("fit")
    seconds = json.loads((run_dir / "adapters" / "two_dogs" / "round=0.cost.json").read_text())["seconds"]
    assert stored[fit.kind].low == pytest.approx(seconds / 6)
    # The run is said to have begun a thousand seconds before its end.
    assert 0 < stored[START].low < 1000

    second, run_dir, planned, line = run(1e6, "name=second")
    assert "planned" in planned.line
    assert "above the high end" in line
    (event,) = [event for event in read_events(run_dir) if event["event"] == "planned"]
    assert event["devices"][0]["wall"][0] > 0
    assert lacking(second) == ((), (0.0, 0.0))

    (run_dir / "events.jsonl").open("a").write('{"event": "chunk", "time"\n[1]\n{"event": "chunk", "time": "never"}\n')
    append_event(run_dir, event="chunk", chunk=3)
    run = opened(second)
    assert close_plan(run, plan_now(run), 1.0) == "nothing was left to do: no plan to compare"


@pytest.mark.slow
def test_a_benchmark_leaves_rates_of_its_metrics_too(tmp_path):
    """One arm, four pictures in two chunks, one further metric: the next benchmark of another name lacks nothing."""
    path = tmp_path / "benchmark.yaml"
    path.write_text(FILE.replace("RUNS", str(tmp_path / "runs")))
    overrides = ["fits=1", "methods={mudi: {method: mudi}}", "metrics=[detect_and_compare, whole_image]"]
    assert "nothing to compare" in finished(load_benchmark(path, overrides), 1000.0)[2]
    names, (low, high) = lacking(load_benchmark(path, [*overrides, "name=second"]))
    assert names == ()
    assert 0 < low < high


@pytest.mark.slow
def test_a_merge_has_a_rate_of_its_own_and_so_have_the_fits_of_subjects(tmp_path):
    """Two arms, one pair of subjects: their two fits of two steps are made once, each its own seconds over two; a merge of no steps
    counts whole."""
    path = tmp_path / "benchmark.yaml"
    path.write_text(FILE.replace("RUNS", str(tmp_path / "runs")))
    single = "single: {steps: 2, rank: 2, objective: denoising}"
    arms = f"{{sum: {{method: merged_loras, {single}}}, fused: {{like: sum, merge: {{name: fusion}}}}}}"
    config = load_benchmark(path, ["fits=1", f"methods={arms}", "defaults={}", "metrics=[detect_and_compare]"])
    assert "nothing to compare" in finished(config, 1.0)[2]
    (stored,) = calibration.calibrations(config).values()
    a, b, summed, fused = workload(config).tasks("fit")
    seconds = [read_cost(Path(task.place))["seconds"] for task in (a, b, summed, fused)]
    assert (stored[a.kind].low, stored[a.kind].high) == pytest.approx((min(seconds[:2]) / 2, max(seconds[:2]) / 2))
    assert [stored[task.kind].low for task in (summed, fused)] == pytest.approx(seconds[2:])
