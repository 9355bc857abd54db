"""MuDI's modular customisation (arXiv 2404.04243): LoRAs of single subjects, merged, then taught apart on pictures of their own."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from mudi import adapters
from mudi.concept_grams import Positions
from mudi.examples import personal_examples, seg_mixing
from mudi.fit import Report
from mudi.merged import DENSITY, FUSION_RIDGE, Kind, check_kind, merged_adapter
from mudi.methods.dreambooth import DreamBooth
from mudi.models import Backbone
from mudi.personalization import Personalization, hyperparameters
from mudi.records import Adapter, Combination
from mudi.retrain import RetrainSettings, refit
from mudi.self_generated import self_generated
from mudi.singles import after, alone_by, deciding, fits_alone
from mudi.work_folder import work_folder


@dataclass(frozen=True, kw_only=True)
class MudiModular(Personalization):
    """Hyperparameters: those of `DreamBooth`, per subject, of the merge (`mudi.merged.merged_adapter`), and of the refinement.

    Each subject's adapter draws `self_images` pictures of it (`mudi.self_generated`, with `self_steps`, `self_guidance_scale` and
    `self_negative_prompt`), which are cut out. The merge is then trained for `refine_steps` (paper: 200 to 300) on Seg-Mix
    compositions of these alone, two subjects each, at `refine_learning_rate`, with `kl_weight` times the KL to the
    merge as it was; 0 steps leave it as it was. Drawing starts from mean-shifted noise of the user's own photos, as MuDI's.
    What the paper does not say and is ours: gradient fusion, since it names no one merge; the KL weight, stated for
    self-training only; the rate, that of the fit. Departure: token rows have no part here.
    """

    name: ClassVar[str] = "mudi_modular"
    needs_masks: ClassVar[bool] = True
    steps: int = 1000
    rank: int = 32
    merge: Kind = "fusion"
    merge_rank: int | None = None
    density: float = DENSITY
    kv_positions: Positions = "real"
    ridge: float = FUSION_RIDGE
    self_images: int = 5
    self_steps: int = 50
    self_guidance_scale: float = 5.0
    self_negative_prompt: str = ""
    refine_steps: int = 200
    refine_learning_rate: float = 1e-4
    kl_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind(self.merge, self.kv_positions, self.merge_rank, self.density)

    def steps_in_all(self, subjects: int) -> int:
        """Those of every subject's own fit, and of the refinement."""
        return self.steps * subjects + self.refine_steps

    def stored_ranks(self, subjects: int) -> tuple[int, ...]:
        """One LoRA, of all ranks unless a lower one is asked for."""
        return (self.merge_rank or subjects * self.rank,)

    def single_recipe(self, combination: Combination) -> dict[str, object]:
        """What decides a subject's own fit beside the subject, the seed and the model: not how pictures are drawn with it."""
        return deciding(alone_by(DreamBooth, self))

    def train(self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None) -> Adapter:
        """Fit a LoRA to each subject, unless it is there, and store their refined merge in `out_dir`."""
        named = self.view(combination)
        singles = fits_alone(alone_by(DreamBooth, self), self, backbone, combination, out_dir, report)
        if not self.refine_steps:
            return self._merged(backbone, singles, named, out_dir, seed)
        pictures = self_generated(
            backbone, singles, named, self.self_images, self.single_seed, detector=self.detector, segmenter=self.segmenter,
            steps=self.self_steps, guidance_scale=self.self_guidance_scale, negative_prompt=self.self_negative_prompt,
        )  # fmt: skip
        place = work_folder(out_dir) / "merged"
        start = adapters.find(place) or self._merged(backbone, singles, named, place, seed)
        mix = seg_mixing(backbone.resolution, scales=self.sampling.scales, overlap=self.sampling.overlap)
        settings = RetrainSettings(
            steps=self.refine_steps, learning_rate=self.refine_learning_rate, batch=self.batch, accumulation=self.accumulation,
            kl_weight=self.kl_weight,
        )  # fmt: skip
        manifest = adapters.read_manifest(place)
        details = {
            "hyperparameters": manifest["hyperparameters"], "merge": manifest["merge"],
            "refine": {**asdict(settings), "merged_sha256": start.sha256, "pictures": len(pictures)},
        }  # fmt: skip
        return refit(
            backbone, named, start, personal_examples(pictures, [], batch=self.batch, mix=mix, mix_probability=1.0), settings,
            out_dir, round=0, seed=seed, details=details, report=after(report, self.steps * len(singles)),
        )  # fmt: skip

    def _merged(self, backbone: Backbone, singles: list[Adapter], named: Combination, place: Path, seed: int) -> Adapter:
        return merged_adapter(
            backbone, singles, named, place, self.merge, method=self.name, seed=seed, rank=self.merge_rank, density=self.density,
            ridge=self.ridge, positions=self.kv_positions, details={"hyperparameters": hyperparameters(self)},
        )  # fmt: skip
