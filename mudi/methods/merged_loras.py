"""Modular customisation: a method of choice fits each subject alone, a merge of choice unites the fits, Seg-Mix may refine it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from mudi import adapter_size
from mudi.adapter_size import Architecture
from mudi.backbone import Backbone
from mudi.dataset import require_objects
from mudi.examples import seg_mixing
from mudi.fusion import RIDGE
from mudi.merging.adapters import DENSITY, FUSION_RIDGE, KINDS, Kind, check_kind, merged_adapter, united_adapter
from mudi.merging.concept_grams import Positions
from mudi.merging.constrained import constrained_adapter
from mudi.merging.neutral_grams import neutral_grams
from mudi.methods.custom_diffusion import TARGETS, CustomDiffusion
from mudi.methods.dreambooth import DreamBooth
from mudi.methods.ed_lora import EDLora, share_a_noun
from mudi.methods.textual_inversion import TextualInversion
from mudi.modular.refine import refined_adapter
from mudi.modular.self_generated import self_generated
from mudi.modular.subject_fits import after, alone_by, deciding, fits_alone
from mudi.options import RetrainSettings, Sampling
from mudi.personalization import Personalization, hyperparameters
from mudi.records import Adapter, Combination, Report

Single = Literal["dreambooth", "ed_lora", "custom_diffusion", "textual_inversion"]
SINGLES: Mapping[Single, type[Personalization]] = {
    "dreambooth": DreamBooth,
    "ed_lora": EDLora,
    "custom_diffusion": CustomDiffusion,
    "textual_inversion": TextualInversion,
}
Merge = Kind | Literal["constrained", "union"]
MERGES = (*KINDS, "constrained", "union")
# What merges have that others have no use for: the default, and which those are.
OF_MERGES: Mapping[str, tuple[object, tuple[Merge, ...]]] = {
    "density": (DENSITY, ("ties_svd", "dare_linear_svd")),
    "kv_positions": ("real", ("fusion",)),
    "neutral_weight": (0.0, ("fusion",)),
}
# Where None is the default of the method of `single`, if it has such a hyperparameter at all.
OF_THE_SINGLE = (
    "steps", "rank", "learning_rate", "accumulation", "objective",
    "row_learning_rate", "row_deviation", "class_row", "masked_loss", "noise_offset",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MergedLoras(Personalization):
    """Hyperparameters: those of the method that fits each subject alone, how the fits are united, and how that is refined.

    `single` names the method of `SINGLES`; `steps` are those of each subject's own fit. Those of `OF_THE_SINGLE` that are left out
    are its defaults; one that it does not have is refused. A subject is fitted once for all combinations, merges and methods
    that fit it so. Of subjects whose nouns share a word, ED-LoRAs have no class row (`share_a_noun`).

    `merge`: "sum" (default) is what diffusers' `set_adapters` with weights 1 draws with; "mean", "svd", "ties_svd",
    "dare_linear_svd" and "fusion", and what `merge_rank`, `density`, `kv_positions` and `ridge` mean, stand in
    `mudi.merging.adapters.merged_adapter`; "constrained" (`mudi.merging.constrained`, which has a `ridge` too) takes keys and values of
    cross-attention, so `single: custom_diffusion` alone. Token rows stand side by side with any of them; Textual Inversion, which has
    nothing else, knows "union" and no other, and no other method has that. `ridge` left out is the merge's own. `neutral_weight`:
    how much fusion minds what happens to captions without a subject (`mudi.merging.neutral_grams`).

    `refine_steps` above 0 (MuDI's modular customisation: 200 to 300): each subject's own fit draws `self_images` pictures of it
    (`mudi.modular.self_generated`, with `self_steps`, `self_guidance_scale` and `self_negative_prompt`), which are cut out, and the
    merged LoRA is trained on Seg-Mix compositions of these alone, two subjects each, at `refine_learning_rate`, with `kl_weight`
    times the KL to the merge (`mudi.modular.refine`). The detector must find every subject, so no style may be among them.
    """

    name: ClassVar[str] = "merged_loras"
    any_single: ClassVar[bool] = True
    single: Single = "dreambooth"
    steps: int | None = None
    rank: int | None = None
    learning_rate: float | None = None
    accumulation: int | None = None
    objective: Literal["prior_preservation", "dco", "denoising"] | None = None
    row_learning_rate: float | None = None
    row_deviation: float | None = None
    class_row: bool | None = None
    masked_loss: bool | None = None
    noise_offset: float | None = None
    merge: Merge | None = None
    merge_rank: int | None = None
    density: float = DENSITY
    kv_positions: Positions = "real"
    ridge: float | None = None
    neutral_weight: float = 0.0
    self_images: int = 5
    self_steps: int = 50
    self_guidance_scale: float = 5.0
    self_negative_prompt: str = ""
    refine_steps: int = 0
    refine_learning_rate: float = 1e-4
    kl_weight: float = 1.0
    sampling: Sampling = field(default_factory=lambda: Sampling(negative_prompt=None, gamma=0.0))

    def __post_init__(self) -> None:
        if not self.any_single and self.single != type(self).single:
            raise ValueError(f"single = {self.single!r}: {self.name} fits by {type(self).single!r}; leave it out, or use merged_loras")
        if self.single not in tuple(SINGLES):
            raise ValueError(f"single = {self.single!r}: allowed are {', '.join(map(repr, SINGLES))}")
        self._take_defaults()
        super().__post_init__()
        alone_by(SINGLES[self.single], self)
        self._check_merge()

    def _take_defaults(self) -> None:
        """Put in place of each None what the preset or the method of `single` has; ValueError for a value that it has not."""
        preset = {of.name: of.default for of in fields(self)}
        own = {of.name: of.default for of in fields(SINGLES[self.single])}
        for name in OF_THE_SINGLE:
            value = getattr(self, name)
            if value is not None and name not in own:
                having = [single for single, method in SINGLES.items() if name in {of.name for of in fields(method)}]
                raise ValueError(f"{name} = {value!r}: {self.single} has no such thing; leave it out, or use single: {' or '.join(having)}")
            if value is None:
                object.__setattr__(self, name, own.get(name) if preset[name] is None else preset[name])
        if self.merge is None:
            object.__setattr__(self, "merge", preset["merge"] or ("sum" if self.lora_targets else "union"))
        if self.ridge is None:
            object.__setattr__(self, "ridge", RIDGE if self.merge == "constrained" else FUSION_RIDGE)
        elif self.merge not in ("fusion", "constrained") and self.ridge != FUSION_RIDGE:
            raise ValueError(f"ridge = {self.ridge}: merge {self.merge!r} solves nothing; leave it out, or use fusion or constrained")

    def _check_merge(self) -> None:
        check_kind(self.merge, self.kv_positions, self.merge_rank, self.density, MERGES)
        for name, (default, merges) in OF_MERGES.items():
            if self.merge not in merges and getattr(self, name) != default:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r}: merge {self.merge!r} has no use for it; leave it out, or use {' or '.join(merges)}"
                )
        if self.lora_targets is None and self.merge != "union":
            raise ValueError(f"merge = {self.merge!r}: {self.single} fits token rows and no LoRA to merge; leave it out, or use 'union'")
        if self.lora_targets is not None and self.merge == "union":
            raise ValueError(f"merge = 'union': {self.single} fits a LoRA too, which a union of token rows would lose; use 'sum'")
        if self.merge == "constrained" and self.lora_targets != TARGETS:
            raise ValueError(
                f"merge = 'constrained': takes keys and values of cross-attention alone, and {self.single} has more; "
                "use single: custom_diffusion, or merge: fusion"
            )
        if self.refine_steps and self.merge == "union":
            raise ValueError(
                f"refine_steps = {self.refine_steps}: a refinement trains a LoRA, and a union of token rows has none; set it to 0"
            )

    @classmethod
    def known(cls, values: Mapping[str, object]) -> set[str]:
        """The single's own hyperparameters, and no other single's, beside those of all."""
        single = values.get("single", cls.single)
        method = SINGLES[single] if single in tuple(SINGLES) else cls
        return super().known(values) - (set(OF_THE_SINGLE) - {of.name for of in fields(method)})

    @property
    def lora_targets(self) -> tuple[str, ...] | None:
        """Where the LoRA of each fit sits, and so that of the merge."""
        return SINGLES[self.single].lora_targets

    @property
    def token_rows(self) -> bool:
        """Whether the fits train rows, which the adapter of all then holds."""
        return SINGLES[self.single].token_rows

    @property
    def refits(self) -> bool:
        """Whether there is a LoRA in the end."""
        return self.lora_targets is not None

    @property
    def needs_masks(self) -> bool:
        """Whether the fits cut photos out; a refinement cuts out what it drew itself."""
        return alone_by(SINGLES[self.single], self).needs_masks

    @property
    def needs_objects(self) -> bool:
        """Whether something is cut out, photos or what a refinement drew itself."""
        return self.needs_masks or self.refine_steps > 0

    def steps_in_all(self, subjects: int) -> int:
        """Those of every subject's own fit, and of the refinement."""
        return self.steps * subjects + self.refine_steps

    def stored_ranks(self, subjects: int) -> tuple[int, ...]:
        """One LoRA, of all ranks unless a lower one is asked for; none of a union."""
        return (self.merge_rank or subjects * self.rank,) if self.lora_targets else ()

    def adapter_numbers(self, architecture: Architecture, combination: Combination, alone: int | None) -> tuple[int, int]:
        """As of any method; a refinement trains the merged LoRA, larger than each subject's own."""
        trained, size = super().adapter_numbers(architecture, combination, alone)
        if not self.refine_steps:
            return trained, size
        (rank,) = self.stored_ranks(len(combination.subjects))
        return max(trained, adapter_size.parameters(adapter_size.lora_shapes(architecture.unet, replace(self.lora(), rank=rank)))), size

    def alone(self, combination: Combination) -> Personalization:
        """The method of each subject's own fit."""
        single = alone_by(SINGLES[self.single], self)
        if self.class_row and share_a_noun(self.view(combination).subjects):
            return replace(single, class_row=False)
        return single

    def single_recipe(self, combination: Combination) -> dict[str, object]:
        """What decides a subject's own fit beside the subject, the seed and the model: not how pictures are drawn with it."""
        return deciding(self.alone(combination))

    def fit_singles(
        self, backbone: Backbone, combination: Combination, out_dir: Path, report: Report | None = None, only: str | None = None
    ) -> list[Adapter]:
        """The fits that are merged, or that of one subject."""
        return fits_alone(self.alone(combination), self, backbone, combination, out_dir, report, only)

    def train(self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None) -> Adapter:
        """Fit each subject alone, unless it is there, and store the merge of all, refined if that is asked for, in `out_dir`."""
        named = self.view(combination)
        if self.refine_steps:
            require_objects(named, f"{self.name} with refine_steps")
        singles = self.fit_singles(backbone, combination, out_dir, report)
        if not self.refine_steps:
            return self._merged(backbone, singles, named, seed, out_dir)
        pictures = self_generated(
            backbone, singles, named, self.self_images, self.single_seed, detector=self.detector, segmenter=self.segmenter,
            steps=self.self_steps, guidance_scale=self.self_guidance_scale, negative_prompt=self.self_negative_prompt,
        )  # fmt: skip
        settings = RetrainSettings(
            steps=self.refine_steps, learning_rate=self.refine_learning_rate, batch=self.batch, accumulation=self.accumulation,
            kl_weight=self.kl_weight,
        )  # fmt: skip
        return refined_adapter(
            backbone, named, out_dir, partial(self._merged, backbone, singles, named, seed), pictures, settings,
            mix=seg_mixing(backbone.resolution, scales=self.sampling.scales, overlap=self.sampling.overlap), seed=seed,
            report=after(report, self.steps * len(singles)),
        )  # fmt: skip

    def _merged(self, backbone: Backbone, singles: list[Adapter], named: Combination, seed: int, place: Path) -> Adapter:
        facts = {"method": self.name, "seed": seed, "details": {"hyperparameters": hyperparameters(self)}}
        if self.merge == "union":
            return united_adapter(backbone, singles, named, place, **facts)
        if self.merge == "constrained":
            return constrained_adapter(backbone, singles, named, place, ridge=self.ridge, **facts)
        neutral = None
        if self.neutral_weight:
            neutral = neutral_grams(backbone, [subject.class_noun for subject in named.subjects], self.lora_targets)
        return merged_adapter(
            backbone, singles, named, place, self.merge, rank=self.merge_rank, density=self.density, ridge=self.ridge,
            positions=self.kv_positions, neutral=neutral, neutral_weight=self.neutral_weight, **facts,
        )  # fmt: skip
