"""What a method and its way of drawing take of a combination, asked before anything is loaded."""

from mudi.adapter_size import known_architecture
from mudi.checkpoints.vocabularies import tokenizers_of
from mudi.dataset import load_segments, require_masks, require_objects
from mudi.layout import boxes_of, place, require_layouts
from mudi.personalization import Personalization
from mudi.records import Combination
from mudi.text.tokens import token_id


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
    try:
        options.require(combination)
    except ValueError as error:
        raise ValueError(f"{place_in_file}.{error}") from None
    if options.token_rows and (known := tokenizers_of(backbone)):
        _require_tokens(place_in_file, combination, known[0])


def _require_visible(place_in_file: str, combination: Combination, side: int) -> None:
    """Each layout is composed of the subjects' first photos: a box below a pixel, or a subject behind another, stops a sweep."""
    cut_outs = [load_segments(subject)[0] for subject in combination.objects]
    for boxes in boxes_of(combination):
        try:
            place(cut_outs, boxes, side)
        except ValueError as error:
            raise ValueError(f"{place_in_file}: {combination.key}: {error}") from None


def _require_tokens(place_in_file: str, combination: Combination, tokenizers: list) -> None:
    for subject in combination.subjects:
        for tokenizer in tokenizers:
            try:
                token_id(tokenizer, subject.identifier)
            except ValueError as error:
                raise ValueError(f"{place_in_file}: {combination.key}: {error}") from None
