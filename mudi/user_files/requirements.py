"""The needs of a method and of its way of drawing, asked of a combination and of a backbone before anything is loaded."""

from collections.abc import Mapping
from itertools import product
from types import SimpleNamespace

from mudi.adapter_size import known_architecture
from mudi.attention.levels import chosen_levels
from mudi.checkpoints.vocabularies import tokenizers_of
from mudi.dataset import load_segments, require_masks, require_objects
from mudi.layout import boxes_of, place, require_layouts
from mudi.options import Sampling, errors_at
from mudi.personalization import Personalization
from mudi.records import Combination
from mudi.text.mentions import token_id

# What diffusers takes where a UNet's settings do not name its middle.
MIDDLE = {"mid_block_type": "UNetMidBlock2DCrossAttn"}


def require(place_in_file: str, options: Personalization, combination: Combination, backbone: str, masks: bool = False) -> None:
    """Raise ValueError, naming the method's place in the file, for the first thing that the combination lacks.

    backbone: its name; its resolution and vocabulary are looked at if it is here. masks: whether masks are needed whatever the method.
    """
    sampling, objects = options.sampling, combination.objects
    if options.needs_objects:
        require_objects(combination, place_in_file)
    if options.needs_masks or sampling.gamma or masks:
        require_masks(combination, place_in_file)
    if sampling.wants_layouts:
        require_layouts(combination, place_in_file)
    if sampling.gamma and sampling.layout == "given":
        _require_visible(place_in_file, combination, known_architecture(backbone).side)
    if sampling.scales is not None and len(sampling.scales) != len(objects):
        raise ValueError(f"{place_in_file}: sampling.scales has {len(sampling.scales)} numbers, {combination.key} {len(objects)} subjects")
    with errors_at(f"{place_in_file}."):
        options.require(combination)
    if options.token_rows and (known := tokenizers_of(backbone)):
        with errors_at(f"{place_in_file}: {combination.key}: "):
            for subject, tokenizer in product(combination.subjects, known[0]):
                token_id(tokenizer, subject.identifier)


def _require_visible(place_in_file: str, combination: Combination, side: int) -> None:
    """Each layout is composed of the subjects' first photos: a box below a pixel, or a subject behind another, stops a sweep."""
    cut_outs = [load_segments(subject)[0] for subject in combination.objects]
    with errors_at(f"{place_in_file}: {combination.key}: "):
        for boxes in boxes_of(combination):
            place(cut_outs, boxes, side)


def check_levels(backbone: str, samplings: Mapping[str, Sampling]) -> None:
    """Raise ValueError for the first of `samplings`, by its place in the file, whose levels the backbone does not have.

    A backbone that is not here to be looked at is left to the workers.
    """
    architecture = known_architecture(backbone)
    if architecture.assumed:
        return
    unet = SimpleNamespace(config=SimpleNamespace(**{**MIDDLE, **architecture.unet}))
    for key, sampling in samplings.items():
        if sampling.layout_guidance is not None:
            with errors_at(f"{key}.layout_guidance."):
                chosen_levels(sampling.layout_guidance, unet)
