"""Mean-shifted noise: sampling starts from noise whose mean already shows the subjects apart (MuDI, equation 3)."""

import torch


def mean_shifted_noise(latents: torch.Tensor, mask: torch.Tensor, noise: torch.Tensor, gamma: float) -> torch.Tensor:
    """Initial noise z_T = gamma * (latents * mask) + noise, shape (B, C, h, w), dtype of `noise`.

    latents: (B, C, h, w), the encoded Seg-Mix composition, posterior mode times the scaling factor (unscaled
    SDXL latents have a standard deviation near 7.7 and would swamp the noise). mask: (B, 1, h, w) in 0..1,
    the composition's union mask at latent resolution. noise: (B, C, h, w), standard normal. gamma: 0 or
    more; 0 returns the noise itself, the paper uses 1.

    The result has unit noise variance: the sampler multiplies it by its `init_noise_sigma` as it does
    with plain noise, so never multiply before. Algorithm 2 of the paper writes `rand_like`, uniform
    noise; equation 3 says Gaussian, and only that is what the model was trained to denoise.
    """
    batch, _, height, width = noise.shape
    if latents.shape != noise.shape or mask.shape != (batch, 1, height, width):
        raise ValueError(
            f"latents {tuple(latents.shape)} and mask {tuple(mask.shape)} do not fit noise {tuple(noise.shape)}; "
            "latents must have the noise's shape, the mask one channel and the same batch, height and width"
        )
    if not 0 <= gamma < float("inf"):
        raise ValueError(f"gamma is {gamma}; give a finite number of 0 or more, usually at most 1")
    return gamma * (latents * mask).to(noise.dtype) + noise
