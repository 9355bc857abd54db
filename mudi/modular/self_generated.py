"""Pictures that a subject's own adapter draws of it, one subject each and cut out: what a merge of adapters is refined on."""

import numpy as np

from mudi import adapters
from mudi.backbone import Backbone
from mudi.examples import Picture
from mudi.options import Refine
from mudi.prior_folder import Recipe, load_kept, most_batches
from mudi.priors import draw_batch, draw_enough, lazy_judges
from mudi.records import Adapter, Combination

PROMPT = "a photo of a {}"


def self_generated(
    backbone: Backbone, singles: list[Adapter], combination: Combination, refine: Refine, seed: int, detector: str, segmenter: str
) -> list[Picture]:
    """`refine.images` pictures of each subject of the combination, drawn by its own adapter out of `singles` as "a photo of a PHRASE".

    Source: MuDI (arXiv 2404.04243), its modular customisation, which gives the number and no sampler. What counts as a picture
    is what does for a class prior (`mudi.priors`): one detection above 0.4, at most ten draws for each that is needed, then
    ValueError. They lie in `ADAPTER.pictures` for all combinations with this subject. Draw n has a seed from `seed`, the
    prompt and n alone.
    """
    judges, count, pictures = lazy_judges(backbone), refine.images, []
    for owner, (single, subject) in enumerate(zip(singles, combination.subjects, strict=True)):
        recipe = Recipe(
            class_noun=subject.phrase, detection_query=subject.detection_query, backbone=backbone.name,
            precision=adapters.base_facts(backbone)["precision"], detector=detector, segmenter=segmenter, prompt=PROMPT,
            negative_prompt=refine.negative_prompt, steps=refine.sample_steps, guidance_scale=refine.guidance_scale,
            seeds=f"sha256 of {seed}, prompt and draw",
        )  # fmt: skip
        place = single.path.with_name(single.path.name + ".pictures") / f"{single.sha256[:12]}-{recipe.digest}"
        if (found := draw_enough(recipe, place, count, _drawing(backbone, single, recipe, seed), judges)) < count:
            raise ValueError(
                f"the adapter of {subject.phrase!r} alone drew exactly one {recipe.detection_query!r} in {found} of "
                f"{most_batches(recipe, count) * recipe.batch} pictures, {count} are needed; fit it for more steps, or ask the detector "
                "for a plainer word"
            )
        segments = load_kept(place, count)
        if len(segments) < count:
            # Another process stored a batch first and judged it otherwise, as another kind of device may.
            raise ValueError(f"{place}: holds {len(segments)} of {count} pictures of {subject.phrase!r}; start the same command again")
        pictures += [Picture(cut.image, cut, recipe.text, subject.phrase, owner, f"self-{owner}-{row}") for row, cut in enumerate(segments)]
    return pictures


def _drawing(backbone: Backbone, single: Adapter, recipe: Recipe, seed: int):
    """Batches by number with the subject's own adapter, which is put on for the first that is drawn."""
    on: list[Adapter] = []

    def draw(index: int) -> list[np.ndarray]:
        if not on:
            adapters.put_on(backbone, single)
            on.append(single)
        return draw_batch(backbone, recipe, index, seed)

    return draw
