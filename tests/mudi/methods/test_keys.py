"""Keys of a file's methods: which defaults reach which part, how arms lie over one another, which keys some method has."""

from mudi.methods.keys import default_keys, keys_of, overlaid, with_defaults

DEFAULTS = {"objective": "denoising", "descriptive_class": False, "learning_rate": 1e-3, "batch": 6, "rank": 16, "tuning": "direct"}


def test_defaults_lie_beneath_what_is_given():
    """A joint method takes those it has. A recipe's single fit takes its own, a refinement what it shared with the fit."""
    assert with_defaults("mudi", DEFAULTS, {"rank": 4}) == {
        "objective": "denoising", "descriptive_class": False, "learning_rate": 1e-3, "batch": 6, "rank": 4
    }  # fmt: skip
    fit = {"objective": "denoising", "learning_rate": 1e-3, "batch": 6, "rank": 16}
    assert with_defaults("modular", DEFAULTS, {"single": {"rank": 4}, "merge": {"name": "svd"}}) == {
        "descriptive_class": False, "single": {**fit, "rank": 4}, "merge": {"name": "svd"}
    }  # fmt: skip
    assert with_defaults("mudi_modular", DEFAULTS, {}) == {"descriptive_class": False, "single": fit, "refine": {"batch": 6}}
    assert with_defaults("mudi_modular", DEFAULTS, {"refine": None})["refine"] is None
    rows = with_defaults("modular", DEFAULTS, {"single": {"name": "textual_inversion"}})["single"]
    assert rows == {"name": "textual_inversion", "objective": "denoising", "learning_rate": 1e-3, "batch": 6}


def test_values_over_values():
    """Part by part, key by key; another name begins anew, the same one does not, null takes away."""
    under = {"single": {"steps": 9}, "merge": {"name": "svd", "rank": 3}, "refine": {"steps": 5}}
    assert overlaid("modular", under, {"single": {"rank": 4}})["single"] == {"steps": 9, "rank": 4}
    assert overlaid("modular", under, {"single": {"name": "dreambooth", "rank": 4}})["single"] == {
        "name": "dreambooth", "steps": 9, "rank": 4
    }  # fmt: skip
    assert overlaid("modular", under, {"single": {"name": "ed_lora"}})["single"] == {"name": "ed_lora"}
    assert overlaid("modular", under, {"merge": {"rank": 4}})["merge"] == {"name": "svd", "rank": 4}
    assert overlaid("modular", under, {"merge": {"name": "fusion"}})["merge"] == {"name": "fusion"}
    assert overlaid("modular", under, {"refine": None})["refine"] is None
    assert overlaid("modular", {"refine": None}, {"refine": {"steps": 7}})["refine"] == {"steps": 7}
    assert overlaid("mudi", {"steps": 9, "rank": 2}, {"rank": 4}) == {"steps": 9, "rank": 4}


def test_defaults_are_of_methods_and_of_single_fits():
    """Keys of merges, and those of a refinement alone, are no defaults: what they mean depends on the part that they stand in."""
    assert {"steps", "tuning", "mix_probability", "row_learning_rate", "class_row", "descriptive_class"} <= set(default_keys())
    assert not {"ridge", "density", "kl_weight", "sample_steps", "name", "single", "single_seed", "sampling"} & set(default_keys())


def test_keys_follow_the_names_that_are_given():
    keys = keys_of("modular", {"single": {"name": "ed_lora"}, "merge": {"name": "fusion"}})
    assert set(keys.kinds) == {"descriptive_class"}
    assert {"row_learning_rate", "rank", "name"} <= set(keys.parts["single"].kinds)
    assert set(keys.parts["merge"].kinds) == {"name", "positions", "ridge", "neutral_weight"}
    assert keys.parts["merge"].elsewhere["density"] == ("ties_svd", "dare_linear_svd")
    assert keys_of("mudi", {}).parts == {}
