"""ED-LoRAs: rows and matrices at rates of their own, class rows that no other subject reads, errors averaged over the subject."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from quick_recipes import SINGLE, quick, with_nouns

from mudi import adapters
from mudi.augment import Segment
from mudi.examples import Picture, reference_pictures, square_photo
from mudi.methods import METHODS
from mudi.methods.ed_lora import EDLora, on_the_subject
from mudi.objectives import denoising_loss
from mudi.text import tokens


def test_a_mask_does_not_go_with_dco():
    with pytest.raises(ValueError, match="masked_loss = True"):
        EDLora(objective="dco")
    EDLora(objective="dco", masked_loss=False)


def test_rows_and_matrices_move_at_rates_of_their_own(miniature, two_dogs, tmp_path):
    """AdamW's first step is the rate itself in every number with a gradient: 0.01 for rows, and for matrices at 1e-12 B stays 0."""
    alone = replace(two_dogs, subjects=two_dogs.subjects[:1])
    method = EDLora(**{**SINGLE, "steps": 1, "learning_rate": 1e-12}, row_learning_rate=0.01, noise_offset=0.0)
    adapter = method.train(miniature, alone, tmp_path / "a", 7)
    _, state = adapters.read_lora(adapter)
    assert max(value.abs().max() for key, value in state.items() if "lora_B" in key) < 1e-9
    source = torch.Generator().manual_seed(7)
    for encoder in ("clip_l", "clip_g"):
        row = adapters.stored_rows(adapter)["olis"][encoder]
        start = 0.013 * torch.randn(len(row), generator=source)
        torch.testing.assert_close((row - start).abs(), torch.full_like(row, 0.01), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_subjects_of_one_kind_train_no_row_of_their_noun(miniature, two_dogs, tmp_path):
    """A dog and a cat train "dog" and "cat" beside their identifiers; two dogs could not both mean "dog"; "pink dog" is two tokens."""
    words = {}
    for name, nouns in (("mixed", ("dog", "cat")), ("same", ("dog", "dog")), ("long", ("pink dog", "cat"))):
        adapter = quick("mix_of_show").train(miniature, with_nouns(two_dogs, *nouns), tmp_path / name, 1)
        words[name] = set(adapters.stored_rows(adapter))
        adapters.put_on(miniature, adapter)
        assert len(tokens.row_parameters(miniature)[0]) == len(words[name])
    assert words == {"mixed": {"olis", "hta", "dog", "cat"}, "same": {"olis", "hta"}, "long": {"olis", "hta", "cat"}}


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ("dog", "cat", True),
        ("dog", "pink dog", False),
        ("pink dog", "Dog", False),
        ("dog", "dog-shaped toy", False),
        ("dog", "pink bulldog", True),
        ("pink dog", "pink cat", True),
        ("pink dog", "pink dog", False),
    ],
)
def test_a_class_row_that_would_stand_in_anothers_phrase_is_not_trained(two_dogs, first, second, kept):
    """Words stand for tokens: the row of "dog" would be read in "hta pink dog". No noun of two words has a row, so "pink" is none's."""
    assert METHODS["mix_of_show"]().subject_method(with_nouns(two_dogs, first, second)).class_row is kept
    assert EDLora(class_row=False).among(with_nouns(two_dogs, first, second)).class_row is False


def test_a_masked_loss_is_the_mean_error_on_the_subject(miniature, two_dogs):
    """An error of 5 on the subject's latents and 1 elsewhere weighs 5 where masks are whole latents, whatever their size.

    The sums of 1152 positive numbers are float32, added in pairs: some ten roundings of 6e-8."""
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
