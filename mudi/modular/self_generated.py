"""Pictures that a subject's own adapter draws of it, one subject each and cut out: what a merge of adapters is refined on."""

import hashlib
import json
from pathlib import Path

import numpy as np

from mudi import adapters, models
from mudi.backbone import Backbone
from mudi.diffusion import decode, denoise, generators, standard_noise
from mudi.examples import Picture
from mudi.prior_folder import Recipe, kept_by_batch, load_kept, most_batches, next_batches
from mudi.priors import keep_batch
from mudi.records import Adapter, Combination
from mudi.text.conditioning import encode_negative, encode_prompts

PROMPT = "a photo of a {}"


def self_generated(
    backbone: Backbone, singles: list[Adapter], combination: Combination, count: int, seed: int, *,
    detector: str, segmenter: str, steps: int, guidance_scale: float, negative_prompt: str,
) -> list[Picture]:  # fmt: skip
    """`count` pictures of each subject of the combination, drawn by its own adapter out of `singles` as "a photo of a PHRASE".

    Source: MuDI (arXiv 2404.04243), its modular customisation, which gives the number and no sampler. What counts as a picture
    is what does for a class prior (`mudi.priors`): one detection above 0.4, at most ten draws for each that is needed, then
    ValueError. They lie in `ADAPTER.pictures` for all combinations with this subject. Draw n has a seed from `seed`, the
    prompt and n alone.
    """
    judge: tuple = ()
    pictures = []
    for owner, (single, subject) in enumerate(zip(singles, combination.subjects, strict=True)):
        recipe = Recipe(
            class_noun=subject.phrase, detection_query=subject.detection_query, backbone=backbone.name,
            precision=adapters.base_facts(backbone)["precision"], detector=detector, segmenter=segmenter, prompt=PROMPT,
            negative_prompt=negative_prompt, steps=steps, guidance_scale=guidance_scale, seeds=f"sha256 of {seed}, prompt and draw",
        )  # fmt: skip
        place, most = _place(single, recipe), most_batches(recipe, count)
        kept, worn = kept_by_batch(place, most), False
        while todo := next_batches(kept, count, recipe.batch, most):
            if not judge:
                judge = (models.load_detector(detector, backbone.device), models.load_segmenter(segmenter, backbone.device))
            if not worn:
                adapters.put_on(backbone, single)
                worn = True
            kept[todo[0]] = keep_batch(place, recipe, todo[0], _draw_batch(backbone, recipe, seed, todo[0]), *judge)
        if (found := sum(kept.values())) < count:
            raise ValueError(
                f"the adapter of {subject.phrase!r} alone drew exactly one {recipe.detection_query!r} in {found} of {most * recipe.batch} "
                f"pictures, {count} are needed; fit it for more steps, or ask the detector for a plainer word"
            )
        segments = load_kept(place, count)
        if len(segments) < count:
            # Another process stored a batch first and judged it otherwise, as another kind of device may.
            raise ValueError(f"{place}: holds {len(segments)} of {count} pictures of {subject.phrase!r}; start the same command again")
        pictures += [Picture(cut.image, cut, recipe.text, subject.phrase, owner, f"self-{owner}-{row}") for row, cut in enumerate(segments)]
    return pictures


def _draw_batch(backbone: Backbone, recipe: Recipe, seed: int, index: int) -> list[np.ndarray]:
    """The pictures of one batch with whatever adapter is on, always drawn together."""
    seeds = [_seed(recipe, seed, index * recipe.batch + row) for row in range(recipe.batch)]
    positive = encode_prompts(backbone, [recipe.text]).rows([0] * len(seeds))
    negative = encode_negative(backbone, recipe.negative_prompt)
    noise = standard_noise(backbone, generators(seeds))
    return decode(backbone, denoise(backbone, noise, positive, negative, steps=recipe.steps, guidance_scale=recipe.guidance_scale))


def _seed(recipe: Recipe, seed: int, draw: int) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps([seed, recipe.text, draw]).encode()).digest()[:8], "big") >> 1


def _place(single: Adapter, recipe: Recipe) -> Path:
    return single.path.with_name(single.path.name + ".pictures") / f"{single.sha256[:12]}-{recipe.digest}"
