"""Class priors: what the base model draws for each class noun, cut out by detector and SAM."""

from pathlib import Path

import numpy as np
from PIL import Image

from mudi import adapters, models
from mudi.augment import Segment
from mudi.conditioning import encode_negative, encode_prompts
from mudi.detect import detect
from mudi.diffusion import decode, denoise, generators, is_valid, standard_noise
from mudi.examples import Picture
from mudi.models import Backbone
from mudi.records import Combination, Subject
from mudi.segment import segment

PROMPT = "a photo of a {}, simple background, full body view, award winning photography, highly detailed"
NEGATIVE = "anime, cartoon, graphic, text, painting, crayon, graphite, abstract glitch, blurry"
THRESHOLD = 0.4
ATTEMPTS = 10
BATCH = 8


def _draw(backbone: Backbone, prompt: str, negative_prompt: str, seeds: list[int], steps: int, guidance_scale: float) -> list[np.ndarray]:
    positive = encode_prompts(backbone, [prompt]).rows([0] * len(seeds))
    noise = standard_noise(backbone, generators(seeds))
    negative = encode_negative(backbone, negative_prompt)
    return decode(backbone, denoise(backbone, noise, positive, negative, steps=steps, guidance_scale=guidance_scale))


def _cut_out(image: np.ndarray, subject: Subject, detector, segmenter) -> Segment | None:
    """The one subject in the picture, or None unless the detector finds exactly one."""
    (found,) = detect(detector, [image], [[subject.detection_query]], THRESHOLD)
    if len(found) != 1:
        return None
    mask = segment(segmenter, image, found[0].box_xyxy)
    return Segment(image, mask) if mask.any() else None


def class_priors(
    backbone: Backbone, combination: Combination, *, count: int, detector: str, segmenter: str, steps: int,
    guidance_scale: float, seed: int, folder: Path, prompt: str = PROMPT,
    negative_prompt: str = NEGATIVE,
) -> list[Picture]:  # fmt: skip
    """`count` pictures of each subject's class by the bare backbone, each with exactly one detected subject.

    `prompt` has {} for the class noun; the defaults are the released code's. The training caption is "A photo of a
    CLASS" (also there). A picture without exactly one detection at threshold 0.4 is drawn again, up to
    ten times `count` in all; the released code goes on silently then, this raises ValueError, because a
    class the base model cannot draw needs another class noun. Pictures are kept in `folder` as PNG with
    their masks, and reused from there.
    """
    judge = (models.load_detector(detector, backbone.device), models.load_segmenter(segmenter, backbone.device))
    pictures = []
    adapters.activate(backbone.unet, None)
    for owner, subject in enumerate(combination.subjects):
        found = 0
        for start in range(0, ATTEMPTS * count, BATCH):
            if found == count:
                break
            seeds = [seed + owner * 1_000_003 + start + i for i in range(BATCH)]
            stored = folder / subject.key / f"{start:05d}.png"
            images = _stored_batch(stored) or _draw(
                backbone, prompt.format(subject.class_noun), negative_prompt, seeds, steps, guidance_scale
            )
            _store_batch(stored, images)
            for row, image in enumerate(images):
                cut = _cut_out(image, subject, *judge) if found < count and is_valid(image) else None
                if cut is not None:
                    found += 1
                    caption = f"A photo of a {subject.class_noun}"
                    pictures.append(Picture(image, cut, caption, subject.class_noun, owner, f"prior-{owner}-{start + row}"))
        if found < count:
            raise ValueError(
                f"class noun {subject.class_noun!r} of subject {subject.key!r}: the base model drew exactly one "
                f"{subject.detection_query!r} in {found} of {ATTEMPTS * count} pictures, {count} are needed; use a plainer class "
                "noun, or objective: dco, which needs no priors"
            )
    return pictures


def _store_batch(path: Path, images: list[np.ndarray]) -> None:
    """One PNG with the batch side by side: a prior is cheap to find again and easy to look at."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(images, 1)).save(path.with_suffix(".part"), format="PNG")
        path.with_suffix(".part").rename(path)


def _stored_batch(path: Path) -> list[np.ndarray] | None:
    if not path.exists():
        return None
    strip = np.asarray(Image.open(path).convert("RGB"))
    return list(strip.reshape(strip.shape[0], BATCH, strip.shape[0], 3).transpose(1, 0, 2, 3))
