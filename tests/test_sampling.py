"""Drawing: paired noise, and candidates that do not depend on their neighbours."""

import numpy as np
import pytest
import torch

from mudi.diffusion import generators, standard_noise
from mudi.sampling import Sampling, draw, shifted_noise, subject_segments

FAST = Sampling(steps=3, guidance_scale=2.0, gamma=1.0)


def test_without_a_shift_the_noise_is_the_plain_one(miniature, two_dogs):
    """gamma 0 and gamma 1 share the Gaussian part: their difference is gamma * E(x) * M and zero off the mask."""
    segments = subject_segments(two_dogs)
    plain = shifted_noise(miniature, segments, [3], Sampling(gamma=0.0))
    assert torch.equal(plain, standard_noise(miniature, generators([3])))
    half, full = (shifted_noise(miniature, segments, [3], Sampling(gamma=gamma)) - plain for gamma in (0.5, 1.0))
    torch.testing.assert_close(2 * half, full, rtol=1e-4, atol=1e-5)
    outside = (full == 0).all(1)
    assert outside.any()
    assert not outside.all()


def test_the_shift_of_a_candidate_does_not_depend_on_its_neighbours(miniature, two_dogs):
    """Seed 4 alone and between others starts from the same bytes."""
    segments = subject_segments(two_dogs)
    together = shifted_noise(miniature, segments, [3, 4, 5], FAST)
    assert torch.equal(together[1:2], shifted_noise(miniature, segments, [4], FAST))


def test_a_chunk_gives_the_same_bytes_whatever_was_drawn_before(miniature, two_dogs):
    """No state survives a chunk: not the order of chunks, not the global generators of torch and numpy."""
    prompt = two_dogs.prompts[0]
    first = draw(miniature, two_dogs, prompt, [1, 2], FAST)
    torch.manual_seed(99)
    np.random.seed(99)
    draw(miniature, two_dogs, two_dogs.prompts[1], [7, 8, 9], FAST)
    again = draw(miniature, two_dogs, prompt, [1, 2], FAST)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_batches_of_other_sizes_agree_to_rounding(miniature, two_dogs):
    """Sums are split by batch size, so bits may differ, pixels by no more than a few of 255."""
    prompt = two_dogs.prompts[0]
    together = draw(miniature, two_dogs, prompt, [1, 2, 3], FAST)
    alone = draw(miniature, two_dogs, prompt, [2], FAST)
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 3


@pytest.mark.parametrize("gamma", [-0.1, 1.5])
def test_gamma_outside_its_range_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma"):
        Sampling(gamma=gamma)
