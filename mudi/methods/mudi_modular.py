"""MuDI's modular customisation (arXiv 2404.04243): LoRAs of single subjects, merged, then taught apart on pictures of their own."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mudi.methods.merged_loras import Merge, MergedLoras
from mudi.options import Sampling


@dataclass(frozen=True, kw_only=True)
class MudiModular(MergedLoras):
    """Hyperparameters: those of `MergedLoras` with a `DreamBooth` for each subject, gradient fusion, and 200 steps of refinement.

    Drawing starts from mean-shifted noise of the user's own photos, as MuDI's. What the paper does not say and is ours: gradient
    fusion, since it names no one merge; the KL weight, stated for self-training only; the rate, that of the fit. Departure:
    token rows have no part here; `merged_loras` refines fits that have them.
    """

    name: ClassVar[str] = "mudi_modular"
    any_single: ClassVar[bool] = False
    single: Literal["dreambooth"] = "dreambooth"
    merge: Merge | None = "fusion"
    refine_steps: int = 200
    sampling: Sampling = field(default_factory=Sampling)
