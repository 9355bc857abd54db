"""The methods as a family: what each trains, what it leaves alone, and that its subjects come through."""

from dataclasses import fields, replace

import numpy as np
import pytest

from mudi import adapter_folder, adapters
from mudi.adapter_folder import WEIGHTS
from mudi.dataset import require_masks
from mudi.methods import METHODS
from mudi.methods.custom_diffusion import CustomDiffusion
from mudi.methods.cut_mix import CutMix
from mudi.methods.dreambooth import DreamBooth
from mudi.methods.mudi import MuDI
from mudi.options import Sampling
from mudi.text import tokens

SAMPLING = Sampling(steps=2, guidance_scale=2.0, gamma=0.0, layout="given")
QUICK = {"steps": 3, "batch": 2, "accumulation": 1, "learning_rate": 1e-2, "sampling": SAMPLING}

FIT = {name: value for name, value in QUICK.items() if name != "sampling"}
REFINE = {"steps": 2, "batch": 2, "accumulation": 1, "images": 1, "sample_steps": 8, "guidance_scale": 2.0}
DCO = {"objective": "dco"}
RECIPE = {"single": {**FIT, **DCO, "rank": 4}, "sampling": SAMPLING}
# By name: the values of a short fit; recipes of parts have them in their parts.
SHORT = {
    **{name: {**QUICK, **DCO, "rank": 4} for name in ("mudi", "dreambooth", "cut_mix", "custom_diffusion", "concept_conductor")},
    "textual_inversion": QUICK,
    "cones2": {**QUICK, "rank": 4},
    **dict.fromkeys(("modular", "merged_loras", "custom_diffusion_merged"), RECIPE),
    "mix_of_show": {"single": {**FIT, "rank": 4}, "sampling": SAMPLING},
    "mudi_modular": {**RECIPE, "refine": REFINE},
}


def quick(name, **values):
    return METHODS[name](**SHORT[name], **values)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_found_by_its_name(name):
    assert METHODS[name]().name == name
    assert quick(name).name == name


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_stores_and_draws_from_what_it_stored(miniature, two_dogs, tmp_path, name):
    """The picture drawn from the stored adapter differs from the base model's, and a second fit has the same bytes."""
    method, named = quick(name), quick(name).view(two_dogs)
    adapter = method.train(miniature, two_dogs, tmp_path / "a", seed=1)
    adapters.put_on(miniature, adapter)
    (drawn,) = method.sample(miniature, named, two_dogs.prompts[0], [5])
    again = method.train(miniature, two_dogs, tmp_path / "b", seed=1)
    assert again.sha256 == adapter.sha256
    adapters.detach(miniature)
    slow, values = {"steps": 1, "learning_rate": 1e-12}, SHORT[name]
    parts = {part: {**values[part], **slow} for part in ("single", "refine") if part in values} or slow
    adapters.put_on(miniature, METHODS[name](**{**values, **parts}).train(miniature, two_dogs, tmp_path / "untrained", seed=1))
    (undrawn,) = method.sample(miniature, named, two_dogs.prompts[0], [5])
    assert not np.array_equal(drawn, undrawn)


@pytest.mark.slow
def test_textual_inversion_trains_one_row_an_encoder_and_subject_and_no_matrix(miniature, two_dogs, tmp_path):
    """Two subjects with rows of 48 and 64 numbers: 2 x (48 + 64) = 224 trained numbers."""
    adapter = quick("textual_inversion").train(miniature, two_dogs, tmp_path / "a", seed=1)
    assert adapter_folder.read_manifest(adapter.path)["parameters"] == sum(p.numel() for p in tokens.row_parameters(miniature))
    assert not (adapter.path / WEIGHTS).exists()
    widths = [e.get_input_embeddings().rows.shape[1] for e in (miniature.text_encoder, miniature.text_encoder_2)]
    assert adapter_folder.read_manifest(adapter.path)["parameters"] == 2 * sum(widths)


@pytest.mark.slow
def test_custom_diffusion_trains_keys_and_values_of_cross_attention_and_every_row(miniature, two_dogs, tmp_path):
    """The release's SDXL script leaves the last new token untrained; here both rows move."""
    adapter = quick("custom_diffusion").train(miniature, two_dogs, tmp_path / "a", seed=1)
    names = {".".join(key.split(".lora_")[0].split(".")[-2:]) for key, _ in miniature.unet.named_parameters() if "lora_" in key}
    assert names == {"attn2.to_k", "attn2.to_v"}
    for encoder in (miniature.text_encoder, miniature.text_encoder_2):
        embeddings = encoder.get_input_embeddings()
        assert (embeddings.rows != embeddings.base.weight[embeddings.ids]).any(1).all()
    assert (adapter.path / WEIGHTS).exists()


def test_without_a_descriptive_class_only_the_words_change(two_dogs):
    """ "olis pink dog" becomes "olis dog" in the phrase and in every caption; photos and keys stay."""
    plain = MuDI(descriptive_class=False).view(two_dogs)
    assert [s.phrase for s in plain.subjects] == [f"{s.identifier} dog" for s in two_dogs.subjects]
    for before, after in zip(two_dogs.subjects, plain.subjects, strict=True):
        assert [r.image_path for r in after.references] == [r.image_path for r in before.references]
        assert all(before.class_noun not in r.caption and f"{before.identifier} dog" in r.caption for r in after.references)
    assert MuDI().view(two_dogs) == two_dogs


def test_the_ablations_differ_from_mudi_in_one_field():
    full = MuDI()
    for change in ({"mix_probability": 0.0}, {"sampling": replace(full.sampling, gamma=0.0)}, {"descriptive_class": False}):
        changed = replace(full, **change)
        assert [f.name for f in fields(MuDI) if getattr(full, f.name) != getattr(changed, f.name)] == list(change)


def test_photos_without_masks_serve_all_but_the_methods_that_cut_out(two_dogs):
    """Seg-Mix and the mean shift need masks, Cut-Mix and DreamBooth do not, and the refusal names the first photo."""
    bare = replace(
        two_dogs, subjects=tuple(replace(s, references=tuple(replace(r, mask_path=None) for r in s.references)) for s in two_dogs.subjects)
    )
    assert MuDI.needs_masks
    assert not CutMix.needs_masks
    assert not DreamBooth.needs_masks
    with pytest.raises(ValueError, match=r"a00\.png: has no mask \(10 such photos in two_dogs\), and MuDI"):
        require_masks(bare, "MuDI")
    require_masks(two_dogs, "MuDI")


@pytest.mark.slow
def test_dreambooth_and_cut_mix_train_without_masks(miniature, two_dogs, tmp_path):
    """The same bytes with and without masks in the folder: no pixel of a mask enters."""
    bare = replace(
        two_dogs, subjects=tuple(replace(s, references=tuple(replace(r, mask_path=None) for r in s.references)) for s in two_dogs.subjects)
    )
    for method in (quick("dreambooth"), quick("cut_mix", mix_probability=1.0)):
        with_masks = method.train(miniature, two_dogs, tmp_path / f"{method.name}-masked", seed=2)
        without = method.train(miniature, bare, tmp_path / f"{method.name}-bare", seed=2)
        assert with_masks.sha256 == without.sha256


@pytest.mark.parametrize(
    ("method", "values"), [(DreamBooth, {"objective": "dpo"}), (CutMix, {"mix_probability": 2}), (CustomDiffusion, {"rank": 0})]
)
def test_impossible_hyperparameters_are_refused_by_every_method(method, values):
    (name,) = values
    with pytest.raises(ValueError, match=f"{name} = "):
        method(**values)
