"""Rendered scenes in bulk: what the tiny models are trained and judged on, made from one seed."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from mudi.miniature.captions import name_table
from mudi.miniature.render import pair_scene, single_scene
from mudi.miniature.world import BACKGROUNDS, PLAIN_BACKGROUNDS, SIZE, Scene, all_identities, random_identity, split_identities

TRAINING_SCENES = 120_000
CHUNK = 500
SHARE_PAIRS = 0.62
SHARE_PLAIN = 0.3
SHARE_NAMED = 0.2
BACKGROUND_NAMES = (*BACKGROUNDS, *PLAIN_BACKGROUNDS)

Arrays = TypeVar("Arrays")


@dataclass(frozen=True)
class Corpus:
    """N scenes as arrays: images uint8 (N, 48, 48, 3); labels uint8 (N, 48, 48), 0 background, then
    1, 2 from left to right; identities int32 (N, 2) into `all_identities()`, -1 absent; backgrounds
    uint8 (N,) into BACKGROUNDS followed by PLAIN_BACKGROUNDS."""

    images: np.ndarray
    labels: np.ndarray
    identities: np.ndarray
    backgrounds: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def scene(self, index: int) -> Scene:
        """Scene `index` without masks and boxes: all that a caption needs."""
        present = tuple(all_identities()[i] for i in self.identities[index] if i >= 0)
        return Scene(image=self.images[index], masks=(), boxes=(), identities=present, background=BACKGROUND_NAMES[self.backgrounds[index]])


def draw_scene(rng: np.random.Generator, pool: list, named: list, pairs: float = SHARE_PAIRS) -> Scene:
    """A random scene: a share of `pairs`, 30 % on a plain background, every fifth subject a named character."""

    def subject():
        return named[rng.integers(len(named))] if named and rng.random() < SHARE_NAMED else random_identity(rng, pool)

    places = tuple(PLAIN_BACKGROUNDS) if rng.random() < SHARE_PLAIN else BACKGROUNDS
    background = places[rng.integers(len(places))]
    if rng.random() < pairs:
        return pair_scene(rng, subject(), subject(), background)
    return single_scene(rng, subject(), background)


def _render_chunk(seed: int, held_out: bool, pairs: float, chunk: int) -> Corpus:
    rng = np.random.default_rng((seed, int(held_out), chunk))
    train, held = split_identities()
    pool, named = (held, []) if held_out else (train, list(name_table(train)))
    index = {identity: i for i, identity in enumerate(all_identities())}
    images, labels = np.zeros((CHUNK, SIZE, SIZE, 3), np.uint8), np.zeros((CHUNK, SIZE, SIZE), np.uint8)
    identities, backgrounds = np.full((CHUNK, 2), -1, np.int32), np.zeros(CHUNK, np.uint8)
    for n in range(CHUNK):
        scene = draw_scene(rng, pool, named, pairs)
        images[n], backgrounds[n] = scene.image, BACKGROUND_NAMES.index(scene.background)
        for k, (identity, mask) in enumerate(zip(scene.identities, scene.masks, strict=True)):
            identities[n, k] = index[identity]
            labels[n][mask] = k + 1
    return Corpus(images, labels, identities, backgrounds)


def render_corpus(count: int, seed: int, *, held_out: bool = False, workers: int = 1, pairs: float = SHARE_PAIRS) -> Corpus:
    """`count` scenes (rounded up to chunks of 500), the same whatever the number of workers."""
    chunks = range(-(-count // CHUNK))
    make = partial(_render_chunk, seed, held_out, pairs)
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            parts = list(pool.map(make, chunks))
    else:
        parts = list(map(make, chunks))
    return Corpus(**{name: np.concatenate([vars(part)[name] for part in parts])[:count] for name in vars(parts[0])})


def stored(folder: Path, stem: str, kind: type[Arrays], make: Callable[[], Arrays]) -> Arrays:
    """The value of `kind`, a dataclass of arrays, that `make` makes; kept as .npy files in `folder` and memory-mapped."""
    paths = {of.name: folder / f"{stem}-{of.name}.npy" for of in fields(kind)}
    if not all(path.exists() for path in paths.values()):
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in vars(make()).items():
            np.save(paths[name], values)
    return kind(**{name: np.load(path, mmap_mode="r") for name, path in paths.items()})


def training_corpus(work: Path, seed: int = 0, workers: int = 1, pairs: float = SHARE_PAIRS) -> Corpus:
    """The scenes that every part is trained on, or scenes of another share of `pairs`, stored in `work`."""
    make = partial(render_corpus, TRAINING_SCENES, seed, workers=workers, pairs=pairs)
    return stored(work, f"train-{TRAINING_SCENES}-{seed}{_told(pairs)}", Corpus, make)


def latents_path(work: Path, pairs: float = SHARE_PAIRS) -> Path:
    """Where the latents of the training corpus of so many `pairs` lie."""
    return work / f"latents{_told(pairs)}.npy"


def _told(pairs: float) -> str:
    return "" if pairs == SHARE_PAIRS else f"-{pairs:g}-pairs"
