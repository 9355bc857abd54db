"""Recipes of parts as values: what a preset has, how parts are laid over it, what does not go together, which fits are shared."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from quick_recipes import REFINE, quick

from mudi.dataset import load_combination
from mudi.merging.recipes import MERGES, Constrained, Fusion, Mean, Sum, Svd, TiesSvd, Union
from mudi.methods import METHODS
from mudi.methods.cones2 import Cones2
from mudi.methods.custom_diffusion import CustomDiffusion
from mudi.methods.dreambooth import DreamBooth
from mudi.methods.ed_lora import EDLora
from mudi.methods.modular import SINGLES, Modular
from mudi.methods.presets import CUSTOM_DIFFUSION_MERGED, MERGED_LORAS, MIX_OF_SHOW, MODULAR, MUDI_MODULAR
from mudi.modular.subject_fits import single_folder
from mudi.options import Refine
from mudi.records import Reference, Subject
from pipeline import arms, assignments
from pipeline.settings.benchmark_config import load_benchmark
from pipeline.settings.config import load_run

STYLE = Path("jobs/configs/miniature/mcp/cat_in_sepia")


def test_presets_are_values_of_one_recipe():
    assert Modular(single=EDLora(), merge=Fusion()) == replace(MIX_OF_SHOW, name="modular")
    assert Modular(single=CustomDiffusion(steps=500), merge=Constrained()) == replace(CUSTOM_DIFFUSION_MERGED, name="modular")
    assert Modular(merge=Fusion(), refine=Refine(), sampling=MUDI_MODULAR.sampling) == replace(MUDI_MODULAR, name="modular")
    assert Modular(single=DreamBooth(), merge=Sum()) == MODULAR == replace(MERGED_LORAS, name="modular")
    for preset in (MODULAR, MERGED_LORAS, MIX_OF_SHOW, CUSTOM_DIFFUSION_MERGED, MUDI_MODULAR):
        assert METHODS[preset.name]() == preset


def test_a_part_is_laid_over_the_presets_part():
    """What it leaves out stays as the preset has it; a name chooses another value, with its own defaults."""
    changed = METHODS["mix_of_show"](single={"steps": 100}, merge={"ridge": 0.5})
    assert changed == replace(MIX_OF_SHOW, single=EDLora(steps=100), merge=Fusion(ridge=0.5))
    assert METHODS["mix_of_show"](merge={"name": "svd", "rank": 3}).merge == Svd(rank=3)
    assert METHODS["mudi_modular"](refine={"batch": 4}).refine == Refine(batch=4)
    assert METHODS["mudi_modular"](refine=None).refine is None
    assert METHODS["modular"](refine={"steps": 9}).refine == Refine(steps=9)
    assert METHODS["modular"](single={"name": "ed_lora"}).single == EDLora()
    assert METHODS["modular"](single={"name": "textual_inversion"}).merge == Union()
    assert METHODS["modular"](single=EDLora(rank=2), merge=Mean()).single.rank == 2


@pytest.mark.parametrize("name", SINGLES)
def test_a_single_fit_has_its_own_methods_defaults_and_the_values_of_the_whole(two_dogs, name):
    """Also where the recipe is written down as its manifest lists it."""
    whole = {"descriptive_class": False, "detector": "d", "segmenter": "s", "priors": {"a": "x"}, "single_seed": 4}
    method, own = METHODS["modular"](single={"name": name}, **whole), SINGLES[name](**whole)
    assert method.subject_method(two_dogs) in (own, own.among(two_dogs))
    listed = method.hyperparameters()
    written = {key: value for key, value in json.loads(json.dumps(listed)).items() if key not in ("name", "sampling")}
    assert METHODS["modular"](**written) == replace(method, priors=None)


def test_a_list_of_sentences_is_a_tuple_and_a_rate_left_out_is_the_tunings():
    assert METHODS["cones2"](preserve_prompts=["a {} runs"]) == Cones2(preserve_prompts=("a {} runs",))
    assert [Cones2(tuning=tuning).rate for tuning in ("text_full", "text_lora", "direct")] == [5e-6, 1e-4, 1e-3]
    assert Cones2(tuning="direct", learning_rate=0.5).hyperparameters()["learning_rate"] == 0.5


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("modular", {"single": {"name": "dreambath"}}, "single.name = 'dreambath': allowed are 'dreambooth', 'ed_lora'"),
        ("modular", {"single": {"name": ["ed_lora"]}}, r"single.name = \['ed_lora'\]: allowed are"),
        ("modular", {"single": "ed_lora"}, "single = 'ed_lora': a part is a mapping; write single: {name: NAME} with one of dreambooth"),
        ("modular", {"merge": "sum"}, "merge = 'sum': a part is a mapping; write merge: {name: NAME} with one of sum"),
        ("mix_of_show", {"single": {"name": "dreambooth"}}, "single.name = 'dreambooth': mix_of_show fits by 'ed_lora'; leave it out"),
        ("mudi_modular", {"single": {"name": "ed_lora"}}, "mudi_modular fits by 'dreambooth'; leave it out, or use the method 'modular'"),
        (
            "modular", {"single": {"name": "textual_inversion"}, "merge": {"name": "sum"}},
            "merge.name = 'sum': textual_inversion fits token rows",
        ),
        ("modular", {"single": {"name": "ed_lora"}, "merge": {"name": "union"}}, "merge.name = 'union': ed_lora fits a LoRA too"),
        ("modular", {"merge": {"name": "constrained"}}, "merge.name = 'constrained': takes keys and values"),
        ("mix_of_show", {"merge": {"name": "constrained"}}, "ed_lora has more; use single: {name: custom_diffusion}"),
        ("modular", {"merge": {"name": "average"}}, "merge.name = 'average': allowed are 'sum', .*'constrained', 'union'"),
        ("modular", {"single": {"name": "textual_inversion"}, "refine": {"steps": 5}}, r"refine = \{steps: 5\}: a refinement"),
        ("mix_of_show", {"merge": {"positions": "words"}}, "merge.positions = 'words': allowed are 'concept', 'real', 'all'"),
        ("modular", {"merge": {"name": "svd", "rank": 0}}, "merge.rank = 0: allowed are whole numbers from 1"),
        ("modular", {"merge": {"name": "ties_svd", "density": 1.0}}, "merge.density = 1.0: allowed are shares between 0 and 1"),
        ("modular", {"merge": {"name": "dare_linear_svd", "density": "half"}}, "merge.density = 'half': allowed"),
        ("mix_of_show", {"merge": {"ridge": -1}}, "merge.ridge = -1: allowed"),
        ("modular", {"single": {"steps": 0}}, "single.steps = 0: allowed are"),
        ("mudi_modular", {"refine": {"images": 0}}, "refine.images = 0: allowed are"),
        ("modular", {"refine": {"sample_steps": 0}}, "refine.sample_steps = 0: allowed are"),
        ("mix_of_show", {"single": {"row_learning_rate": 0.0}}, "single.row_learning_rate = 0.0: allowed"),
        ("mix_of_show", {"single": {"masked_loss": "no"}}, "single.masked_loss = 'no': allowed are true and false"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_in_one_line(name, values, said):
    with pytest.raises(ValueError, match=said) as caught:
        METHODS[name](**values)
    assert "\n" not in str(caught.value)


def test_a_merge_has_only_what_it_has_a_use_for():
    """By its fields: nothing else can be given to it, and each refuses its own."""
    own = {name: set(asdict(of_class())) for name, of_class in MERGES.items()}
    assert own["sum"] == own["mean"] == own["union"] == set()
    assert (own["svd"], own["ties_svd"], own["constrained"]) == ({"rank"}, {"rank", "density"}, {"ridge"})
    assert own["fusion"] == {"positions", "ridge", "neutral_weight"}
    assert (Fusion().ridge, Constrained().ridge, TiesSvd().density) == (1e-2, 1e-6, 0.5)


def test_masks_are_asked_for_where_something_is_cut_out(two_dogs):
    """A style has none, and nothing finds it: an ED-LoRA with a masked loss cannot have it, nor a refinement of any fit."""
    style, run = load_combination(STYLE), [f"combinations=[{STYLE}]", "rounds=0", "sampling.gamma=0.0"]

    def named(method):
        config = load_run(Path("tests/data/miniature.yaml"), [*run, f"method={method}"])
        return assignments.with_prompts(config, style)

    assert named("{name: mix_of_show, single: {masked_loss: false}}").prompts
    assert named("{name: mudi_modular, refine: null}").prompts
    for method in ("{name: mix_of_show}", "{name: mudi_modular}", "{name: modular, single: {name: custom_diffusion}, refine: {steps: 5}}"):
        with pytest.raises(ValueError, match="cuts every subject out, and 'b' has no query"):
            named(method)
    with pytest.raises(ValueError, match="modular with refine cuts every subject out"):
        quick(refine=REFINE).train(None, style, Path("none"), 1)
    bare = replace(
        two_dogs, subjects=tuple(replace(s, references=tuple(replace(r, mask_path=None) for r in s.references)) for s in two_dogs.subjects)
    )
    assert not MUDI_MODULAR.needs_masks
    config = load_run(Path("tests/data/miniature.yaml"), ["rounds=0", "sampling.gamma=0.0", "method={name: mudi_modular}"])
    assert assignments.with_prompts(config, bare).prompts
    config = load_run(Path("tests/data/miniature.yaml"), ["rounds=0", "sampling.gamma=0.0", "method={name: mix_of_show}"])
    with pytest.raises(ValueError, match="has no mask"):
        assignments.with_prompts(config, bare)


def options_of(*overrides):
    config = load_benchmark(Path("tests/data/benchmark_miniature.yaml"), overrides)
    return {label: arm.options for label, arm in arms.resolve(config).items()}


def test_a_benchmarks_defaults_reach_the_parts_that_have_a_use_for_them():
    """The file's rank is none of Textual Inversion's, whose union no refit can start from; its batch is a refinement's too, its
    rate is not. An arm that is like another changes single keys of parts, or chooses others, which the defaults reach again."""
    union = "methods.rows={method: modular, single: {name: textual_inversion}}"
    rows = options_of(union)["rows"]
    assert (rows.merge, rows.single.batch, rows.single.steps, rows.descriptive_class) == (Union(), 6, 2500, False)
    found = options_of(
        "methods.a={method: mudi_modular, single: {steps: 9, rank: 3}}", "methods.b={like: a, refine: {images: 7}, merge: {name: mean}}",
        "methods.c={like: b, refine: null, single: {steps: 8}}", "methods.d={like: c, refine: {steps: 5}, single: {name: dreambooth}}",
        "methods.e={method: modular, single: {name: custom_diffusion}}", "methods.f={like: e, single: {name: ed_lora}}",
    )  # fmt: skip
    refine = Refine(batch=6, accumulation=1)
    assert [found[label].refine for label in "abcde"] == [refine, replace(refine, images=7), None, replace(refine, steps=5), None]
    assert [(found[label].single.steps, found[label].single.rank) for label in "abcd"] == [(9, 3), (9, 3), (8, 3), (8, 3)]
    assert [type(found[label].merge) for label in "abcd"] == [Fusion, Mean, Mean, Mean]
    assert found["e"].single == CustomDiffusion(objective="denoising", learning_rate=7e-4, batch=6, accumulation=1, rank=16)
    assert found["f"].single == EDLora(objective="denoising", learning_rate=7e-4, batch=6, accumulation=1, rank=16)


def test_what_defaults_do_not_reach_is_refused():
    union = "methods.rows={method: modular, single: {name: textual_inversion}}"
    with pytest.raises(ValueError, match=r"methods\.again: refit.of 'rows', a modular, leaves no LoRA"):
        options_of(union, "methods.again={refit: {of: rows, pool: 8, keep: 2}}")
    with pytest.raises(ValueError, match=r"methods\.rows\.single\.rank = 4: textual_inversion has no such thing; leave it out, or use"):
        options_of("methods.rows={method: modular, single: {name: textual_inversion, rank: 4}}")
    with pytest.raises(ValueError, match=r"defaults.kv_positions: only recipes of parts have it; write merge: \{positions: all\} in their"):
        options_of("defaults.kv_positions=all")
    with pytest.raises(ValueError, match=r"defaults.rnak: no method has such a hyperparameter; did you mean 'rank'"):
        options_of("defaults.rnak=3")


CASES = {
    "dreambooth": ("merged_loras", {}),
    "dreambooth with values": (
        "modular",
        {
            "descriptive_class": False,
            "single": {"steps": 7, "rank": 3, "learning_rate": 2e-3, "batch": 2, "accumulation": 3, "objective": "denoising"},
        },
    ),
    "dreambooth with priors": ("mudi_modular", {"single": {"prior_images": 7, "prior_weight": 0.5}}),
    "ed_lora": ("mix_of_show", {}),
    "ed_lora with values": (
        "mix_of_show",
        {"single": {"steps": 7, "row_learning_rate": 5e-3, "class_row": False, "masked_loss": False, "noise_offset": 0.0}},
    ),
    "custom_diffusion_merged": ("custom_diffusion_merged", {}),
    "custom_diffusion": ("modular", {"single": {"name": "custom_diffusion"}}),
    "textual_inversion": ("modular", {"single": {"name": "textual_inversion"}}),
    "cones2": ("cones2", {}),
    "cones2 direct": ("cones2", {"tuning": "direct", "steps": 7}),
    "cones2 with sentences": ("cones2", {"preserve_prompts": ["a {} runs"], "weight_decay": 0.0}),
    "concept_conductor": ("concept_conductor", {}),
}
# By the code before recipes had parts, seed 5, weights BACKBONE, float32. A fit that another version made must be found again.
FOLDERS = {
    "dreambooth": "b1d33807fdd98a99c7fac5d8a6298a50950b2ee5",
    "dreambooth with values": "03f9d52099283cd686d73d2ab8691279f813eafb",
    "dreambooth with priors": "24e4c2bc94ec999d0362cc64b45cdbac3e0c8153",
    "ed_lora": "2a855fb655bad50d3f00ad4df4a4f3efe8724e98",
    "ed_lora with values": "cf28232f1c578925c84aca4cc3d089df38f3e8d1",
    "custom_diffusion_merged": "06eaed01aa287fdba481356689b53a2f3e526088",
    "custom_diffusion": "40d7a2ae2c5623fc5a59980daa9b5a4171c88cf4",
    "textual_inversion": "97e5086862ca4db7fdf6de998aa1d775f3f145a3",
    "cones2": "1d3513c1b57ed5447422432768502a584e79aee3",
    "cones2 direct": "7d1da33554d89aa20848003a0d9f7895ca8b31e6",
    "cones2 with sentences": "93ec45072e2028965cf8405418df677c21b136a7",
    "concept_conductor": "b1d33807fdd98a99c7fac5d8a6298a50950b2ee5",
}


def test_the_fits_of_subjects_lie_where_they_always_did(tmp_path):
    """One subject with one photo; the recipe's digest names the folder."""
    (tmp_path / "photo.png").write_bytes(b"a photo")
    (tmp_path / "mask.png").write_bytes(b"a mask")
    reference = Reference(image_path=tmp_path / "photo.png", mask_path=tmp_path / "mask.png", caption="a olis pink dog")
    subject = Subject(key="a", identifier="olis", class_noun="pink dog", detection_query="dog", references=(reference,))
    combination = replace(load_combination(Path("jobs/configs/miniature/two_dogs")), subjects=(subject,))
    found = {}
    for key, (name, values) in CASES.items():
        method = METHODS[name](**values)
        (viewed,) = method.view(combination).subjects
        found[key] = single_folder(Path("s"), viewed, method.single_recipe(combination), 5, "BACKBONE", "float32").name
    assert found == FOLDERS
