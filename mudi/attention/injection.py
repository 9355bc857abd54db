"""Concept injection: each concept's attention features, from a pass with its own adapter, put into the base's pass by boxes.

Concept Conductor (Yao et al. 2024, arXiv 2408.03632) and its released code, of which this is multipath sampling and feature
injection. At every step, on the same latents, the UNet runs once with the adapter and the prompt of each concept, then bare; in
the bare pass the outputs of all attention layers of the up blocks become, in a concept's region, those of its own pass, on both
sides of guidance. Nothing reads cross-attention maps, which are unsteady on SDXL. Departures: no reference picture is inverted,
no gradient aligns the layout with one, and no k-means refines masks: a region is a box of the candidate's layout. Released code
weakens each adapter to 0.7; here it draws as it was fitted.

Cost: (n + 1) passes of the UNet a step for n concepts, one after another. Between them one set of features is kept however
many concepts there are, on SDXL at 1024 pixels 0.22 GB a row in float16, so 0.44 GB a guided picture.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from mudi.adapters import activate
from mudi.attention.box_attention import cells_of
from mudi.attention.concept_prompts import own_text
from mudi.backbone import Backbone
from mudi.diffusion import Predicting, predict
from mudi.records import Box, Combination
from mudi.text.conditioning import Conditioning

UP_BLOCKS = ("up_blocks.",)
ATTENTION = (".attn1", ".attn2")


@dataclass(frozen=True, kw_only=True)
class ConceptPath:
    """A concept's own pass: the name of its adapter on the UNet, what that is told, one row for each of the UNet's batch, and
    its region, one box a candidate on a canvas of 1024 by 1024; None is the whole canvas."""

    adapter: str
    condition: Conditioning
    boxes: Sequence[Box | None]


@contextmanager
def conducted(
    backbone: Backbone, combination: Combination, text: str, layouts: Sequence[Sequence[Box] | None], tell: Callable[[str], Conditioning]
) -> Iterator[Predicting]:
    """Yields what predicts for a prompt: plainly the UNet, or where the backbone holds concepts their paths too.

    `layouts`: one a candidate, boxes in the order of `combination.objects`. Styles, which have no box, come first and have
    what the boxes leave. `tell` gives the rows of the UNet's batch for a text (`mudi.attention.concept_prompts`). ValueError if
    there are concepts and no layouts, or a concept that is not of the combination.
    """
    if not backbone.concepts:
        yield predict
        return
    if None in layouts:
        raise ValueError("this adapter draws each subject on a path of its own, in its box of a layout; use sampling.layout = 'given'")
    regions: dict[str, list[Box | None]] = {subject.key: [None] * len(layouts) for subject in combination.subjects}
    regions |= {subject.key: [layout[i] for layout in layouts] for i, subject in enumerate(combination.objects)}
    if unknown := [concept.key for concept in backbone.concepts if concept.key not in regions]:
        raise ValueError(f"the adapter holds a concept {unknown[0]!r}, which {combination.key} has not; use an adapter of its own")
    ordered = sorted(backbone.concepts, key=lambda concept: not concept.style)
    told = {concept.key: tell(own_text(text, concept, backbone.concepts)) for concept in ordered}
    paths = [ConceptPath(adapter=c.adapter, condition=told[c.key], boxes=regions[c.key]) for c in ordered]
    side = backbone.resolution // backbone.latent_factor
    with injected(backbone, paths, (side, side)) as predicting:
        yield predicting


@contextmanager
def injected(
    backbone: Backbone, paths: Sequence[ConceptPath], latent_hw: tuple[int, int], blocks: tuple[str, ...] = UP_BLOCKS
) -> Iterator[Predicting]:
    """Yields `diffusion.predict` with the concepts injected; afterwards, also after an exception, the UNet is bare as before.

    `latent_hw` is the size of the latents. A cell of a layer belongs to a concept whose box covers at least half of it, and each
    box to at least one cell; where boxes overlap, a later path wins. `blocks` are beginnings of names: layers of the UNet that
    are injected.
    """
    injection = _Injection(boxes=list(zip(*(path.boxes for path in paths), strict=True)), latent_hw=latent_hw)
    layers = [module for name, module in backbone.unet.named_modules() if name.startswith(blocks) and name.endswith(ATTENTION)]
    hooks = [layer.register_forward_hook(injection.hook) for layer in layers]

    def answer(backbone: Backbone, noisy: torch.Tensor, timesteps: torch.Tensor, condition: Conditioning) -> torch.Tensor:
        for number, path in enumerate(paths):
            injection.path = number
            activate(backbone.unet, path.adapter)
            predict(backbone, noisy, timesteps, path.condition)
        injection.path = None
        activate(backbone.unet, None)
        return predict(backbone, noisy, timesteps, condition)

    try:
        yield answer
    finally:
        for hook in hooks:
            hook.remove()
        activate(backbone.unet, None)


@dataclass(kw_only=True)
class _Injection:
    """What the layers share. `path` is the number of the path whose pass runs, None for the base's; `features` holds, by
    layer, what the paths so far leave for the base's pass."""

    boxes: Sequence[Sequence[Box | None]]
    latent_hw: tuple[int, int]
    path: int | None = None
    features: dict[nn.Module, torch.Tensor] = field(default_factory=dict)
    maps: dict[tuple[int, torch.device], torch.Tensor] = field(default_factory=dict)

    def hook(self, layer: nn.Module, _: tuple, output: torch.Tensor) -> torch.Tensor | None:
        """Keep what a concept's pass puts out (B, N, width), or replace what the base's does."""
        rows, pixels, _ = output.shape
        owners = self.owners(pixels, output.device).repeat(rows // len(self.boxes), 1, 1)
        if self.path is None:
            return torch.where(owners >= 0, self.features.pop(layer), output)
        # The first path's features stand for all cells until others overwrite theirs; the base takes owned cells alone.
        earlier = self.features.get(layer)
        self.features[layer] = output if earlier is None else torch.where(owners == self.path, output, earlier)
        return None

    def owners(self, pixels: int, device: torch.device) -> torch.Tensor:
        """The number of the path that a cell belongs to, -1 for none; int (candidates, pixels, 1)."""
        wanted = (pixels, device)
        if wanted not in self.maps:
            grid = grid_of(pixels, self.latent_hw)
            owners = torch.full((len(self.boxes), *grid), -1)
            for of_candidate, boxes in zip(owners, self.boxes, strict=True):
                for number, box in enumerate(boxes):
                    of_candidate[... if box is None else cells_of(box, grid)] = number
            self.maps[wanted] = owners.flatten(1)[..., None].to(device)
        return self.maps[wanted]


def grid_of(pixels: int, latent_hw: tuple[int, int]) -> tuple[int, int]:
    """The height and width of a layer of so many cells; ValueError where the latents' sides are not divided evenly."""
    factor = round(math.sqrt(math.prod(latent_hw) / pixels))
    grid = (latent_hw[0] // factor, latent_hw[1] // factor)
    if math.prod(grid) != pixels:
        raise ValueError(f"latents of {latent_hw[0]} x {latent_hw[1]} are {pixels} cells at factor {factor}; give sides that it divides")
    return grid
