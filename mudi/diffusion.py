"""The denoising loop, and the autoencoder on both ends of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mudi.backbone import Backbone
from mudi.guidance import Weight, classifier_free
from mudi.solvers import SOLVERS, Past, renoise_amount
from mudi.text.conditioning import Conditioning, both_sides

DECODE_BATCH = 4  # 8 x 256 channels at 1024 x 1024 reach 2**31 elements, more than an index holds


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator a candidate: its noise is its own, whatever the batch and the device."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def standard_noise(backbone: Backbone, sources: Sequence[torch.Generator]) -> torch.Tensor:
    """Gaussian latents (B, C, h, w) in float32 on the CPU, one row drawn from each generator."""
    side = backbone.resolution // backbone.latent_factor
    shape = (backbone.unet.config.in_channels, side, side)
    return torch.stack([torch.randn(shape, generator=source) for source in sources])


def alphas_cumprod(backbone: Backbone) -> torch.Tensor:
    """The cumulative signal share of every training timestep, float32 (1000,): scaled-linear betas, as SDXL.

    ValueError for a scheduler that has them otherwise: other betas, betas of its own, or none of the signal left at the end
    (zero terminal SNR), where the first noise level would be infinite.
    """
    config = backbone.scheduler.config
    if config.beta_schedule != "scaled_linear" or config.prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"scheduler with beta_schedule {config.beta_schedule!r} and prediction_type {config.prediction_type!r}: only "
            "scaled_linear with epsilon or v_prediction is implemented; use a checkpoint of SDXL or Stable Diffusion 1.5 or 2.1"
        )
    if config.trained_betas is not None or config.rescale_betas_zero_snr:
        own = "trained_betas" if config.trained_betas is not None else "rescale_betas_zero_snr"
        raise ValueError(
            f"scheduler with {own}: only the plain scaled_linear betas are implemented; use a checkpoint of SDXL or Stable Diffusion "
            "1.5 or 2.1 that was trained with them"
        )
    betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_train_timesteps, dtype=torch.float32) ** 2
    return torch.cumprod(1 - betas, 0)


def euler_schedule(backbone: Backbone, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Timesteps (steps,) and noise levels sigma (steps + 1,), the last one 0, float32 on the CPU.

    Leading spacing with offset 1, the setting SDXL ships with: 981 is the first of 50 steps, sigma 13.12. ValueError for as
    many steps as would begin at a timestep that the model does not have: 1000 of 1000 with offset 1. diffusers' Euler
    begins those with two equal noise levels, and its DDIM fails.
    """
    total, offset = backbone.scheduler.config.num_train_timesteps, backbone.scheduler.config.steps_offset
    if not 1 <= steps <= total or (first := (steps - 1) * (total // steps) + offset) >= total:
        begun = f": with steps_offset {offset} they would begin at timestep {first} of 0 to {total - 1}" if 1 <= steps <= total else ""
        raise ValueError(f"steps = {steps}{begun}; allowed are 1 to {total - offset}")
    timesteps = torch.arange(steps).mul(total // steps).flip(0) + offset
    a = alphas_cumprod(backbone)[timesteps]
    return timesteps, torch.cat([((1 - a) / a).sqrt(), a.new_zeros(1)])


def predict(backbone: Backbone, noisy: torch.Tensor, timesteps: torch.Tensor, condition: Conditioning) -> torch.Tensor:
    """What the UNet answers, float32 (B, C, h, w), to latents (B, C, h, w) in its dtype at timesteps (B,) or ().

    Noise or velocity, as the model was trained; `noise_of` turns either into noise.
    """
    added = None if condition.pooled is None else {"text_embeds": condition.pooled, "time_ids": condition.time_ids}
    return backbone.unet(
        noisy, timesteps.to(backbone.device), condition.states, encoder_attention_mask=condition.mask, added_cond_kwargs=added
    ).sample.float()


# As `predict`, of whatever passes through the UNet.
Predicting = Callable[[Backbone, torch.Tensor, torch.Tensor, Conditioning], torch.Tensor]


def noise_of(backbone: Backbone, predicted: torch.Tensor, noisy: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    """The noise in variance-preserving latents `noisy` by the UNet's answer; `signal` is the cumulative share, alpha-bar."""
    if backbone.scheduler.config.prediction_type == "epsilon":
        return predicted
    return signal.sqrt() * predicted + (1 - signal).sqrt() * noisy


def target_of(backbone: Backbone, latents: torch.Tensor, noise: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    """What the UNet was trained to answer to latents noised by `noise`: that noise, or the velocity."""
    if backbone.scheduler.config.prediction_type == "epsilon":
        return noise
    return signal.sqrt() * noise - (1 - signal).sqrt() * latents


def clean_scale(backbone: Backbone, signal: torch.Tensor) -> torch.Tensor:
    """By how much an error of the UNet's answer is one of the clean latents that it implies, at signal shares (B,)."""
    return (1 - signal).sqrt() / (signal.sqrt() if backbone.scheduler.config.prediction_type == "epsilon" else 1)


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What guidance by layout asks of the loop. `before(step)` runs before each pass of a step; each of the first `steps`
    steps is done again `repeats` times from where it began, noised anew by `sources`, one generator a row."""

    before: Callable[[int], None]
    steps: int
    repeats: int
    sources: Sequence[torch.Generator]


@torch.no_grad()
def denoise(
    backbone: Backbone, noise: torch.Tensor, positive: Conditioning, negative: Conditioning, *,
    steps: int = 50, guidance_scale: float | Weight = 5.0, scheduler: str = "euler", edit: Edit | None = None,
    predicting: Predicting = predict,
) -> torch.Tensor:  # fmt: skip
    """Latents (B, C, h, w) float32 drawn from `noise` (B, C, h, w) by a solver of `mudi.solvers.SOLVERS`.

    `positive` has B rows, `negative` B rows or one. Noise of unit variance is scaled here by
    sqrt(sigma_max^2 + 1), so a mean shift in it arrives scaled as well: never multiply beforehand.
    Sampling state stays in float32 whatever the backbone's dtype. The two passes of guidance run as
    one batch; a `guidance_scale` of 1 needs, and makes, only the conditional pass, while a function of a step's
    two noise levels (CFG++) always gets both, also where it answers 1 or less.
    Source: Karras et al. 2022, algorithm 1 without churn, in the variance-preserving scaling of
    diffusers' EulerDiscreteScheduler.
    """
    solver = SOLVERS[scheduler]
    timesteps, sigmas = euler_schedule(backbone, steps)
    if solver.ends_at_first and timesteps[-1] > 0:
        first = alphas_cumprod(backbone)[0]
        sigmas[-1] = ((1 - first) / first).sqrt()
    guided = callable(guidance_scale) or guidance_scale != 1.0
    condition = both_sides(negative, positive) if guided else positive
    latents = noise.to(backbone.device, torch.float32) * (sigmas[0] ** 2 + 1).sqrt()
    past: Past = None
    for index, (timestep, sigma, following) in enumerate(zip(timesteps, sigmas, sigmas[1:])):
        again = edit.repeats if edit and index < edit.steps else 0
        for repeat in range(again + 1):
            if edit:
                edit.before(index)
            scaled = latents / (sigma**2 + 1).sqrt()
            batch = (torch.cat([scaled, scaled]) if guided else scaled).to(backbone.dtype)
            answer = predicting(backbone, batch, timestep, condition)
            predicted = noise_of(backbone, answer, batch.float(), 1 / (sigma**2 + 1))
            if guided:
                weight = guidance_scale(float(sigma), float(following)) if callable(guidance_scale) else guidance_scale
                predicted = classifier_free(*predicted.chunk(2), weight)
            after, now = solver.step(latents, predicted, sigma, following, past)
            if repeat < again:
                drawn = torch.stack([torch.randn(latents.shape[1:], generator=source) for source in edit.sources])
                latents = after + renoise_amount(float(sigma), float(following)) * drawn.to(latents.device)
        latents, past = after, now
    return latents / (sigmas[-1] ** 2 + 1).sqrt()


@torch.no_grad()
def decode(backbone: Backbone, latents: torch.Tensor) -> list[np.ndarray]:
    """uint8 images (H, W, 3) of scaled latents (B, C, h, w); those of latents that are not finite come out
    constant, which `is_valid` tells."""
    config = backbone.vae.config
    scaled = latents.to(backbone.vae.dtype) / config.scaling_factor
    parts = [backbone.vae.decode(part).sample.float() for part in scaled.split(DECODE_BATCH)]
    pixels = torch.cat(parts).add(1).mul(127.5).nan_to_num(0.0).clamp(0, 255).round().to(torch.uint8)
    return list(pixels.permute(0, 2, 3, 1).cpu().numpy())


def is_valid(image: np.ndarray) -> bool:
    """Whether an image (H, W, 3) shows anything: a constant one is what overflow in the decoder leaves."""
    return bool(image.max() > image.min())


def to_pixels(images: Sequence[np.ndarray]) -> torch.Tensor:
    """uint8 images (H, W, 3) of one size as float32 (B, 3, H, W) in -1..1."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encode(backbone: Backbone, images: Sequence[np.ndarray], source: torch.Generator | None = None) -> torch.Tensor:
    """Scaled latents (B, C, h, w) float32: a posterior sample from `source`, or the mode without one."""
    posterior = backbone.vae.encode(to_pixels(images).to(backbone.device, backbone.vae.dtype)).latent_dist
    if source is None:
        latents = posterior.mode()
    else:
        noise = torch.randn(posterior.mean.shape, generator=source).to(posterior.mean.device, posterior.mean.dtype)
        latents = posterior.mean + posterior.std * noise
    return latents.float() * backbone.vae.config.scaling_factor
