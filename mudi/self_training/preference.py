"""The preference objective, Diffusion-DPO (arXiv 2311.12908): of two candidates of one prompt the better one is made likelier.

A pair goes through the UNet with the same noise at the same timestep (equation 14 there), so that the difference of its errors
is not that of two draws. Departure: pairs are those of one prompt whose rewards differ by more than `pair_margin`, all of them
alike, where the paper has people's choices.
"""

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from mudi.adapters import REFERENCE, TRAINED
from mudi.fit import Example, Examples, Loss, Noised, Predict
from mudi.objectives import kl_penalty, sample_errors
from mudi.options import RetrainSettings
from mudi.selection import places_by_prompt
from mudi.self_training.candidates import Rewarded, example

BETA = 2000.0


def pairs(candidates: Sequence[Rewarded], margin: float) -> list[tuple[int, int]]:
    """Winner and loser, by their places, of every pair of one prompt whose rewards differ by more than `margin`."""
    return [
        (winner, loser)
        for places in places_by_prompt([candidate.prompt for candidate in candidates])
        for winner, loser in permutations(places, 2)
        if candidates[winner].reward - candidates[loser].reward > margin
    ]


def examples(candidates: Sequence[Rewarded], settings: RetrainSettings) -> Examples:
    """Micro-batches of half as many pairs, winner before loser, uniform over all pairs; ValueError if there is none."""
    found = pairs(candidates, settings.pair_margin)
    if not found:
        raise ValueError(
            f"none of {len(candidates)} candidates is better than another of its prompt by more than pair_margin = "
            f"{settings.pair_margin:g}; draw more candidates of a prompt, or lower it"
        )

    def rows(step: int, rng: np.random.Generator) -> list[Example]:
        chosen = [found[i] for i in rng.integers(len(found), size=settings.batch // 2)]
        return [example(candidates, place, as_before=second) for pair in chosen for second, place in enumerate(pair)]

    return rows


def loss(settings: RetrainSettings) -> Loss:
    """-log sigmoid(-(beta / 2) [(l_w - l_w') - (l_l - l_l')]), averaged over the pairs, plus `kl_weight` times the KL.

    l_w and l_l are the squared errors of winner and loser, l' those of the adapter that drew them. Where both agree the gradient is
    beta / 4 of that of l_w - l_l.
    """
    beta = BETA if settings.beta is None else settings.beta

    def value(noised: Noised, predict: Predict) -> torch.Tensor:
        old = predict(REFERENCE)
        new = predict(TRAINED)
        gained = sample_errors(new, noised.target, noised.weights) - sample_errors(old, noised.target, noised.weights)
        winner, loser = gained.unflatten(0, (-1, 2)).unbind(1)
        return -logsigmoid(-beta / 2 * (winner - loser)).mean() + settings.kl_weight * kl_penalty(new, old)

    return value
