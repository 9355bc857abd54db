"""Drawing candidates of one prompt: per-candidate noise, mean shift, denoising, decoding."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from mudi.attention.concept_prompts import base_text
from mudi.attention.injection import conducted
from mudi.attention.layout_guidance import LayoutGuidance, edit_sigmas, guided_attention
from mudi.augment import Segment, seg_mix
from mudi.conditioning import Conditioning, Padding, both_sides, encode_negative, encode_prompts
from mudi.dataset import load_segments
from mudi.diffusion import Edit, alphas_cumprod, decode, denoise, encode, euler_schedule, generators, standard_noise
from mudi.guidance import Weight, cfg_plus_plus
from mudi.initialization import mean_shifted_noise
from mudi.layout import boxes_of, place, require_layouts
from mudi.models import Backbone
from mudi.records import Box, Combination, Prompt
from mudi.solvers import SOLVERS
from mudi.spans import object_spans

# Models of 1000 training timesteps whose steps are laid one later, as SDXL and Stable Diffusion ship, have no more.
MOST_STEPS = 999


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are drawn. Defaults: stock SDXL (Euler, 50 steps, guidance 5), MuDI's negative prompt and
    gamma (paper, section 4 and appendix B). `gamma` in 0..1 scales the mean shift; 0 is plain noise. "{subjects}"
    in the negative prompt stands for the super-categories, "a dog and a dog". `scales` fixes the size of each
    subject in a composition, in their order, as a share of the largest that fits, as the released code's
    `relative_scale` does for two; None draws it. `overlap` False keeps the subjects of a composition apart.
    `layout` "given" starts each picture from one of the combination's layouts, whose boxes then decide place and
    size; "random" composes as Seg-Mix does. `cfg_plus_plus` is the lambda of CFG++, 0 to 1, in place of a
    `guidance_scale`, which is None then. `padding` "adaptive" hides padding from attention (`mudi.conditioning`).
    `layout_guidance` holds each subject's words to its box of the same layout that initialization takes
    (`mudi.attention.layout_guidance`). All of these compose, but for CFG++ with a multistep `scheduler`."""

    steps: int = 50
    guidance_scale: float | None = 5.0
    cfg_plus_plus: float | None = None
    scheduler: Literal["euler", "ddim", "dpmpp_2m"] = "euler"
    padding: Padding = "full"
    layout_guidance: LayoutGuidance | None = None
    negative_prompt: str | None = "sticker, collage."
    gamma: float = 1.0
    scales: tuple[float, ...] | None = None
    overlap: bool = True
    layout: Literal["random", "given"] = "random"

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"steps = {self.steps}: allowed are 1 to {MOST_STEPS}")
        if (self.guidance_scale is None) == (self.cfg_plus_plus is None):
            raise ValueError(
                f"guidance_scale = {self.guidance_scale} and cfg_plus_plus = {self.cfg_plus_plus}: give one of the two and null for the "
                "other; CFG++ replaces classifier-free guidance"
            )
        if self.cfg_plus_plus is not None and not 0 <= self.cfg_plus_plus <= 1:
            raise ValueError(f"cfg_plus_plus = {self.cfg_plus_plus}: allowed are 0 to 1; 0.6 is about a guidance_scale of 7")
        if self.scheduler not in SOLVERS:
            raise ValueError(f"scheduler = {self.scheduler!r}: allowed are {', '.join(map(repr, SOLVERS))}")
        if self.cfg_plus_plus is not None and SOLVERS[self.scheduler].multistep:
            raise ValueError(
                f"cfg_plus_plus with scheduler = {self.scheduler!r}: CFG++ is exact for first-order steps alone; use 'euler' or 'ddim', "
                "or guidance_scale"
            )
        if self.padding not in ("full", "adaptive"):
            raise ValueError(f"padding = {self.padding!r}: allowed are 'full' and 'adaptive'")
        if self.layout_guidance is not None and self.gamma and self.layout == "random":
            raise ValueError(
                f"layout_guidance with gamma = {self.gamma} and layout = 'random': attention and initialization would put subjects in "
                "different places; use layout = 'given' or gamma = 0"
            )
        if self.layout not in ("random", "given"):
            raise ValueError(f"layout = {self.layout!r}: allowed are 'random' and 'given', the combination's own layouts")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma = {self.gamma}: allowed are 0 (no mean shift) to 1 (the paper's default)")
        if self.scales is not None and not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales = {self.scales}: allowed are shares above 0 and up to 1, one a subject")

    @property
    def wants_layouts(self) -> bool:
        """Whether pictures are drawn by the combination's own layouts."""
        return self.layout == "given" or self.layout_guidance is not None

    @property
    def guidance(self) -> float | Weight:
        """What `denoise` is guided by."""
        return self.guidance_scale if self.cfg_plus_plus is None else cfg_plus_plus(self.cfg_plus_plus)


Segments = list[list[Segment]]


def subject_segments(combination: Combination) -> Segments:
    """Every reference of every subject that a box can hold, cut out by its mask: one list a subject."""
    return [load_segments(subject) for subject in combination.objects]


@dataclass(frozen=True)
class Start:
    """A candidate before its first step: which reference of each subject it has, by number, and where they stand.
    `layout` is None where nothing follows one."""

    chosen: tuple[int, ...]
    layout: Sequence[Box] | None


def start_of(
    seed: int, references: Sequence[int], options: Sampling, layouts: Sequence[Sequence[Box]]
) -> tuple[Start, np.random.Generator]:
    """What a candidate's seed chooses among so many `references` of each subject and among `layouts`, and the generator that chose.

    References come first, used or not, so that they are the same with any layout, and the layout is the same whether
    initialization follows it, attention (gamma 0), or both.
    """
    rng = np.random.default_rng(seed)
    chosen = tuple(int(rng.integers(count)) for count in references)
    return Start(chosen, layouts[rng.integers(len(layouts))] if options.wants_layouts else None), rng


def reference_counts(combination: Combination) -> list[int]:
    """How many references each subject has, which `start_of` chooses among."""
    return [len(subject.references) for subject in combination.objects]


def shifted_noise(
    backbone: Backbone, segments: Segments, seeds: Sequence[int], options: Sampling, layouts: Sequence[Sequence[Box]] = ()
) -> torch.Tensor:
    """Initial noise (B, C, h, w) of the candidates, each from its own seed.

    A fresh Seg-Mix composition of randomly chosen references shifts the mean (MuDI, eq. 3). The
    Gaussian part is drawn first and from the same generator as without a shift, so that gamma 0 and
    gamma 1 are paired. With `options.layout` "given" the composition is one of `layouts` (`mudi.layout.boxes_of`).
    """
    noise = standard_noise(backbone, generators(seeds))
    if options.gamma == 0:
        return noise
    scales = None if options.scales is None else dict(enumerate(options.scales))
    compositions = []
    for seed in seeds:
        start, rng = start_of(seed, list(map(len, segments)), options, layouts)
        chosen = [cut_outs[number] for cut_outs, number in zip(segments, start.chosen, strict=True)]
        if options.layout == "given":
            compositions.append(place(chosen, start.layout, backbone.resolution))
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
    `options` wants layouts and the combination has none, or if attention is to follow a layout and the prompt does
    not name every subject.
    """
    if options.wants_layouts:
        require_layouts(combination, "sampling.layout = given" if options.layout == "given" else "sampling.layout_guidance")
    if segments is None:
        segments = subject_segments(combination) if options.gamma else []
    noise = shifted_noise(backbone, segments, seeds, options, boxes_of(combination))
    negative = encode_negative(backbone, _negative_prompt(combination, options.negative_prompt), options.padding)

    def rows_of(text: str) -> Conditioning:
        return encode_prompts(backbone, [text], options.padding).rows([0] * len(seeds))

    def both_rows_of(text: str) -> Conditioning:
        return rows_of(text) if options.guidance == 1 else both_sides(negative, rows_of(text))

    positive = rows_of(base_text(prompt.text, backbone.concepts))
    counts, boxes = reference_counts(combination), boxes_of(combination)
    layouts = [start_of(seed, counts, options, boxes)[0].layout for seed in seeds]
    with (
        layout_edit(backbone, combination, prompt, seeds, options, layouts) as edit,
        conducted(backbone, combination, prompt.text, layouts, both_rows_of) as predicting,
    ):
        latents = denoise(
            backbone, noise, positive, negative, steps=options.steps, guidance_scale=options.guidance, scheduler=options.scheduler,
            edit=edit, predicting=predicting,
        )  # fmt: skip
    return decode(backbone, latents)


@contextmanager
def layout_edit(
    backbone: Backbone, combination: Combination, prompt: Prompt, seeds: Sequence[int], options: Sampling,
    layouts: Sequence[Sequence[Box] | None],
) -> Iterator[Edit | None]:  # fmt: skip
    """Within it the UNet attends by the candidates' `layouts`; yields what the loop has to do for that, None without guidance."""
    if options.layout_guidance is None:
        yield None
        return
    spans = object_spans(backbone, prompt.text, combination)
    guided = [(layout, spans) for layout in layouts]
    rows = guided if options.guidance == 1 else [*[None] * len(seeds), *guided]
    _, sigmas = euler_schedule(backbone, options.steps)
    levels = edit_sigmas(sigmas.tolist(), alphas_cumprod(backbone).tolist(), options.layout_guidance)
    side = backbone.resolution // backbone.latent_factor
    with guided_attention(backbone.unet, options.layout_guidance, rows, (side, side)) as at:
        yield Edit(
            before=lambda step: at(levels[step]), steps=sum(level is not None for level in levels),
            repeats=options.layout_guidance.recurrence, sources=generators([again_seed(seed) for seed in seeds]),
        )  # fmt: skip


def again_seed(seed: int) -> int:
    """The seed of the noise that redone steps draw: another than the candidate's own, whose noise the first step holds."""
    return int(np.random.default_rng((seed, 1)).integers(2**62))


def _negative_prompt(combination: Combination, template: str | None) -> str | None:
    classes = " and ".join(f"a {subject.detection_query}" for subject in combination.objects)
    return None if template is None else template.replace("{subjects}", classes)
