"""Training the tiny ImageReward by ranking: what is right and clean above what is wrong in one way or badly drawn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.functional import normalize
from transformers import CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mudi.checkpoints.blip_reward import BlipReward, converted
from mudi.miniature import architectures
from mudi.miniature.captions import build_tokenizer
from mudi.miniature.claims import any_wrong_caption, true_caption
from mudi.miniature.corpus import Corpus, training_corpus
from mudi.miniature.training.embedders import attribute_codes
from mudi.miniature.training.judge_data import boxes_of, flawed, floats
from mudi.miniature.training.optimise import averaged, optimise
from mudi.miniature.training.probes import Probes, probe_loss
from mudi.miniature.world import ACCESSORIES, CLASSES, COLOURS, SIZE, Scene, split_identities

HALF = SIZE // 2
SHARE_STITCHED = 0.6
SHARE_WINDOWS = 0.7
SHARE_PROBES = 0.5
SHARE_MASKED = 0.35
# The id that stands for a hidden word, that of "!", which no caption holds.
MASK = 0
# A word named twice can be told without looking, so it is rare.
HARD_KINDS = ("changed", "changed", "changed", "exchanged", "exchanged", "exchanged", "twice", "place")
STANDARDISED_ON = 1000


def ranking_loss(good: torch.Tensor, wrong: torch.Tensor, bad: torch.Tensor) -> dict[str, torch.Tensor]:
    """The mean of -log sigmoid(r_good - r_other), ImageReward's loss for a pair.

    good: (B,) rewards of pictures with true captions; wrong: (B,) of the same pictures with wrong captions, compared with
    their own true one ("own"); bad: (K,) of stitched or spoilt pictures. Every good one is also compared with every
    other ("all"), so that rewards of different captions share one scale.
    """
    others = torch.cat([wrong, bad])
    return {
        "own": F.softplus(wrong - good).mean(),
        "all": F.softplus(others[None] - good[:, None]).mean(),
        "_wrong_below": (wrong < good).float().mean(),
        "_bad_below": (bad[None] < good[:, None]).float().mean(),
    }


def window(image: np.ndarray, centre: float) -> np.ndarray:
    """The columns (48, 24, 3) around `centre` in pixels, moved inside the image."""
    left = int(np.clip(round(centre) - HALF // 2, 0, SIZE - HALF))
    return image[:, left : left + HALF]


def stitched(corpus: Corpus, rng: np.random.Generator, alone: np.ndarray) -> tuple[np.ndarray, Scene]:
    """A picture of two halves of two places with a hard seam in the middle, as Cut-Mix leaves, and what it shows.

    Mostly each half is cut around a subject that stands alone, so that the picture shows two whole subjects and only the
    seam is wrong; else halves of any two scenes. alone: rows of the scenes with one subject.
    """
    while True:
        windows = rng.random() < SHARE_WINDOWS
        rows = alone[rng.integers(len(alone), size=2)] if windows else rng.integers(len(corpus), size=2)
        left, right = (corpus.scene(row) for row in rows)
        if left.background != right.background:
            break
    if windows:
        boxes = boxes_of(corpus.labels[rows])[0][:, 0]
        halves = [window(scene.image, (box[0] + box[2]) / 2) for scene, box in zip((left, right), boxes, strict=True)]
    else:
        halves = [left.image[:, :HALF], right.image[:, HALF:]]
    shown = replace(left, identities=(left.identities[0], right.identities[-1]), background=(left, right)[rng.integers(2)].background)
    return np.concatenate(halves, 1), shown


def spoilt(images: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    """`images` (N, 3, H, W) in 0..1, each with one heavy flaw: blurred beyond recognition, blotched, noisy or washed out."""
    count, _, height, width = images.shape
    kind = torch.randint(4, (count, 1, 1, 1), generator=noise)
    amount = torch.rand(count, 1, 1, 1, generator=noise)
    small = F.interpolate(images, size=(int(torch.randint(6, 13, (1,), generator=noise)),) * 2, mode="area")
    blurred = F.interpolate(small, size=(height, width), mode="bicubic", align_corners=False)
    blotches = F.interpolate(torch.randn(count, 3, height // 6, width // 6, generator=noise), size=(height, width), mode="bilinear")
    speckles = torch.randn(images.shape, generator=noise)
    gray = images.mean((1, 2, 3), keepdim=True)
    flaws = [
        blurred,
        images + (0.12 + 0.2 * amount) * blotches,
        images + (0.1 + 0.2 * amount) * speckles,
        gray + (0.45 - 0.35 * amount) * (images - gray),
    ]
    return torch.stack(flaws).gather(0, kind[None].expand(1, *images.shape))[0].clamp(0, 1)


def bad_pictures(
    corpus: Corpus, seams: int, flaws: int, rng: np.random.Generator, noise: torch.Generator, alone: np.ndarray
) -> tuple[torch.Tensor, list[Scene]]:
    """Pictures float (seams + flaws, 3, 48, 48) in 0..1, stitched ones first and then spoilt ones, and the scenes they show."""
    pairs = [stitched(corpus, rng, alone) for _ in range(seams)]
    rows = np.sort(rng.integers(len(corpus), size=flaws))
    pictures = [flawed(floats(np.stack([image for image, _ in pairs])), noise), spoilt(floats(corpus.images[rows]), noise)]
    return torch.cat(pictures), [*(scene for _, scene in pairs), *(corpus.scene(row) for row in rows)]


class Taught(nn.Module):
    """The network together with what teaches it: probes of its vision tower, and `words`, which guesses masked words."""

    def __init__(self, tokenizer: CLIPTokenizer):
        super().__init__()
        self.reward = architectures.reward(tokenizer)
        self.probes = Probes(self.reward.config.vision_width)
        self.words = nn.Linear(self.reward.config.text_width, len(tokenizer))


def start_vision(model: BlipReward, work: Path) -> None:
    """Start the vision tower from the trained trunk of the DreamSim-like embedder, which is of the same class as the published
    tower. The original starts from trained ones too; from random weights 1500 steps taught the body colour of 58 % of
    held-out patches and no class."""
    trunk = {f"blip.visual_encoder.{key}": value for key, value in averaged(work, "dreamsim").items()}
    missing = model.load_state_dict(converted(trunk), strict=False)
    assert not missing.unexpected_keys, missing.unexpected_keys


def masked_loss(
    taught: Taught, seen: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, known: torch.Tensor, noise: torch.Generator
) -> torch.Tensor:
    """Cross entropy of guessing hidden words of true captions from the picture and the other words, as BERT is trained.

    ids, mask: long (B, T); known: ids of the words that may be hidden, those of attributes. This teaches the text tower to look
    at the subject that it reads of. Before the tower started trained and words were hidden, a changed attribute was told from the
    true one in 55 % of held-out captions; with both in 67 %. Exchanges between the subjects stay at chance.
    """
    hidden = torch.isin(ids, known) & (torch.rand(ids.shape, generator=noise) < SHARE_MASKED)
    states = taught.reward.read(seen, ids.masked_fill(hidden, MASK), mask)
    return F.cross_entropy(taught.words(states[hidden]), ids[hidden]) if hidden.any() else states.sum() * 0


def train_reward(work: Path, steps: int, batch: int, seed: int) -> None:
    """Fit the whole network; of `batch` pictures a step half are good, each with a true and a wrong caption, half bad."""
    corpus, tokenizer, pool = training_corpus(work), build_tokenizer(), split_identities()[0]
    alone, codes = np.flatnonzero(corpus.identities[:, 1] < 0), attribute_codes()
    taught, half = Taught(tokenizer), batch // 2
    model, seams = taught.reward, round(SHARE_STITCHED * half)
    start_vision(model, work)
    known = torch.tensor([tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in (*CLASSES, *COLOURS, *ACCESSORIES[1:])])
    kinds = torch.repeat_interleave(torch.arange(3), torch.tensor([half, seams, half - seams]))

    def loss(rng: np.random.Generator, noise: torch.Generator) -> dict[str, torch.Tensor]:
        rows = np.sort(rng.integers(len(corpus), size=half))
        scenes = [corpus.scene(row) for row in rows]
        true = [true_caption(scene, rng) for scene in scenes]
        wrong = [any_wrong_caption(caption, scene, rng, pool, HARD_KINDS) for caption, scene in zip(true, scenes, strict=True)]
        bad, shown = bad_pictures(corpus, seams, half - seams, rng, noise, alone)
        texts = [caption.text for caption in (*true, *wrong, *(true_caption(scene, rng) for scene in shown))]
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=model.config.context, return_tensors="pt")
        pictures = torch.cat([flawed(floats(corpus.images[rows]), noise), bad])
        seen = model.see(normalize(pictures, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        # The good ones with their true captions, the same with wrong ones, the bad ones.
        scored = model(torch.cat([seen[:half], seen]), tokens.input_ids, tokens.attention_mask)
        kind = F.cross_entropy(taught.probes.kind(seen[:, 0]), kinds)
        probed = probe_loss(taught.probes, seen[:half], corpus, rows, codes) | {"kind": kind}
        masked = masked_loss(taught, seen[:half], tokens.input_ids[:half], tokens.attention_mask[:half], known, noise)
        return ranking_loss(*scored.split(half)) | {"masked": masked} | {name: SHARE_PROBES * value for name, value in probed.items()}

    optimise("image_reward", taught, loss, steps=steps, learning_rate=1.2e-3, work=work, seed=seed)


@torch.no_grad()
def standardisation(model: BlipReward, corpus: Corpus, seed: int) -> tuple[float, float]:
    """Mean and deviation of the rewards of 1000 scenes, half of them with true and half with wrong captions.

    The published ones standardise the head's output over a validation set; these do so over the training corpus.
    """
    rng, tokenizer, pool = np.random.default_rng((seed, 1)), build_tokenizer(), split_identities()[0]
    rows = np.sort(rng.permutation(len(corpus))[:STANDARDISED_ON])
    texts = []
    for n, row in enumerate(rows):
        caption = true_caption(corpus.scene(row), rng)
        texts.append((any_wrong_caption(caption, corpus.scene(row), rng, pool) if n % 2 else caption).text)
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=model.config.context, return_tensors="pt")
    seen = model.see(normalize(floats(corpus.images[rows]), OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    scored = model(seen, tokens.input_ids, tokens.attention_mask)
    return float(scored.mean()), float(scored.std())
