"""Gates of the trained miniature: what its judges and its autoencoder must reach on subjects they never saw.

`python -m mudi.miniature.gates.judges` measures the weights that ship, through the loaders and functions that every run uses.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch

from mudi.backbone import Backbone
from mudi.detect import Detector, detect
from mudi.diffusion import to_pixels
from mudi.embed import Embedder, embed, square_crop
from mudi.metrics.detect_and_compare import linear_score, similarity_matrix
from mudi.miniature.render import pair_scene, single_scene
from mudi.miniature.world import (
    ACCESSORIES,
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    Identity,
    Scene,
    attribute_distance,
    random_identity,
    split_identities,
    swap_accessories,
    swap_bodies,
)  # fmt: skip
from mudi.model_facts import MINIATURE
from mudi.models import EMBEDDERS, load, load_detector, load_embedder, load_segmenter
from mudi.records import Box
from mudi.segment import segment
from mudi.user_files.mask_doubts import overlap

THRESHOLD = 0.4
PHOTOS = 5
ARRANGEMENTS = ("both right", "accessories swapped", "bodies swapped", "one twice")
Pair = tuple[Identity, Identity]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A measured value and the least value that passes; None for one that is only reported."""

    name: str
    value: float
    threshold: float | None = None

    @property
    def passed(self) -> bool:
        return self.threshold is None or self.value >= self.threshold

    def __str__(self) -> str:
        verdict = "" if self.threshold is None else f"  >= {self.threshold:.2f} {'passed' if self.passed else 'FAILED'}"
        return f"{self.name:<58}{self.value:7.3f}{verdict}"


def check(weights: Path) -> list[Gate]:
    """Every gate of the miniature in the folder `weights`, measured on held-out identities; about a minute on one core."""
    detector = load_detector(str(weights / "detector"))
    gates = check_autoencoder(load(str(weights)), np.random.default_rng(1))
    gates += check_detector(detector, np.random.default_rng(2))
    gates += check_segmenter(load_segmenter(str(weights / "sam")), np.random.default_rng(3))
    for kind in EMBEDDERS:
        embedder = load_embedder(kind, str(weights / kind))
        gates += check_identities(embedder, np.random.default_rng(4))
        gates += check_arrangements(embedder, detector, np.random.default_rng(5))
    return gates


def somewhere(rng: np.random.Generator) -> str:
    return BACKGROUNDS[rng.integers(len(BACKGROUNDS))]


def held_out_pairs(rng: np.random.Generator, count: int) -> list[Scene]:
    """Scenes of two held-out subjects."""
    pool = split_identities()[1]
    return [pair_scene(rng, random_identity(rng, pool), random_identity(rng, pool), somewhere(rng)) for _ in range(count)]


def check_autoencoder(backbone: Backbone, rng: np.random.Generator, count: int = 200) -> list[Gate]:
    """Peak signal-to-noise ratio in dB of reconstructions from posterior modes, from the mean squared error over all scenes."""
    pixels = to_pixels([s.image for s in held_out_pairs(rng, count)])
    with torch.no_grad():
        errors = [(backbone.vae(x.to(backbone.device)).sample.clamp(-1, 1).cpu() - x).square().mean() for x in pixels.split(50)]
    return [Gate(name="autoencoder: PSNR, dB", value=float(10 * torch.log10(4 / torch.stack(errors).mean())), threshold=30.0)]


def found(boxes: list[Box], truth: tuple[Box, ...]) -> int:
    """How many true boxes have a box of their own at IoU 0.5; each box serves once, best overlaps first."""
    shares = sorted(((overlap(b, t), i, j) for (i, b), (j, t) in product(enumerate(boxes), enumerate(truth))), reverse=True)
    used, matched = set(), set()
    for share, i, j in shares:
        if share >= 0.5 and i not in used and j not in matched:
            used.add(i)
            matched.add(j)
    return len(matched)


def check_detector(detector: Detector, rng: np.random.Generator, count: int = 400) -> list[Gate]:
    """Precision and recall on two-subject scenes asked for both class nouns, as the metric asks: no suppression."""
    scenes = held_out_pairs(rng, count)
    queries = [[i.class_noun for i in s.identities] for s in scenes]
    detections = detect(detector, [s.image for s in scenes], queries, THRESHOLD)
    boxes = [[d.box_xyxy for d in ds] for ds in detections]
    hits = np.array([found(b, s.boxes) for b, s in zip(boxes, scenes, strict=True)])
    counts = np.array([len(b) for b in boxes])
    alike = np.array([s.identities[0].class_noun == s.identities[1].class_noun for s in scenes])
    named = [
        identity.class_noun == d.query
        for scene, ds in zip(scenes, detections, strict=True)
        for identity, box in zip(scene.identities, scene.boxes, strict=True)
        for d in ds
        if overlap(d.box_xyxy, box) >= 0.5 and len({i.class_noun for i in scene.identities}) == 2
    ]
    absent = detect(detector, [s.image for s in scenes[:50]], [["lighthouse"]] * min(count, 50), THRESHOLD)
    return [
        Gate(name="detector: precision at IoU 0.5", value=hits.sum() / max(counts.sum(), 1), threshold=0.9),
        Gate(name="detector: recall at IoU 0.5", value=hits.sum() / (2 * count), threshold=0.9),
        Gate(name="detector: exactly two boxes", value=(counts == 2).mean(), threshold=0.85),
        Gate(name="detector: exactly two boxes, two of one class", value=(counts[alike] == 2).mean(), threshold=0.85),
        Gate(name="detector: boxes that carry the right of two classes", value=float(np.mean(named or [0]))),
        Gate(name="detector: scenes without an answer to 'lighthouse'", value=float(np.mean([not ds for ds in absent])), threshold=0.95),
    ]


def check_segmenter(segmenter, rng: np.random.Generator, count: int = 100) -> list[Gate]:
    """Mean IoU of masks from boxes whose every side is off by up to 5 % of the box."""
    overlaps = []
    for scene in held_out_pairs(rng, count):
        for box, mask in zip(scene.boxes, scene.masks, strict=True):
            extent = np.tile(np.subtract(box[2:], box[:2]), 2)
            loose = np.clip(box + rng.uniform(-0.05, 0.05, 4) * extent, 0, mask.shape[0])
            shown = segment(segmenter, scene.image, tuple(loose.tolist()))
            overlaps.append((shown & mask).sum() / (shown | mask).sum())
    return [Gate(name="segmenter: mask IoU", value=float(np.mean(overlaps)), threshold=0.9)]


def photos(embedder: Embedder, identity: Identity, rng: np.random.Generator) -> np.ndarray:
    """Embeddings (5, D) of whole pictures of one subject alone, as references are."""
    return embed(embedder, [single_scene(rng, identity, str(place)).image for place in rng.permutation(BACKGROUNDS)[:PHOTOS]]).numpy()


def neighbour(identity: Identity, rng: np.random.Generator) -> Identity:
    """Someone who differs in one attribute: class, body, belly, accessory or the accessory's colour."""

    def other(values, value, forbidden=()):
        return rng.choice([v for v in values if v != value and v not in forbidden])

    options = ["class_noun", "body", "belly", "accessory"] + ["accessory_colour"] * (identity.accessory != "none")
    field = rng.choice(options)
    if field == "class_noun":
        return replace(identity, class_noun=str(other(CLASSES, identity.class_noun)))
    if field == "accessory":
        kind = str(other(ACCESSORIES, identity.accessory))
        colour = identity.accessory_colour or str(other(COLOURS, identity.body))
        return replace(identity, accessory=kind, accessory_colour=None if kind == "none" else colour)
    clashing = {"body": (identity.accessory_colour,), "belly": (), "accessory_colour": (identity.body,)}[field]
    return replace(identity, **{field: str(other(COLOURS, getattr(identity, field), clashing))})


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The chance that a positive exceeds a negative, ties counted half."""
    difference = positive.ravel()[:, None] - negative.ravel()[None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def check_identities(embedder: Embedder, rng: np.random.Generator, count: int = 60) -> list[Gate]:
    """How well the mean cosine of a crop to five whole pictures tells the same subject from others and from neighbours."""
    pool = split_identities()[1]
    people = [random_identity(rng, pool) for _ in range(count)]
    scenes = [pair_scene(rng, person, random_identity(rng, pool), somewhere(rng)) for person in people for _ in range(2)]
    crops = embed(embedder, [square_crop(s.image, s.boxes[0]) for s in scenes]).numpy()
    own_index = np.arange(2 * count) // 2
    to_people = similarity_matrix(crops, [photos(embedder, p, rng) for p in people])
    to_neighbours = similarity_matrix(crops, [photos(embedder, neighbour(p, rng), rng) for p in people])
    same = to_people[np.arange(2 * count), own_index]
    strange = np.array([[a != b for b in people] for a in people])[own_index]
    near = to_neighbours[np.arange(2 * count), own_index]
    return [
        Gate(name=f"{embedder.kind}: AUROC, same against others", value=auroc(same, to_people[strange]), threshold=0.97),
        Gate(name=f"{embedder.kind}: AUROC, same against one attribute changed", value=auroc(same, near)),
    ]


def swappable_pairs(rng: np.random.Generator, count: int, wanted: Callable[[Identity, Identity, int], bool]) -> list[Pair]:
    """Pairs of held-out identities whose body swap hides no accessory, each `wanted` for its place in the list."""
    pool, pairs = split_identities()[1], []
    while len(pairs) < count:
        a, b = random_identity(rng, pool), random_identity(rng, pool)
        if all(i.body != i.accessory_colour for i in swap_bodies(a, b)) and wanted(a, b, len(pairs)):
            pairs.append((a, b))
    return pairs


def different_pairs(rng: np.random.Generator, count: int) -> list[Pair]:
    """Pairs of held-out identities that share nothing and whose body swap hides no accessory."""
    return swappable_pairs(rng, count, lambda a, b, _: attribute_distance(a, b) == 1)


def check_arrangements(embedder: Embedder, detector: Detector, rng: np.random.Generator, count: int = 40) -> list[Gate]:
    """Graded similarity, and the mean Detect-and-Compare score of rendered pairs with boxes from the detector."""
    scores: dict[str, list[float]] = {name: [] for name in ARRANGEMENTS}
    cosines: dict[str, list[float]] = {name: [] for name in (*ARRANGEMENTS[:3], "strangers")}
    for a, b in different_pairs(rng, count):
        references = [photos(embedder, a, rng), photos(embedder, b, rng)]
        for name, shown in zip(ARRANGEMENTS, ((a, b), swap_accessories(a, b), swap_bodies(a, b), (a, a)), strict=True):
            scene = pair_scene(rng, *shown, somewhere(rng))
            true_crops = [square_crop(scene.image, box) for box in scene.boxes]
            similarity = similarity_matrix(embed(embedder, true_crops).numpy(), references)
            if name in cosines:
                cosines[name].append(similarity.diagonal().mean())
            if name == "both right":
                cosines["strangers"].append(similarity[::-1].diagonal().mean())
            boxes = detect(detector, [scene.image], [[a.class_noun, b.class_noun]], THRESHOLD)[0]
            crops = [square_crop(scene.image, d.box_xyxy) for d in boxes]
            scores[name].append(linear_score(similarity_matrix(embed(embedder, crops).numpy(), references)))
    kind = embedder.kind
    cosine, score = ({name: float(np.mean(v)) for name, v in table.items()} for table in (cosines, scores))
    right, swapped = cosine["both right"], max(cosine["accessories swapped"], cosine["bodies swapped"])
    least_swapped = min(cosine["accessories swapped"], cosine["bodies swapped"])
    return [
        *(Gate(name=f"{kind}: cosine to own photos, {name}", value=value) for name, value in cosine.items()),
        Gate(name=f"{kind}: cosine, right above a swap by", value=right - swapped, threshold=0.1),
        Gate(name=f"{kind}: cosine, a swap above strangers by", value=least_swapped - cosine["strangers"], threshold=0.1),
        *(Gate(name=f"{kind}: Detect-and-Compare, {name}", value=value) for name, value in score.items()),
        Gate(
            name=f"{kind}: D&C, right above accessories swapped by", value=score["both right"] - score["accessories swapped"], threshold=0.2
        ),
        Gate(name=f"{kind}: D&C, accessories above bodies swapped by", value=score["accessories swapped"] - score["bodies swapped"]),
        Gate(name=f"{kind}: D&C, right above one twice by", value=score["both right"] - score["one twice"], threshold=0.8),
    ]


if __name__ == "__main__":
    for gate in check(MINIATURE):
        print(gate)
