"""What a fit sees: how often it mixes, with which words, and when."""

import numpy as np
import pytest

from mudi.examples import mix_prompt, personal_examples, reference_pictures, seg_mixing, sharing, square_photo


@pytest.fixture(scope="module")
def pictures(two_dogs):
    return reference_pictures(two_dogs, 48)


def drawn(examples, step, count):
    return [example for i in range(count) for example in examples(step, np.random.default_rng(i))]


def test_every_reference_is_a_picture_with_its_caption(pictures, two_dogs):
    assert [p.caption for p in pictures] == [r.caption for s in two_dogs.subjects for r in s.references]


def test_a_third_of_the_items_are_mixes(pictures):
    """At p = 0.3, of 600 items 180 are expected with a standard deviation of 11.2; four of them are 45."""
    examples = personal_examples(pictures, [], batch=1, mix=seg_mixing(48), mix_probability=0.3)
    mixes = [e for e in drawn(examples, 0, 600) if e.prompt.endswith("simple background.")]
    assert abs(len(mixes) - 180) < 45


def test_a_mix_names_both_subjects_in_the_order_drawn(pictures, two_dogs):
    """Both orders occur, since the item drawn first may be either subject, and nothing else does."""
    a, b = (s.phrase for s in two_dogs.subjects)
    examples = personal_examples(pictures, [], batch=1, mix=seg_mixing(48), mix_probability=1.0)
    assert {e.prompt for e in drawn(examples, 0, 40)} == {mix_prompt(a, b), mix_prompt(b, a)}


def test_mixing_starts_at_its_step_whatever_came_before(pictures):
    """Computed from the step itself: step 9 never mixes, step 10 always, without any call in between."""
    examples = personal_examples(pictures, [], batch=1, mix=seg_mixing(48), mix_probability=1.0, mix_from_step=10)
    assert not any("simple background" in e.prompt for e in drawn(examples, 9, 20))
    assert all("simple background" in e.prompt for e in drawn(examples, 10, 20))


def test_a_prior_follows_its_subject_and_mixes_with_it(pictures):
    """Instances and priors alternate, of the same class, and one draw decides for both whether they mix."""
    examples = personal_examples(pictures, pictures, batch=1, mix=seg_mixing(48), mix_probability=0.5)
    for i in range(40):
        own, prior = examples(0, np.random.default_rng(i))
        assert not own.prior
        assert prior.prior
        assert own.prompt.endswith("simple background.") == prior.prompt.endswith("simple background.")


def test_the_background_weight_is_alpha_off_the_subjects_and_one_on_them(pictures):
    """Loss weight M (1 - alpha) + alpha takes two values: 1 and alpha = 0.25."""
    examples = personal_examples(pictures, [], batch=1, mix=seg_mixing(48, alpha=0.25), mix_probability=1.0)
    (example,) = examples(0, np.random.default_rng(0))
    assert set(np.unique(example.weight)) == {0.25, 1.0}


def test_the_share_of_references_is_drawn_from_the_references():
    """At share 1 every micro-batch comes from the photos, at share 0 none, at a quarter 250 of 1000 within four standard errors, 55."""
    found = {
        share: sum(sharing(lambda step, rng: 0, lambda step, rng: 1, share)(0, np.random.default_rng(i)) for i in range(1000))
        for share in (0.0, 0.25, 1.0)
    }
    assert (found[0.0], found[1.0]) == (0, 1000)
    assert abs(found[0.25] - 250) <= 55


def test_a_photo_is_cropped_to_its_central_square():
    """A 3:1 picture in three colours keeps its middle third."""
    wide = np.concatenate([np.full((30, 30, 3), value, np.uint8) for value in (0, 100, 200)], axis=1)
    assert set(np.unique(square_photo(wide, 15)[:, 2:-2])) == {100}
