"""ED-LoRA (Mix-of-Show, arXiv 2305.18292): token rows and matrices, fitted so that others' can stand beside them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from mudi.backbone import Backbone
from mudi.options import Sampling
from mudi.personalization import PhotoFit
from mudi.records import Adapter, Combination, Report, Subject

if TYPE_CHECKING:
    import torch

    from mudi.examples import Picture

WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, kw_only=True)
class EDLora(PhotoFit):
    """Hyperparameters of an ED-LoRA; defaults are the released configuration's of one concept on Stable Diffusion 1.5.

    A row for the identifier starts at normal numbers of `row_deviation`; with `class_row` the class noun has one too, which
    starts at its own, if it is one token. Rows move at `row_learning_rate`, matrices of rank 4 on all attention of the UNet at
    `learning_rate`. With `masked_loss` a photo's error is averaged over the subject's own pixels. Departures: rows stand on
    words of the vocabulary (`mudi.text.tokens`), the same row for all layers, since 70 prompts and two encoders a sample are
    too much for SDXL; no LoRA on the text encoders, where adapters of this program hold none, so rows alone carry what it
    would; no attention regulariser, which SDXL's maps do not support; constant rates, and rows move to the end.
    Steps are not those of the release, whose count goes with its enlarged data set.
    """

    name: ClassVar[str] = "ed_lora"
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
        for name in ("class_row", "masked_loss"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} = {getattr(self, name)!r}: allowed are true and false")
        if self.objective == "dco" and self.masked_loss:
            raise ValueError("masked_loss = True: DCO compares whole predictions; use objective denoising, or masked_loss: false")

    @property
    def needs_masks(self) -> bool:
        """Photos are cut out for a masked loss alone."""
        return self.masked_loss

    def among(self, combination: Combination) -> "EDLora":
        """Without a class row if one subject's would stand in another's phrase."""
        return replace(self, class_row=False) if self.class_row and share_a_noun(self.view(combination).subjects) else self

    def train(self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None) -> Adapter:
        """Fit a fresh LoRA and the rows of each subject, and store both in `out_dir`."""
        import torch

        from mudi.first_fit import Training, personalize

        source, starts = torch.Generator().manual_seed(seed), {}
        for subject in self.view(combination).subjects:
            starts[subject.identifier] = _random_row(backbone, self.row_deviation, source)
            if self.class_row and _is_one_token(backbone, subject):
                starts[subject.class_noun] = subject.class_noun
        weigh = partial(on_the_subject, latent_side=backbone.resolution // backbone.latent_factor) if self.masked_loss else None
        training = Training(
            lora=self.lora(), row_starts=starts, row_learning_rate=self.row_learning_rate, weigh=weigh, noise_offset=self.noise_offset
        )
        return personalize(self, backbone, combination, out_dir, seed, training, report)


def on_the_subject(picture: "Picture", latent_side: int) -> "Picture":
    """The picture with its mask for loss weights, of mean 1 over the latents: the mean squared error becomes that of the subject.

    The square of the photo is the loop's own. Raises ValueError if the subject lies outside of it.
    """
    import numpy as np
    import torch

    from mudi.examples import square_photo

    shown = picture.segment.mask.astype(np.uint8)[..., None].repeat(3, -1) * 255
    mask = square_photo(shown, picture.image.shape[0])[..., 0].astype(np.float32) / 255
    seen = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None], (latent_side, latent_side), mode="bilinear").mean().item()
    if not seen:
        raise ValueError(f"{picture.key}: its subject lies outside the photo's central square; crop the photo around it")
    return replace(picture, weight=mask / seen)


def _random_row(backbone: Backbone, deviation: float, source: "torch.Generator") -> "dict[str, torch.Tensor]":
    import torch

    widths = {key: encoder.config.hidden_size for key, (_, encoder) in backbone.readers.items()}
    return {key: deviation * torch.randn(width, generator=source) for key, width in widths.items()}


def _is_one_token(backbone: Backbone, subject: Subject) -> bool:
    readers = backbone.readers.values()
    return all(len(tokenizer(subject.class_noun, add_special_tokens=False).input_ids) == 1 for tokenizer, _ in readers)


def share_a_noun(subjects: Sequence[Subject]) -> bool:
    """Whether the row of one subject's class noun would stand in another's phrase too, and so change what that one means.

    The row of "dog", trained by "olis dog", would also be read in "hta pink dog". Which nouns are one token, the only ones with a
    row, is not known before a tokenizer is loaded: lower-cased words stand for tokens here, and of several words only
    equal nouns clash, which decides nothing but the name under which a fit is found.
    """
    for subject in subjects:
        noun = subject.class_noun.lower()
        for other in subjects:
            if other is not subject and (noun == other.class_noun.lower() or noun in WORD.findall(other.phrase.lower())):
                return True
    return False
