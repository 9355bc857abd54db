"""Mean-shifted noise: the mean moves by gamma where the mask is, and nothing else changes."""

import pytest
import torch

from mudi.initialization import mean_shifted_noise


def tensors(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
    mask = (torch.rand(2, 1, 8, 8, generator=generator) > 0.5).float()
    return latents, mask, noise


def test_equation_3_by_hand():
    """0.5 * (2 * 1) + 3 = 4 inside the mask, 0.5 * (2 * 0.25) + 3 = 3.25 on its soft edge, 3 outside."""
    mask = torch.tensor([[[[1.0, 0.25, 0.0]]]])
    shifted = mean_shifted_noise(torch.full((1, 4, 1, 3), 2.0), mask, torch.full((1, 4, 1, 3), 3.0), gamma=0.5)
    assert torch.equal(shifted, torch.tensor([4.0, 3.25, 3.0]).expand(1, 4, 1, 3))


def test_gamma_zero_is_plain_noise():
    latents, mask, noise = tensors()
    assert torch.equal(mean_shifted_noise(latents, mask, noise, gamma=0.0), noise)


def test_noise_outside_the_mask_is_untouched():
    latents, mask, noise = tensors()
    outside = mask.expand_as(noise) == 0
    assert torch.equal(mean_shifted_noise(latents, mask, noise, gamma=1.0)[outside], noise[outside])


def test_noise_keeps_unit_variance_around_the_shifted_mean():
    """With the same latents in 4096 draws, mean and variance per position are gamma x m and 1, within five standard errors."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4096, 1, 2, 2, generator=generator)
    latents = torch.tensor([[[[3.0, -2.0], [1.0, 0.0]]]]).expand(4096, 1, 2, 2)
    shifted = mean_shifted_noise(latents, torch.ones(4096, 1, 2, 2), noise, gamma=0.7)
    torch.testing.assert_close(shifted.mean(0), 0.7 * latents[0], atol=5 / 64, rtol=0)
    torch.testing.assert_close(shifted.var(0), torch.ones(1, 2, 2), atol=5 * 2**0.5 / 64, rtol=0)


def test_noise_sets_the_dtype():
    latents, mask, noise = tensors()
    assert mean_shifted_noise(latents, mask, noise.half(), gamma=1.0).dtype == torch.float16


@pytest.mark.parametrize("gamma", [-0.1, float("nan"), float("inf")])
def test_impossible_gamma_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma is"):
        mean_shifted_noise(*tensors(), gamma=gamma)


def test_what_would_broadcast_is_refused():
    latents, mask, noise = tensors()
    with pytest.raises(ValueError, match="do not fit noise"):
        mean_shifted_noise(latents[:1], mask, noise, gamma=1.0)
    with pytest.raises(ValueError, match="do not fit noise"):
        mean_shifted_noise(latents, mask[:, 0], noise, gamma=1.0)
