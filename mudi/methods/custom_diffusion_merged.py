"""Custom Diffusion (arXiv 2212.04488) of each subject alone, then its constrained merge."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from mudi.methods.merged_loras import Merge, MergedLoras


@dataclass(frozen=True, kw_only=True)
class CustomDiffusionMerged(MergedLoras):
    """Hyperparameters: those of `MergedLoras` with a `CustomDiffusion` for each subject and the paper's merge (`mudi.merging.constrained`).

    Departures: a LoRA and a rare word's own row per subject, as in `CustomDiffusion`, where the paper has full matrices and new
    words; the merge itself is of full matrices.
    """

    name: ClassVar[str] = "custom_diffusion_merged"
    any_single: ClassVar[bool] = False
    single: Literal["custom_diffusion"] = "custom_diffusion"
    steps: int | None = 500
    merge: Merge | None = "constrained"
