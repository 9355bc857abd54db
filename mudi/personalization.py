"""What all methods share: how a subject is named, the two verbs, the answers about work and size, and the values of a fit on photos."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from mudi import adapter_size
from mudi.adapter_size import FLOAT32, Architecture
from mudi.backbone import Backbone
from mudi.modular.subject_fits import fits_alone
from mudi.options import LoraSettings, Sampling, require_ranges
from mudi.passes import Work
from mudi.prior_folder import GUIDANCE, NEGATIVE, PROMPT, STEPS, Recipe, weights_of
from mudi.records import Adapter, Combination, Prompt, Report, Subject

if TYPE_CHECKING:
    import numpy as np

    from mudi.augment import Segment

# Fields that say where files lie, and those that a run sets itself: neither is a user's hyperparameter.
NOT_DECIDING = ("priors", "singles")
SET_BY_RUNS = (*NOT_DECIDING, "single_seed", "sampling", "detector", "segmenter")
OBJECTIVES = ("prior_preservation", "dco", "denoising")


@dataclass(frozen=True, kw_only=True)
class Personalization:
    """A method: a frozen value that is trained on a combination and draws it. `PhotoFit` is one that is fitted in one go.

    `descriptive_class` False names a subject by its super-category, "olis dog" for "olis corgi", in captions and prompts (paper,
    Table 3). `priors` says, by subject key, where class priors lie that were drawn before; without it they are drawn in the
    fit's own work folder, the same pictures. `singles` is where methods that fit each subject alone keep those fits for
    other combinations, by default the fit's own work folder. Neither decides anything, so they are no part of a method's
    equality or manifest. `single_seed` is the seed of fits of one subject, the same in every combination.

    Class attributes (properties where they depend on hyperparameters):
    - `name`: the method's, in manifests and tables
    - `needs_masks`: whether the photos must have masks
    - `refits`: whether the method leaves a LoRA, which a self-training round trains on
    - `lora_targets`: where its LoRA sits, None for none
    - `token_rows`: whether each subject has a trained token row
    - `residuals`: whether words that name subjects get residuals
    - `prior_images`: how many class priors of each subject are wanted
    """

    name: ClassVar[str]
    needs_masks: ClassVar[bool] = False
    refits: ClassVar[bool] = True
    lora_targets: ClassVar[tuple[str, ...] | None] = LoraSettings().targets
    token_rows: ClassVar[bool] = False
    residuals: ClassVar[bool] = False
    prior_images: ClassVar[int] = 0

    descriptive_class: bool = True
    detector: str = "miniature"
    segmenter: str = "miniature"
    sampling: Sampling = field(default_factory=Sampling)
    priors: Mapping[str, str] | None = field(default=None, compare=False)
    singles: str | None = field(default=None, compare=False)
    single_seed: int = 0

    def __post_init__(self) -> None:
        require_ranges(self)

    @property
    def needs_objects(self) -> bool:
        """Whether every subject is cut out of some picture, so that no style, which nothing finds, may be among them."""
        return self.needs_masks

    def hyperparameters(self) -> dict[str, object]:
        """The values that decide the adapter or its pictures, as a manifest lists them."""
        return {key: value for key, value in asdict(self).items() if key not in NOT_DECIDING}

    def view(self, combination: Combination) -> Combination:
        """The combination as this method names it, in captions and class nouns; prompts are filled in afterwards."""
        return combination if self.descriptive_class else replace(combination, subjects=tuple(map(_plainly_named, combination.subjects)))

    def require(self, combination: Combination) -> None:
        """Raise ValueError, beginning with the hyperparameter, for what this method cannot be fitted with to the combination."""

    def paths(self, combination: Combination) -> int:
        """How many passes of the UNet a prediction takes, drawn with this method's adapter of the combination."""
        return 1

    def train(self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None) -> Adapter:
        """Fit an adapter to the combination's photos and store it in `out_dir`."""
        raise NotImplementedError(f"{self.name} declares no `train`")

    def sample(
        self, backbone: Backbone, combination: Combination, prompt: Prompt, seeds: Sequence[int],
        segments: "list[list[Segment]] | None" = None,
    ) -> "list[np.ndarray]":  # fmt: skip
        """One uint8 image (H, W, 3) a seed, drawn with the adapter that is on the backbone.

        `combination` is named as `view` does; `segments` are its `mudi.sampling.subject_segments`, given where many prompts share them.
        """
        from mudi.sampling import draw

        return draw(backbone, combination, prompt, seeds, self.sampling, segments)

    def subject_method(self, combination: Combination) -> "PhotoFit | None":
        """The method that fits each of these subjects alone; None if all are fitted together."""
        return None

    def work(self, combination: Combination) -> Work:
        """What `train` takes, the subjects' own fits left out."""
        raise NotImplementedError(f"{self.name} declares no `work`")

    def steps_in_all(self, subjects: int) -> int:
        """The optimiser steps of `train` for so many subjects, fits that are found again included."""
        raise NotImplementedError(f"{self.name} declares no `steps_in_all`")

    def described(self) -> str:
        """The words that tell this method's adapters from others whose steps take other seconds."""
        return self.name

    def shortened(self, steps: int) -> dict[str, object]:
        """The keys of a file, with values that make `train` so many steps long of which each takes as long as before."""
        raise NotImplementedError(f"{self.name} declares no `shortened`")

    def single_recipe(self, combination: Combination) -> dict[str, object] | None:
        """What decides a subject's fit alone, beside the subject, the seed and the model; None if all are fitted together."""
        single = self.subject_method(combination)
        return None if single is None else single.recipe()

    def fit_singles(
        self, backbone: Backbone, combination: Combination, out_dir: Path, report: Report | None = None, only: str | None = None
    ) -> list[Adapter]:
        """The fits of subjects alone that `train` makes of the same arguments, without the rest; of the subject with the key
        `only`, if that is given. ValueError for a method that has none."""
        single = self.subject_method(combination)
        if single is None:
            raise ValueError(f"{self.name} fits all subjects together; only methods that fit each alone have such fits")
        return fits_alone(single, self, backbone, combination, out_dir, report, only)

    def prior_recipes(self, combination: Combination, backbone: str, precision: str, workers: str = "") -> dict[str, Recipe]:
        """What the class priors of each subject are made by, by subject key; none where the objective needs none."""
        single = self.subject_method(combination)
        return {} if single is None else single.prior_recipes(combination, backbone, precision, workers)

    def stored_ranks(self, subjects: int) -> tuple[int, ...]:
        """The rank of each LoRA in the adapter of so many subjects."""
        return ()

    def stored_numbers(self, architecture: Architecture, combination: Combination) -> int:
        """How many numbers the adapter of the combination holds."""
        words = [subject.identifier for subject in combination.subjects] if self.token_rows else []
        loras = [LoraSettings(rank=rank, alpha=rank, targets=self.lora_targets) for rank in self.stored_ranks(len(combination.subjects))]
        shapes = [adapter_size.row_shapes(architecture, words), *(adapter_size.lora_shapes(architecture.unet, lora) for lora in loras)]
        return sum(map(adapter_size.parameters, shapes))

    def adapter_numbers(self, architecture: Architecture, combination: Combination, alone: int | None) -> tuple[int, int]:
        """How many numbers a fit trains at once, and the bytes of its adapter's numbers, without headers and manifest.

        Of `alone` subjects, None where all are fitted together, the fits of their own are counted too, and one of them
        is trained at once. A constrained merge has the rank of its words, which are not known here: it is counted as a merge
        of all ranks, and class rows of an ED-LoRA are not counted.
        """
        stored = self.stored_numbers(architecture, combination)
        if (single := self.subject_method(combination)) is None:
            return stored, FLOAT32 * stored
        subjects = [replace(combination, subjects=(subject,)) for subject in combination.subjects]
        sizes = [single.adapter_numbers(architecture, subject, None) for subject in subjects]
        return max(trained for trained, _ in sizes), FLOAT32 * stored + sum(size for _, size in sizes[: alone or 0])


@dataclass(frozen=True, kw_only=True)
class PhotoFit(Personalization):
    """A method that is fitted in one go, and the hyperparameters of that; each method adds its own and sets its defaults.

    The paper's tables use prior preservation throughout. MuDI's released code defaults to DCO without
    priors: `objective="dco"`. The two are exclusive: combined as released, a class prediction meets unrelated
    noise and the personal gradient vanishes. "denoising" is neither.
    """

    mix_probability: ClassVar[float] = 0.0

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

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective = {self.objective!r}: allowed are {', '.join(map(repr, OBJECTIVES))}")
        super().__post_init__()

    def among(self, combination: Combination) -> "PhotoFit":
        """The method as it fits one subject of the combination alone, where that depends on the others."""
        return self

    def recipe(self) -> dict[str, object]:
        """What of the method decides its fits, so that arms which differ elsewhere share them."""
        unused = {"sampling", "single_seed"}
        if self.objective != "prior_preservation":
            unused |= {"detector", "segmenter", *(key for key in self.hyperparameters() if key.startswith("prior_"))}
        return {"method": self.name, **{key: value for key, value in self.hyperparameters().items() if key not in unused}}

    def lora(self) -> LoraSettings:
        """Where a fit's own LoRA sits and how wide it is; alpha is the rank."""
        return LoraSettings(rank=self.rank, alpha=self.rank, targets=self.lora_targets)

    def stored_ranks(self, subjects: int) -> tuple[int, ...]:
        """One LoRA for all subjects."""
        return (self.rank,) if self.lora_targets else ()

    def steps_in_all(self, subjects: int) -> int:
        """One fit for all subjects."""
        return self.steps

    def described(self) -> str:
        """The name, and the rank where there is one."""
        return f"{self.name} rank={self.rank if self.lora_targets else 0}"

    def shortened(self, steps: int) -> dict[str, object]:
        """Class priors are rows like any other, so photos stand in their place and nothing need be drawn."""
        priors = self.objective == "prior_preservation" and self.prior_images > 0
        return {"steps": steps, **({"objective": "denoising", "batch": 2 * self.batch} if priors else {})}

    def work(self, combination: Combination) -> Work:
        """Every picture has a class prior beside it where the objective wants them; DCO asks the bare model too."""
        rows = self.batch * (2 if self.objective == "prior_preservation" and self.prior_images else 1)
        references = int(self.objective == "dco")
        told = f"mix={self.mix_probability:g} rows={rows} accumulation={self.accumulation} references={references}"
        return Work(
            kind=f"fit {self.described()} {told}", steps=self.steps, accumulation=self.accumulation, rows=rows, references=references
        )

    def prior_recipes(self, combination: Combination, backbone: str, precision: str, workers: str = "") -> dict[str, Recipe]:
        """What the class priors of each subject are made by, by subject key; none where the objective needs none."""
        if self.objective != "prior_preservation" or not self.prior_images:
            return {}
        weights = weights_of(backbone, self.detector, self.segmenter)
        return {
            subject.key: Recipe(
                class_noun=subject.class_noun, detection_query=subject.detection_query, backbone=backbone, precision=precision,
                detector=self.detector, segmenter=self.segmenter, prompt=self.prior_prompt, negative_prompt=self.prior_negative_prompt,
                steps=self.prior_steps, guidance_scale=self.prior_guidance_scale, workers=workers, weights=weights,
            )
            for subject in self.view(combination).objects
        }  # fmt: skip


def _plainly_named(subject: Subject) -> Subject:
    """The subject with its super-category for a class noun, in its captions too; a style keeps its own."""
    if not subject.detection_query:
        return subject
    pattern = re.compile(rf"\b{re.escape(subject.class_noun)}\b", re.IGNORECASE)
    references = tuple(replace(r, caption=pattern.sub(subject.detection_query, r.caption)) for r in subject.references)
    return replace(subject, class_noun=subject.detection_query, references=references)
