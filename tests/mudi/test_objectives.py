"""Objectives: values derived by hand and the identities that connect them.

Losses are float32 sums of up to 432 squares, added in pairs: about ten roundings of 6e-8. torch allows 1.3e-6 of float32 numbers.
"""

import math

import pytest
import torch

from mudi.objectives import dco_loss, denoising_loss, kl_penalty, prior_preservation_loss


def draws(count: int, seed: int = 0, batch: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(count, batch, 4, 6, 6, generator=generator, dtype=torch.float32))


def gradient(loss, prediction: torch.Tensor) -> torch.Tensor:
    prediction = prediction.clone().requires_grad_()
    loss(prediction).backward()
    return prediction.grad


def test_denoising_loss_by_hand():
    """Errors 1 and 3: (1 + 9) / 2 = 5; with weights 1 and 0.5 (1 + 4.5) / 2 = 2.75, divided by two elements all the same."""
    prediction, noise = torch.tensor([[[[1.0, 3.0]]]]), torch.zeros(1, 1, 1, 2)
    assert denoising_loss(prediction, noise).item() == 5
    assert denoising_loss(prediction, noise, weights=torch.tensor([[[[1.0, 0.5]]]])).item() == 2.75


def test_a_mask_over_places_weighs_every_channel_alike():
    prediction, noise = draws(2)
    weights = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(denoising_loss(prediction, noise, weights), denoising_loss(prediction, noise, weights.expand(3, 4, 6, 6)))


def test_weights_that_would_broadcast_along_the_wrong_axis_are_refused():
    prediction, noise = draws(2)
    with pytest.raises(ValueError, match="weights"):
        denoising_loss(prediction, noise, weights=torch.ones(6))


def test_prior_weight_scales_the_prior_alone():
    prediction, noise, prior_prediction, prior_noise = draws(4)
    whole = prior_preservation_loss(prediction, noise, prior_prediction, prior_noise, prior_weight=0.3)
    torch.testing.assert_close(whole, denoising_loss(prediction, noise) + 0.3 * denoising_loss(prior_prediction, prior_noise))
    none = prior_preservation_loss(prediction, noise, prior_prediction, prior_noise, prior_weight=0.0)
    torch.testing.assert_close(none, denoising_loss(prediction, noise))


def test_prior_preservation_by_hand():
    """Own errors 1 and 3 weighted 1 and 0.5: (1 + 4.5) / 2 = 2.75; a class photo with errors 2 and 4: 10, at 0.3: 5.75. Weights of
    the subject's photo do not reach the class photo; without one 2.75 is left."""
    own, prior = torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[2.0, 4.0]]]])
    zeros, weights = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.5]]]])
    assert prior_preservation_loss(own, zeros, prior, zeros, 0.3, weights).item() == pytest.approx(5.75)
    assert prior_preservation_loss(own, zeros, prior[:0], zeros[:0], 0.3, weights).item() == 2.75


def test_kl_is_zero_where_the_models_agree():
    (prediction,) = draws(1)
    assert kl_penalty(prediction, prediction).item() == 0


def test_regularised_loss_is_regression_to_the_mixed_target():
    """||p - e||^2 + L ||p - r||^2 = (1 + L) ||p - (e + L r) / (1 + L)||^2 + L / (1 + L) ||e - r||^2, by completing the square."""
    prediction, noise, reference = draws(3)
    weight = 0.7
    regularised = denoising_loss(prediction, noise) + weight * kl_penalty(prediction, reference)
    target = (noise + weight * reference) / (1 + weight)
    constant = weight / (1 + weight) * ((noise - reference) ** 2).mean()
    torch.testing.assert_close(regularised, (1 + weight) * ((prediction - target) ** 2).mean() + constant)


def test_no_gradient_reaches_a_reference():
    prediction, reference, noise = (tensor.requires_grad_() for tensor in draws(3))
    (kl_penalty(prediction, reference) + dco_loss(prediction, reference, noise.detach())).backward()
    assert prediction.grad is not None
    assert reference.grad is None


def test_dco_is_log_two_where_the_models_agree():
    """-log sigmoid(0) = log 2, whatever beta."""
    prediction, noise = draws(2)
    for beta in (1.0, 1000.0):
        assert dco_loss(prediction, prediction, noise, beta).item() == pytest.approx(math.log(2))


def test_dco_starts_with_half_beta_times_the_denoising_gradient():
    """d/dp -log sigmoid(-beta (l - l_ref)) = beta sigmoid(beta (l - l_ref)) dl/dp, and sigmoid(0) = 1/2."""
    prediction, noise = draws(2)
    dco = gradient(lambda p: dco_loss(p, prediction, noise, beta=1000.0), prediction)
    plain = gradient(lambda p: denoising_loss(p, noise), prediction)
    torch.testing.assert_close(dco, 500 * plain)


def test_dco_averages_over_samples_outside_the_sigmoid():
    prediction, reference, noise = draws(3)
    alone = [dco_loss(*(tensor[i : i + 1] for tensor in (prediction, reference, noise)), beta=5.0) for i in range(3)]
    torch.testing.assert_close(dco_loss(prediction, reference, noise, beta=5.0), torch.stack(alone).mean())


def test_dco_is_finite_far_from_the_reference():
    """With l - l_ref = 1 and beta 1000 the loss is the gap itself, 1000, and 0 on the other side."""
    ones, zeros = torch.ones(1, 4, 6, 6), torch.zeros(1, 4, 6, 6)
    assert dco_loss(ones, zeros, zeros).item() == 1000
    assert dco_loss(zeros, ones, zeros).item() == 0


def test_half_precision_is_summed_in_float32():
    """300^2 = 90000 exceeds the largest float16, 65504."""
    far, zeros = torch.full((1, 4, 2, 2), 300.0, dtype=torch.float16), torch.zeros(1, 4, 2, 2, dtype=torch.float16)
    assert denoising_loss(far, zeros).item() == kl_penalty(far, zeros).item() == 90000


def test_a_prior_half_that_would_broadcast_is_refused():
    """The released code lets a reference of batch 2 meet instance targets of batch 1."""
    prediction, reference, noise = draws(3, batch=2)
    with pytest.raises(ValueError, match="differ in shape"):
        dco_loss(prediction[:1], reference, noise[:1])
    with pytest.raises(ValueError, match="differ in shape"):
        kl_penalty(prediction[:1], reference)
