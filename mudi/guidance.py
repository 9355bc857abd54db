"""Guidance: combining the conditional and unconditional noise predictions, at one weight or at one that follows the noise."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# From a step's noise level and the next one's to the weight of guidance.
Weight = Callable[[float, float], float]


def classifier_free(unconditional: "Tensor", conditional: "Tensor", scale: float) -> "Tensor":
    """The guided prediction u + s (c - u); scale 1 is the plain conditional one.

    Shapes (B, C, h, w). Source: Ho and Salimans, Classifier-free diffusion guidance, eq. 6 with s = 1 + w.
    """
    return unconditional + scale * (conditional - unconditional)


def cfg_plus_plus_weight(sigma: float, sigma_next: float, lam: float) -> float:
    """The weight with which ordinary guidance makes the very step that CFG++ makes: lam sigma / (sigma - sigma_next).

    CFG++ (Chung et al. 2024, arXiv 2406.08070, algorithm 2) takes the denoised image from the guided prediction and the
    noise that is added back from the unconditional one, with lam in 0..1. For first-order steps (Euler, DDIM without
    noise) that is classifier-free guidance whose weight follows the noise; for multistep solvers it is not. An infinite
    `sigma` gives lam. sigma = sqrt((1 - alpha-bar) / alpha-bar) falls from step to step, so sigma > sigma_next >= 0.
    """
    if not 0 <= lam <= 1:
        raise ValueError(f"lam = {lam}: allowed are 0 (unconditional) to 1; 0.6 is a mean guidance scale of 7.2 at 50 steps, 2.5 at 16")
    if not 0 <= sigma_next < sigma:
        raise ValueError(f"sigma = {sigma}, sigma_next = {sigma_next}: noise levels must fall, down to 0 at least")
    return lam if math.isinf(sigma) else lam * sigma / (sigma - sigma_next)


def equivalent_scale(lam: float, sigmas: Sequence[float]) -> float:
    """The scale of ordinary guidance that CFG++ with `lam` amounts to over noise levels (steps + 1,): the mean of its weights.

    It grows with the number of steps, since each then falls less: 0.6 is 2.5 at 16 Euler steps, 3.7 at 25 and 7.2 at 50. A
    comparison of the two is fair at this scale alone.
    """
    weights = [cfg_plus_plus_weight(float(sigma), float(following), lam) for sigma, following in zip(sigmas, sigmas[1:])]
    return sum(weights) / len(weights)


def cfg_plus_plus(lam: float) -> Weight:
    """`cfg_plus_plus_weight` as a function of a step's two noise levels."""
    return lambda sigma, sigma_next: cfg_plus_plus_weight(sigma, sigma_next, lam)
