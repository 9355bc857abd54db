"""Drawing candidates of one prompt: per-candidate noise, mean shift, denoising, decoding."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from mudi.adapters import in_parts
from mudi.attention.concept_prompts import base_text
from mudi.attention.injection import conducted
from mudi.attention.layout_guidance import edit_sigmas, guided_attention
from mudi.augment import Segment, seg_mix
from mudi.backbone import Backbone
from mudi.dataset import load_segments
from mudi.diffusion import Edit, alphas_cumprod, decode, denoise, encode, euler_schedule, generators, standard_noise
from mudi.initialization import mean_shifted_noise
from mudi.layout import boxes_of, place, require_layouts
from mudi.options import Sampling
from mudi.records import Box, Combination, Prompt
from mudi.text.conditioning import Conditioning, both_sides, encode_negative, encode_prompts
from mudi.text.spans import object_spans

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
        conducted(backbone, combination, prompt.text, layouts, both_rows_of) as conducting,
        in_parts(backbone, conducting) as predicting,
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
