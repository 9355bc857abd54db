"""The negative-aware objective, DiffusionNFT (arXiv 2509.16117): all candidates teach, towards the good and away from the bad.

The adapter that drew the candidates, old, and the trained one, new, make two implicit predictions (the paper's section 3.2)

    positive = (1 - beta) old + beta new      negative = (1 + beta) old - beta new

and a candidate of reward r in 0..1 asks r of the positive and 1 - r of the negative to be right. Where all rewards are 1/2 and
new is still old, the two pull in opposite directions and nothing moves; with beta 1 and reward 1 the loss is the filtered one.

Departures from the release: LoRA rounds are separate fits, so that old is the adapter of the round before and stays what it is
during a round (there, an average that follows); the sum is divided by beta, so that the rate need not change with it; the
terms are weighed alike at all timesteps; guidance may draw the pool.
"""

from collections.abc import Sequence

import numpy as np
import torch

from mudi.adapters import REFERENCE, TRAINED
from mudi.fit import Example, Examples, Loss, Noised, Predict
from mudi.objectives import kl_penalty, sample_errors
from mudi.options import RetrainSettings
from mudi.selection import places_by_prompt
from mudi.self_training.candidates import Rewarded, example

BETA = 1.0


def examples(candidates: Sequence[Rewarded], settings: RetrainSettings) -> Examples:
    """Micro-batches of candidates, uniform over all of them, each with its reward in 0..1 (`shares`)."""
    rewards = shares(candidates, settings.reward_clip)

    def rows(step: int, rng: np.random.Generator) -> list[Example]:
        return [example(candidates, i, reward=float(rewards[i])) for i in rng.integers(len(candidates), size=settings.batch)]

    return rows


def shares(candidates: Sequence[Rewarded], clip: float) -> np.ndarray:
    """How much of each candidate (N,) counts as good: 1/2 + clip(A, -c, c) / 2c, the paper's optimality probability.

    A is the reward normalised among the candidates of its prompt, to mean 0 and standard deviation 1, and 0 where these do not
    differ. The released code takes c = 5; with 1, a standard deviation above the mean is wholly good.
    """
    rewards = np.array([candidate.reward for candidate in candidates])
    advantages = np.zeros(len(rewards))
    for places in places_by_prompt([candidate.prompt for candidate in candidates]):
        of_prompt = rewards[places]
        if (spread := of_prompt.std()) > 0:
            advantages[places] = (of_prompt - of_prompt.mean()) / spread
    return 0.5 + advantages.clip(-clip, clip) / (2 * clip)


def loss(settings: RetrainSettings) -> Loss:
    """[r l(positive) + (1 - r) l(negative)] / beta, averaged over the candidates, plus `kl_weight` times the KL to the old adapter.

    l is a candidate's squared error (`mudi.objectives.sample_errors`), in the predicted quantity or, with `error_in` "clean", in
    the clean latents with the released adaptive weight.
    """
    beta = BETA if settings.beta is None else settings.beta

    def value(noised: Noised, predict: Predict) -> torch.Tensor:
        old = predict(REFERENCE)
        new = predict(TRAINED)
        good, clean = noised.rewards, noised.clean_scale if settings.error_in == "clean" else None
        positive = sample_errors((1 - beta) * old + beta * new, noised.target, noised.weights, clean)
        negative = sample_errors((1 + beta) * old - beta * new, noised.target, noised.weights, clean)
        return (good * positive + (1 - good) * negative).mean() / beta + settings.kl_weight * kl_penalty(new, old)

    return value
