"""Images to unit vectors, one row an image, for the cosine similarities of Detect-and-Compare."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from mudi.records import Box

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

WHITE = 255


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A loaded embedding model. `preprocess` maps uint8 (h, w, 3) to float (3, s, s); `features` maps the
    model and a batch (N, 3, s, s) to (N, width)."""

    name: str
    kind: str
    model: nn.Module
    preprocess: Callable[[np.ndarray], torch.Tensor]
    features: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    width: int


@torch.no_grad()
def embed(embedder: Embedder, images: Sequence[np.ndarray], batch: int = 32) -> torch.Tensor:
    """Unit vectors, float32 (N, D) on the CPU, of N images uint8 (h, w, 3) of any sizes; (0, D) for no image.

    batch: images in one forward pass; bounds memory and moves values by rounding only.
    """
    device = next(embedder.model.parameters()).device
    rows = [torch.empty(0, embedder.width)]
    for start in range(0, len(images), batch):
        pixels = torch.stack([embedder.preprocess(image) for image in images[start : start + batch]])
        rows.append(embedder.features(embedder.model, pixels.to(device)).float().cpu())
    return F.normalize(torch.cat(rows), dim=-1)


def square_crop(image: np.ndarray, box: Box) -> np.ndarray:
    """The part of uint8 (H, W, 3) inside the box, centred on a white square of its longer side.

    Edges are rounded to pixels as PIL rounds them in MuDI's evaluation code; an odd rest of the padding goes
    to the right or bottom. Departure: the box is first clipped to the image, where PIL would fill with black,
    and at least one pixel is kept, so that a sliver of a box still has an embedding.
    """
    height, width = image.shape[:2]
    x0, y0 = (int(np.clip(round(low), 0, size - 1)) for low, size in zip(box[:2], (width, height), strict=True))
    x1, y1 = (int(np.clip(round(high), low + 1, size)) for high, low, size in zip(box[2:], (x0, y0), (width, height), strict=True))
    crop = image[y0:y1, x0:x1]
    side = max(crop.shape[:2])
    square = np.full((side, side, 3), WHITE, dtype=np.uint8)
    top, left = (side - crop.shape[0]) // 2, (side - crop.shape[1]) // 2
    square[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return square


def resized(image: np.ndarray, side: int) -> torch.Tensor:
    """Float (3, side, side) in 0..1 by a direct bicubic resize that ignores the aspect, as DreamSim preprocesses."""
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255


def bit_pixels(processor: "BaseImageProcessor", image: np.ndarray) -> torch.Tensor:
    """Float (3, s, s) by the stock processor saved with a DINOv2: shorter side resized, centre cropped, normalised."""
    return processor(images=image, input_data_format="channels_last", return_tensors="pt").pixel_values[0]


def mean_of_tokens(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """(N, D): the mean over all last hidden states, class token included, as the paper (arXiv 2404.04243) uses DINOv2."""
    return model(pixel_values=pixels).last_hidden_state.mean(dim=1)
