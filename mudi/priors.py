"""Class priors: what the base model draws for each class noun, cut out by detector and SAM, one subject a picture."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache, partial
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

# Names of a detector and a segmenter -> both, loaded.
Judges = Callable[[str, str], tuple]


def draw_batch(backbone: Backbone, recipe: Recipe, index: int, *seed: int) -> list[np.ndarray]:
    """The `recipe.batch` pictures (S, S, 3) of one batch with whatever adapter is on, always drawn together.

    Draw n has a seed from `seed`, if there is one, the prompt and n alone.
    """
    seeds = [_seed([*seed, recipe.text, index * recipe.batch + row]) for row in range(recipe.batch)]
    positive = encode_prompts(backbone, [recipe.text]).rows([0] * len(seeds))
    negative = encode_negative(backbone, recipe.negative_prompt)
    noise = standard_noise(backbone, generators(seeds))
    return decode(backbone, denoise(backbone, noise, positive, negative, steps=recipe.steps, guidance_scale=recipe.guidance_scale))


def _seed(decided: list[int | str]) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(decided).encode()).digest()[:8], "big") >> 1


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


def lazy_judges(backbone: Backbone) -> Judges:
    """Detectors and segmenters by their names, on the backbone's device, loaded when they are asked for first."""

    @cache
    def judges(detector: str, segmenter: str) -> tuple:
        return models.load_detector(detector, backbone.device), models.load_segmenter(segmenter, backbone.device)

    return judges


def draw_enough(recipe: Recipe, place: Path, count: int, draw: Callable[[int], list[np.ndarray]], judges: Judges) -> int:
    """Draw batches that `place` lacks until it keeps `count` pictures, or until all that may be drawn are; how many it keeps."""
    most = most_batches(recipe, count)
    kept = kept_by_batch(place, most)
    while todo := next_batches(kept, count, recipe.batch, most):
        kept[todo[0]] = keep_batch(place, recipe, todo[0], draw(todo[0]), *judges(recipe.detector, recipe.segmenter))
    return sum(kept.values())


def class_priors(backbone: Backbone, combination: Combination, recipes: Mapping[str, Recipe], count: int, folder: Path) -> list[Picture]:
    """`count` pictures of each subject's class by the bare backbone, drawn here where `folder` does not hold them yet.

    `recipes` by subject key. A picture without exactly one detection is passed over, at most ten times `count` in all;
    then ValueError, because a class that the base model cannot draw needs another class noun.
    """
    judges = lazy_judges(backbone)
    adapters.activate(backbone.unet, None)
    for recipe, need in needed(recipes, count).items():
        found = draw_enough(recipe, folder / recipe.digest, need, partial(draw_batch, backbone, recipe), judges)
        require_enough(recipe, found, need)
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
