"""The rendered world: subjects of known identity on flat backgrounds, with exact masks and boxes.

A scene is 48 x 48 RGB. Every subject is an `Identity` (what stays the same between pictures of it)
drawn in a `Pose` (what changes). Shapes are large and flat on purpose: each attribute covers enough
pixels to survive a four-fold latent compression, so a tiny diffusion model can learn it faithfully.
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np

from mudi.records import Box

SIZE = 48
HELD_OUT = 0.1  # share of the identities

COLOURS = {
    "red": (214, 40, 40),
    "orange": (247, 140, 30),
    "yellow": (250, 218, 66),
    "green": (42, 150, 72),
    "blue": (44, 96, 224),
    "purple": (128, 56, 178),
    "pink": (250, 150, 192),
    "black": (38, 38, 44),
}
CLASSES = ("dog", "cat", "bear", "rabbit")
ACCESSORIES = ("none", "hat", "scarf")
BACKGROUNDS = ("grass", "beach", "snow", "night", "desert", "room")
PLAIN_BACKGROUNDS = {"white": (255, 255, 255), "gray": (150, 150, 150), "teal": (96, 188, 186)}


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What makes a subject itself; two subjects are the same exactly if all five fields agree."""

    class_noun: str
    body: str
    belly: str
    accessory: str
    accessory_colour: str | None


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where and how a subject stands: box centre and size in units of the image side."""

    centre_x: float
    base_y: float
    width: float
    height: float
    lean: float
    mirrored: bool


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A rendered picture with its ground truth.

    image: uint8 (48, 48, 3); masks: one bool (48, 48) a subject, visible pixels only; boxes:
    (x0, y0, x1, y1) in pixels around each mask, exclusive at the right and bottom.
    """

    image: np.ndarray
    masks: tuple[np.ndarray, ...]
    boxes: tuple[Box, ...]
    identities: tuple[Identity, ...]
    background: str


@cache
def all_identities() -> tuple[Identity, ...]:
    """Every identity of the world, in a fixed order."""
    worn = [("none", None), *product(ACCESSORIES[1:], COLOURS)]
    return tuple(
        Identity(class_noun=noun, body=body, belly=belly, accessory=kind, accessory_colour=colour)
        for noun, body, belly, (kind, colour) in product(CLASSES, COLOURS, COLOURS, worn)
        if colour != body
    )


def split_identities() -> tuple[list[Identity], list[Identity]]:
    """Training and held-out identities; the split is a fixed property of the world."""
    identities = all_identities()
    order = np.random.default_rng(20240404).permutation(len(identities))
    cut = round(HELD_OUT * len(identities))
    return [identities[i] for i in order[cut:]], [identities[i] for i in order[:cut]]


def random_identity(rng: np.random.Generator, pool: list[Identity]) -> Identity:
    """An identity of the pool, a third without accessory (uniform choice would give one in 15)."""
    bare = rng.random() < 1 / 3
    while True:
        identity = pool[rng.integers(len(pool))]
        if (identity.accessory == "none") == bare:
            return identity


def attribute_distance(a: Identity, b: Identity) -> float:
    """Weighted share of attributes that differ, in 0 (same) to 1 (nothing shared)."""
    accessory = 0.5 * (a.accessory != b.accessory) + 0.5 * (a.accessory_colour != b.accessory_colour)
    return 0.20 * (a.class_noun != b.class_noun) + 0.35 * (a.body != b.body) + 0.20 * (a.belly != b.belly) + 0.25 * accessory


def swap_accessories(a: Identity, b: Identity) -> tuple[Identity, Identity]:
    """The two chimeras in which each subject wears what belongs to the other."""
    return (
        replace(a, accessory=b.accessory, accessory_colour=b.accessory_colour),
        replace(b, accessory=a.accessory, accessory_colour=a.accessory_colour),
    )


def swap_bodies(a: Identity, b: Identity) -> tuple[Identity, Identity]:
    """The two chimeras in which the subjects have exchanged their body colours."""
    return replace(a, body=b.body), replace(b, body=a.body)


def parse_identity(words: str) -> Identity:
    """The identity written as "CLASS BODY BELLY [ACCESSORY COLOUR]", such as "dog pink blue scarf yellow"."""
    parts = words.split()
    fields = [*parts, "none", None] if len(parts) == 3 else parts
    names = ("class_noun", "body", "belly", "accessory", "accessory_colour")
    identity = Identity(**dict(zip(names, fields, strict=True))) if len(fields) == len(names) else None
    if identity not in all_identities():
        raise ValueError(
            f"subject {words!r}: expected CLASS BODY BELLY or CLASS BODY BELLY ACCESSORY COLOUR with class in {', '.join(CLASSES)}, "
            f"accessory hat or scarf, colours in {', '.join(COLOURS)}, and a worn colour other than the body's"
        )
    return identity
