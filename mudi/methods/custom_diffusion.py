"""Custom Diffusion (arXiv 2212.04488), joint: keys and values of cross-attention as a LoRA, and a token row a subject."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mudi.backbone import Backbone
from mudi.options import Sampling
from mudi.personalization import PhotoFit
from mudi.records import Adapter, Combination, Report

TARGETS = ("attn2.to_k", "attn2.to_v")


@dataclass(frozen=True, kw_only=True)
class CustomDiffusion(PhotoFit):
    """Hyperparameters as MuDI compares it: rank 128 or 32 rather than full matrices, prior preservation.

    Rows start at the identifier's own row, a rare word, as in the release. The official SDXL script
    zeroes the gradient of the last new token by counting ids from 0; here every row is trained. Departure:
    rows and matrices share one learning rate; the release has 1e-5 for full matrices.
    """

    name: ClassVar[str] = "custom_diffusion"
    lora_targets: ClassVar[tuple[str, ...] | None] = TARGETS
    token_rows: ClassVar[bool] = True
    steps: int = 1000
    rank: int = 32
    sampling: Sampling = field(default_factory=lambda: Sampling(negative_prompt=None, gamma=0.0))

    def train(self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None) -> Adapter:
        """Fit a fresh LoRA and a row for each identifier on the plain photos, and store both in `out_dir`."""
        from mudi.first_fit import Training, personalize

        starts = {subject.identifier: subject.identifier for subject in combination.subjects}
        return personalize(self, backbone, combination, out_dir, seed, Training(lora=self.lora(), row_starts=starts), report)
