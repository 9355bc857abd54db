"""Class priors: what the base model draws for each class noun, cut out by detector and SAM, one subject a picture."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mudi import adapters, models
from mudi.backbone import Backbone
from mudi.detect import detect
from mudi.diffusion import decode, denoise, generators, is_valid, standard_noise
from mudi.examples import Picture
from mudi.prior_folder import Recipe, kept_by_batch, load_kept, most_batches, needed, next_batches, require_enough, store_batch
from mudi.records import Combination
from mudi.segment import segment
from mudi.text.conditioning import encode_negative, encode_prompts


def draw_batch(backbone: Backbone, recipe: Recipe, index: int) -> list[np.ndarray]:
    """The `recipe.batch` pictures (S, S, 3) of one batch by the bare backbone, always drawn together."""
    adapters.activate(backbone.unet, None)
    seeds = [_seed(recipe, index * recipe.batch + row) for row in range(recipe.batch)]
    positive = encode_prompts(backbone, [recipe.text]).rows([0] * len(seeds))
    negative = encode_negative(backbone, recipe.negative_prompt)
    noise = standard_noise(backbone, generators(seeds))
    return decode(backbone, denoise(backbone, noise, positive, negative, steps=recipe.steps, guidance_scale=recipe.guidance_scale))


def _seed(recipe: Recipe, draw: int) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps([recipe.text, draw]).encode()).digest()[:8], "big") >> 1


def cut_out(image: np.ndarray, recipe: Recipe, detector, segmenter) -> tuple[np.ndarray | None, int]:
    """The mask, bool (S, S), of the one subject in a picture, or None unless the detector finds exactly one; and how many it found."""
    if not is_valid(image):
        return None, 0
    (found,) = detect(detector, [image], [[recipe.detection_query]], recipe.threshold)
    if len(found) != 1:
        return None, len(found)
    mask = segment(segmenter, image, found[0].box_xyxy)
    return (mask if mask.any() else None), 1


def keep_batch(
    folder: Path, recipe: Recipe, index: int, images: list[np.ndarray], detector, segmenter, owner: str = "", **facts
) -> int:  # fmt: skip
    """Judge and store a drawn batch, as `owner`'s while it is made; how many of its pictures are kept. The manifest counts the
    boxes of all."""
    judged = [cut_out(image, recipe, detector, segmenter) for image in images]
    noted = {"boxes": [boxes for _, boxes in judged], "recipe": asdict(recipe), **facts}
    store_batch(folder, index, images, [mask for mask, _ in judged], noted, owner)
    return sum(mask is not None for mask, _ in judged)


def class_priors(backbone: Backbone, combination: Combination, recipes: Mapping[str, Recipe], count: int, folder: Path) -> list[Picture]:
    """`count` pictures of each subject's class by the bare backbone, drawn here where `folder` does not hold them yet.

    `recipes` by subject key. A picture without exactly one detection is passed over, at most ten times `count` in all;
    then ValueError, because a class that the base model cannot draw needs another class noun.
    """
    judge: tuple = ()
    for recipe, need in needed(recipes, count).items():
        place, most = folder / recipe.digest, most_batches(recipe, need)
        kept = kept_by_batch(place, most)
        while todo := next_batches(kept, need, recipe.batch, most):
            if not judge:
                judge = (models.load_detector(recipe.detector, backbone.device), models.load_segmenter(recipe.segmenter, backbone.device))
            kept[todo[0]] = keep_batch(place, recipe, todo[0], draw_batch(backbone, recipe, todo[0]), *judge)
        require_enough(recipe, sum(kept.values()), need)
    return prior_pictures(combination, {key: folder / recipe.digest for key, recipe in recipes.items()}, count)


def prior_pictures(combination: Combination, folders: Mapping[str, Path], count: int) -> list[Picture]:
    """`count` stored priors of each subject as training pictures; `folders` by subject key, each of one recipe.

    Subjects that share a folder take turns of `count` in the order drawn; styles have no priors. The caption is "A photo of a CLASS"
    (released code). ValueError if a folder does not hold enough.
    """
    pictures = []
    for owner, subject in enumerate(combination.subjects):
        if subject not in combination.objects:
            continue
        place = Path(folders[subject.key])
        before = sum(Path(folders[other.key]) == place for other in combination.subjects[:owner] if other in combination.objects)
        segments = load_kept(place, (before + 1) * count)[before * count :]
        if len(segments) < count:
            raise ValueError(f"{place}: holds {len(segments)} of {count} class priors of {subject.phrase!r}; start the same command again")
        caption = f"A photo of a {subject.class_noun}"
        pictures += [
            Picture(cut.image, cut, caption, subject.class_noun, owner, f"prior-{owner}-{row}") for row, cut in enumerate(segments)
        ]
    return pictures
