"""CFG++ written out step by step, what the loop with its weight is held against."""

import torch

from mudi.diffusion import euler_schedule, noise_of, predict


def cfg_plus_plus_step(latents, unconditional, conditional, lam, signal, following):
    """Algorithm 2 of arXiv 2406.08070: the denoised latents from the guided noise, renoised with the unconditional one."""
    guided = unconditional + lam * (conditional - unconditional)
    denoised = (latents - (1 - signal) ** 0.5 * guided) / signal**0.5
    return following**0.5 * denoised + (1 - following) ** 0.5 * unconditional


@torch.no_grad()
def by_definition(backbone, noise, positive, negative, steps, lam, last_signal):
    """CFG++ step by step, in variance-preserving latents, each side predicted alone."""
    timesteps, sigmas = euler_schedule(backbone, steps)
    signals = [*(1 / (sigmas[:-1] ** 2 + 1)), torch.tensor(last_signal)]
    latents = noise
    for timestep, signal, following in zip(timesteps, signals, signals[1:]):
        answers = [predict(backbone, latents, timestep, side) for side in (negative, positive)]
        sides = [noise_of(backbone, answer, latents, signal) for answer in answers]
        latents = cfg_plus_plus_step(latents, *sides, lam, signal, following)
    return latents
