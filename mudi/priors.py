"""Class priors: what the base model draws for each class noun, cut out by detector and SAM, one subject a picture."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mudi import adapters, models
from mudi.conditioning import encode_negative, encode_prompts
from mudi.detect import detect
from mudi.diffusion import decode, denoise, generators, is_valid, standard_noise
from mudi.examples import Picture
from mudi.model_facts import weights_identity
from mudi.models import Backbone
from mudi.prior_folder import kept_by_batch, load_kept, store_batch
from mudi.records import Combination
from mudi.segment import segment

PROMPT = "a photo of a {}, simple background, full body view, award winning photography, highly detailed"
NEGATIVE = "anime, cartoon, graphic, text, painting, crayon, graphite, abstract glitch, blurry"
THRESHOLD = 0.4
ATTEMPTS = 10
BATCH = 8
STEPS, GUIDANCE = 50, 5.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides the priors of one class: what is drawn, with which weights, and who judges it.

    `prompt` has {} for the class noun; the defaults are the released code's, the sampler's are stock SDXL's. The picture
    of draw n has a seed from the prompt and n alone, so whoever has the same recipe has the same pictures. `workers`
    says what kind of process makes them where that is known: it changes the last bits. `weights` says what the names of
    backbone, detector and segmenter stand for now (`mudi.model_facts`).
    """

    class_noun: str
    detection_query: str
    backbone: str
    precision: str
    detector: str
    segmenter: str
    prompt: str = PROMPT
    negative_prompt: str = NEGATIVE
    steps: int = STEPS
    guidance_scale: float = GUIDANCE
    threshold: float = THRESHOLD
    batch: int = BATCH
    seeds: str = "sha256 of prompt and draw"
    workers: str = ""
    weights: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The prompt with the class noun in it."""
        return self.prompt.format(self.class_noun)

    @property
    def digest(self) -> str:
        """32 hexadecimal digits of the recipe's content: the name of its folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


def weights_of(backbone: str, detector: str, segmenter: str) -> tuple[str, str, str]:
    """What a recipe says of the weights behind its names."""
    return weights_identity(backbone), weights_identity(detector, "detector"), weights_identity(segmenter, "sam")


def needed(recipes: Mapping[str, Recipe], count: int) -> dict[Recipe, int]:
    """How many pictures each recipe must give for `count` a subject: subjects of one class share a recipe and no picture."""
    return {recipe: count * subjects for recipe, subjects in Counter(recipes.values()).items()}


def most_batches(recipe: Recipe, need: int) -> int:
    """The batches after which a class is given up: ten draws for each picture that is needed, as in the released code."""
    return math.ceil(ATTEMPTS * need / recipe.batch)


def next_batches(kept: Mapping[int, int], need: int, batch: int, most: int) -> list[int]:
    """Which batches to draw now, given how many pictures each drawn one kept; none once there are enough or all are drawn.

    Pictures are taken in the order of their batches, so gaps come first. Undrawn batches are expected to keep the
    share that the drawn ones did, at least a tenth, and all at first.
    """
    share = max(sum(kept.values()) / (batch * len(kept)), 1 / ATTEMPTS) if kept else 1.0
    chosen, expected = [], 0.0
    for index in range(most):
        if expected >= need:
            break
        if index not in kept:
            chosen.append(index)
        expected += kept.get(index, share * batch)
    return chosen


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


def require_enough(recipe: Recipe, kept: int, need: int) -> None:
    """Raise ValueError if all draws of a class gave too few pictures; the released code goes on silently with what it has."""
    if kept < need:
        raise ValueError(
            f"class noun {recipe.class_noun!r}: the base model drew exactly one {recipe.detection_query!r} in {kept} of "
            f"{most_batches(recipe, need) * recipe.batch} pictures, {need} are needed; use a plainer class noun, "
            "or objective: dco, which needs no priors"
        )


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
