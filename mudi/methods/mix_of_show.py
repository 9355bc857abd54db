"""Mix-of-Show (arXiv 2305.18292): an ED-LoRA of each subject alone, token rows and matrices, then gradient fusion."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from mudi.concept_grams import Positions
from mudi.examples import Picture, square_photo
from mudi.fit import Report
from mudi.merged import DENSITY, FUSION_RIDGE, Kind, check_kind, merged_adapter
from mudi.models import Backbone
from mudi.personalization import Personalization, hyperparameters, personalize
from mudi.records import Adapter, Combination, Subject
from mudi.sampling import Sampling
from mudi.singles import alone_by, deciding, fits_alone


@dataclass(frozen=True, kw_only=True)
class EDLora(Personalization):
    """Hyperparameters of an ED-LoRA; defaults are the released configuration's of one concept on Stable Diffusion 1.5.

    A row for the identifier starts at normal numbers of `row_deviation`; with `class_row` the class noun has one too, which
    starts at its own, if it is one token. Rows move at `row_learning_rate`, matrices of rank 4 on all attention of the UNet at
    `learning_rate`. With `masked_loss` a photo's error is averaged over the subject's own pixels. Departures: rows stand on
    words of the vocabulary (`mudi.tokens`), the same row for all layers, since 70 prompts and two encoders a sample are
    too much for SDXL; no LoRA on the text encoders, where adapters of this program hold none, so rows alone carry what it
    would; no attention regulariser, which SDXL's maps do not support; constant rates, and rows move to the end.
    Steps are not those of the release, whose count goes with its enlarged data set.
    """

    name: ClassVar[str] = "ed_lora"
    needs_masks: ClassVar[bool] = True
    token_rows: ClassVar[bool] = True
    steps: int = 1000
    rank: int = 4
    learning_rate: float = 1e-4
    row_learning_rate: float = 1e-3
    row_deviation: float = 0.013
    class_row: bool = True
    masked_loss: bool = True
    noise_offset: float = 0.01
    objective: Literal["prior_preservation", "dco", "denoising"] = "denoising"
    sampling: Sampling = field(default_factory=lambda: Sampling(negative_prompt=None, gamma=0.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective == "dco" and self.masked_loss:
            raise ValueError("masked_loss = True: DCO compares whole predictions; use objective denoising, or masked_loss: false")

    def train(self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None) -> Adapter:
        """Fit a fresh LoRA and the rows of each subject, and store both in `out_dir`."""
        source, starts = torch.Generator().manual_seed(seed), {}
        for subject in self.view(combination).subjects:
            starts[subject.identifier] = _random_row(backbone, self.row_deviation, source)
            if self.class_row and _is_one_token(backbone, subject):
                starts[subject.class_noun] = subject.class_noun
        weigh = partial(on_the_subject, latent_side=backbone.resolution // backbone.latent_factor) if self.masked_loss else None
        return personalize(
            self, backbone, combination, out_dir, seed, lora=self.lora(), row_starts=starts, row_learning_rate=self.row_learning_rate,
            weigh=weigh, noise_offset=self.noise_offset, report=report,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MixOfShow(EDLora):
    """Hyperparameters: those of `EDLora`, per subject, and of the merge (`mudi.merged.merged_adapter`), the paper's by default.

    Subjects with one class noun would both train its row, and merged it could mean only one of them: then `class_row` is taken as
    False, and identifiers alone have rows. Departure: with UNet LoRAs alone there is no stage that fuses text
    encoders, and one closed form stands for the paper's L-BFGS on keys and values and then on the other layers.
    """

    name: ClassVar[str] = "mix_of_show"
    merge: Kind = "fusion"
    merge_rank: int | None = None
    density: float = DENSITY
    kv_positions: Positions = "real"
    ridge: float = FUSION_RIDGE

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind(self.merge, self.kv_positions, self.merge_rank, self.density)

    def steps_in_all(self, subjects: int) -> int:
        """Those of every subject's own fit."""
        return self.steps * subjects

    def alone(self, combination: Combination) -> EDLora:
        """The method of each subject's own fit."""
        nouns = [subject.class_noun.lower() for subject in self.view(combination).subjects]
        return replace(alone_by(EDLora, self), class_row=self.class_row and len(set(nouns)) == len(nouns))

    def stored_ranks(self, subjects: int) -> tuple[int, ...]:
        """One LoRA, of all ranks unless a lower one is asked for."""
        return (self.merge_rank or subjects * self.rank,)

    def single_recipe(self, combination: Combination) -> dict[str, object]:
        """What decides a subject's own fit beside the subject, the seed and the model: not how pictures are drawn with it."""
        return deciding(self.alone(combination))

    def train(self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None) -> Adapter:
        """Fit an ED-LoRA to each subject, unless it is there, and store their merge in `out_dir`."""
        named = self.view(combination)
        singles = fits_alone(self.alone(combination), self, backbone, combination, out_dir, report)
        return merged_adapter(
            backbone, singles, named, out_dir, self.merge, method=self.name, seed=seed, rank=self.merge_rank,
            density=self.density, ridge=self.ridge, positions=self.kv_positions, details={"hyperparameters": hyperparameters(self)},
        )  # fmt: skip


def on_the_subject(picture: Picture, latent_side: int) -> Picture:
    """The picture with its mask for loss weights, of mean 1 over the latents: the mean squared error becomes that of the subject.

    The square of the photo is the loop's own. Raises ValueError if the subject lies outside of it.
    """
    shown = picture.segment.mask.astype(np.uint8)[..., None].repeat(3, -1) * 255
    mask = square_photo(shown, picture.image.shape[0])[..., 0].astype(np.float32) / 255
    seen = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None], (latent_side, latent_side), mode="bilinear").mean().item()
    if not seen:
        raise ValueError(f"{picture.key}: its subject lies outside the photo's central square; crop the photo around it")
    return replace(picture, weight=mask / seen)


def _random_row(backbone: Backbone, deviation: float, source: torch.Generator) -> dict[str, torch.Tensor]:
    widths = {key: encoder.config.hidden_size for key, (_, encoder) in backbone.readers.items()}
    return {key: deviation * torch.randn(width, generator=source) for key, width in widths.items()}


def _is_one_token(backbone: Backbone, subject: Subject) -> bool:
    readers = backbone.readers.values()
    return all(len(tokenizer(subject.class_noun, add_special_tokens=False).input_ids) == 1 for tokenizer, _ in readers)
