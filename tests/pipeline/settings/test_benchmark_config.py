"""Benchmark files: what the shipped ones say, how arms inherit, and the one line for each mistake."""

from pathlib import Path

import pytest

from pipeline import arms
from pipeline.ready import ready
from pipeline.settings.benchmark_config import benchmark_hash, load_benchmark
from pipeline.settings.prompt_file import evaluation_prompts, read_prompts, training_prompts

CONFIGS = Path("jobs/configs")
SMALL = """
name: small
combinations: [jobs/configs/miniature/tuning/two_dogs_tuning]
prompts: ["a photo of {subjects}"]
training_prompts: ["{subjects} on the grass"]
defaults: {steps: 7, rank: 4, batch: 2}
sampling: {steps: 5, guidance_scale: 2.0, negative_prompt: null, gamma: 0.0, batch: 2}
methods:
  dreambooth: {method: dreambooth}
  mudi: {method: mudi, steps: 9, sampling: {gamma: 0.5}}
  plain: {like: mudi, sampling: {gamma: 0.0}}
  again: {refit: {of: mudi, pool: 6, keep: 2}, sampling: {gamma: 0.0}}
"""


@pytest.fixture
def load(tmp_path):
    def load(text=SMALL, *overrides):
        path = tmp_path / "benchmark.yaml"
        path.write_text(text)
        return load_benchmark(path, overrides)

    return load


def test_arms_inherit_from_defaults_then_from_the_arm_that_they_are_like(load):
    """Steps: 7 by default, 9 for mudi and all that is like it; gamma 0 by default, 0.5 for mudi, 0 where set back."""
    resolved = arms.resolve(load())
    assert {label: arm.options.steps for label, arm in resolved.items()} == {"dreambooth": 7, "mudi": 9, "plain": 9, "again": 9}
    assert {label: arm.options.sampling.gamma for label, arm in resolved.items()} == {"dreambooth": 0, "mudi": 0.5, "plain": 0, "again": 0}
    assert resolved["dreambooth"].options.rank == 4


def test_arms_that_only_draw_differently_share_their_fit(load):
    """mudi, plain and the refit's start have one content; DreamBooth, and mudi with another step count, have their own."""
    resolved = arms.resolve(load(SMALL + "  longer: {like: mudi, steps: 10}\n"))
    contents = {label: arm.content for label, arm in resolved.items()}
    assert contents["mudi"] == contents["plain"] == contents["again"]
    assert len({contents[label] for label in ("mudi", "dreambooth", "longer")}) == 3


def test_an_arm_like_a_refit_is_that_refit_drawn_differently(load, tmp_path):
    """One folder for both, and one refit job for the two."""
    config = load(SMALL + "  shifted: {like: again, sampling: {gamma: 0.5}}\n")
    resolved = arms.resolve(config)
    assert resolved["shifted"].refit == resolved["again"].refit
    folders = {arms.adapter_folder(tmp_path, config, resolved, resolved[label], "two_dogs_tuning", 0) for label in ("again", "shifted")}
    assert len(folders) == 1


def test_every_fit_of_every_cell_has_one_job_and_methods_share_its_seed(load, tmp_path):
    """Two contents x one combination x three fits: six jobs, three seeds, six folders and labels."""
    config = load(SMALL, "fits=3")
    resolved = arms.resolve(config)
    jobs = arms.first_fits(config, tmp_path, resolved, ready(config).combinations)
    assert len({job.out_dir for job in jobs}) == len({job.label for job in jobs}) == len(jobs) == 6
    assert len({job.seed for job in jobs}) == 3


def test_what_is_added_later_leaves_the_hash_and_what_is_drawn_changes_it(load):
    config = load()
    assert benchmark_hash(load(SMALL + "  more: {like: mudi, rank: 2}\nmetrics: [detect_and_compare, whole_image]\n")) == benchmark_hash(
        config
    )
    for override in ("images=3", "fits=2", "seed=1", "sampling.steps=6", "models.backbone=random-sdxl"):
        assert benchmark_hash(load(SMALL, override)) != benchmark_hash(config)


MISTAKES = {
    "  odd: {method: mudi, like: dreambooth}": "an arm has one of method, like and refit, not method and like",
    "  odd: {steps: 3}": "not none",
    "  odd: {like: dreambath}": "did you mean 'dreambooth'",
    "  odd: {like: odd}": "derived from itself (odd -> odd)",
    "  odd: {refit: {of: again}}": "is itself a refit; give 'mudi', and `rounds` for more of them",
    "  odd: {refit: {of: mudi, pool: 5}}": "refit.pool",
    "  odd: {method: textual_inversion}\n  more: {refit: {of: odd}}": "leaves no LoRA",
    "  odd: {method: mudee}": "methods.odd.name = 'mudee': allowed are mudi",
    "  odd: {method: mudi, stepps: 3}": "methods.odd.stepps: mudi has no such hyperparameter; did you mean 'steps'?",
    "  odd: {method: mudi, steps: 0}": "methods.odd.steps = 0",
    "  odd: {method: mudi, sampling: {gama: 1}}": "unknown key 'methods.odd.sampling.gama'; did you mean 'gamma'?",
    "  odd: {method: mudi, sampling: {layout_guidance: {wieght: 1}}}": "sampling.layout_guidance.wieght'; did you mean 'weight'?",
    "  odd: {method: mudi, sampling: {layout_guidance: {weight: -1}}}": "methods.odd.sampling.layout_guidance.weight = -1.0: allowed are 0",
    "  odd: {method: mudi, sampling: {batch: 3}}": "unknown key 'methods.odd.sampling.batch'; allowed: steps, guidance_scale",
    '  odd: {method: mudi, sampling: {steps: "3"}}': "methods.odd.sampling.steps: input should be a valid integer",
    "  odd: {refit: {of: mudi, pol: 6}}": "unknown key 'methods.odd.refit.pol'; did you mean 'pool'?",
    "  odd: {refit: {of: mudi, kl_weight: -1}}": "methods.odd.refit.kl_weight = -1.0: allowed are 0",
    "  odd: {refit: {of: mudi, pool: 6, rounds: 0}}": "methods.odd.refit.rounds",
    "  odd: {refit: {of: mudi, pool: 6, sampling: {gama: 1}}}": "unknown key 'methods.odd.refit.sampling.gama'; did you mean 'gamma'?",
    "  odd: {refit: {of: mudi, pool: 6, sampling: {steps: 0}}}": "methods.odd.refit.sampling.steps = 0: allowed are 1 to 999",
    "  odd: {refit: {of: mudi, pool: 5, sampling: {gamma: 0.5}}}": "refit.pool 6 differs",
    "  odd: {refit: {pool: 6}}": "missing key 'methods.odd.refit.of'",
    "claims: [{text: x, better: mudi, worse: dreambooht, metric: drift}]": "did you mean 'dreambooth'",
    "tables: [{name: main, title: x, methods: [nobody], metrics: [drift]}]": "'nobody' is not a label",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_that_names_its_place(load, line):
    with pytest.raises(ValueError, match=r".") as caught:
        arms.resolve(load(SMALL + line + "\n"))
    assert MISTAKES[line] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("benchmark_*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_files_are_whole(path):
    """Every arm resolves, and every combination has prompts."""
    config = load_benchmark(path)
    assert set(arms.resolve(config)) == set(config.methods)
    for folder in config.combinations:
        assert evaluation_prompts(config, folder.name)


def test_the_forty_prompts_are_forty_and_none_is_trained_on():
    """Eight combinations, five evaluation and five training prompts each; no ending occurs in both kinds."""
    file = read_prompts(CONFIGS / "prompts" / "mudi_40.yaml")
    assert sorted(len(prompts.evaluation) for prompts in file.combinations.values()) == [5] * 8
    evaluated = {prompt for prompts in file.combinations.values() for prompt in prompts.evaluation}
    trained = {prompt for prompts in file.combinations.values() for prompt in prompts.training}
    assert len(trained) == 40
    assert not evaluated & trained
    assert all(prompt.startswith("a photo of {subjects} ") for prompt in evaluated | trained)


def test_a_prompt_file_serves_its_combinations_and_names_the_one_it_lacks():
    config = load_benchmark(CONFIGS / "benchmark_mudi.yaml")
    assert training_prompts(config, "dog6_and_dog2")[0] == "a photo of {subjects} watching birds from a window sill"
    with pytest.raises(ValueError, match="has no prompts for 'my_pair'"):
        evaluation_prompts(config, "my_pair")


def test_a_prompt_that_is_evaluated_and_trained_on_is_refused(tmp_path):
    path = tmp_path / "prompts.yaml"
    path.write_text("version: 1\nsource: us\ncombinations:\n  two: {evaluation: ['{subjects} a'], training: ['{subjects} a']}\n")
    with pytest.raises(ValueError, match="keep them apart"):
        read_prompts(path)


def test_held_out_and_tuning_pairs_stay_apart_in_the_shipped_files():
    """What a setting is chosen on and what it is reported on share no folder and no subject (tests/test_pairs.py)."""
    reported = {folder.parent.name for folder in load_benchmark(CONFIGS / "benchmark_miniature.yaml").combinations}
    chosen = {folder.parent.name for folder in load_benchmark(CONFIGS / "benchmark_tuning.yaml").combinations}
    assert (reported, chosen) == ({"held_out"}, {"tuning"})


@pytest.mark.parametrize(
    ("key", "said"), [("stps", "defaults.stps: no method has such a hyperparameter; did you mean 'steps'"), ("sampling", "allowed are")]
)
def test_a_default_that_no_method_has_is_refused(load, key, said):
    """Arms take the defaults that they know, so nothing else would tell of a misspelt one."""
    with pytest.raises(ValueError, match=said):
        arms.resolve(load(SMALL, f"defaults.{key}=3"))
