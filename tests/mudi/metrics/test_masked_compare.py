"""What is behind a subject is no part of its likeness: cut-outs by hand, and rendered pairs that are right or wrong."""

import json
from dataclasses import replace

import numpy as np
from places import ROOT

from mudi.dataset import load_combination
from mudi.metrics.masked_compare import MaskedCompare, cut_out, masked_photo
from mudi.miniature.render import pair_scene
from mudi.miniature.world import parse_identity
from mudi.records import Prompt

PROMPT = Prompt(prompt_id="p00", text="a photo of a olis dog and a hta dog")


def test_a_mask_is_cut_to_its_bounds_on_a_white_square():
    """A 2 x 1 mask in a grey image of 5 x 5: a white 2 x 2 square whose left column is grey."""
    image, mask = np.full((5, 5, 3), 100, np.uint8), np.zeros((5, 5), bool)
    mask[1:3, 2] = True
    assert cut_out(image, mask)[..., 0].tolist() == [[100, 255], [100, 255]]
    assert cut_out(image, np.zeros((5, 5), bool)) is image


def test_a_photo_without_a_mask_is_compared_whole(two_dogs):
    reference = two_dogs.subjects[0].references[0]
    whole = masked_photo(replace(reference, mask_path=None))
    assert whole.shape == (48, 48, 3)
    assert (masked_photo(reference)[0] == 255).any()


def test_only_what_the_mask_shows_counts():
    rng = np.random.default_rng(0)
    mask = np.zeros((9, 9), bool)
    mask[2:6, 3:8] = rng.random((4, 5)) < 0.7
    image, other = (rng.integers(0, 256, (9, 9, 3), dtype=np.uint8) for _ in range(2))
    other[mask] = image[mask]
    assert np.array_equal(cut_out(image, mask), cut_out(other, mask))


def test_both_subjects_score_above_one_of_them_twice():
    """Over eight renderings each of the two tuning dogs, and of the first one twice, the mean masked scores differ by more than .8,
    the gate of the plain score."""
    pair = load_combination(ROOT / "jobs/configs/miniature/tuning/two_dogs_tuning")
    told = json.loads((ROOT / "jobs/configs/miniature/tuning/two_dogs_tuning/truth.json").read_text())
    a, b = (parse_identity(told[subject.key]) for subject in pair.subjects)
    metric, means = MaskedCompare(), []
    for shown in ((a, b), (a, a)):
        images = [pair_scene(np.random.default_rng(seed), *shown, "grass").image for seed in range(8)]
        scores = [{score.metric: score.value for score in of} for of in metric(images, PROMPT, pair)]
        means.append(np.mean([of["masked_dnc_linear_dreamsim"] for of in scores]))
    assert means[0] > means[1] + 0.8
