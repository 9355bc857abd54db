"""Which pictures and captions a fit sees: photos, compositions of two subjects, class priors, selected candidates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mudi.augment import Segment, cut_mix, seg_mix
from mudi.dataset import load_segments
from mudi.fit import Example, Examples
from mudi.records import Combination
from mudi.user_files.photos import read_image


@dataclass(frozen=True)
class Picture:
    """A training picture of one subject: the square photo (S, S, 3), its cut-out or None, and what each is called.

    `caption` goes with the plain photo; `phrase` names the subject inside a mix. `owner` is the index of
    the subject. `weight`, float32 (S, S), weighs the loss of the plain photo; None is one everywhere.
    """

    image: np.ndarray
    segment: Segment | None
    caption: str
    phrase: str
    owner: int
    key: str
    weight: np.ndarray | None = None


def square_photo(image: np.ndarray, size: int) -> np.ndarray:
    """The central square of an image after its short side is brought to `size`: uint8 (size, size, 3)."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    resized = Image.fromarray(image).resize((max(size, round(width * scale)), max(size, round(height * scale))), Image.Resampling.LANCZOS)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)))


# All pictures, the drawn one, a generator, whether these are priors -> a composition with its prompt.
Mix = Callable[[Sequence[Picture], Picture, np.random.Generator, bool], Example]


def reference_pictures(combination: Combination, size: int, masks: bool = True) -> list[Picture]:
    """Every reference of every subject as a training picture, cut out by its mask where `masks` asks for that."""
    pictures = []
    for owner, subject in enumerate(combination.subjects):
        segments = load_segments(subject) if masks else [None] * len(subject.references)
        for reference, segment in zip(subject.references, segments, strict=True):
            image = square_photo(read_image(reference.image_path), size)
            pictures.append(Picture(image, segment, reference.caption, subject.phrase, owner, str(reference.image_path)))
    return pictures


def mix_prompt(first: str, second: str) -> str:
    """The caption of a Seg-Mix composition; the names stand in the order drawn, not in that of the sides."""
    return f"a photo of a {first} and a {second}, simple background."


def _partner(pictures: Sequence[Picture], drawn: Picture, rng: np.random.Generator) -> Picture:
    """A picture of another subject, uniform over the other subjects, then over that one's pictures."""
    others = sorted({p.owner for p in pictures} - {drawn.owner})
    owner = others[rng.integers(len(others))]
    options = [p for p in pictures if p.owner == owner]
    return options[rng.integers(len(options))]


def seg_mixing(size: int, alpha: float = 1.0, scales: Sequence[float] | None = None, overlap: bool = True) -> Mix:
    """Seg-Mix of the drawn picture's subject and another one.

    `alpha` is the loss weight of the background, 1 for no mask (released code, `soft_alpha`). `scales` fixes
    the size of each subject, in their order, as a share of the largest that fits; priors keep random sizes.
    """

    def mix(pictures: Sequence[Picture], drawn: Picture, rng: np.random.Generator, prior: bool) -> Example:
        pair = (drawn, _partner(pictures, drawn, rng))
        fixed = None if scales is None or prior else {i: scales[p.owner] for i, p in enumerate(pair)}
        made = seg_mix([p.segment for p in pair], rng, size=size, scales=fixed, overlap=overlap)
        weight = None if alpha == 1 else made.mask.astype(np.float32) * (1 - alpha) + alpha
        return Example(made.image, mix_prompt(pair[0].phrase, pair[1].phrase), prior=prior, weight=weight)

    return mix


def cut_mixing(size: int) -> Mix:
    """Cut-Mix of the drawn picture and one of another subject, with SVDiff's two prompts in equal shares."""

    def mix(pictures: Sequence[Picture], drawn: Picture, rng: np.random.Generator, prior: bool) -> Example:
        pair = (drawn, _partner(pictures, drawn, rng))
        made = cut_mix([p.image for p in pair], rng, size=size)
        left, right = (pair[i].phrase for i in np.argsort([box[0] for box in made.boxes]))
        placed = f"photo of a {left} on the left and a {right} on the right"
        return Example(made.image, placed if rng.random() < 0.5 else f"photo of a {right} and a {left}", prior=prior)

    return mix


def personal_examples(
    pictures: Sequence[Picture], priors: Sequence[Picture], *, batch: int, mix: Mix | None = None, mix_probability: float = 0.0,
    mix_from_step: int = 0,
) -> Callable[[int, np.random.Generator], list[Example]]:  # fmt: skip
    """Micro-batches of `batch` pictures, each followed by a prior of its class if there are priors.

    With probability `mix_probability` an item becomes a composition made by `mix`, and its prior with it
    (the same draw, as in the released code; priors use the routine of the instances rather than the code's
    always-left variant). Mixing starts at optimiser step `mix_from_step`, computed from the step
    itself, so that a resumed run mixes as an uninterrupted one.
    """
    owners = len({p.owner for p in pictures})

    def item(source: Sequence[Picture], chosen: Picture, mixed: bool, rng: np.random.Generator, prior: bool) -> Example:
        if mixed and len({p.owner for p in source}) > 1:
            return mix(source, chosen, rng, prior)
        return Example(chosen.image, chosen.caption, prior=prior, key=chosen.key, weight=chosen.weight)

    def examples(step: int, rng: np.random.Generator) -> list[Example]:
        rows = []
        for _ in range(batch):
            chosen = pictures[rng.integers(len(pictures))]
            # Drawn whether or not it is used: methods that mix differently then see the same photos in the same order.
            mixed = rng.random() < mix_probability and mix is not None and owners > 1 and step >= mix_from_step
            rows.append(item(pictures, chosen, mixed, rng, prior=False))
            own = [p for p in priors if p.owner == chosen.owner]
            if own:
                rows.append(item(priors, own[rng.integers(len(own))], mixed, rng, prior=True))
        return rows

    return examples


def sharing(own: Examples, others: Examples, share: float) -> Examples:
    """Micro-batches of `own`, a `share` of them of `others` instead."""

    def examples(step: int, rng: np.random.Generator) -> list[Example]:
        return others(step, rng) if rng.random() < share else own(step, rng)

    return examples
