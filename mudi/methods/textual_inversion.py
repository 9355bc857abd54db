"""Textual Inversion (arXiv 2208.01618): one trained token row a subject in both text encoders, nothing else."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from mudi.backbone import Backbone
from mudi.options import Sampling
from mudi.personalization import PhotoFit
from mudi.records import Adapter, Combination, Report


@dataclass(frozen=True, kw_only=True)
class TextualInversion(PhotoFit):
    """Hyperparameters: MuDI's paper gives none; diffusers' SDXL example trains at 5e-4 with accumulation 4.

    Rows start at the class noun, as the original's do. All subjects are fitted jointly.
    """

    name: ClassVar[str] = "textual_inversion"
    refits: ClassVar[bool] = False
    lora_targets: ClassVar[tuple[str, ...] | None] = None
    token_rows: ClassVar[bool] = True
    steps: int = 2500
    learning_rate: float = 5e-4
    accumulation: int = 4
    objective: Literal["prior_preservation", "dco", "denoising"] = "denoising"
    sampling: Sampling = field(default_factory=lambda: Sampling(negative_prompt=None, gamma=0.0))

    def train(self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None) -> Adapter:
        """Fit a row for each identifier on the plain photos and store them in `out_dir`."""
        from mudi.first_fit import Training, personalize

        starts = {subject.identifier: subject.class_noun for subject in self.view(combination).subjects}
        return personalize(self, backbone, combination, out_dir, seed, Training(row_starts=starts), report)
