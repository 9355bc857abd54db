"""The methods as a family: what each trains, what it leaves alone, and that its subjects come through."""

from dataclasses import fields, replace

import numpy as np
import pytest

from mudi import adapter_folder, adapters
from mudi.adapter_folder import WEIGHTS
from mudi.dataset import require_masks
from mudi.methods import METHODS
from mudi.methods.cones2 import Cones2
from mudi.methods.custom_diffusion import CustomDiffusion
from mudi.methods.cut_mix import CutMix
from mudi.methods.dreambooth import DreamBooth
from mudi.methods.mix_of_show import MixOfShow
from mudi.methods.mudi import MuDI
from mudi.methods.mudi_modular import MudiModular
from mudi.methods.textual_inversion import TextualInversion
from mudi.options import Sampling
from mudi.text import tokens

SAMPLING = Sampling(steps=2, guidance_scale=2.0, gamma=0.0, layout="given")
QUICK = {"steps": 3, "batch": 2, "accumulation": 1, "learning_rate": 1e-2, "sampling": SAMPLING}

SHORT = {"rank": 4, "self_images": 1, "self_steps": 8, "self_guidance_scale": 2.0}


def quick(method, **values):
    objective = {} if method in (TextualInversion, MixOfShow, Cones2) else {"objective": "dco"}
    refined = {"refine_steps": 2} if method is MudiModular else {}
    own = {field.name for field in fields(method)}
    return method(**QUICK, **objective, **refined, **{name: value for name, value in SHORT.items() if name in own}, **values)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_found_by_its_name(name):
    assert METHODS[name].name == name


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_stores_and_draws_from_what_it_stored(miniature, two_dogs, tmp_path, name):
    """The picture drawn from the stored adapter differs from the base model's, and a second fit has the same bytes."""
    method = quick(METHODS[name])
    adapter = method.train(miniature, two_dogs, tmp_path / "a", seed=1)
    (drawn,) = method.sample(miniature, adapter, two_dogs, two_dogs.prompts[0], [5])
    again = method.train(miniature, two_dogs, tmp_path / "b", seed=1)
    assert again.sha256 == adapter.sha256
    adapters.detach(miniature)
    base = tmp_path / "untrained"
    plain = replace(method, steps=1, learning_rate=1e-12).train(miniature, two_dogs, base, seed=1)
    (undrawn,) = method.sample(miniature, plain, two_dogs, two_dogs.prompts[0], [5])
    assert not np.array_equal(drawn, undrawn)


@pytest.mark.slow
def test_textual_inversion_trains_one_row_an_encoder_and_subject_and_no_matrix(miniature, two_dogs, tmp_path):
    """Two subjects with rows of 48 and 64 numbers: 2 x (48 + 64) = 224 trained numbers."""
    adapter = quick(TextualInversion).train(miniature, two_dogs, tmp_path / "a", seed=1)
    assert adapter_folder.read_manifest(adapter.path)["parameters"] == sum(p.numel() for p in tokens.row_parameters(miniature))
    assert not (adapter.path / WEIGHTS).exists()
    widths = [e.get_input_embeddings().rows.shape[1] for e in (miniature.text_encoder, miniature.text_encoder_2)]
    assert adapter_folder.read_manifest(adapter.path)["parameters"] == 2 * sum(widths)


@pytest.mark.slow
def test_custom_diffusion_trains_keys_and_values_of_cross_attention_and_every_row(miniature, two_dogs, tmp_path):
    """The release's SDXL script leaves the last new token untrained; here both rows move."""
    adapter = quick(CustomDiffusion).train(miniature, two_dogs, tmp_path / "a", seed=1)
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
    for method in (quick(DreamBooth), quick(CutMix, mix_probability=1.0)):
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
