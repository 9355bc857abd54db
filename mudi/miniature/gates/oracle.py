"""What the oracle accepts: right pairs almost always, wrong ones almost never, also when an autoencoder has softened them.

`python -m mudi.miniature.gates.oracle` measures the weights that ship on scenes of subjects that no training showed.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mudi.diffusion import decode, encode
from mudi.miniature.corpus import BACKGROUND_NAMES
from mudi.miniature.gates.judges import Gate, Pair, neighbour, swappable_pairs
from mudi.miniature.references import describe_identity
from mudi.miniature.render import pair_scene, single_scene
from mudi.miniature.training.oracle_scenes import OTHER, PLACE_NAMES, close_scene, crowd_scene, place_of, stitched
from mudi.miniature.world import BACKGROUNDS, Identity, Scene, random_identity, split_identities, swap_accessories, swap_bodies
from mudi.model_facts import MINIATURE
from mudi.models import load
from mudi.oracle import Oracle, judge, load_oracle, read_traits, verdict

COUNT = 300
# What is shown, and the least share that must be told rightly; close pairs hide attributes, so they are only reported.
REJECTED = {
    "first twice": 0.95,
    "second twice": 0.95,
    "accessories swapped": 0.95,
    "bodies swapped": 0.95,
    "one attribute changed": 0.85,
    "one missing": 0.95,
    "three subjects": 0.95,
}
Soften = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


def alike_pairs(rng: np.random.Generator, count: int) -> list[Pair]:
    """Held-out pairs of any classes, half of them of one, that differ in body, belly and what they wear; swapped bodies
    hide no accessory."""

    def wanted(a: Identity, b: Identity, index: int) -> bool:
        worn_apart = (a.accessory, a.accessory_colour) != (b.accessory, b.accessory_colour)
        return (a.class_noun == b.class_noun) == (index % 2 == 0) and worn_apart and a.body != b.body and a.belly != b.belly

    return swappable_pairs(rng, count, wanted)


def shown(rng: np.random.Generator, kind: str, a: Identity, b: Identity, place: str) -> Scene:
    """A scene of the pair (a, b) gone wrong in the way that `kind` names, or right."""
    if kind == "one missing":
        return single_scene(rng, (a, b)[rng.integers(2)], place)
    if kind == "three subjects":
        return crowd_scene(rng, [a, b, random_identity(rng, split_identities()[1])], place)
    subjects = {
        "first twice": (a, a),
        "second twice": (b, b),
        "accessories swapped": swap_accessories(a, b),
        "bodies swapped": swap_bodies(a, b),
        "one attribute changed": (neighbour(a, rng), b),
    }.get(kind, (a, b))
    if rng.random() < 0.5:
        subjects = subjects[::-1]
    return (close_scene if kind == "right, close together" else pair_scene)(rng, *subjects, place)


def traits(oracle: Oracle, identity: Identity) -> dict[str, str]:
    """The identity in the oracle's own vocabularies."""
    return read_traits(describe_identity(identity), oracle.config.attributes)


def check_verdicts(oracle: Oracle, soften: Soften, label: str, rng: np.random.Generator, count: int) -> list[Gate]:
    """How often right pairs are accepted and each kind of wrong picture is rejected."""
    gates = []
    for kind in ("right", "right, close together", *REJECTED):
        pairs = alike_pairs(rng, count)
        scenes = [shown(rng, kind, a, b, str(rng.choice(BACKGROUND_NAMES))) for a, b in pairs]
        readings = judge(oracle, soften([s.image for s in scenes]))
        answers = [verdict(r, [traits(oracle, i) for i in pair], None) for r, pair in zip(readings, pairs, strict=True)]
        success, identity = (float(np.mean([answer[key] for answer in answers])) for key in ("success", "identity"))
        if kind in REJECTED:
            gates.append(Gate(name=f"oracle, {label}: rejected, {kind}", value=1 - success, threshold=REJECTED[kind]))
        else:
            gates.append(Gate(name=f"oracle, {label}: accepted, {kind}", value=success, threshold=0.9 if kind == "right" else None))
        gates.append(Gate(name=f"oracle, {label}: mean identity, {kind}", value=identity))
    return gates


def check_reading(oracle: Oracle, soften: Soften, label: str, rng: np.random.Generator, count: int) -> list[Gate]:
    """How often each attribute and the place of a right pair are read rightly, how much surer than right the network is,
    and how often halves of two places are recognised. Attributes are only reported: the gate is on whole pairs."""
    pairs = alike_pairs(rng, count)
    scenes = [pair_scene(rng, a, b, str(rng.choice(BACKGROUND_NAMES))) for a, b in pairs]
    readings = judge(oracle, soften([s.image for s in scenes]))
    gates, overconfidence = [], []
    for name in oracle.config.attributes:
        probabilities = [side[name] for r in readings for side in r.subjects]
        truth = [traits(oracle, identity)[name] for pair in pairs for identity in pair]
        right = float(np.mean([most_probable(p) == value for p, value in zip(probabilities, truth, strict=True)]))
        overconfidence.append(float(np.mean([max(p.values()) for p in probabilities])) - right)
        gates.append(Gate(name=f"oracle, {label}: read rightly, {name}", value=right))
    places = [most_probable(r.place) == PLACE_NAMES[place_of(s.background)] for r, s in zip(readings, scenes, strict=True)]
    halves = []
    for a, b in pairs:
        left, right = (single_scene(rng, i, str(p)) for i, p in zip((a, b), rng.choice(BACKGROUNDS, 2, replace=False), strict=True))
        halves.append(stitched(rng, left, right)[0])
    seams = [most_probable(r.place) == OTHER for r in judge(oracle, soften(halves))]
    return [
        *gates,
        Gate(name=f"oracle, {label}: attributes, confidence above accuracy", value=float(np.mean(overconfidence))),
        Gate(name=f"oracle, {label}: place", value=float(np.mean(places)), threshold=0.95),
        Gate(name=f"oracle, {label}: halves of two places", value=float(np.mean(seams)), threshold=0.95),
    ]


def most_probable(probabilities: Mapping[str, float]) -> str:
    """The key of the largest value."""
    return max(probabilities, key=probabilities.__getitem__)


def check_oracle(weights: Path, count: int = COUNT) -> list[Gate]:
    """Every gate of the oracle in the folder `weights` of the miniature, on crisp pictures and on those that its own
    autoencoder has passed; `count` held-out pairs a kind."""
    oracle, backbone = load_oracle(weights / "oracle"), load(str(weights))
    gates = []
    for label, soften in (("crisp", list), ("decoded", lambda images: decode(backbone, encode(backbone, images)))):
        gates += check_verdicts(oracle, soften, label, np.random.default_rng(6), count)
        gates += check_reading(oracle, soften, label, np.random.default_rng(7), count)
    return gates


if __name__ == "__main__":
    for gate in check_oracle(MINIATURE):
        print(gate)
