"""Which pictures and captions a fit sees: photos, Seg-Mix compositions, class priors, selected candidates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mudi.augment import Segment, seg_mix
from mudi.dataset import load_segments, read_image
from mudi.fit import Example
from mudi.records import Combination


@dataclass(frozen=True)
class Picture:
    """A training picture of one subject: the square photo (S, S, 3), its cut-out, and what each is called.

    `caption` goes with the plain photo; `phrase` names the subject inside a mix. `owner` is the index of
    the subject.
    """

    image: np.ndarray
    segment: Segment
    caption: str
    phrase: str
    owner: int
    key: str


def square_photo(image: np.ndarray, size: int) -> np.ndarray:
    """The central square of an image after its short side is brought to `size`: uint8 (size, size, 3)."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    resized = Image.fromarray(image).resize((max(size, round(width * scale)), max(size, round(height * scale))), Image.Resampling.LANCZOS)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def reference_pictures(combination: Combination, size: int) -> list[Picture]:
    """Every reference of every subject as a training picture."""
    pictures = []
    for owner, subject in enumerate(combination.subjects):
        for reference, segment in zip(subject.references, load_segments(subject), strict=True):
            image = square_photo(read_image(reference.image_path), size)
            pictures.append(Picture(image, segment, reference.caption, subject.phrase, owner, str(reference.image_path)))
    return pictures


def mix_prompt(first: str, second: str) -> str:
    """The caption of a composition; the names stand in the order drawn, not in that of the sides."""
    return f"a photo of a {first} and a {second}, simple background."


def seg_mix_example(pictures: Sequence[Picture], drawn: Picture, rng: np.random.Generator, size: int, prior: bool, alpha: float) -> Example:
    """A composition of the drawn picture's subject with a uniformly chosen other one.

    `alpha` is the loss weight of the background, 1 for no mask (released code, `soft_alpha`).
    """
    others = sorted({p.owner for p in pictures} - {drawn.owner})
    owner = others[rng.integers(len(others))]
    options = [p for p in pictures if p.owner == owner]
    partner = options[rng.integers(len(options))]
    mix = seg_mix([drawn.segment, partner.segment], rng, size=size)
    weight = None if alpha == 1 else mix.mask.astype(np.float32) * (1 - alpha) + alpha
    return Example(mix.image, mix_prompt(drawn.phrase, partner.phrase), prior=prior, weight=weight)


def personal_examples(
    pictures: Sequence[Picture], priors: Sequence[Picture], *, size: int, batch: int, mix_probability: float, mix_from_step: int = 0,
    alpha: float = 1.0,
) -> Callable[[int, np.random.Generator], list[Example]]:  # fmt: skip
    """Micro-batches of `batch` pictures, each followed by a prior of its class if there are priors.

    With probability `mix_probability` an item becomes a Seg-Mix composition, and its prior with it (the
    same draw, as in the released code; priors use the routine of the instances rather than the code's
    always-left variant). Mixing starts at optimiser step `mix_from_step`, computed from the step
    itself, so that a resumed run mixes as an uninterrupted one.
    """
    owners = len({p.owner for p in pictures})

    def item(source: Sequence[Picture], chosen: Picture, mixed: bool, rng: np.random.Generator, prior: bool) -> Example:
        if mixed and len({p.owner for p in source}) > 1:
            return seg_mix_example(source, chosen, rng, size, prior, alpha)
        return Example(chosen.image, chosen.caption, prior=prior, key=chosen.key)

    def examples(step: int, rng: np.random.Generator) -> list[Example]:
        rows = []
        for _ in range(batch):
            chosen = pictures[rng.integers(len(pictures))]
            mixed = owners > 1 and step >= mix_from_step and rng.random() < mix_probability
            rows.append(item(pictures, chosen, mixed, rng, prior=False))
            own = [p for p in priors if p.owner == chosen.owner]
            if own:
                rows.append(item(priors, own[rng.integers(len(own))], mixed, rng, prior=True))
        return rows

    return examples


def kept_examples(
    images: Sequence[np.ndarray], prompts: Sequence[str], batch: int,
    references: Callable[[int, np.random.Generator], list[Example]] | None = None, reference_share: float = 0.0,
) -> Callable[[int, np.random.Generator], list[Example]]:  # fmt: skip
    """Micro-batches of selected candidates with the prompts they were drawn from (MuDI, section 5).

    A share of the micro-batches can come from the user's own photos instead, through `references`.
    """

    def examples(step: int, rng: np.random.Generator) -> list[Example]:
        if references is not None and rng.random() < reference_share:
            return references(step, rng)
        rows = rng.integers(len(images), size=batch)
        return [Example(images[i], prompts[i], key=f"kept-{i}") for i in rows]

    return examples
