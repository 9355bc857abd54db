"""May this run start? Self-training, benchmark, plan and check give one answer, each mistake by its first line."""

from pathlib import Path

import pytest
from running import opened

from mudi.metrics import METRICS
from pipeline.check.folder import check_run
from pipeline.ready import metric_weights, ready
from pipeline.settings.benchmark_config import load_plan
from tests.pipeline.test_benchmark import FILE
from tests.pipeline.test_rounds import RUN_FILE

# How each of the four asks: whether it goes on after a mistake, and whether photos may be absent.
ASKERS = {"run": {}, "plan": {"absent_ok": True}}


def files(folder):
    """A self-training file and a benchmark file, by kind."""
    run, benchmark = folder / "run.yaml", folder / "benchmark.yaml"
    runs = str(folder / "runs")
    run.write_text(Path(RUN_FILE).read_text() + f"runs: {runs}\n")
    benchmark.write_text(FILE.replace("RUNS", runs))
    return {"selftrain": run, "benchmark": benchmark}


def refusals(path, overrides=()):
    """The refusal of each asker for this file; check takes no overrides, so they are written into the file first."""
    said = {}
    for asker, how in ASKERS.items():
        with pytest.raises(ValueError) as refused:  # noqa: PT011
            ready(load_plan(path, overrides), **how)
        said[asker] = str(refused.value)
    return said


@pytest.mark.parametrize("kind", ["selftrain", "benchmark"])
def test_queries_of_a_combination_that_is_not_there_are_refused_by_all(tmp_path, kind):
    path = files(tmp_path)[kind]
    path.write_text(path.read_text() + "queries: {three_dogs: {a: dog}}\n")
    said = refusals(path)
    said["check"] = "; ".join(check_run(path)[0])
    assert all(line.startswith("queries.three_dogs: no such combination; the run has ") for line in said.values()), said


@pytest.mark.parametrize("kind", ["selftrain", "benchmark"])
def test_a_folder_of_a_run_with_other_settings_is_refused_by_all(tmp_path, kind):
    """Nothing is written by asking, neither by the run nor by its plan."""
    path = files(tmp_path)[kind]
    opened(load_plan(path))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*")}
    said = refusals(path, ["sampling.steps=9"])
    path.write_text(
        path.read_text().replace("sampling: {steps: 25,", "sampling: {steps: 9,").replace("sampling: {steps: 3,", "sampling: {steps: 9,")
    )
    said["check"] = "; ".join(check_run(path)[0])
    assert all("holds a run with other settings (" in line and "is 9" in line for line in said.values()), said
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*")} == before


def test_a_folder_of_the_other_kind_of_run_is_refused(tmp_path):
    kinds = files(tmp_path)
    opened(load_plan(kinds["selftrain"], ["name=tiny"]))
    assert all("holds a self-training run, not a benchmark" in line for line in refusals(kinds["benchmark"]).values())


def test_an_unknown_metric_is_refused_by_all(tmp_path):
    path = files(tmp_path)["benchmark"]
    path.write_text(path.read_text() + "metrics: [detect_and_compare, clipscore]\n")
    said = refusals(path)
    said["check"] = "; ".join(check_run(path)[0])
    assert all("metrics: 'clipscore' is unknown; allowed are detect_and_compare" in line for line in said.values()), said


def test_a_check_goes_on_after_a_mistake(tmp_path):
    """Three mistakes of different kinds, all named."""
    path = files(tmp_path)["benchmark"]
    path.write_text(path.read_text() + "metrics: [clipscore]\nqueries: {three_dogs: {a: dog}}\nmodels: {detector: nowhere}\n")
    mistakes, _ = check_run(path)
    assert [any(word in mistake for mistake in mistakes) for word in ("nowhere", "three_dogs", "clipscore")] == [True] * 3


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["score.select_by=dnc_linear_clip"], "score.select_by = 'dnc_linear_clip': is not computed by this run; choose from "),
        (["metrics=[identity_oracle]", "models.oracle=miniature", "score.select_by=oracle_identity"], "it judges and never selects"),
        (["metrics=[identity_matrix]", "score.select_by=collapse_dreamsim"], "lower is better of it, and the highest are kept"),
        (["models.painter=miniature"], "models.painter: no metric uses such a model"),
    ],
)
def test_what_no_metric_of_the_run_has_is_refused_of_both_kinds(tmp_path, overrides, said):
    for path in files(tmp_path).values():
        assert all(said in line for line in refusals(path, overrides).values())


@pytest.mark.parametrize("name", [name for name in METRICS if name != "detect_and_compare"])
def test_every_metric_finds_the_miniature_s_models(tmp_path, name):
    """Under the names that `models` has for them."""
    models = {key: "miniature" for key in METRICS[name].MODELS if key not in ("embedders", "detector", "segmenter")}
    overrides = [f"metrics=[{name}]", *(f"models.{key}={weights}" for key, weights in models.items())]
    for path in files(tmp_path).values():
        asked = ready(load_plan(path, overrides))
        assert set(metric_weights(asked.config, name)) == set(METRICS[name].MODELS)
