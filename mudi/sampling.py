"""Drawing candidates of one prompt: per-candidate noise, mean shift, denoising, decoding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from mudi.augment import Segment, seg_mix
from mudi.conditioning import encode_negative, encode_prompts
from mudi.dataset import load_segments
from mudi.diffusion import decode, denoise, encode, generators, standard_noise
from mudi.initialization import mean_shifted_noise
from mudi.layout import boxes_of, place, require_layouts
from mudi.models import Backbone
from mudi.records import Box, Combination, Prompt


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are drawn. Defaults: stock SDXL (Euler, 50 steps, guidance 5), MuDI's negative prompt and
    gamma (paper, section 4 and appendix B). `gamma` in 0..1 scales the mean shift; 0 is plain noise. "{subjects}"
    in the negative prompt stands for the super-categories, "a dog and a dog". `scales` fixes the size of each
    subject in a composition, in their order, as a share of the largest that fits, as the released code's
    `relative_scale` does for two; None draws it. `overlap` False keeps the subjects of a composition apart.
    `layout` "given" starts each picture from one of the combination's layouts, whose boxes then decide place and
    size; "random" composes as Seg-Mix does."""

    steps: int = 50
    guidance_scale: float = 5.0
    negative_prompt: str | None = "sticker, collage."
    gamma: float = 1.0
    scales: tuple[float, ...] | None = None
    overlap: bool = True
    layout: Literal["random", "given"] = "random"

    def __post_init__(self) -> None:
        if self.layout not in ("random", "given"):
            raise ValueError(f"layout = {self.layout!r}: allowed are 'random' and 'given', the combination's own layouts")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma = {self.gamma}: allowed are 0 (no mean shift) to 1 (the paper's default)")
        if self.scales is not None and not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales = {self.scales}: allowed are shares above 0 and up to 1, one a subject")


Segments = list[list[Segment]]


def subject_segments(combination: Combination) -> Segments:
    """Every reference of every subject, cut out by its mask: one list a subject."""
    return [load_segments(subject) for subject in combination.subjects]


def shifted_noise(
    backbone: Backbone, segments: Segments, seeds: Sequence[int], options: Sampling, layouts: Sequence[Sequence[Box]] = ()
) -> torch.Tensor:
    """Initial noise (B, C, h, w) of the candidates, each from its own seed.

    A fresh Seg-Mix composition of randomly chosen references shifts the mean (MuDI, eq. 3). The
    Gaussian part is drawn first and from the same generator as without a shift, so that gamma 0 and
    gamma 1 are paired. With `options.layout` "given" the composition is one of `layouts` (`mudi.layout.boxes_of`), chosen
    by the candidate's seed after its references, so that these are the same with either layout.
    """
    noise = standard_noise(backbone, generators(seeds))
    if options.gamma == 0:
        return noise
    scales = None if options.scales is None else dict(enumerate(options.scales))
    compositions = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        chosen = [cut_outs[rng.integers(len(cut_outs))] for cut_outs in segments]
        if options.layout == "given":
            compositions.append(place(chosen, layouts[rng.integers(len(layouts))], backbone.resolution))
        else:
            compositions.append(seg_mix(chosen, rng, size=backbone.resolution, scales=scales, overlap=options.overlap))
    # One at a time: the bits of an encoding must not depend on the neighbours in the batch.
    latents = torch.cat([encode(backbone, [c.image]) for c in compositions]).cpu()
    masks = torch.from_numpy(np.stack([c.mask for c in compositions]))[:, None].float()
    masks = torch.nn.functional.interpolate(masks, latents.shape[-2:], mode="area")
    return mean_shifted_noise(latents, masks, noise, options.gamma)


def draw(
    backbone: Backbone, combination: Combination, prompt: Prompt, seeds: Sequence[int], options: Sampling, segments: Segments | None = None
) -> list[np.ndarray]:
    """One uint8 image (H, W, 3) a seed, with whatever adapter is active on the UNet.

    `segments` are `subject_segments(combination)`, passed in where many prompts share them. ValueError if
    `options.layout` is "given" and the combination has no layout.
    """
    if options.layout == "given":
        require_layouts(combination, "sampling.layout = given")
    if segments is None:
        segments = subject_segments(combination) if options.gamma else []
    noise = shifted_noise(backbone, segments, seeds, options, boxes_of(combination))
    positive = encode_prompts(backbone, [prompt.text]).rows([0] * len(seeds))
    negative = encode_negative(backbone, _negative_prompt(combination, options.negative_prompt))
    latents = denoise(backbone, noise, positive, negative, steps=options.steps, guidance_scale=options.guidance_scale)
    return decode(backbone, latents)


def _negative_prompt(combination: Combination, template: str | None) -> str | None:
    classes = " and ".join(f"a {subject.detection_query}" for subject in combination.subjects)
    return None if template is None else template.replace("{subjects}", classes)
