"""What all methods share: the hyperparameters of a fit, how a subject is named, and the way from photos to an adapter."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from mudi import adapter_size, adapters
from mudi.adapter_size import Architecture
from mudi.backbone import Backbone
from mudi.options import MOST_STEPS, LoraSettings, Sampling
from mudi.prior_folder import GUIDANCE, NEGATIVE, PROMPT, STEPS, Recipe, weights_of
from mudi.records import Adapter, Combination, Prompt, Report, Subject
from mudi.sampling import draw

# Fields that say where files lie, and those that a run sets itself: neither is a user's hyperparameter.
NOT_DECIDING = ("priors", "singles")
SET_BY_RUNS = (*NOT_DECIDING, "single_seed", "sampling", "detector", "segmenter")
OBJECTIVES = ("prior_preservation", "dco", "denoising")
RANGES = {
    **dict.fromkeys(("steps", "batch", "accumulation", "rank", "self_images"), (int, 1, 1e7)),
    **dict.fromkeys(("prior_steps", "self_steps"), (int, 1, MOST_STEPS)),
    **dict.fromkeys(("prior_images", "mix_from_step", "refine_steps"), (int, 0, 1e7)),
    **dict.fromkeys(("mix_probability", "mix_probability_many", "background_weight", "noise_offset"), (int | float, 0, 1)),
    **dict.fromkeys(("learning_rate", "row_learning_rate", "refine_learning_rate", "dco_beta"), (int | float, 1e-12, 1e6)),
    **dict.fromkeys(("prior_weight", "prior_guidance_scale", "row_deviation", "kl_weight", "ridge"), (int | float, 0, 1e6)),
    **dict.fromkeys(("weight_decay", "mark_weight", "rest_weight", "neutral_weight", "self_guidance_scale"), (int | float, 0, 1e6)),
}


@dataclass(frozen=True, kw_only=True)
class Personalization:
    """The hyperparameters that every method has; each method adds its own and sets its defaults.

    The paper's tables use prior preservation throughout. MuDI's released code defaults to DCO without
    priors: `objective="dco"`. The two are exclusive: combined as released, a class prediction meets unrelated
    noise and the personal gradient vanishes. "denoising" is neither. `descriptive_class` False names a
    subject by its super-category, "olis dog" for "olis corgi", in captions and prompts (paper, Table 3).
    `priors` says, by subject key, where class priors lie that were drawn before; without it they are drawn in the
    fit's own work folder, the same pictures. `singles` is where methods that fit each subject alone keep those fits for
    other combinations, by default the fit's own work folder. Neither decides anything, so they are no part of a method's
    equality or manifest. `single_seed` is the seed of fits of one subject, the same in every combination.

    What stands with the class, or is a property where hyperparameters decide it: `needs_masks`, whether the photos must have masks;
    `refits`, whether the method leaves a LoRA, which a self-training round trains on; `lora_targets`, where its LoRA sits, None for
    none; `token_rows`, whether each subject has a trained token row; `residuals`, whether words that name
    subjects get some.
    """

    name: ClassVar[str]
    needs_masks: ClassVar[bool] = False
    refits: ClassVar[bool] = True
    lora_targets: ClassVar[tuple[str, ...] | None] = LoraSettings().targets
    token_rows: ClassVar[bool] = False
    residuals: ClassVar[bool] = False

    steps: int
    learning_rate: float = 1e-4
    batch: int = 1
    accumulation: int = 2
    objective: Literal["prior_preservation", "dco", "denoising"] = "prior_preservation"
    prior_weight: float = 1.0
    prior_images: int = 50
    prior_prompt: str = PROMPT
    prior_negative_prompt: str = NEGATIVE
    prior_steps: int = STEPS
    prior_guidance_scale: float = GUIDANCE
    dco_beta: float = 1000.0
    descriptive_class: bool = True
    detector: str = "miniature"
    segmenter: str = "miniature"
    sampling: Sampling = field(default_factory=Sampling)
    priors: Mapping[str, str] | None = field(default=None, compare=False)
    singles: str | None = field(default=None, compare=False)
    single_seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective = {self.objective!r}: allowed are {', '.join(map(repr, OBJECTIVES))}")
        optional = {field.name: field.default is None for field in fields(self)}
        for name, (kind, low, high) in RANGES.items():
            value = getattr(self, name, None)
            if name not in optional or (value is None and optional[name]):
                continue
            if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"{name} = {value!r}: allowed are {'whole ' if kind is int else ''}numbers from {low:g} to {high:g}")

    @classmethod
    def known(cls, values: Mapping[str, object]) -> set[str]:
        """The names of the hyperparameters that a method with these values has."""
        return {of.name for of in fields(cls)}

    @property
    def needs_objects(self) -> bool:
        """Whether every subject is cut out of some picture, so that no style, which nothing finds, may be among them."""
        return self.needs_masks

    def view(self, combination: Combination) -> Combination:
        """The combination as this method names it, in captions and class nouns; prompts are filled in afterwards."""
        return combination if self.descriptive_class else replace(combination, subjects=tuple(map(_plainly_named, combination.subjects)))

    def require(self, combination: Combination) -> None:
        """Raise ValueError, beginning with the hyperparameter, for what this method cannot be fitted with to the combination."""

    def paths(self, combination: Combination) -> int:
        """How many passes of the UNet a prediction takes, drawn with this method's adapter of the combination."""
        return 1

    def single_recipe(self, combination: Combination) -> dict[str, object] | None:
        """What decides a subject's fit alone, beside the subject, the seed and the model; None if all are fitted together."""
        return None

    def steps_in_all(self, subjects: int) -> int:
        """The optimiser steps of `train` for so many subjects, fits that are found again included."""
        return self.steps

    def lora(self) -> LoraSettings:
        """Where a fit's own LoRA sits and how wide it is; alpha is the rank."""
        return LoraSettings(rank=self.rank, alpha=self.rank, targets=self.lora_targets)

    def stored_ranks(self, subjects: int) -> tuple[int, ...]:
        """The rank of each LoRA in the adapter of so many subjects."""
        return (self.rank,) if self.lora_targets else ()

    def adapter_numbers(self, architecture: Architecture, combination: Combination, alone: int | None) -> tuple[int, int]:
        """How many numbers a fit trains at once, and the bytes of its adapter's files, the manifest of a few kilobytes left out.

        Of `alone` subjects, None where all are fitted together, the files of their own fits are counted too, and one of them
        is trained at once. A constrained merge has the rank of its words, which are not known here: it is counted as a merge
        of all ranks, and class rows of an ED-LoRA are not counted.
        """
        words = [subject.identifier for subject in combination.subjects] if self.token_rows else []
        rows = adapter_size.row_shapes(architecture, words)
        matrices = adapter_size.lora_shapes(architecture.unet, self.lora()) if self.lora_targets else {}
        ranks = [*self.stored_ranks(len(combination.subjects)), *([self.rank] * (alone or 0) if matrices else ())]
        loras = [replace(self.lora(), rank=rank, alpha=rank) for rank in ranks]
        own_rows = [adapter_size.row_shapes(architecture, [word]) for word in words[: alone or 0]]
        size = sum(adapter_size.lora_bytes(architecture.unet, lora) for lora in loras)
        size += sum(adapter_size.file_bytes(shapes, {"format": "pt"}) for shapes in (rows, *own_rows))
        trained = rows if alone is None else adapter_size.row_shapes(architecture, words[:1])
        return adapter_size.parameters(matrices) + adapter_size.parameters(trained), size

    def fit_singles(
        self, backbone: Backbone, combination: Combination, out_dir: Path, report: Report | None = None, only: str | None = None
    ) -> list[Adapter]:
        """The fits of subjects alone that `train` makes of the same arguments, without the rest; of the subject with the key
        `only`, if that is given. ValueError for a method that has none (`single_recipe`)."""
        raise ValueError(f"{self.name} fits all subjects together; only methods that fit each alone have such fits")

    def prior_recipes(self, combination: Combination, backbone: str, precision: str, workers: str = "") -> dict[str, Recipe]:
        """What the class priors of each subject are made by, by subject key; none where the objective needs none."""
        if self.objective != "prior_preservation" or not self.prior_images:
            return {}
        weights = weights_of(backbone, self.detector, self.segmenter)
        return {
            subject.key: Recipe(
                class_noun=subject.class_noun, detection_query=subject.detection_query, backbone=backbone, precision=precision,
                detector=self.detector, segmenter=self.segmenter, prompt=self.prior_prompt, negative_prompt=self.prior_negative_prompt,
                steps=self.prior_steps, guidance_scale=self.prior_guidance_scale, workers=workers,
                weights=weights,
            )
            for subject in self.view(combination).objects
        }  # fmt: skip

    def sample(
        self, backbone: Backbone, adapter: Adapter, combination: Combination, prompt: Prompt, seeds: Sequence[int]
    ) -> list[np.ndarray]:
        """One uint8 image (H, W, 3) a seed, drawn with the adapter."""
        adapters.put_on(backbone, adapter)
        return draw(backbone, combination, prompt, seeds, self.sampling)


def _plainly_named(subject: Subject) -> Subject:
    """The subject with its super-category for a class noun, in its captions too; a style keeps its own."""
    if not subject.detection_query:
        return subject
    pattern = re.compile(rf"\b{re.escape(subject.class_noun)}\b", re.IGNORECASE)
    references = tuple(replace(r, caption=pattern.sub(subject.detection_query, r.caption)) for r in subject.references)
    return replace(subject, class_noun=subject.detection_query, references=references)


def hyperparameters(options: Personalization) -> dict:
    """What of a method decides its adapter or its pictures, as a manifest lists it."""
    return {key: value for key, value in asdict(options).items() if key not in NOT_DECIDING}
