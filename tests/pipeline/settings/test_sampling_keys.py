"""What a file says nothing of is drawn as its method has it, and stands in what is stored."""

import pytest
from places import ROOT

from mudi.methods import METHODS
from mudi.methods.cones2 import Cones2
from mudi.methods.mudi import MuDI
from pipeline import arms, assignments
from pipeline.settings.benchmark_config import load_benchmark
from pipeline.settings.config import config_hash, load_run
from pipeline.settings.run_file import read_source
from pipeline.settings.sampling_keys import BatchedSampling, checked_sampling

RUN = """
name: small
combinations: [jobs/configs/miniature/two_dogs]
candidates: 4
keep: 2
prompts: ["a photo of {subjects}"]
"""
BENCHMARK = """
name: small
combinations: [jobs/configs/miniature/two_dogs]
prompts: ["a photo of {subjects}"]
"""


@pytest.fixture
def run(tmp_path):
    def run(more, *overrides):
        (tmp_path / "run.yaml").write_text(RUN + more)
        return load_run(tmp_path / "run.yaml", overrides)

    return run


@pytest.fixture
def arms_of(tmp_path):
    def arms_of(more):
        (tmp_path / "benchmark.yaml").write_text(BENCHMARK + more)
        config = load_benchmark(tmp_path / "benchmark.yaml")
        return config, {label: arm.options.sampling for label, arm in arms.resolve(config).items()}

    return arms_of


@pytest.mark.parametrize("name", METHODS)
def test_a_run_file_without_sampling_draws_as_its_method(run, name):
    """And says so: the same file with all of it written out is the same run."""
    config, own = run(f"method: {{name: {name}}}"), METHODS[name]().sampling
    assert assignments.sampling_of(config) == assignments.method_of(config).sampling == own
    written = f"sampling.negative_prompt={'null' if own.negative_prompt is None else repr(own.negative_prompt)}"
    said = [f"sampling.{key}={getattr(own, key)}" for key in ("gamma", "guidance_scale", "layout")]
    assert config_hash(run(f"method: {{name: {name}}}", written, *said)) == config_hash(config)


def test_what_a_run_file_says_stays_as_it_is(run):
    """Also where it is what the keys themselves have by default; CFG++ takes the place of the method's guidance where both are said."""
    drawn = assignments.sampling_of(
        run("method: {name: cones2}\nsampling: {steps: 9, gamma: 1.0, guidance_scale: null, cfg_plus_plus: 0.6}")
    )
    assert (drawn.steps, drawn.gamma, drawn.guidance_scale, drawn.cfg_plus_plus, drawn.negative_prompt) == (9, 1.0, None, 0.6, None)


def test_mudi_draws_as_before_and_the_keys_defaults_are_its_own(run):
    config = run("method: {name: mudi}\nsampling: {steps: 9}")
    assert config.sampling == BatchedSampling(steps=9)
    assert checked_sampling("sampling", BatchedSampling().keys) == MuDI().sampling


def test_an_arm_draws_as_its_method_where_neither_it_nor_the_file_says_otherwise(arms_of):
    """Of the file's own: steps. Of Cones 2's: guidance 7.5, no negative prompt, no shift; of Concept Conductor's: given layouts."""
    config, drawn = arms_of(
        "sampling: {steps: 9}\nmethods:\n  mudi: {method: mudi}\n  cones2: {method: cones2}\n  shifted: {like: cones2, sampling: "
        "{gamma: 0.6}}\n  conductor: {method: concept_conductor}\n  loud: {method: cones2, sampling: {guidance_scale: 9.0}}"
    )
    own = [(s.steps, s.gamma, s.guidance_scale, s.negative_prompt, s.layout) for s in drawn.values()]
    assert own == [
        (9, 1.0, 5.0, "sticker, collage.", "random"), (9, 0.0, 7.5, None, "random"), (9, 0.6, 7.5, None, "random"),
        (9, 0.0, 5.0, None, "given"), (9, 0.0, 9.0, None, "random"),
    ]  # fmt: skip
    stored = config.model_dump(mode="json")["methods"]
    assert stored["cones2"]["sampling"] == {"gamma": 0.0, "guidance_scale": 7.5, "negative_prompt": None}
    assert stored["mudi"]["sampling"] == {}


def test_a_benchmark_that_says_all_keeps_it_for_every_arm(arms_of):
    _, drawn = arms_of(
        "sampling: {guidance_scale: 4.0, negative_prompt: '', gamma: 0.3, layout: random}\nmethods:\n  cones2: {method: cones2}\n"
    )
    said = drawn["cones2"]
    assert (said.guidance_scale, said.negative_prompt, said.gamma) == (4.0, "", 0.3)


def test_a_benchmark_without_sampling_draws_plainly_but_for_what_methods_have_beyond(arms_of):
    """Its own defaults, no shift and no negative prompt, are for every arm; the guidance is Cones 2's."""
    _, drawn = arms_of("methods:\n  mudi: {method: mudi}\n  cones2: {method: cones2}")
    assert [(s.gamma, s.negative_prompt, s.guidance_scale) for s in drawn.values()] == [(0.0, None, 5.0), (0.0, None, 7.5)]
    assert drawn["cones2"] == Cones2().sampling


def test_shipped_files_say_what_they_draw_with():
    """Nothing is added to any arm of them, so that their stored runs go on."""
    for path in sorted((ROOT / "jobs/configs").glob("benchmark_*.yaml")):
        written = read_source(path).values["methods"]
        assert {label: arm.sampling for label, arm in load_benchmark(path).methods.items()} == {
            label: arm.get("sampling", {}) for label, arm in written.items()
        }, path.name
