"""Gates of the miniature's readers of prompts: what CLIP and ImageReward must tell apart on subjects they never saw.

`python -m mudi.miniature.gates.texts` measures the weights that ship, through the loaders and functions that every run uses.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mudi.checkpoints.blip_reward import Reward, rewards
from mudi.checkpoints.clip_text import Clip, text_cosines
from mudi.miniature.captions import PLACES
from mudi.miniature.claims import KINDS, PAIR_KINDS, Caption, Claim, true_caption, wrong_caption
from mudi.miniature.corpus import Corpus, render_corpus
from mudi.miniature.gates.judges import Gate, different_pairs, somewhere
from mudi.miniature.render import pair_scene, single_scene
from mudi.miniature.training.judge_data import floats
from mudi.miniature.training.reward import HALF, spoilt, window
from mudi.miniature.world import BACKGROUNDS, Identity, split_identities, swap_accessories, swap_bodies
from mudi.model_facts import MINIATURE
from mudi.models import load_clip, load_reward

RETRIEVED_AMONG = 32
# Which attribute belongs to which of two subjects neither model tells: what depends on it is reported without a gate, and a half is
# chance. They judge places, numbers, seams and flaws; identities are for Detect-and-Compare.
# Least shares of right rankings of ImageReward for each way in which a caption is wrong, and a picture for its caption.
CLIP_GATES = {"changed": 0.65, "exchanged": None, "twice": 0.9, "missing": 0.95, "place": 0.95}
CAPTION_GATES = {"changed": None, "exchanged": None, "twice": 0.85, "missing": 0.9, "place": 0.9}
PICTURE_GATES = {
    "one twice": 0.9,
    "one missing": 0.9,
    "bodies swapped": None,
    "accessories swapped": None,
    "other place": 0.9,
    "right half of another place": 0.9,
    "two halves around one subject each": 0.9,
    "spoilt": 0.95,
}
Score = Callable[[list[np.ndarray], list[str]], torch.Tensor]


def check_texts(weights: Path) -> list[Gate]:
    """Every gate of CLIP and ImageReward in the folder `weights`, measured on held-out identities."""
    corpus = render_corpus(1000, 20, held_out=True)
    clip, reward = load_clip(str(weights / "clip")), load_reward(str(weights / "image_reward"))
    gates = check_retrieval(clip, corpus, np.random.default_rng(1))
    gates += check_captions("clip", paired(text_cosines, clip), corpus, CLIP_GATES, np.random.default_rng(2))
    gates += check_captions("image_reward", paired(rewards, reward), corpus, CAPTION_GATES, np.random.default_rng(3))
    return gates + check_pictures(reward, np.random.default_rng(4))


def paired(score: Callable, model: Clip | Reward) -> Score:
    """The scores (N,) of N images with their own text each, from a function that gives every image with every text."""
    return lambda images, texts: torch.stack([score(model, [image], [text])[0, 0] for image, text in zip(images, texts, strict=True)])


def check_retrieval(clip: Clip, corpus: Corpus, rng: np.random.Generator) -> list[Gate]:
    """How often a picture's own caption is the closest of 32, all of pairs."""
    pairs = np.flatnonzero(corpus.identities[:, 1] >= 0)
    hits = []
    for start in range(0, len(pairs) // RETRIEVED_AMONG * RETRIEVED_AMONG, RETRIEVED_AMONG):
        rows = pairs[start : start + RETRIEVED_AMONG]
        texts = [true_caption(corpus.scene(row), rng).text for row in rows]
        cosines = text_cosines(clip, list(corpus.images[rows]), texts)
        hits += (cosines.argmax(1) == torch.arange(len(rows))).tolist()
    return [Gate(name=f"clip: own caption closest of {RETRIEVED_AMONG}", value=float(np.mean(hits)), threshold=0.7)]


def check_captions(name: str, score: Score, corpus: Corpus, gates: dict[str, float | None], rng: np.random.Generator) -> list[Gate]:
    """For each way of being wrong, the share of captions that score below the true one of the same picture."""
    pool = split_identities()[1]
    found: dict[str, list[tuple[np.ndarray, str, str]]] = {kind: [] for kind in KINDS}
    for scene in map(corpus.scene, range(len(corpus))):
        caption = true_caption(scene, rng)
        # A subject can only be missing where there is one; the other ways are asked of pairs.
        for kind in ("missing",) if len(scene.identities) == 1 else PAIR_KINDS:
            wrong = wrong_caption(caption, scene, kind, rng, pool)
            if wrong is not None:
                found[kind].append((scene.image, caption.text, wrong.text))
    shares = {}
    for kind, cases in found.items():
        images, true, wrong = (list(part) for part in zip(*cases, strict=True))
        shares[kind] = float((score(images, true) > score(images, wrong)).float().mean())
    return [Gate(name=f"{name}: true caption above '{kind}'", value=share, threshold=gates[kind]) for kind, share in shares.items()]


def wrong_pictures(rng: np.random.Generator, a: Identity, b: Identity, place: str) -> list[np.ndarray]:
    """Pictures, one for each name of PICTURE_GATES, of what may go wrong where `a` and `b` were asked for in `place`."""
    other = str(rng.choice([p for p in BACKGROUNDS if p != place]))
    shown = [(a, a), swap_bodies(a, b), swap_accessories(a, b)]
    twice, bodies, accessories = (pair_scene(rng, *rng.permutation(pair), place).image for pair in shown)
    here, elsewhere = pair_scene(rng, a, b, place).image, pair_scene(rng, a, b, other).image
    alone = [single_scene(rng, a, place), single_scene(rng, b, other)]
    halves = [window(scene.image, (scene.boxes[0][0] + scene.boxes[0][2]) / 2) for scene in alone]
    noise = torch.Generator().manual_seed(int(rng.integers(2**31)))
    ruined = (spoilt(floats(here[None]), noise)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    half = np.concatenate([here[:, :HALF], elsewhere[:, HALF:]], 1)
    return [twice, alone[0].image, bodies, accessories, elsewhere, half, np.concatenate(halves, 1), ruined]


def check_pictures(reward: Reward, rng: np.random.Generator, count: int = 100) -> list[Gate]:
    """The share of wrong pictures that are rewarded below a right one for the same prompt, which names body colour and class.

    Swapped accessories cannot be seen from such a prompt: a half is chance.
    """
    below: dict[str, list[bool]] = {name: [] for name in PICTURE_GATES}
    for a, b in different_pairs(rng, count):
        place = somewhere(rng)
        claims = tuple(Claim(identity=identity, named=frozenset({"body"})) for identity in (a, b))
        pictures = [pair_scene(rng, a, b, place).image, *wrong_pictures(rng, a, b, place)]
        right, *wrong = rewards(reward, pictures, [Caption(claims=claims, place=PLACES[place]).text])[:, 0].tolist()
        for name, value in zip(PICTURE_GATES, wrong, strict=True):
            below[name].append(value < right)
    return [
        Gate(name=f"image_reward: right picture above '{name}'", value=float(np.mean(below[name])), threshold=gate)
        for name, gate in PICTURE_GATES.items()
    ]


if __name__ == "__main__":
    for gate in check_texts(MINIATURE):
        print(gate)
