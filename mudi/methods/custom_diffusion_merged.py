"""Custom Diffusion (arXiv 2212.04488) of each subject alone, then its constrained merge."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mudi.constrained import constrained_adapter
from mudi.fit import Report
from mudi.fusion import RIDGE
from mudi.methods.custom_diffusion import TARGETS, CustomDiffusion
from mudi.models import Backbone
from mudi.personalization import Personalization, hyperparameters
from mudi.records import Adapter, Combination
from mudi.sampling import Sampling
from mudi.singles import alone_by, deciding, fits_alone


@dataclass(frozen=True, kw_only=True)
class CustomDiffusionMerged(Personalization):
    """Hyperparameters: those of `CustomDiffusion`, per subject, and the `ridge` of the merge (`mudi.constrained`).

    Departures: a LoRA and a rare word's own row per subject, as in `CustomDiffusion`, where the paper has full matrices and new
    words; the merge itself is of full matrices.
    """

    name: ClassVar[str] = "custom_diffusion_merged"
    lora_targets: ClassVar[tuple[str, ...] | None] = TARGETS
    token_rows: ClassVar[bool] = True
    steps: int = 500
    rank: int = 32
    ridge: float = RIDGE
    sampling: Sampling = field(default_factory=lambda: Sampling(negative_prompt=None, gamma=0.0))

    def steps_in_all(self, subjects: int) -> int:
        """Those of every subject's own fit."""
        return self.steps * subjects

    def stored_ranks(self, subjects: int) -> tuple[int, ...]:
        """One LoRA of at most all ranks."""
        return (subjects * self.rank,)

    def single_recipe(self, combination: Combination) -> dict[str, object]:
        """What decides a subject's own fit beside the subject, the seed and the model: not how pictures are drawn with it."""
        return deciding(alone_by(CustomDiffusion, self))

    def train(self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None) -> Adapter:
        """Fit keys, values and a row to each subject, unless they are there, and store their merge in `out_dir`."""
        singles = fits_alone(alone_by(CustomDiffusion, self), self, backbone, combination, out_dir, report)
        return constrained_adapter(
            backbone, singles, self.view(combination), out_dir, method=self.name, seed=seed, ridge=self.ridge,
            details={"hyperparameters": hyperparameters(self)},
        )  # fmt: skip
