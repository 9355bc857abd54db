"""The plain comparator: the mean cosine to all photos, whoever is on them."""

import numpy as np
import pytest
from double import ROUNDING, in_double

from mudi.embed import embed
from mudi.metrics.whole_image import WholeImage, mean_similarity
from mudi.records import Combination
from mudi.user_files.photos import read_image


def test_the_similarity_is_the_mean_over_all_photos():
    """(1, 0) against (1, 0), (0, 1) and (0.6, 0.8) is (1 + 0 + 0.6) / 3 = 0.533; (0, 1) is (0 + 1 + 0.8) / 3 = 0.6."""
    photos = np.array([[1, 0], [0, 1], [0.6, 0.8]])
    np.testing.assert_allclose(mean_similarity(np.eye(2), photos), [1.6 / 3, 0.6])


# Embeddings are float32 unit vectors; two of them, a product and its mean are rounded before they are compared.
COSINE = 8 * ROUNDING


@pytest.fixture(scope="module")
def metric():
    """With embedders that compute in float64."""
    made = WholeImage(embedders={"dreamsim": "miniature"})
    for embedder in made.embedders:
        in_double(embedder.model)
    return made


@pytest.fixture(scope="module")
def photos(two_dogs):
    return [[read_image(r.image_path) for r in subject.references] for subject in two_dogs.subjects]


def values(metric, images, combination):
    return [score.value for (score,) in metric(images, combination.prompts[0], combination)]


def test_scores_are_those_of_the_embedder(metric, photos, two_dogs):
    """Computed here photo by photo: the mean of ten cosines."""
    everyone = [photo for own in photos for photo in own]
    vectors = embed(metric.embedders[0], everyone)
    by_hand = [float(np.mean([float(vectors[0] @ other) for other in vectors]))]
    np.testing.assert_allclose(values(metric, everyone[:1], two_dogs), by_hand, rtol=0, atol=COSINE)


def test_an_image_scores_alone_as_it_does_among_others(metric, photos, two_dogs):
    together = values(metric, photos[0], two_dogs)
    np.testing.assert_allclose(together, [values(metric, [photo], two_dogs)[0] for photo in photos[0]], rtol=0, atol=COSINE)


def test_permuting_the_subjects_leaves_the_scores(metric, photos, two_dogs):
    swapped = Combination(key="swapped", subjects=two_dogs.subjects[::-1], prompts=two_dogs.prompts)
    np.testing.assert_allclose(values(metric, photos[0], two_dogs), values(metric, photos[0], swapped), rtol=0, atol=COSINE)


def test_it_cannot_tell_one_subject_twice_from_both(metric, photos, two_dogs):
    """What the paper holds against it: with equally many photos of each, a picture of one subject scores the mean of its
    likeness to itself and to the other, so that half a picture of each gains nothing by showing both."""
    own = [
        np.mean(values(metric, photos[k], Combination(key="one", subjects=(s,), prompts=two_dogs.prompts)))
        for k, s in enumerate(two_dogs.subjects)
    ]
    other = [
        np.mean(values(metric, photos[1 - k], Combination(key="one", subjects=(s,), prompts=two_dogs.prompts)))
        for k, s in enumerate(two_dogs.subjects)
    ]
    both = np.mean([np.mean(values(metric, photos[k], two_dogs)) for k in (0, 1)])
    np.testing.assert_allclose(both, np.mean([*own, *other]), rtol=0, atol=COSINE)


def test_a_missing_model_is_one_clear_line():
    with pytest.raises(ValueError, match="neither an existing folder nor a known name"):
        WholeImage(embedders={"dinov2": "no such model"})
