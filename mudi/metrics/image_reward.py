"""ImageReward: how much people would like the picture as an answer to the prompt.

Source: ImageReward (arXiv 2304.05977), as MuDI (arXiv 2404.04243), Table 1, reports it. Standardised, so about 0 is average.
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np

from mudi.metrics.prompt_orders import score_orders
from mudi.records import Combination, Prompt, Score


class ImageRewardScore:
    """Images and their prompt to one reward, averaged over the orders of the subjects."""

    MODELS: ClassVar[tuple[str, ...]] = ("image_reward",)
    # Every name this metric can yield, and whether higher is better.
    NAMES: ClassVar[dict[str, bool]] = {"image_reward": True}

    def __init__(self, device: str = "cpu", image_reward: str = "miniature"):
        """Loads the network once; `image_reward` is "miniature", a folder of `blip_reward.save_reward` or a hub id with a revision."""
        from mudi.models import load_reward

        self.reward = load_reward(image_reward, device)

    def __call__(self, images: Sequence[np.ndarray], prompt: Prompt, combination: Combination) -> list[tuple[Score, ...]]:
        """For each image uint8 (H, W, 3), its score, with the value of each order in the details."""
        from mudi.checkpoints.blip_reward import rewards

        rate = partial(rewards, self.reward, images)
        return score_orders(rate, "image_reward", f"image_reward {self.reward.name}", prompt, combination)
