"""Prompts whose words are steered, by residuals or by layout, name the subjects as that needs it, or nothing is loaded."""

from dataclasses import replace

import pytest
from places import DOGS, ROOT

from mudi.dataset import load_combination
from mudi.methods.cones2 import Cones2
from mudi.methods.mudi import MuDI
from mudi.options import LayoutGuidance, Sampling
from mudi.records import Combination, Subject
from mudi.text.prompts import require_named
from pipeline import arms, assignments
from pipeline.settings.benchmark_config import load_benchmark
from pipeline.settings.config import load_run

GUIDED = Sampling(gamma=0.0, layout_guidance=LayoutGuidance())
BOXES = ({"a": (40.0, 300.0, 480.0, 960.0), "b": (540.0, 300.0, 980.0, 960.0)},)


def toys(*nouns, identifiers=("", "", ""), style=None):
    subjects = [
        Subject(key=key, identifier=word, class_noun=noun, detection_query="" if noun == style else noun, references=())
        for key, word, noun in zip("abc", identifiers, nouns)
    ]
    return Combination(key="toys", subjects=tuple(subjects))


@pytest.mark.parametrize("template", ["a {a} on the grass", "{b} in the snow", "a {a} and a olis cat"])
def test_guidance_by_layout_needs_every_subject_and_plain_drawing_does_not(template):
    pair = toys("dog", "cat", identifiers=("olis", "hta"))
    with pytest.raises(ValueError, match=r"^method: prompt .* does not name '(olis dog|hta cat)', and sampling.layout_guidance"):
        require_named("method", MuDI(sampling=GUIDED), pair, ["{subjects}", template])
    require_named("method", MuDI(), pair, [template])


def test_subjects_that_share_their_words_are_to_be_named_as_often():
    """Cones 2 names both by "dog": once is not enough, twice is, also where one of the two is written out."""
    twins, options = toys("dog", "dog"), Cones2(sampling=GUIDED)
    with pytest.raises(ValueError, match="does not name 'dog' 2 times"):
        require_named("method", options, twins, ["a {a} on the grass"])
    require_named("method", options, twins, ["a {a} beside a dog", "{subjects}"])


def test_a_style_may_be_left_out():
    styled = toys("dog", "sepia", style="sepia", identifiers=("olis", "hta"))
    require_named("method", MuDI(sampling=GUIDED), styled, ["a {a} on the grass"])


STOLEN = ["a dog house behind a {a} and a {b}", "a {a}s and a {b}", "Dog-shaped clouds over {subjects}", "{a} toy beside a {b}"]


@pytest.mark.parametrize("template", STOLEN)
def test_words_of_the_template_are_not_taken_for_a_subject(template):
    """The first dog of "a dog house behind a dog and a dog" would have a's residual; "dogs" is no dog."""
    nouns = ("dog", "dog toy") if "toy" in template else ("dog", "dog")
    with pytest.raises(ValueError, match=r"\{a\} is told by 'dog' alone"):
        require_named("method", Cones2(), toys(*nouns), [template])
    require_named("method", MuDI(), toys(*nouns, identifiers=("olis", "hta")), [template])


@pytest.mark.parametrize("template", ["{subjects} beside a dog house", "a hotdog for a {a}", "{subjects}, {a} again", "a {a} with a cat"])
def test_words_that_take_nothing_from_a_subject_are_allowed(template):
    """Behind the subjects' own, inside other words, as another mention, or as a subject that is written out."""
    require_named("method", Cones2(), toys("dog", "dog", "cat") if "cat" in template else toys("dog", "dog"), [template])


def run(tmp_path, *overrides):
    return load_run(ROOT / "tests/data/miniature.yaml", [f"runs={tmp_path}", "rounds=0", "sampling.gamma=0.0", *overrides])


@pytest.mark.parametrize("key", ["prompts", "watched_prompts"])
def test_a_run_file_is_refused_before_anything_is_loaded(tmp_path, key):
    """Ordinary and watched templates, as the method names the subjects."""
    dogs = replace(load_combination(DOGS), layouts=BOXES)
    config = run(tmp_path, "sampling.layout_guidance={}", f'{key}=["a photo of a {{a}}"]')
    with pytest.raises(ValueError, match="does not name"):
        assignments.with_prompts(config, dogs)
    stolen = run(tmp_path, "method={name: cones2, descriptive_class: false}", f'{key}=["a dog house behind {{subjects}}"]')
    with pytest.raises(ValueError, match="told by 'dog' alone"):
        assignments.with_prompts(stolen, dogs)


BENCHMARK = """
name: small
combinations: [jobs/configs/miniature/two_dogs]
prompts: ["a photo of {subjects}"]
training_prompts: ["{subjects} on the grass"]
defaults: {descriptive_class: false}
sampling: {steps: 5, guidance_scale: 2.0, negative_prompt: null, gamma: 0.0, batch: 2}
methods:
  dreambooth: {method: dreambooth}
  guided: {like: dreambooth, sampling: {layout_guidance: {}}}
  refitted: {refit: {of: guided, pool: 6, keep: 2}}
  cones2: {method: cones2}
"""


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ('prompts=["a {b} behind a {a}"]', r"^methods.cones2: prompt .* only their order tells apart"),
        ('prompts=["a {a}"]', r"^methods.guided: prompt 'a \{a\}' does not name"),
        ('training_prompts=["a {a}"]', r"^methods.guided: prompt 'a \{a\}' does not name"),
        ('prompts=["a dog house behind {subjects}"]', r"^methods.cones2: .* told by 'dog' alone"),
    ],
)
def test_a_benchmark_looks_at_its_prompts_as_each_arm_names_the_subjects(tmp_path, override, match):
    """Identifiers tell the dogs apart for DreamBooth, and nothing does for Cones 2; pools are drawn with the training prompts."""
    path, dogs = tmp_path / "benchmark.yaml", replace(load_combination(DOGS), layouts=BOXES)
    path.write_text(BENCHMARK)
    fine = load_benchmark(path)
    assert arms.with_prompts(fine, arms.resolve(fine), dogs).prompts[0].text == "a photo of a olis pink dog and a hta orange dog"
    config = load_benchmark(path, [override])
    with pytest.raises(ValueError, match=match):
        arms.with_prompts(config, arms.resolve(config), dogs)
    alone = {label: arm for label, arm in arms.resolve(config).items() if label == "dreambooth"}
    arms.with_prompts(config, alone, dogs)
