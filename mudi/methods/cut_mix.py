"""Cut-Mix: DreamBooth that also sees two photos side by side, each with its background (SVDiff, arXiv 2303.11305)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mudi.backbone import Backbone
from mudi.options import Sampling
from mudi.personalization import PhotoFit
from mudi.records import Adapter, Combination, Report


@dataclass(frozen=True, kw_only=True)
class CutMix(PhotoFit):
    """Hyperparameters as MuDI compares it: Seg-Mix's steps and probability (SVDiff itself mixes with 0.6), no
    unmix regularization, no negative prompt. "{subjects}" in a negative prompt stands for the super-categories,
    "a dog and a dog", the prompt against stitching that the paper finds to oversaturate."""

    name: ClassVar[str] = "cut_mix"
    steps: int = 1200
    rank: int = 32
    mix_probability: float = 0.3
    mix_from_step: int = 0
    sampling: Sampling = field(default_factory=lambda: Sampling(negative_prompt=None, gamma=0.0))

    def train(self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None) -> Adapter:
        """Fit a fresh LoRA on photos and pairs of photo halves, and store it in `out_dir`."""
        from mudi.examples import cut_mixing
        from mudi.first_fit import Training, personalize

        training = Training(
            lora=self.lora(), mix=cut_mixing(backbone.resolution), mix_probability=self.mix_probability, mix_from_step=self.mix_from_step
        )
        return personalize(self, backbone, combination, out_dir, seed, training, report)
