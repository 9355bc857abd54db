"""The oracle: what a picture of rendered subjects shows, read by a network that learnt from the renderer's truth.

It is no metric of the paper. Detect-and-Compare judges by similarity; the oracle knows every attribute that a subject
of the miniature can have, and so says whether a metric is right. Its vocabularies come with its weights.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mudi.checkpoints.weights_folder import CONFIG, read_config, read_weights, write_model
from mudi.model_facts import PAIR

ATTENTIONS = 4  # maps a side: ears, belly, neck and body lie apart
SIDES = 2
BATCH = 64
WORN, COLOUR_OF_WORN, BARE = "accessory", "accessory_colour", "none"


@dataclass(frozen=True, kw_only=True)
class OracleConfig:
    """Sizes and vocabularies. image_size: pixels a side; widths: channels at 1/2, 1/4 and 1/8 of it; attributes: name ->
    values, in the order of the outputs; places: name -> the words by which a prompt asks for it, empty for what nobody
    asks for; counts: classes from 0, the last one meaning "or more"."""

    image_size: int
    widths: tuple[int, int, int]
    counts: int
    attributes: dict[str, tuple[str, ...]]
    places: dict[str, tuple[str, ...]]


class Block(nn.Module):
    """Two 3 x 3 convolutions beside the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(F.silu(self.norms[1](self.first(F.silu(self.norms[0](x))))))


class OracleNetwork(nn.Module):
    """Convolutions over the whole picture; each side's subject is read where learned attention finds it."""

    def __init__(self, config: OracleConfig):
        super().__init__()
        fine, middle, coarse = config.widths
        self.config = config
        self.stem = nn.Conv2d(12, fine, 3, padding=1)
        self.fine = nn.Sequential(Block(fine), nn.Conv2d(fine, middle, 3, stride=2, padding=1))
        self.middle = nn.Sequential(Block(middle), Block(middle))
        self.coarse = nn.Sequential(nn.Conv2d(middle, coarse, 3, stride=2, padding=1), Block(coarse))
        self.back = nn.Conv2d(coarse, middle, 1)
        self.joined = nn.Sequential(Block(middle), nn.GroupNorm(8, middle), nn.SiLU())
        self.attention = nn.Conv2d(middle, SIDES * ATTENTIONS, 1)
        values = sum(len(v) for v in config.attributes.values())
        self.subject = nn.Sequential(nn.Linear(ATTENTIONS * middle, 128), nn.SiLU(), nn.Linear(128, values))
        whole = 2 * coarse
        self.count = nn.Sequential(nn.Linear(whole, 64), nn.SiLU(), nn.Linear(64, config.counts))
        self.place = nn.Sequential(nn.Linear(whole, 64), nn.SiLU(), nn.Linear(64, len(config.places)))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits of the count (B, K), of both sides' attribute values (B, 2, V) and of the place (B, P); images (B, 3, H, W) in 0..1."""
        x = self.middle(self.fine(self.stem(F.pixel_unshuffle(2 * images - 1, 2))))
        low = self.coarse(x)
        x = self.joined(x + F.interpolate(self.back(low), size=x.shape[-2:], mode="nearest"))
        weights = self.attention(x).flatten(2).softmax(2)
        seen = weights @ x.flatten(2).transpose(1, 2)
        subjects = self.subject(seen.unflatten(1, (SIDES, ATTENTIONS)).flatten(2))
        whole = torch.cat([low.mean((2, 3)), low.amax((2, 3))], 1)
        return self.count(whole), subjects, self.place(whole)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the network reads in one picture, as probabilities. count: of 0, 1, ... subjects, the last one "or more";
    subjects: of the left and of the right one, attribute -> value -> probability, without meaning unless there are two;
    place: name -> probability."""

    count: tuple[float, ...]
    subjects: tuple[Mapping[str, Mapping[str, float]], Mapping[str, Mapping[str, float]]]
    place: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """The network on its device; `name` is what it was asked for by."""

    name: str
    network: OracleNetwork
    device: torch.device

    @property
    def config(self) -> OracleConfig:
        """The vocabularies that came with the weights."""
        return self.network.config


def load_oracle(folder: Path, device: str | torch.device = "cpu", name: str = "") -> Oracle:
    """The oracle of a folder that `save_oracle` wrote, in float32; ValueError if the folder does not hold one."""
    settings = read_config(folder)
    try:
        vocabularies = {key: {k: tuple(v) for k, v in settings[key].items()} for key in ("attributes", "places")}
        config = OracleConfig(**settings | vocabularies | {"widths": tuple(settings["widths"])})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG} does not describe an oracle ({error}); write the folder with save_oracle") from error
    network = read_weights(folder, OracleNetwork(config)).to(device).eval().requires_grad_(False)
    return Oracle(name=name or str(folder), network=network, device=torch.device(device))


def save_oracle(folder: Path, network: OracleNetwork, dtype: torch.dtype | None = None) -> None:
    """Writes config.json and model.safetensors, the weights in `dtype` if one is given."""
    write_model(folder, asdict(network.config), network, dtype)


@torch.no_grad()
def judge(oracle: Oracle, images: Sequence[np.ndarray]) -> list[Reading]:
    """One reading a picture uint8 (H, W, 3); pictures of another size are resized to the network's."""
    readings: list[Reading] = []
    for start in range(0, len(images), BATCH):
        pixels = torch.stack([_pixels(image, oracle.config.image_size) for image in images[start : start + BATCH]])
        outputs = oracle.network(pixels.to(oracle.device))
        counts, subjects, places = (x.double().cpu() for x in outputs)
        readings += [_reading(oracle.config, *row) for row in zip(counts.softmax(1), subjects, places.softmax(1), strict=True)]
    return readings


def _pixels(image: np.ndarray, side: int) -> torch.Tensor:
    """Float (3, side, side) in 0..1."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    if pixels.shape[1:] == (side, side):
        return pixels
    return F.interpolate(pixels[None], size=(side, side), mode="bilinear", antialias=True, align_corners=False)[0].clamp(0, 1)


def _reading(config: OracleConfig, count: torch.Tensor, subjects: torch.Tensor, place: torch.Tensor) -> Reading:
    lengths = [len(values) for values in config.attributes.values()]
    left, right = (
        {
            name: dict(zip(values, part.softmax(0).tolist(), strict=True))
            for (name, values), part in zip(config.attributes.items(), side.split(lengths), strict=True)
        }
        for side in subjects
    )
    return Reading(count=tuple(count.tolist()), subjects=(left, right), place=dict(zip(config.places, place.tolist(), strict=True)))


def read_traits(words: str, attributes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Attribute -> value of a subject described by one word an attribute, in their order; what it does not wear is left
    out, as in "dog pink blue" beside "dog pink blue scarf yellow". ValueError if a word is in no such vocabulary."""
    parts = words.split()
    given = [*parts, *[BARE] * (len(attributes) - len(parts))]
    known = len(given) == len(attributes) and all(v in values for v, values in zip(given, attributes.values(), strict=True))
    traits = dict(zip(attributes, given, strict=True)) if known else {}
    if not traits or (traits[WORN] == BARE) != (traits[COLOUR_OF_WORN] == BARE):
        allowed = "; ".join(f"{name} {', '.join(values)}" for name, values in attributes.items())
        raise ValueError(f"subject {words!r}: give one word an attribute, in this order: {allowed}; leave out what it does not wear")
    return traits


def asked_place(text: str, places: Mapping[str, Sequence[str]]) -> str | None:
    """The place that a prompt asks for by one of its words, None if it names none of them or several."""
    asked = {name for name, phrases in places.items() for phrase in phrases if re.search(rf"\b{re.escape(phrase)}\b", text.lower())}
    return asked.pop() if len(asked) == 1 else None


def verdict(reading: Reading, identities: Sequence[Mapping[str, str]], place: str | None) -> dict:
    """Whether the picture shows just these two subjects, how surely each attribute is right, and whether the place is.

    identities: attribute -> true value of both subjects, as `read_traits` gives them. `success` is 1.0 if two subjects
    are read and, in one of the two orders, every attribute by its most probable value, else 0.0; of a subject that wears
    nothing the colour of what it wears is not asked. `identity` is the mean probability of the true values in the better
    order, 0..1, and 0.0 with a `reason` if another number of subjects is read. `place` is 1.0 if the most probable place
    is the one asked for, else 0.0, and None if none is. Also `count` and what is read of both `subjects` and the `scene`.
    Raises ValueError unless there are two identities, each with the reading's attributes.
    """
    if len(identities) != PAIR:
        raise ValueError(f"the oracle reads pairs and was given {len(identities)} subjects; leave it out of runs with other numbers")
    for truth in identities:
        if truth.keys() != reading.subjects[0].keys():
            raise ValueError(f"identity {dict(truth)} must have the attributes {', '.join(reading.subjects[0])}; make it with read_traits")
    if place is not None and place not in reading.place:
        raise ValueError(f"place {place!r} is unknown to the oracle; known are {', '.join(reading.place)}")
    count = int(np.argmax(reading.count))
    scene = max(reading.place, key=reading.place.__getitem__)
    answer = {
        "place": None if place is None else float(scene == place),
        "count": count,
        "scene": scene,
        "subjects": [{name: max(values, key=values.__getitem__) for name, values in side.items()} for side in reading.subjects],
    }
    if count != PAIR:
        return answer | {"success": 0.0, "identity": 0.0, "reason": f"{count} subjects read, {PAIR} expected"}
    orders = (tuple(identities), tuple(identities)[::-1])
    right = any(all(_shows(read, truth) for read, truth in zip(answer["subjects"], order, strict=True)) for order in orders)
    return answer | {"success": float(right), "identity": max(_sureness(reading, order) for order in orders)}


def _shows(read: Mapping[str, str], truth: Mapping[str, str]) -> bool:
    """Whether every attribute is right; the colour of an accessory that is not there is not asked."""
    return all(read[name] == value for name, value in truth.items() if not (name == COLOUR_OF_WORN and truth[WORN] == BARE))


def _sureness(reading: Reading, order: Sequence[Mapping[str, str]]) -> float:
    """Mean probability of the true values, the left subject against the first identity and the right against the second."""
    values = [side[name][value] for side, truth in zip(reading.subjects, order, strict=True) for name, value in truth.items()]
    return float(np.mean(values))
