"""Training the tiny segment-anything: a loose box around a subject to the mask of its visible pixels."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam

from mudi.miniature import architectures
from mudi.miniature.corpus import training_corpus
from mudi.miniature.training.judge_data import boxes_of, flawed, floats
from mudi.miniature.training.optimise import optimise
from mudi.miniature.world import SIZE

JITTER = 0.10


def enlarged(images: torch.Tensor, side: int) -> torch.Tensor:
    """(N, 3, h, w) in 0..1 to (N, 3, side, side) in 0..255, as SAM's ResizeLongestSide does for square pictures."""
    return 255 * F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def mask_logits(sam: Sam, images: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Low-resolution mask logits (N, s, s) and predicted IoUs (N,) for one box (4,) in input pixels a picture.

    images: (N, 3, side, side) in 0..255. What `sam.forward` computes with multimask_output=False, but with
    gradients. The decoder takes many prompts for one picture, so `vmap` pairs each picture with its own.
    """
    features = sam.image_encoder(sam.preprocess(images))
    sparse, dense = sam.prompt_encoder(points=None, boxes=boxes, masks=None)
    positions = sam.prompt_encoder.get_dense_pe()

    def decode(feature: torch.Tensor, prompt: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        masks, iou = sam.mask_decoder(feature[None], positions, prompt[None], mask[None], multimask_output=False)
        return masks[0, 0], iou[0, 0]

    return torch.vmap(decode)(features, sparse, dense)


def mask_loss(logits: torch.Tensor, quality: torch.Tensor, truth: torch.Tensor) -> dict[str, torch.Tensor]:
    """Binary cross entropy, one minus Dice, and the squared error of the predicted IoU.

    logits: (N, s, s); quality: (N,); truth: (N, H, W) of 0 and 1. Logits are first enlarged to the picture, as
    SamPredictor does before it thresholds them at 0.
    """
    shown = F.interpolate(logits[:, None], size=truth.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    probability, hard = shown.sigmoid(), (shown > 0).float()
    shared, total = (probability * truth).sum((1, 2)), probability.sum((1, 2)) + truth.sum((1, 2))
    overlap = (hard * truth).sum((1, 2)) / ((hard + truth) > 0).sum((1, 2)).clamp(min=1)
    return {
        "bce": F.binary_cross_entropy_with_logits(shown, truth),
        "dice": (1 - (2 * shared + 1) / (total + 1)).mean(),
        "quality": 0.1 * F.mse_loss(quality, overlap.detach()),
        "_iou": overlap.mean(),
    }


def train_sam(work: Path, steps: int, batch: int, seed: int) -> None:
    """Fit encoder, prompt encoder and the single-mask path of the decoder; other prompts and masks stay untrained."""
    corpus, sam = training_corpus(work), architectures.sam()
    side = sam.image_encoder.img_size

    def loss(rng: np.random.Generator, noise: torch.Generator) -> dict[str, torch.Tensor]:
        rows = np.sort(rng.integers(len(corpus), size=batch))
        labels = corpus.labels[rows]
        boxes, present = boxes_of(labels)
        which = np.where(present[:, 1] & (rng.random(batch) < 0.5), 1, 0)
        box, truth = boxes[np.arange(batch), which], labels == (which + 1)[:, None, None]
        extent = np.tile(box[:, 2:] - box[:, :2], 2)
        loose = np.clip(box + rng.uniform(-JITTER, JITTER, box.shape) * extent, 0, SIZE).astype(np.float32)
        images = enlarged(flawed(floats(corpus.images[rows]), noise, 0.5), side)
        return mask_loss(*mask_logits(sam, images, torch.from_numpy(loose * (side / SIZE))), torch.from_numpy(truth).float())

    optimise("sam", sam, loss, steps=steps, learning_rate=2e-3, work=work, seed=seed)
