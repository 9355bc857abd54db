"""The filtered objective, MuDI's own: noise prediction on the best candidates, held near the round before by a KL term."""

from collections.abc import Sequence

import numpy as np
import torch

from mudi.adapters import REFERENCE, TRAINED
from mudi.fit import Example, Examples, Loss, Noised, Predict
from mudi.objectives import denoising_loss, kl_penalty
from mudi.options import RetrainSettings
from mudi.self_training.candidates import Rewarded, example


def examples(candidates: Sequence[Rewarded], settings: RetrainSettings) -> Examples:
    """Micro-batches of candidates, uniform over all that were kept, whatever their rewards (MuDI, section 5)."""

    def rows(step: int, rng: np.random.Generator) -> list[Example]:
        return [example(candidates, i) for i in rng.integers(len(candidates), size=settings.batch)]

    return rows


def loss(settings: RetrainSettings) -> Loss:
    """Noise prediction on the kept images plus `kl_weight` times the KL to the reference adapter.

    Forward-noised kept latents, no guidance, one timestep for both terms. The paper releases no code;
    equal-variance Gaussian steps make the KL a weighted squared difference of predictions, and the
    weight is dropped as DPOK's released code does. The minimiser is the plain regression onto
    (noise + weight * reference) / (1 + weight).
    """

    def value(noised: Noised, predict: Predict) -> torch.Tensor:
        reference = predict(REFERENCE)
        predicted = predict(TRAINED)
        return denoising_loss(predicted, noised.target, noised.weights) + settings.kl_weight * kl_penalty(predicted, reference)

    return value
