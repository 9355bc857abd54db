"""Hyperparameters of a run file against the method's dataclasses: every key and kind, parts of recipes, and what is said."""

import json
from dataclasses import asdict, fields

import pytest

from mudi.methods import METHODS
from mudi.methods.keys import keys_of
from mudi.methods.modular import OF_THE_WHOLE, Modular
from mudi.personalization import SET_BY_RUNS
from pipeline.settings.hyperparameters import check_hyperparameters


def written(name):
    """A method's own values as a file would have them."""
    options = METHODS[name]()
    if isinstance(options, Modular):
        single = {key: value for key, value in options.single.hyperparameters().items() if key not in OF_THE_WHOLE}
        parts = {"single": {"name": options.single.name, **single}, "merge": {"name": options.merge.name, **asdict(options.merge)}}
        return {"descriptive_class": True, **parts, "refine": asdict(options.refine) if options.refine else None}
    return {field.name: getattr(options, field.name) for field in fields(options) if field.name not in SET_BY_RUNS}


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_own_defaults_are_accepted_and_make_it(name):
    """As JSON gives them back; all that can be set is among them."""
    values = json.loads(json.dumps(written(name)))
    check_hyperparameters("method", name, values)
    assert METHODS[name](**values) == METHODS[name]()
    assert set(values) == {*keys_of(name, values).kinds, *keys_of(name, values).parts}


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("mudi", "prior_prompt", ["x"], "valid string"),
        ("mudi", "descriptive_class", "no", "valid boolean"),
        ("mudi", "objective", "dco2", "'prior_preservation', 'dco' or 'denoising'"),
        ("cones2", "tuning", "all", "'text_lora'.*'direct'|'direct'.*'text_lora'"),
        ("mudi", "learning_rate", "1e-4", "valid number"),
        ("mudi", "stps", 3, r"mudi has no such hyperparameter; did you mean 'steps'\?"),
        ("mudi", "single_seed", 3, "no such hyperparameter; allowed are"),
        ("modular", "singel", {}, r"x.singel: modular has no such hyperparameter; did you mean 'single'\?"),
        ("modular", "name", "x", "x.name: modular has no such hyperparameter"),
    ],
)
def test_another_kind_of_value_is_refused_in_one_line(name, key, value, said):
    with pytest.raises(ValueError, match=said) as caught:
        check_hyperparameters("x", name, {key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"single": {"steps": "3"}}, '^method.single.steps = "3": input should be a valid integer$'),
        ({"single": {"steps": 3.5}}, "method.single.steps = 3.5: .*valid integer"),
        ({"single": {"steps": True}}, "method.single.steps = true: .*valid integer"),
        ({"single": {"steps": 0, "name": "dreambath"}}, "method.single.name = \"dreambath\": input should be 'dreambooth', 'ed_lora'"),
        ({"single": {"name": ["ed_lora"]}}, r'method.single.name = \["ed_lora"\]: input should be'),
        ({"single": {"stps": 3}}, r"method.single.stps: dreambooth has no such hyperparameter; did you mean 'steps'\?"),
        ({"single": {"descriptive_class": False}}, "method.single.descriptive_class: dreambooth has no such hyperparameter; allowed are"),
        (
            {"single": {"class_row": False}},
            "method.single.class_row = false: dreambooth has no such thing; .* use name: ed_lora$",
        ),
        ({"single": {"name": "textual_inversion", "rank": 4}}, "rank = 4: textual_inversion has no such thing; leave it out, or use name"),
        ({"merge": {"name": "svd", "rank": "3"}}, 'method.merge.rank = "3": input should be a valid integer'),
        ({"merge": {"name": "ties_svd", "density": None}}, "method.merge.density = null: input should be a valid number"),
        (
            {"merge": {"density": 0.3}},
            "method.merge.density = 0.3: sum has no such thing; .* use name: ties_svd or dare_linear",
        ),
        ({"merge": {"ridge": 0.5}}, "method.merge.ridge = 0.5: sum has no such thing; leave it out, or use name: fusion or constrained"),
        (
            {"merge": {"name": "fusion", "positions": "words"}},
            ".positions = \"words\": input should be 'concept', 'real' or 'all'",
        ),
        ({"refine": {"steps": "many"}}, 'method.refine.steps = "many": input should be a valid integer'),
        ({"refine": {"stps": 5}}, r"method.refine.stps: a refinement has no such hyperparameter; did you mean 'steps'\?"),
        ({"refine": 200}, r"method.refine = 200: a part is a mapping; write refine: \{steps: 200\}, or null for none"),
        ({"single": None}, r"method.single = null: a part is a mapping; write single: \{name: ...\}$"),
    ],
)
def test_parts_are_checked_where_they_stand(values, said):
    with pytest.raises(ValueError, match=said) as caught:
        check_hyperparameters("method", "modular", values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("refine_steps", 200, "method.refine_steps: write refine: {steps: 200}"),
        ("refine_steps", 0, "method.refine_steps: write refine: null"),
        ("refine_learning_rate", 1e-3, "method.refine_learning_rate: write refine: {learning_rate: 0.001}"),
        ("kl_weight", 2, "method.kl_weight: write refine: {kl_weight: 2}"),
        ("self_images", 5, "method.self_images: write refine: {images: 5}"),
        ("self_steps", 16, "method.self_steps: write refine: {sample_steps: 16}"),
        ("self_guidance_scale", 4.0, "method.self_guidance_scale: write refine: {guidance_scale: 4.0}"),
        ("self_negative_prompt", "a toy", 'method.self_negative_prompt: write refine: {negative_prompt: "a toy"}'),
        ("merge", "fusion", 'method.merge = "fusion": write merge: {name: fusion}'),
        ("merge_rank", 3, "method.merge_rank: write merge: {rank: 3}"),
        ("density", 0.3, "method.density: write merge: {density: 0.3}"),
        ("kv_positions", "all", "method.kv_positions: write merge: {positions: all}"),
        ("ridge", 0.5, "method.ridge: write merge: {ridge: 0.5}"),
        ("neutral_weight", 1.0, "method.neutral_weight: write merge: {neutral_weight: 1.0}"),
        ("single", "ed_lora", 'method.single = "ed_lora": write single: {name: ed_lora}'),
        ("steps", 300, "method.steps: write single: {steps: 300}"),
        ("row_learning_rate", 5e-3, "method.row_learning_rate: write single: {row_learning_rate: 0.005}"),
        ("class_row", False, "method.class_row: write single: {class_row: false}"),
        ("batch", 6, "method.batch: write single: {batch: 6}, and refine: {batch: 6} for a refinement"),
    ],
)
def test_keys_of_earlier_files_are_answered_with_those_of_now(key, value, said):
    for name in ("modular", "merged_loras", "mix_of_show", "custom_diffusion_merged", "mudi_modular"):
        with pytest.raises(ValueError, match="write") as caught:
            check_hyperparameters("method", name, {key: value})
        assert str(caught.value) == said


def test_whole_numbers_are_numbers_and_null_is_allowed_where_it_means_something():
    check_hyperparameters("x", "cones2", {"learning_rate": 1})
    check_hyperparameters("x", "cones2", {"learning_rate": None})
    check_hyperparameters("x", "mudi_modular", {"refine": None})
    check_hyperparameters("x", "modular", {"merge": {"name": "svd", "rank": None}, "refine": {"learning_rate": 1}})
