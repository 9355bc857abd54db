"""Methods that fit each subject alone: what combinations share, what is refused first, what a refinement starts from."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from mudi import adapter_folder, adapters, models
from mudi.augment import Segment
from mudi.examples import Picture, reference_pictures, square_photo
from mudi.methods.ed_lora import EDLora, on_the_subject
from mudi.methods.merged_loras import MergedLoras
from mudi.methods.mix_of_show import MixOfShow
from mudi.methods.mudi_modular import MudiModular
from mudi.objectives import denoising_loss
from mudi.options import Sampling
from mudi.text import tokens
from pipeline.cost.workload import count_fit, fit_work
from pipeline.workers.fit_job import FitJob

QUICK = {
    "steps": 2, "batch": 1, "accumulation": 1, "learning_rate": 1e-2, "rank": 2, "objective": "denoising",
    "sampling": Sampling(steps=2, guidance_scale=1.0, gamma=0.0),
}  # fmt: skip
SELF = {"self_images": 1, "self_steps": 8, "self_guidance_scale": 4.0, "refine_steps": 1, "refine_learning_rate": 1e-3, "merge": "sum"}


def with_nouns(combination, first, second):
    """The combination with other class nouns, in its captions too."""
    subjects = []
    for subject, noun in zip(combination.subjects, (first, second), strict=True):
        references = tuple(replace(r, caption=r.caption.replace(subject.class_noun, noun)) for r in subject.references)
        subjects.append(replace(subject, class_noun=noun, references=references))
    return replace(combination, subjects=tuple(subjects))


def test_a_subject_is_fitted_once_for_all_combinations_and_merges(miniature, two_dogs, tmp_path):
    """Two combinations of three subjects and two kinds of merge: three fits. Other steps are another fit, another seed too."""
    first, second = two_dogs.subjects
    third = replace(second, key="c", identifier="ult", references=tuple(replace(r, caption="a ult") for r in second.references))
    other = replace(two_dogs, key="other", subjects=(first, third))
    method = MergedLoras(**QUICK, singles=str(tmp_path / "singles"))
    folders = {path.name: path.stat().st_mtime_ns for path in _made(method, miniature, two_dogs, tmp_path / "one")}
    assert len(folders) == 2
    again = {path.name: path.stat().st_mtime_ns for path in _made(replace(method, merge="mean"), miniature, other, tmp_path / "two")}
    assert len(again) == 3
    assert folders.items() <= again.items()
    assert len(_made(replace(method, single_seed=1), miniature, two_dogs, tmp_path / "three")) == 5


def _made(method, backbone, combination, out_dir):
    method.train(backbone, combination, out_dir, seed=3)
    return [path for path in (out_dir.parent / "singles").iterdir() if (path / adapter_folder.MANIFEST).is_file()]


def test_steps_are_reported_as_if_all_fits_were_one(miniature, two_dogs, tmp_path):
    """Two subjects of two steps each, then one step of refinement; a second start fits nothing."""
    steps = []
    method = MudiModular(**QUICK, **SELF)
    method.train(miniature, two_dogs, tmp_path / "a", 1, lambda step, _: steps.append(step))
    assert steps == [1, 2, 3, 4, 5]
    assert method.steps_in_all(2) == 5


def test_a_shared_identifier_is_refused_before_anything_is_fitted(miniature, two_dogs, tmp_path):
    first, second = two_dogs.subjects
    twins = replace(two_dogs, subjects=(first, replace(second, identifier=first.identifier.upper())))
    for method in (MergedLoras(**QUICK), MixOfShow(**QUICK), MudiModular(**QUICK, **SELF)):
        with pytest.raises(ValueError, match=r"^two_dogs: subjects 'a' and 'b' both have the identifier 'olis'"):
            method.train(miniature, twins, tmp_path / method.name, 1)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "values"),
    [
        (MergedLoras, {"merge": "average"}),
        (MixOfShow, {"kv_positions": "words"}),
        (MergedLoras, {"merge": "svd", "merge_rank": 0}),
        (MergedLoras, {"merge": "fusion", "merge_rank": 8}),
        (MudiModular, {"density": 1.0}),
        (MudiModular, {"self_images": 0}),
        (MixOfShow, {"row_learning_rate": 0.0}),
    ],
)
def test_impossible_merges_are_refused(method, values):
    *_, name = values
    with pytest.raises(ValueError, match=f"{name} = "):
        method(**values)


def test_a_mask_does_not_go_with_dco():
    with pytest.raises(ValueError, match="masked_loss = True"):
        MixOfShow(objective="dco")
    MixOfShow(objective="dco", masked_loss=False)


@pytest.mark.slow
def test_the_kl_is_zero_where_the_refinement_starts(miniature, two_dogs, tmp_path):
    """The loss of the first refining step is the same with weights 0 and 1e6: trained and reference adapter are both
    the merge. A step later the weight counts."""
    losses = {}
    for weight in (0.0, 1e6):
        seen = losses.setdefault(weight, [])
        method = MudiModular(**QUICK, **{**SELF, "refine_steps": 2}, kl_weight=weight, singles=str(tmp_path / "singles"))
        method.train(miniature, two_dogs, tmp_path / str(weight), 1, lambda step, loss, seen=seen: seen.append(loss))
    assert losses[0.0][-2] == losses[1e6][-2]
    assert losses[0.0][-1] != losses[1e6][-1]


def test_an_adapter_that_cannot_draw_its_subject_is_named(miniature, two_dogs, tmp_path):
    """Nothing in a picture of a dog answers to "lighthouse": after ten draws for the one picture, two batches of eight, that is said."""
    subjects = tuple(replace(subject, detection_query="lighthouse") for subject in two_dogs.subjects)
    with pytest.raises(ValueError, match="alone drew exactly one 'lighthouse' in 0 of 16 pictures, 1 are needed"):
        MudiModular(**QUICK, **{**SELF, "self_steps": 1}).train(miniature, replace(two_dogs, subjects=subjects), tmp_path / "a", 1)


def test_rows_and_matrices_move_at_rates_of_their_own(miniature, two_dogs, tmp_path):
    """AdamW's first step is the rate itself in every number with a gradient: 0.01 for rows, and for matrices at 1e-12 B stays 0."""
    alone = replace(two_dogs, subjects=two_dogs.subjects[:1])
    method = EDLora(**{**QUICK, "steps": 1, "learning_rate": 1e-12}, row_learning_rate=0.01, noise_offset=0.0)
    adapter = method.train(miniature, alone, tmp_path / "a", 7)
    _, state = adapters.read_lora(adapter)
    assert max(value.abs().max() for key, value in state.items() if "lora_B" in key) < 1e-9
    source = torch.Generator().manual_seed(7)
    for encoder in ("clip_l", "clip_g"):
        row = adapters.stored_rows(adapter)["olis"][encoder]
        start = 0.013 * torch.randn(len(row), generator=source)
        torch.testing.assert_close((row - start).abs(), torch.full_like(row, 0.01), atol=1e-4, rtol=0)


def test_subjects_of_one_kind_train_no_row_of_their_noun(miniature, two_dogs, tmp_path):
    """A dog and a cat train "dog" and "cat" beside their identifiers; two dogs could not both mean "dog"; "pink dog" is two tokens."""
    words = {}
    for name, nouns in (("mixed", ("dog", "cat")), ("same", ("dog", "dog")), ("long", ("pink dog", "cat"))):
        adapter = MixOfShow(**QUICK).train(miniature, with_nouns(two_dogs, *nouns), tmp_path / name, 1)
        words[name] = set(adapters.stored_rows(adapter))
        adapters.put_on(miniature, adapter)
        assert len(tokens.row_parameters(miniature)[0]) == len(words[name])
    assert words == {"mixed": {"olis", "hta", "dog", "cat"}, "same": {"olis", "hta"}, "long": {"olis", "hta", "cat"}}


def test_a_masked_loss_is_the_mean_error_on_the_subject(miniature, two_dogs):
    """An error of 5 on the subject's latents and 1 elsewhere weighs 5 where masks are whole latents, whatever their size."""
    image = np.zeros((48, 48, 3), np.uint8)
    for columns in (4, 24):
        mask = np.zeros((48, 48), bool)
        mask[:, :columns] = True
        picture = on_the_subject(Picture(image, Segment(image, mask), "", "", 0, "photo"), 12)
        weight = torch.nn.functional.interpolate(torch.from_numpy(picture.weight)[None, None], (12, 12), mode="bilinear")
        errors = torch.ones(1, 8, 12, 12)
        errors[..., : columns // 4] = 5.0
        assert denoising_loss(errors.sqrt(), torch.zeros_like(errors), weight).item() == pytest.approx(5.0, rel=1e-5)
    own = reference_pictures(two_dogs, 48)[0]
    assert np.array_equal(on_the_subject(own, 12).image, own.image)
    assert square_photo(own.image, 48).shape == own.image.shape


def test_a_subject_outside_the_square_is_named():
    """A subject in the first 10 columns of a photo of 48 by 96 pixels is not in its central square."""
    mask = np.zeros((48, 96), bool)
    mask[:, :10] = True
    wide = Segment(np.zeros((48, 96, 3), np.uint8), mask)
    with pytest.raises(ValueError, match=r"a00\.png: its subject lies outside"):
        on_the_subject(Picture(wide.image[:, 24:72], wide, "", "", 0, "a00.png"), 12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"merge": "fusion"},
        {"objective": "dco"},
        {"refine_steps": 0},
        {"single": "ed_lora", "merge": "fusion"},
        {"single": "custom_diffusion", "merge": "constrained"},
        {"single": "custom_diffusion", "merge": "fusion", "neutral_weight": 1.0, "refine_steps": 0},
        {"single": "textual_inversion", "merge": "union", "refine_steps": 0, "rank": None},
    ],
)
def test_a_plan_counts_the_rows_that_pass_the_unet(miniature, two_dogs, tmp_path, values):
    """Counted by a hook; the one picture of each subject is in the first batch of eight."""
    method = MergedLoras(**{**QUICK, **SELF, **values})
    job = FitJob(
        label="a", combination=two_dogs, method=method.name, hyperparameters={}, backbone="miniature", precision="float32",
        out_dir=str(tmp_path / "a"), seed=1, steps=method.steps_in_all(2),
    )  # fmt: skip
    planned = count_fit(fit_work(job, "a", method))
    passed = Counter()
    handle = miniature.unet.register_forward_hook(lambda *call: passed.update({call[-1].sample.requires_grad: len(call[-1].sample)}))
    method.train(miniature, two_dogs, tmp_path / "a", 1)
    handle.remove()
    assert (planned.backward, planned.forward) == (passed[True], passed.total())
    assert count_fit(fit_work(job, "a", method)).forward == 0


@pytest.mark.slow
def test_another_combinations_fit_of_the_same_subject_is_taken_as_it_is(miniature, two_dogs, tmp_path):
    """While this one fits its first subject, another process puts the same fit in place: that stays, with its files untouched."""
    method = MergedLoras(**QUICK, singles=str(tmp_path / "singles"))
    other = {}

    def meanwhile(step, loss):
        if step == 1 and not other:
            other["running"] = True
            replace(method, singles=str(tmp_path / "quick")).train(models.load("miniature"), two_dogs, tmp_path / "other", 1)
            (tmp_path / "quick").rename(tmp_path / "singles")
            other.update({p: p.stat().st_mtime_ns for p in (tmp_path / "singles").rglob("*") if p.is_file()})

    adapter = method.train(miniature, two_dogs, tmp_path / "a", 1, meanwhile)
    del other["running"]
    assert other == {p: p.stat().st_mtime_ns for p in (tmp_path / "singles").rglob("*") if p.is_file()}
    assert adapter.sha256 == adapter_folder.find(tmp_path / "other").sha256
