"""Steps of the denoising loop from one noise level to the next, in latents scaled so that noise has the variance sigma^2."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# A multistep solver remembers its last denoised latents and the noise level they were made at.
Past = "tuple[Tensor, Tensor] | None"
Step = Callable[["Tensor", "Tensor", "Tensor", "Tensor", "Past"], "tuple[Tensor, Past]"]


@dataclass(frozen=True, kw_only=True)
class Solver:
    """`step(latents, noise, sigma, sigma_next, past)` gives the next latents (B, C, h, w) and what to remember; the noise
    levels are float32 ().

    `multistep` solvers look at earlier steps. `ends_at_first` ones stop at the first training timestep's noise level
    instead of 0 (diffusers' DDIM with `set_alpha_to_one` False, as Stable Diffusion ships it), unless their last step begins
    there (`steps_offset` 0, for which diffusers sets True): from one level to the same, CFG++ has no weight.
    """

    step: Step
    multistep: bool = False
    ends_at_first: bool = False


def euler(latents: "Tensor", noise: "Tensor", sigma: "Tensor", sigma_next: "Tensor", past: Past) -> "tuple[Tensor, Past]":
    """One Euler step of the probability flow; in this scaling it is also DDIM's step without noise."""
    return latents + (sigma_next - sigma) * noise, None


def dpmpp_2m(latents: "Tensor", noise: "Tensor", sigma: "Tensor", sigma_next: "Tensor", past: Past) -> "tuple[Tensor, Past]":
    """One step of DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2); first order on the first and last step."""
    denoised = latents - sigma * noise
    if sigma_next == 0:
        return denoised, (denoised, sigma)
    h = (sigma / sigma_next).log()
    direction = denoised
    if past is not None:
        earlier, earlier_sigma = past
        ratio = (earlier_sigma / sigma).log() / h
        direction = denoised + (denoised - earlier) / (2 * ratio)
    return sigma_next / sigma * latents - (-h).expm1() * direction, (denoised, sigma)


def renoise_amount(sigma: float, sigma_next: float) -> float:
    """sqrt(sigma^2 - sigma_next^2), the standard deviation of the noise that takes latents from sigma_next back up to sigma.

    What a step that is done again begins from: Cones 2's self-recurrence, in released code. ValueError where noise does not fall.
    """
    if not 0 <= sigma_next <= sigma:
        raise ValueError(f"noise levels {sigma} and then {sigma_next}: a step is done again only where noise falls, and never below 0")
    return math.sqrt(sigma**2 - sigma_next**2)


SOLVERS = {
    "euler": Solver(step=euler),
    "ddim": Solver(step=euler, ends_at_first=True),
    "dpmpp_2m": Solver(step=dpmpp_2m, multistep=True),
}
