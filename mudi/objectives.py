"""What training minimises: pure functions from predicted and true noise, (B, C, h, w), to a scalar in float32."""

import torch
from torch.nn.functional import logsigmoid, mse_loss


def denoising_loss(prediction: torch.Tensor, noise: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error of the predicted noise, mean ||eps_theta - eps||^2.

    `weights` multiplies the squared error per element; each of its axes is 1 or the prediction's, so
    (B, 1, h, w) weighs places. The sum is divided by the number of elements, not by the sum of the
    weights, as in MuDI's released mask loss with weights M (1 - alpha) + alpha.
    """
    _require_same_shape(prediction, noise)
    squared_error = (prediction.float() - noise.float()) ** 2
    if weights is None:
        return squared_error.mean()
    if weights.ndim != prediction.ndim or any(w not in (1, p) for w, p in zip(weights.shape, prediction.shape, strict=True)):
        raise ValueError(f"weights {tuple(weights.shape)} do not fit {tuple(prediction.shape)}; give as many axes, each 1 or that long")
    return (squared_error * weights.float()).mean()


def sample_errors(
    prediction: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None, clean_scale: torch.Tensor | None = None
) -> torch.Tensor:
    """Each sample's mean squared error (B,) of what the UNet answers, with the `weights` of `denoising_loss`.

    With `clean_scale` (B,) the error is that of the clean latents which the answer implies, clean_scale times the answer's own:
    sqrt((1 - a) / a) of predicted noise, sqrt(1 - a) of velocity, a the cumulative signal share. It is then divided by its mean
    absolute value, through which no gradient flows, so that all timesteps weigh alike (DiffusionNFT's released code).
    """
    _require_same_shape(prediction, target)
    error = prediction.float() - target.float()
    if clean_scale is not None:
        error = error * clean_scale.view(-1, 1, 1, 1)
    squared = error**2 if weights is None else error**2 * weights.float()
    means = squared.flatten(1).mean(1)
    # A sample that is right to the last bit has no error to divide.
    return means if clean_scale is None else means / error.detach().abs().flatten(1).mean(1).clamp(min=1e-5)


def prior_preservation_loss(
    prediction: torch.Tensor, noise: torch.Tensor, prior_prediction: torch.Tensor, prior_noise: torch.Tensor, prior_weight: float = 1.0,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Denoising loss of the subject's photos plus `prior_weight` times that of class photos (DreamBooth, arXiv 2208.12242).

    `weights` are those of `denoising_loss` for the subject's photos; class photos have none. A batch without class photos,
    as of subjects that have none, is the first term alone. Not to be combined with `dco_loss`: in the released code the prior
    half then meets the reference of the other half, and the personalization gradient vanishes.
    """
    own = denoising_loss(prediction, noise, weights)
    return own + prior_weight * denoising_loss(prior_prediction, prior_noise) if len(prior_noise) else own


def dco_loss(prediction: torch.Tensor, reference_prediction: torch.Tensor, noise: torch.Tensor, beta: float = 1000.0) -> torch.Tensor:
    """Direct consistency optimization: -log sigmoid(-beta (l_theta - l_ref)), averaged over the samples (arXiv 2402.12004).

    l is a sample's mean squared error to the noise, l_ref that of the base model without adapter on the same
    noisy latents, timestep and prompt; no gradient flows into it. The gradient is
    beta sigmoid(beta (l_theta - l_ref)) grad l_theta, half of beta where the two agree. MuDI's released
    code averages l over the batch inside the sigmoid, which lets samples trade against one another;
    both agree at its batch of one.
    """
    _require_same_shape(prediction, noise)
    _require_same_shape(reference_prediction, noise)
    error, reference_error = sample_errors(prediction, noise), sample_errors(reference_prediction.detach(), noise)
    return -logsigmoid(-beta * (error - reference_error)).mean()


def kl_penalty(prediction: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Mean squared difference between the predictions of the model and of the frozen previous round.

    It stands for the KL divergence between their reverse steps: equal variances leave
    w_t ||eps_theta - eps_phi||^2, and w_t is dropped as in DPOK's released code (arXiv 2305.16381); MuDI
    releases none. No gradient flows into `reference`.
    """
    _require_same_shape(prediction, reference)
    return mse_loss(prediction.float(), reference.detach().float())


def _require_same_shape(prediction: torch.Tensor, target: torch.Tensor) -> None:
    """Refuses what broadcasting would silently accept."""
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape; give equal shapes")
