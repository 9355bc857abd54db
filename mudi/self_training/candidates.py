"""What a round learns from: drawn candidates with their rewards, and an objective that makes rows and a loss of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mudi.fit import Example, Examples, Loss
from mudi.options import RetrainSettings


@dataclass(frozen=True)
class Rewarded:
    """A drawn candidate: uint8 (S, S, 3), the prompt that it was drawn from, and its reward, the score that selection ranks by."""

    image: np.ndarray
    prompt: str
    reward: float


@dataclass(frozen=True, kw_only=True)
class Objective:
    """`examples` makes micro-batches of the candidates, `loss` is what training minimises on them."""

    examples: Callable[[Sequence[Rewarded], RetrainSettings], Examples]
    loss: Callable[[RetrainSettings], Loss]


def example(candidates: Sequence[Rewarded], index: int, **told: object) -> Example:
    """The candidate `index` as a row of training, known by its place, so that it goes through the autoencoder once."""
    return Example(candidates[index].image, candidates[index].prompt, key=f"kept-{index}", **told)
