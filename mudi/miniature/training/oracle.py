"""Training the oracle on the renderer's truth, in the softness and drift of generated pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mudi.miniature.corpus import BACKGROUND_NAMES, Corpus, training_corpus
from mudi.miniature.training.judge_data import flawed, floats
from mudi.miniature.training.optimise import averaged, optimise
from mudi.miniature.training.oracle_scenes import ABSENT, CONFIG, Lessons, place_of, stored_lessons, traits_of_corpus
from mudi.oracle import OracleNetwork

LESSONS, ALIKE = 60_000, 20_000
SHARE_LESSONS, SHARE_ALIKE = 0.6, 0.35
SHARE_TINTED, TINT = 0.3, 0.2
SHARE_WARPED, WARP = 0.5, 1.0  # pixels, standard deviation at the most
LEARNING_RATE, SECOND_LEARNING_RATE = 2e-3, 1e-3
CLASS_WEIGHT = 3.0  # of the second sitting; after the first, nine of ten misread subjects are of the wrong class only


def as_lessons(corpus: Corpus, rows: np.ndarray) -> Lessons:
    """Rows of the corpus with the truth that the oracle is asked for."""
    identities = np.asarray(corpus.identities[rows])
    places = np.array([place_of(name) for name in BACKGROUND_NAMES])[corpus.backgrounds[rows]]
    counts, traits = (identities >= 0).sum(1), traits_of_corpus(identities)
    return Lessons(images=corpus.images[rows], labels=corpus.labels[rows], counts=counts, traits=traits, places=places)


def batch_of(corpus: Corpus, lessons: Sequence[tuple[Lessons, float]], size: int, rng: np.random.Generator) -> Lessons:
    """`size` pictures: of each of the `lessons` its share, the rest from the corpus."""
    hard = [round(share * size) for _, share in lessons]
    parts = [vars(as_lessons(corpus, np.sort(rng.integers(len(corpus), size=size - sum(hard)))))]
    for (source, _), count in zip(lessons, hard, strict=True):
        rows = np.sort(rng.integers(len(source.images), size=count))
        parts.append({name: values[rows] for name, values in vars(source).items()})
    return Lessons(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def tinted(images: torch.Tensor, labels: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    """`images` (N, 3, H, W) in which some subjects of `labels` (N, H, W) lean towards a random colour."""
    for number in (1, 2):
        share = TINT * torch.rand(len(images), 1, 1, 1, generator=noise)
        share = share * (torch.rand(share.shape, generator=noise) < SHARE_TINTED) * (labels == number).unsqueeze(1)
        images = torch.lerp(images, torch.rand(len(images), 3, 1, 1, generator=noise).expand_as(images), share.expand_as(images))
    return images


def warped(images: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    """`images` (N, 3, H, W), some of them bent smoothly: a generated outline is never the renderer's."""
    count, _, height, width = images.shape
    strength = WARP * torch.rand(count, 1, 1, 1, generator=noise) * (torch.rand(count, 1, 1, 1, generator=noise) < SHARE_WARPED)
    shifts = F.interpolate(torch.randn(count, 2, 5, 5, generator=noise) * strength, size=(height, width), mode="bicubic")
    grid = F.affine_grid(torch.eye(2, 3).expand(count, 2, 3), list(images.shape), align_corners=False)
    grid = grid + shifts.permute(0, 2, 3, 1) * (2 / width)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def oracle_loss(
    outputs: tuple[torch.Tensor, ...], counts: torch.Tensor, traits: torch.Tensor, places: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Cross-entropies of the count, of each attribute of the subjects asked for, and of the place.

    traits: long (B, 2, 5), ABSENT where nobody is asked. No label smoothing: probabilities are to be read as such.
    """
    count, subjects, place = (x.float() for x in outputs)
    terms = {"count": F.cross_entropy(count, counts), "place": F.cross_entropy(place, places)}
    asked = traits[..., 0] != ABSENT
    parts = subjects[asked].split([len(v) for v in CONFIG.attributes.values()], 1)
    right = torch.ones(int(asked.sum()), dtype=torch.bool)
    for index, (name, part) in enumerate(zip(CONFIG.attributes, parts, strict=True)):
        wanted = traits[asked][:, index]
        terms[name] = F.cross_entropy(part, wanted)
        right &= part.detach().argmax(1) == wanted
    terms["_all"] = right.float().mean()
    return terms


def train_oracle(work: Path, steps: int, batch: int, seed: int) -> None:
    """Fit the network on the corpus and on harder scenes."""
    lessons = [(stored_lessons(work, LESSONS, seed), SHARE_LESSONS)]
    _train(work, "oracle", OracleNetwork(CONFIG), lessons, steps, batch, seed, LEARNING_RATE)


def sharpen_oracle(work: Path, steps: int, batch: int, seed: int) -> None:
    """A second sitting from the averaged weights of `train_oracle` of the seed before, with look-alikes and the class in front."""
    model = OracleNetwork(CONFIG)
    model.load_state_dict(averaged(work, "oracle"))
    rest = SHARE_LESSONS - SHARE_ALIKE
    lessons = [(stored_lessons(work, LESSONS, seed - 1), rest), (stored_lessons(work, ALIKE, seed, alike=True), SHARE_ALIKE)]
    _train(work, "oracle_sharp", model, lessons, steps, batch, seed, SECOND_LEARNING_RATE, CLASS_WEIGHT)


def _train(
    work: Path, name: str, model: OracleNetwork, lessons: Sequence[tuple[Lessons, float]], steps: int, batch: int, seed: int,
    learning_rate: float, class_weight: float = 1.0,
) -> None:  # fmt: skip
    """The loop of both sittings; bfloat16 convolutions take two thirds of the time on a CPU that has them."""
    corpus = training_corpus(work)

    def loss(rng: np.random.Generator, noise: torch.Generator) -> dict[str, torch.Tensor]:
        drawn = batch_of(corpus, lessons, batch, rng)
        images = flawed(warped(tinted(floats(drawn.images), torch.from_numpy(drawn.labels), noise), noise), noise)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(images)
        terms = oracle_loss(outputs, *(torch.from_numpy(x) for x in (drawn.counts, drawn.traits, drawn.places)))
        return terms | {"class_noun": class_weight * terms["class_noun"]}

    optimise(name, model, loss, steps=steps, learning_rate=learning_rate, work=work, seed=seed)
