"""CLIPs: does the picture show what the prompt says, by the cosine of CLIP's two towers?

Source: MuDI (arXiv 2404.04243), Table 1. The paper does not name the model; its values of 0.22 to 0.26 are raw cosines of a
ViT-L/14 (openai/clip-vit-large-patch14).
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np

from mudi.metrics.prompt_orders import score_orders
from mudi.records import Combination, Prompt, Score


class ClipScore:
    """Images and their prompt to one cosine, averaged over the orders of the subjects."""

    MODELS: ClassVar[tuple[str, ...]] = ("clip",)
    # Every name this metric can yield, and whether higher is better.
    NAMES: ClassVar[dict[str, bool]] = {"clip_text": True}

    def __init__(self, device: str = "cpu", clip: str = "miniature"):
        """Loads the model once; `clip` is "miniature", a folder or a hub id with a revision."""
        from mudi.models import load_clip

        self.clip = load_clip(clip, device)

    def __call__(self, images: Sequence[np.ndarray], prompt: Prompt, combination: Combination) -> list[tuple[Score, ...]]:
        """For each image uint8 (H, W, 3), its score in -1..1, with the value of each order in the details."""
        from mudi.checkpoints.clip_text import text_cosines

        rate = partial(text_cosines, self.clip, images)
        return score_orders(rate, "clip_text", f"clip {self.clip.name}", prompt, combination)
