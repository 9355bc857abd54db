"""Hyperparameters of a run file against the method's dataclass: every key and kind, and what is said."""

import json
from dataclasses import fields

import pytest

from mudi.methods import METHODS
from mudi.personalization import SET_BY_RUNS
from pipeline.settings.hyperparameters import check_hyperparameters


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_own_defaults_are_accepted(name):
    """As JSON gives them back."""
    options = METHODS[name]()
    own = {field.name: getattr(options, field.name) for field in fields(options) if field.name not in SET_BY_RUNS}
    check_hyperparameters("method", METHODS[name], json.loads(json.dumps(own)))


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("merged_loras", "density", "high", 'x.density = "high": input should be a valid number'),
        ("merged_loras", "density", None, "x.density = null: input should be a valid number"),
        ("mudi_modular", "self_steps", "many", "valid integer"),
        ("mudi_modular", "steps", 3.5, "valid integer"),
        ("mudi_modular", "steps", True, "valid integer"),
        ("mudi", "prior_prompt", ["x"], "valid string"),
        ("mudi", "descriptive_class", "no", "valid boolean"),
        ("mudi", "objective", "dco2", "'prior_preservation', 'dco' or 'denoising'"),
        ("cones2", "tuning", "all", "'text_lora'.*'direct'|'direct'.*'text_lora'"),
        ("mudi", "learning_rate", "1e-4", "valid number"),
        ("mudi", "stps", 3, r"mudi has no such hyperparameter; did you mean 'steps'\?"),
        ("mudi", "single_seed", 3, "no such hyperparameter; allowed are"),
    ],
)
def test_another_kind_of_value_is_refused_in_one_line(name, key, value, said):
    with pytest.raises(ValueError, match=said) as caught:
        check_hyperparameters("x", METHODS[name], {key: value})
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_numbers_and_null_is_allowed_where_it_means_something():
    check_hyperparameters("x", METHODS["cones2"], {"learning_rate": 1})
    check_hyperparameters("x", METHODS["cones2"], {"learning_rate": None})
