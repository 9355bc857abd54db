"""The oracle's sizes and vocabularies, and the scenes that it learns from: crowded, doubled, missing, stitched."""

from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from mudi.miniature.captions import PLACES, PLAIN_WORDS
from mudi.miniature.corpus import BACKGROUND_NAMES, stored
from mudi.miniature.gates.judges import neighbour
from mudi.miniature.render import LOWEST, TALLEST, pair_scene, random_pose, render, single_scene
from mudi.miniature.world import (
    ACCESSORIES,
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    SIZE,
    Identity,
    Scene,
    all_identities,
    random_identity,
    split_identities,
    swap_accessories,
    swap_bodies,
)  # fmt: skip
from mudi.oracle import BARE, OracleConfig

PLAIN, OTHER = "plain", "other"
MOST = 3  # subjects counted one by one; the class of this number means "or more"
ABSENT = -1
UNNATURAL_SHARE = 0.14
# Under the brim of a hat a pixel or two of the ears is all that tells these classes apart.
LOOK_ALIKES = ("cat", "bear")

CONFIG = OracleConfig(
    image_size=SIZE, widths=(24, 48, 96), counts=MOST + 1,
    attributes={
        "class_noun": CLASSES, "body": tuple(COLOURS), "belly": tuple(COLOURS), "accessory": ACCESSORIES,
        "accessory_colour": (*COLOURS, BARE),
    },
    places={place: (PLACES[place],) for place in BACKGROUNDS} | {PLAIN: (PLACES["white"], *PLAIN_WORDS.values()), OTHER: ()},
)  # fmt: skip
PLACE_NAMES = tuple(CONFIG.places)


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """N pictures with their truth. images: uint8 (N, 48, 48, 3); labels: uint8 (N, 48, 48), 0 background, then
    one number a subject; counts, places: int64 (N,), into 0..MOST and PLACE_NAMES; traits: int64 (N, 2, 5),
    left and right subject into the vocabularies of `CONFIG.attributes`, ABSENT where nobody is asked."""

    images: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    traits: np.ndarray
    places: np.ndarray


def traits_of(identity: Identity) -> list[int]:
    """The five indices of an identity into the vocabularies of `CONFIG.attributes`."""
    values = zip(CONFIG.attributes.values(), astuple(identity), strict=True)
    return [vocabulary.index(BARE if value is None else value) for vocabulary, value in values]


def place_of(background: str) -> int:
    """The index into PLACE_NAMES of a background of the world."""
    return PLACE_NAMES.index(background if background in BACKGROUNDS else PLAIN)


def traits_of_corpus(identities: np.ndarray) -> np.ndarray:
    """int64 (N, 2, 5) of identity indices (N, 2) as a corpus holds them."""
    return np.array([*map(traits_of, all_identities()), [ABSENT] * len(CONFIG.attributes)])[identities]


def close_scene(rng: np.random.Generator, left: Identity, right: Identity, background: str) -> Scene:
    """Two subjects that overlap or touch, either in front, sometimes in the air; identities ordered left to right."""
    widths = rng.uniform(0.33, 0.46, 2)
    apart = rng.uniform(0.2, 0.44)
    first = rng.uniform(0.2, 0.8 - apart)
    poses = [random_pose(rng, centre, width) for centre, width in zip((first, first + apart), widths, strict=True)]
    if rng.random() < 0.3:
        poses = [replace(p, base_y=rng.uniform(min(TALLEST * p.height, LOWEST), LOWEST)) for p in poses]
    if rng.random() < 0.5:
        return render([left, right], poses, background, rng)
    scene = render([right, left], poses[::-1], background, rng)
    return replace(scene, masks=scene.masks[::-1], boxes=scene.boxes[::-1], identities=(left, right))


def crowd_scene(rng: np.random.Generator, identities: list[Identity], background: str) -> Scene:
    """Three or four subjects from left to right, painted in random order."""
    count = len(identities)
    centres = (np.arange(count) + rng.uniform(0.3, 0.7, count)) / count
    widths = rng.uniform(0.7, 1.15, count) / count
    poses = [random_pose(rng, float(np.clip(c, w / 2, 1 - w / 2)), w) for c, w in zip(centres, widths, strict=True)]
    order = rng.permutation(count)
    return render([identities[i] for i in order], [poses[i] for i in order], background, rng)


def relative(rng: np.random.Generator, identity: Identity, pool: list[Identity]) -> Identity:
    """Who else may stand in the picture: anyone, the same again, someone who differs in one attribute, or a chimera."""
    other, kind = random_identity(rng, pool), rng.random()
    if kind < 0.2:
        return identity
    if kind < 0.5:
        return neighbour(identity, rng)
    chimeras = [c[1] for c in (swap_accessories(identity, other), swap_bodies(identity, other)) if c[1].body != c[1].accessory_colour]
    return chimeras[rng.integers(len(chimeras))] if kind < 0.7 and chimeras else other


def stitched(rng: np.random.Generator, left: Scene, right: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Picture and labels of half a single scene beside half of another, each around its subject, as Cut-Mix makes them."""
    half = SIZE // 2
    images, labels = [], []
    for number, scene in enumerate((left, right), start=1):
        centre = round((scene.boxes[0][0] + scene.boxes[0][2]) / 2)
        start = int(np.clip(centre - half // 2 + rng.integers(-2, 3), 0, SIZE - half))
        images.append(scene.image[:, start : start + half])
        labels.append(scene.masks[0][:, start : start + half] * np.uint8(number))
    return np.concatenate(images, 1), np.concatenate(labels, 1)


def unnatural_background(rng: np.random.Generator) -> np.ndarray:
    """No place of the world, uint8 (48, 48, 3): halves of two, a mixture of two, a strange colour, or blotches."""
    first, second = (render([], [], str(p), rng).image.astype(float) for p in rng.choice(BACKGROUND_NAMES[:7], 2, replace=False))
    kind = rng.random()
    if kind < 0.55:
        seam = np.arange(SIZE) - rng.uniform(16, 32)
        share = np.clip(seam / rng.uniform(0.2, 4) + 0.5, 0, 1)[None, :, None]
    elif kind < 0.75:
        share = rng.uniform(0.4, 0.6)
    else:
        coarse = rng.uniform(0, 255, (rng.integers(3, 7),) * 2 + (3,)) if kind < 0.9 else rng.uniform(0, 255, (1, 1, 3))
        side = -(-SIZE // len(coarse))
        return coarse.repeat(side, 0).repeat(side, 1)[:SIZE, :SIZE].astype(np.uint8)
    return (first * (1 - share) + second * share).astype(np.uint8)


Lesson = tuple[np.ndarray, np.ndarray, int, tuple[Identity, ...], int]


def draw_lesson(rng: np.random.Generator, pool: list[Identity]) -> Lesson:
    """Picture, labels, count, the identities to read (left, right) and place of one hard scene."""
    background = str(rng.choice(BACKGROUNDS if rng.random() < 0.75 else BACKGROUND_NAMES[len(BACKGROUNDS) :]))
    first, kind = random_identity(rng, pool), rng.random()
    second = relative(rng, first, pool)
    if rng.random() < 0.5:
        first, second = second, first
    if kind < 0.18:
        places = rng.choice(BACKGROUND_NAMES[:7], 2, replace=False)
        image, labels = stitched(rng, *(single_scene(rng, i, str(p)) for i, p in zip((first, second), places, strict=True)))
        return image, labels, 2, (first, second), PLACE_NAMES.index(OTHER)
    if kind < 0.22:
        image = render([], [], background, rng).image
        return image, np.zeros((SIZE, SIZE), np.uint8), 0, (), place_of(background)
    if kind < 0.38:
        crowd = [first, second, *(relative(rng, first, pool) for _ in range(rng.integers(1, 3)))]
        scene, shown = crowd_scene(rng, crowd, background), ()
    elif kind < 0.46:
        scene, shown = single_scene(rng, first, background), (first,)
    else:
        place_pair = close_scene if kind < 0.76 else pair_scene
        scene, shown = place_pair(rng, first, second, background), (first, second)
    # Of a pixel that two subjects halve both masks say yes; it goes to the later one.
    labels = np.max([mask * np.uint8(n) for n, mask in enumerate(scene.masks, start=1)], axis=0)
    image, place = scene.image, place_of(background)
    if rng.random() < UNNATURAL_SHARE:
        image, place = np.where(labels[..., None] > 0, image, unnatural_background(rng)), PLACE_NAMES.index(OTHER)
    return image, labels, min(len(scene.masks), MOST), shown, place


def draw_lessons(count: int, seed: int, *, alike: bool = False) -> Lessons:
    """`count` hard scenes of training identities; with `alike` of those that are most easily taken for another class, LOOK_ALIKES
    in hats or bare. Relatives may be anyone next to them."""
    pool = split_identities()[0]
    if alike:
        pool = [i for i in pool if i.class_noun in LOOK_ALIKES and i.accessory != "scarf"]
    rng = np.random.default_rng((seed, int(alike)))
    images, labels = np.zeros((count, SIZE, SIZE, 3), np.uint8), np.zeros((count, SIZE, SIZE), np.uint8)
    traits = np.full((count, 2, len(CONFIG.attributes)), ABSENT, np.int64)
    counts, places = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for n in range(count):
        images[n], labels[n], counts[n], shown, places[n] = draw_lesson(rng, pool)
        for side, identity in enumerate(shown):
            traits[n, side] = traits_of(identity)
    return Lessons(images=images, labels=labels, counts=counts, traits=traits, places=places)


def stored_lessons(folder: Path, count: int, seed: int, *, alike: bool = False) -> Lessons:
    """`draw_lessons`, kept as .npy files in `folder` and memory-mapped."""
    stem = f"{'alike' if alike else 'lessons'}-{count}-{seed}"
    return stored(folder, stem, Lessons, partial(draw_lessons, count, seed, alike=alike))
