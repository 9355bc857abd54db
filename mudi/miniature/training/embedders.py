"""Training the two tiny embedders: the cosine of two pictures tells in how many attributes their subjects differ.

Contrastive training would push every other identity to the same far distance, and Detect-and-Compare
could then not tell a chimera from a stranger. Here the cosine is regressed on the attribute distance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.functional import normalize
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from mudi.embed import square_crop
from mudi.miniature import architectures
from mudi.miniature.corpus import Corpus, training_corpus
from mudi.miniature.training.judge_data import boxes_of, flawed, floats
from mudi.miniature.training.optimise import optimise
from mudi.miniature.training.oracle_scenes import traits_of
from mudi.miniature.world import SIZE, all_identities

# The expected `attribute_distance` of two subjects whose attributes are drawn evenly and apart:
# 0.2 * 3/4 + 0.35 * 7/8 + 0.2 * 7/8 + 0.125 * 2/3 + 0.125 * 8/9.
DISTANCE_OF_STRANGERS = 0.826
WEIGHTS = np.array([0.20, 0.35, 0.20, 0.125, 0.125], np.float32)
SHARE_WHOLE = 0.45
JITTER = 0.08


def attribute_codes() -> np.ndarray:
    """uint8 (identities, 5): class, body, belly, accessory and its colour as indices, in the order of WEIGHTS."""
    return np.array([*map(traits_of, all_identities())], np.uint8)


def target_cosines(codes: np.ndarray) -> np.ndarray:
    """The wanted cosines float32 (N, N) of subjects with attribute codes (N, 5): 1 - distance / 0.826.

    1 for the same identity, 0 on average for strangers. One minus the distance is a weighted sum of
    agreements, so this is a positive semidefinite kernel of rank 27: unit vectors with exactly these
    cosines exist, which is not so for clipped or steeper curves.
    """
    differs = codes[:, None] != codes[None]
    return 1 - differs @ WEIGHTS / DISTANCE_OF_STRANGERS


@dataclass(frozen=True, kw_only=True)
class Appearances:
    """Where each identity appears in a corpus.

    rows, sides, identities: int (A,), the scene, label and identity of every subject.
    of_identity: the appearances of an identity; alone_of_identity: those with nobody else.
    neighbours: for each identity one array for each of class, body, belly and accessory (if not empty), of
    those who differ from it in this alone.
    """

    rows: np.ndarray
    sides: np.ndarray
    identities: np.ndarray
    of_identity: dict[int, np.ndarray]
    alone_of_identity: dict[int, np.ndarray]
    neighbours: dict[int, list[np.ndarray]]


def _grouped(keys: np.ndarray, values: np.ndarray) -> dict[int, np.ndarray]:
    order = np.argsort(keys, kind="stable")
    found, starts = np.unique(keys[order], return_index=True)
    return dict(zip(found.tolist(), np.split(values[order], starts[1:]), strict=True))


def appearances(corpus: Corpus) -> Appearances:
    """The index of `corpus`."""
    rows, sides = np.nonzero(corpus.identities >= 0)
    identities = corpus.identities[rows, sides]
    alone = corpus.identities[rows, 1] < 0
    everyone = np.arange(len(rows))
    of_identity = _grouped(identities, everyone)
    present = np.array(list(of_identity))
    codes = attribute_codes()[present]
    # An accessory and its colour count as one attribute: taking a hat off changes both.
    differs = codes[:, None] != codes[None]
    differs = np.concatenate([differs[..., :3], differs[..., 3:].any(-1, keepdims=True)], -1)
    only_one = differs & (differs.sum(-1, keepdims=True) == 1)
    neighbours = {
        int(identity): [present[only_one[i, :, a]] for a in range(4) if only_one[i, :, a].any()] for i, identity in enumerate(present)
    }
    alone_of_identity = _grouped(identities[alone], everyone[alone])
    return Appearances(
        rows=rows, sides=sides, identities=identities, of_identity=of_identity, alone_of_identity=alone_of_identity, neighbours=neighbours
    )


def draw_family(index: Appearances, rng: np.random.Generator) -> list[int]:
    """Four identities: someone twice, and twice a neighbour who differs in one attribute."""
    someone = int(index.identities[rng.integers(len(index.identities))])
    kinds = index.neighbours[someone]
    of_kind = kinds[rng.integers(len(kinds))]
    neighbour = int(of_kind[rng.integers(len(of_kind))])
    return [someone, someone, neighbour, neighbour]


def draw_view(corpus: Corpus, index: Appearances, identity: int, rng: np.random.Generator) -> np.ndarray:
    """One picture of `identity`, uint8 (48, 48, 3): a whole picture of it alone, as references are, or a
    square crop around its jittered box, as generated pictures are compared; a neighbour may intrude."""
    whole = rng.random() < SHARE_WHOLE and identity in index.alone_of_identity
    pool = (index.alone_of_identity if whole else index.of_identity)[identity]
    appearance = pool[rng.integers(len(pool))]
    row, side = index.rows[appearance], index.sides[appearance]
    image = corpus.images[row]
    if whole:
        return image
    box = boxes_of(corpus.labels[row : row + 1])[0][0, side]
    extent = np.tile(box[2:] - box[:2], 2)
    jittered = np.clip(box + rng.uniform(-JITTER, JITTER, 4) * extent, 0, SIZE)
    crop = Image.fromarray(square_crop(image, tuple(jittered.tolist())))
    return np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def graded_loss(embeddings: torch.Tensor, identities: np.ndarray, codes: np.ndarray) -> dict[str, torch.Tensor]:
    """Squared errors of the cosines of unit vectors (N, D), averaged apart over pairs of the same
    identity, pairs of one family and strangers, because strangers outnumber the others a hundredfold."""
    error = (embeddings @ embeddings.T - torch.from_numpy(target_cosines(codes[identities]))).square()
    family = np.arange(len(identities)) // 4
    related = family[:, None] == family[None]
    same = identities[:, None] == identities[None]
    other = ~np.eye(len(identities), dtype=bool)
    groups = {"same": same & other, "neighbours": related & ~same, "strangers": ~related & ~same}
    return {name: error[torch.from_numpy(pairs)].mean() for name, pairs in groups.items()}


def train_embedder(
    name: str, model: nn.Module, embed: Callable[[torch.Tensor], torch.Tensor], *,
    flaws: float, work: Path, steps: int, batch: int, seed: int,
) -> None:  # fmt: skip
    """Fit `embed`, a function of normalised pixels that uses `model`, to the graded cosines."""
    corpus, codes = training_corpus(work), attribute_codes()
    index = appearances(corpus)

    def loss(rng: np.random.Generator, noise: torch.Generator) -> dict[str, torch.Tensor]:
        identities = np.array([i for _ in range(batch // 4) for i in draw_family(index, rng)])
        views = np.stack([draw_view(corpus, index, i, rng) for i in identities])
        images = normalize(flawed(floats(views), noise, flaws), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        return graded_loss(embed(images), identities, codes)

    optimise(name, model, loss, steps=steps, learning_rate=1e-3, work=work, seed=seed)


def train_dinov2(work: Path, steps: int, batch: int, seed: int) -> None:
    """Fit the tiny DINOv2 as Detect-and-Compare uses it: the mean of all tokens after the final norm."""
    model = architectures.dinov2()

    def embed(pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(model(pixels).last_hidden_state.mean(1), dim=-1)

    train_embedder("dinov2", model, embed, flaws=0.6, work=work, steps=steps, batch=batch, seed=seed)


def train_dreamsim(work: Path, steps: int, batch: int, seed: int) -> None:
    """Fit the trunk as DreamSim uses it: the class token before the final norm, less its mean over features."""
    trunk = architectures.dreamsim().trunks[0].vit

    def embed(pixels: torch.Tensor) -> torch.Tensor:
        tokens = trunk.prepare_tokens(pixels)
        for block in trunk.blocks:
            tokens = block(tokens)
        feature = tokens[:, 0]
        return nn.functional.normalize(feature - feature.mean(-1, keepdim=True), dim=-1)

    train_embedder("dreamsim", trunk, embed, flaws=1.0, work=work, steps=steps, batch=batch, seed=seed)
