"""Training the tiny CLIP: a picture's own caption above those of other pictures and above a wrong one of its own."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.transforms.functional import normalize
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mudi.miniature import architectures
from mudi.miniature.captions import build_tokenizer
from mudi.miniature.claims import any_wrong_caption, true_caption
from mudi.miniature.corpus import training_corpus
from mudi.miniature.training.judge_data import flawed, floats
from mudi.miniature.training.optimise import optimise
from mudi.miniature.world import SIZE, split_identities


def contrastive_loss(cosines: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
    """CLIP's loss (arXiv 2103.00020) with negatives of each picture's own, as in NegCLIP (arXiv 2210.01936).

    cosines: (B, 2 B) of B pictures with their B true captions and one wrong caption each, in the same order.
    "images" looks for a picture's caption among all 2 B, "texts" for a true caption's picture among B.
    "own" sets the true caption against the picture's own wrong one alone, which are else one among many.
    """
    logits, count = scale * cosines, len(cosines)
    own = torch.arange(count)
    true, wrong = logits[own, own], logits[own, own + count]
    return {
        "images": F.cross_entropy(logits, own),
        "texts": F.cross_entropy(logits[:, :count].T, own),
        "own": F.softplus(wrong - true).mean(),
        "_own_right": (true > wrong).float().mean(),
    }


def cosines(model: CLIPModel, pixels: torch.Tensor, tokens) -> torch.Tensor:
    """(B, T): of normalised pixels (B, 3, 48, 48) with T tokenised texts."""
    seen = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    read = F.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
    return seen @ read.T


def train_clip(work: Path, steps: int, batch: int, seed: int) -> None:
    """Fit both towers on rendered scenes with freshly worded captions.

    Despite the wrong captions it hardly learns which attribute belongs to whom: it tells an exchange from the truth in 58 % of
    held-out pairs. Making half of all wrong captions exchanges, and patch labels beside the loss, gave 52 %.
    """
    corpus, tokenizer, pool = training_corpus(work), build_tokenizer(), split_identities()[0]
    model = architectures.clip(tokenizer)

    def loss(rng: np.random.Generator, noise: torch.Generator) -> dict[str, torch.Tensor]:
        rows = np.sort(rng.integers(len(corpus), size=batch))
        scenes = [corpus.scene(row) for row in rows]
        true = [true_caption(scene, rng) for scene in scenes]
        wrong = [any_wrong_caption(caption, scene, rng, pool) for caption, scene in zip(true, scenes, strict=True)]
        tokens = tokenizer([caption.text for caption in (*true, *wrong)], padding=True, return_tensors="pt")
        pixels = normalize(flawed(floats(corpus.images[rows]), noise), OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        return contrastive_loss(cosines(model, pixels, tokens), model.logit_scale.exp().clamp(max=100))

    optimise("clip", model, loss, steps=steps, learning_rate=1.5e-3, work=work, seed=seed)


def export_clip(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path, dtype: torch.dtype) -> None:
    """Writes the model in `dtype`, its tokenizer and its image processor as transformers saves them."""
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
