"""Merged LoRAs: DreamBooth of each subject alone, then one LoRA out of theirs; the plain form of modular customisation."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mudi.concept_grams import Positions
from mudi.fit import Report
from mudi.merged import DENSITY, FUSION_RIDGE, Kind, check_kind, merged_adapter
from mudi.methods.dreambooth import DreamBooth
from mudi.models import Backbone
from mudi.personalization import Personalization, hyperparameters
from mudi.records import Adapter, Combination
from mudi.sampling import Sampling
from mudi.singles import alone_by, deciding, fits_alone


@dataclass(frozen=True, kw_only=True)
class MergedLoras(Personalization):
    """Hyperparameters: those of `DreamBooth`, per subject, and how their LoRAs are merged.

    `steps` are those of each subject's own fit. `merge`: "sum" (default) is what diffusers' `set_adapters` with weights 1 draws
    with; the others, and what `merge_rank`, `density`, `kv_positions` and `ridge` mean, stand in `mudi.merged.merged_adapter`. A
    subject is fitted once for all combinations, kinds and methods that fit it so.
    """

    name: ClassVar[str] = "merged_loras"
    steps: int = 1000
    rank: int = 32
    merge: Kind = "sum"
    merge_rank: int | None = None
    density: float = DENSITY
    kv_positions: Positions = "real"
    ridge: float = FUSION_RIDGE
    sampling: Sampling = field(default_factory=lambda: Sampling(negative_prompt=None, gamma=0.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind(self.merge, self.kv_positions, self.merge_rank, self.density)

    def steps_in_all(self, subjects: int) -> int:
        """Those of every subject's own fit."""
        return self.steps * subjects

    def stored_ranks(self, subjects: int) -> tuple[int, ...]:
        """One LoRA, of all ranks unless a lower one is asked for."""
        return (self.merge_rank or subjects * self.rank,)

    def single_recipe(self, combination: Combination) -> dict[str, object]:
        """What decides a subject's own fit beside the subject, the seed and the model: not how pictures are drawn with it."""
        return deciding(alone_by(DreamBooth, self))

    def train(self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None) -> Adapter:
        """Fit a LoRA to each subject, unless it is there, and store their merge in `out_dir`."""
        singles = fits_alone(alone_by(DreamBooth, self), self, backbone, combination, out_dir, report)
        return merged_adapter(
            backbone, singles, self.view(combination), out_dir, self.merge, method=self.name, seed=seed, rank=self.merge_rank,
            density=self.density, ridge=self.ridge, positions=self.kv_positions, details={"hyperparameters": hyperparameters(self)},
        )  # fmt: skip
